"""Read files without locks, where nobody has them open. Knows SQLite's VFS, and no table.

SQLite's own way to do so, `unix-none`, closes a file at once: that drops the locks which this
process may hold on it by another connection. What is here is closed as the system's VFS does.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import apsw

_numbers = itertools.count()


class Unlocked(apsw.VFS):
    """A VFS that takes no locks.

    Args:
        base: the VFS that reads; the system's if it is empty.
    """

    def __init__(self, base: str = "") -> None:
        self.base, self.name = base, f"checkpointdb-{next(_numbers)}"
        super().__init__(self.name, base)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: D102, N802 - apsw's name
        return UnlockedFile(self.base, name, flags)


class UnlockedFile(apsw.VFSFile):
    """A file of which no lock is taken: one for writing cannot be had on what is only read."""

    def xLock(self, level: int) -> None:  # noqa: D102, N802 - apsw's name
        pass

    def xUnlock(self, level: int) -> None:  # noqa: D102, N802 - apsw's name
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: D102, N802 - apsw's name
        return False  # pragma: no cover - SQLite asks beside a rollback journal only


@functools.cache
def unlocked() -> Unlocked:
    """Return the VFS that reads by the system's own."""
    return Unlocked()
