"""Bring all that is whole in a damaged store into a new one. Knows files; no table and no page."""

from __future__ import annotations

import contextlib
import os

import apsw
import msgspec

from ..errors import StoreError
from . import connection as files
from . import pragmas, probe, sqlite_errors
from .locks import lockers
from .pages import Pages
from .read import Reader
from .rescued import Rescued
from .scan import Scan
from .temporary import check_target, half_made, taken
from .verify import OnProgress, Problem, unseen


class Salvaged(msgspec.Struct, frozen=True):
    """What a salvage did.

    Attributes:
        records: how many were saved.
        lost: how many are known to have been there and could not be saved.
        problems: what was not saved, the first thousand; [] if nothing is missing.
    """

    records: int
    lost: int
    problems: list[Problem]


def salvage(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Salvaged:
    """Bring every record whose checksum holds out of a damaged store into a new one.

    The pages are read one by one, with those of the log, so neither header nor schema nor index
    need be whole. Steps and runs are kept as far as they are found; a run finds a saved result by
    its key, whatever became of them. The old file is only read.

    Promise: `output` appears whole, verified, on the disk and mode 0600, or not at all.

    Args:
        path: the damaged store.
        output: the new one; a symlink there is not followed.
        force: replace a file that is there.
        on_progress: called with what is being done and how much of that is done, from 0 to 1,
            None where it cannot be known.

    Raises:
        StoreError: `path` is no file, has nothing of a store in it, or is open somewhere; `output`
            exists, or cannot be written.
    """
    source, target = os.path.realpath(os.fspath(path)), os.path.abspath(os.fspath(output))
    probe.check_sqlite()
    probe.check_file(source)
    if lockers(source):
        raise StoreError(
            f"{source}: a process has it open. Close it first; to copy a store in use, there is "
            "`ckpt backup`",
            source,
        )
    check_target(source, target, force)
    progress = on_progress or unseen
    try:
        with half_made(target, force) as temporary:
            with sqlite_errors.mapped(target):
                files.lay(temporary)
            done = _salvage(source, temporary, progress)
            _check(temporary, target, progress)
            check_target(source, target, force)  # somebody may have opened it meanwhile
    except FileExistsError as error:
        raise taken(target) from error
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror})", target) from error
    return done


def _salvage(source: str, temporary: str, progress: OnProgress) -> Salvaged:
    with contextlib.ExitStack() as stack:
        with sqlite_errors.mapped(source):
            pages = Pages(source)
            stack.callback(pages.close)
        with sqlite_errors.mapped(temporary):
            writer = apsw.Connection(temporary, flags=apsw.SQLITE_OPEN_READWRITE)
            stack.callback(writer.close)
            pragmas.harden(writer)
            writer.pragma("journal_mode", "delete")  # a log would have it all twice
            writer.pragma("synchronous", "full")
            writer.execute("begin immediate")
            new = Rescued(writer)
            scan = Scan(pages, new.record_width)
            for row in scan.rows(progress):
                new.add(row)
            if not new.is_store:
                raise StoreError(f"{source}: it holds nothing of a checkpointdb store", source)
            new.finish(is_damaged=bool(scan.spoilt or pages.missing))
            problems = new.problems
            if pages.missing:
                problems.insert(0, _cut(pages.missing))
            writer.execute("commit")
            writer.pragma("journal_mode", "wal")
    return Salvaged(new.records, new.lost, problems)


def _cut(pages: int) -> Problem:
    return Problem(
        f"the file ends {pages:,} pages early",
        "it was cut, or it is a copy without its -wal; what was on them is lost",
    )


def _check(temporary: str, target: str, progress: OnProgress) -> None:
    with Reader(temporary) as reader:
        problems = reader.verify(progress)
    if problems:
        raise StoreError(f"{target}: what was saved is not sound: {problems[0]}", target)
