"""Which process it was, and whether it is still there. Knows Linux's /proc; nothing of stores.

A process is recognised by boot, pid and start in clock ticks since that boot: no wall clock is
compared, for one set forward by a minute made live workers look dead.
"""

from __future__ import annotations

import functools
import os
import uuid

import msgspec


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
    status = _status(pid)
    ticks = 0 if status is None else int(status[19])
    return Process(os.uname().nodename, _boot(), _pid_namespace(), pid, ticks)


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
        return _answers(process.pid)
    status = _status(process.pid)
    return status is not None and status[0] != b"Z" and int(status[19]) == process.ticks


@functools.cache
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return f"unknown-{uuid.getnode():x}"


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _status(pid: int) -> list[bytes] | None:
    """Return the fields of /proc/pid/stat after the name, from `state` on; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # gone before, or between opening and reading
        return None


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
