"""Copy a store while others write to it. Knows SQLite's pages, what a copy may replace; no table.

SQLite's backup copies pages as they are, log included, in one snapshot, and returns between them,
so that signals and the progress bar get their turn. `VACUUM INTO` is one long statement, and needs
the right to attach files.
"""

from __future__ import annotations

import apsw

from ..errors import StoreCorruptError, StoreError
from .read import Reader
from .sqlite_errors import mapped
from .temporary import check_target, half_made, taken
from .verify import OnProgress, unseen

# No process runs on the copy, or has claims there: it can be compacted, and run on, at once.
_OF_NOBODY = """
update runs set ended = 'closed' where ended is null;
delete from system_claims;
delete from system_occurrences;
delete from system_counters;
"""
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
            check_target(source, target, force)  # somebody may have opened it meanwhile
    except FileExistsError as error:
        raise taken(target) from error
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
            target.execute(_OF_NOBODY)
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
