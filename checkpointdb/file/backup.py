"""Copy a store, whoever writes to it. Knows SQLite's pages and what a copy may replace; no table.

SQLite's backup copies pages as they are, log included, in one snapshot. `VACUUM INTO` would build
each b-tree anew, which takes longer, and so keeps the log from being checkpointed for longer.
"""

from __future__ import annotations

import os

import apsw

from ..errors import StoreCorruptError, StoreError
from .connection import mapped
from .locks import lockers
from .read import Reader
from .temporary import half_made
from .verify import OnProgress, unseen

PAGES = 1024  # copied between two looks at signals and the bar


def backup(
    source: str,
    target: str,
    force: bool = False,
    vfs: str | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Copy a store to `target`: see `Store.backup`."""
    check_target(source, target, force)
    progress = on_progress or unseen
    try:
        with half_made(target, force) as temporary:
            _copy(source, temporary, vfs, progress)
            _check_copy(source, temporary, vfs, progress)
    except FileExistsError as error:
        raise _taken(target) from error
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror})", target) from error


def _copy(source: str, temporary: str, vfs: str | None, progress: OnProgress) -> None:
    with Reader(source, vfs) as reader, mapped(source):
        target = apsw.Connection(temporary, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        try:
            target.pragma("journal_mode", "off")  # what is half done is thrown away
            target.pragma("synchronous", "full")
            with reader.snapshot() as connection, target.backup("main", connection, "main") as run:
                while not run.done:
                    run.step(PAGES)
                    progress("copy", 1 - run.remaining / (run.page_count or 1))
        finally:
            target.close()
        reader.check_unchanged()


def _check_copy(source: str, temporary: str, vfs: str | None, progress: OnProgress) -> None:
    with Reader(temporary, vfs) as reader:
        problems = reader.verify(progress)
    if problems:
        raise StoreCorruptError(
            f"{source}: {len(problems)} problems, the first: {problems[0].what}. There is no "
            "backup: it would be as damaged. `ckpt verify STORE` lists them, and `ckpt salvage "
            "STORE -o NEW` brings all that is whole into a new store",
            source,
        )


def check_target(source: str, target: str, force: bool) -> None:
    """Raise if a new file must not take this name.

    Raises:
        StoreError: there is something, and no `force`; it is the source, or not a plain file, or
            a store that somebody has open.
    """
    if os.path.lexists(target):
        if not force:
            raise _taken(target)
        if os.path.islink(target) or not os.path.isfile(target):
            raise StoreError(f"{target}: not a plain file; it is left as it is", target)
        if os.path.exists(source) and os.path.samefile(source, target):
            raise StoreError(f"{target}: is the store itself; give another path", target)
        if lockers(target) or lockers(target + "-shm"):
            raise StoreError(f"{target}: a store that is open; close it everywhere first", target)
    elif os.path.lexists(target + "-wal"):
        raise StoreError(
            f"{target}-wal: the log of another store is here, and would be read as this one's. "
            "Move it away, or give another path",
            target,
        )


def _taken(target: str) -> StoreError:
    return StoreError(f"{target}: exists; nothing was written. Give another path, or force", target)
