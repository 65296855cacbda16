"""Which processes have a file locked. Knows the table of locks, where the system has one."""

from __future__ import annotations

import os

from .. import system


def lockers(path: str, table: str = system.LOCKS) -> set[int] | None:
    """Return the pids of those who hold a lock on a file; None where the system does not tell.

    SQLite holds one on every file that it has open in WAL mode, and on its -shm.
    """
    try:
        status = os.stat(path)
    except OSError:
        return set()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    lines = system.table(table)
    if lines is None:
        return None
    fields = [line.split() for line in lines]
    # `1: POSIX  ADVISORY  READ 4711 fe:01:131075 1073741826 1073742335`; `1: ->` waits for it
    posix = (line for line in fields if len(line) == 8 and line[1] == "POSIX")
    return {int(pid) for *_, pid, where, _, _ in posix if where == device}


def strangers(path: str) -> set[int]:
    """Return the pids of those who have a store open, but not under this name.

    Each name has a -wal and a -shm of its own, so they would not see what we write, nor we what
    they write.
    """
    return (lockers(path) or set()) - (lockers(path + "-shm") or set())
