"""Which process it was, and whether it is still there. Knows nothing of what is in a file.

A process is recognised by boot, pid and start in clock ticks since that boot: no wall clock is
compared, for one set forward by a minute made live workers look dead.
"""

from __future__ import annotations

import functools
import os

import msgspec

from .. import system
from ..errors import StoreError


class OfProcess:
    """An open file, which is of the process that opened it and of none that was forked from it.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path, self._pid = path, os.getpid()

    @property
    def is_forked(self) -> bool:
        """Whether it belongs to the process that this one was forked from."""
        return self._pid != os.getpid()

    def check_process(self) -> None:
        """Raise in a child forked from the process that opened the file."""
        if self.is_forked:
            raise StoreError(
                f"{self.path}: opened by process {self._pid} and used in {os.getpid()}, forked "
                "from it: open the store again in the child",
                self.path,
            )


class Process(msgspec.Struct, frozen=True):
    """What tells a process from all others, of this machine and of any.

    Containers on one machine share the boot id, but neither the host name, as a rule, nor the
    numbers of their processes: those of another host or pid namespace cannot be judged from here.

    Attributes:
        host: the name of the machine or container.
        boot: the id of this start of the machine.
        pid_namespace: what the pid is counted in; 0 where the system does not tell.
        pid: its number.
        ticks: when it was started, in clock ticks since the boot; 0 where the system does not tell.
    """

    host: str
    boot: str
    pid_namespace: int
    pid: int
    ticks: int


def this_process() -> Process:
    """Return what tells this process from all others."""
    return _process(os.getpid())


@functools.lru_cache(maxsize=1)
def _process(pid: int) -> Process:
    status = system.process_status(pid)
    ticks = 0 if status is None else int(status[19])
    boot, namespace = system.boot_id() or "unknown", system.pid_namespace()
    return Process(system.host(), boot, namespace, pid, ticks)


def alive(process: Process) -> bool | None:
    """Tell whether a process still runs; None where that cannot be told from here."""
    here = this_process()
    if process.host != here.host:
        return None
    if process.boot != here.boot:
        return False
    if process.pid_namespace != here.pid_namespace:
        return None
    if not here.ticks:  # a system without /proc
        return system.answers(process.pid)
    status = system.process_status(process.pid)
    return status is not None and status[0] != b"Z" and int(status[19]) == process.ticks
