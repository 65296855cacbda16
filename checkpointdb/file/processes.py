"""Whether a process that wrote its number down is still there. Knows nothing else."""

from __future__ import annotations

import os
import time


def alive(host: str, pid: int, since: float) -> bool | None:
    """Tell whether the process `pid` that was there at time `since` still runs.

    None for another host: that cannot be told from here. A later process of the same number is not
    taken for it.
    """
    if host != os.uname().nodename:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # gone before, or between opening and reading
        return not os.path.isdir("/proc/self") and _answers(pid)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    began = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] != b"Z" and began <= since + 5


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
