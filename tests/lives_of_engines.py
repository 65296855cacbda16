"""A job of Dask or Ray as a process, and the log of its calls; killed with all it starts."""

from __future__ import annotations

import collections
import contextlib
import glob
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "300"}


class Job:
    """A job in a directory of its own; what its script is given, and the log of its calls."""

    def __init__(self, script, directory, log, *arguments):
        self.log, self._output = Path(log), directory / "output"
        self._command = [sys.executable, str(Path(__file__).parent / script), *map(str, arguments)]

    def start(self):
        with open(self._output, "ab") as output:
            self.driver = subprocess.Popen(
                self._command, stdout=output, stderr=output, start_new_session=True,
                cwd=self._output.parent, env=os.environ | ENVIRONMENT,
            )  # fmt: skip

    def calls(self):
        """Return row, process and what else the step wrote down of each call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(row), int(pid), *more) for row, pid, *more in map(str.split, lines)]

    def wait_for(self, count):
        until = time.monotonic() + 600
        while len(self.calls()) < count:
            assert self.driver.poll() is None, self._said()
            assert time.monotonic() < until, self._said()
            time.sleep(0.1)

    def kill_all(self):
        """Kill the driver and whatever it started."""
        for pid in family(self.driver.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.driver.wait()

    def finish(self):
        assert self.driver.wait(900) == 0, self._said()

    def _said(self):
        return self._output.read_text()[-3000:]


def family(pid):
    """Return a process and all that it and its children started, and that are still below it."""
    children = collections.defaultdict(list)
    for stat in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = Path(stat).read_text().rpartition(")")[2].split()
            children[int(fields[1])].append(int(stat.split("/")[2]))
    found = [pid]
    for one in found:
        found += children[one]
    return found
