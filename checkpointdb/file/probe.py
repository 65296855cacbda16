"""Refuse what is not a whole store of ours, before anything is written. Knows SQLite; no records.

A file is never opened by anything but SQLite: closing another descriptor of it would drop the locks
that SQLite holds in this process.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import time
import urllib.parse
import warnings

import apsw

from ..errors import StoreCorruptError, StoreError, StoreVersionError
from ..wording import safe
from . import migrations, wal
from .locks import lockers, strangers
from .pages import looks_like_pages
from .sqlite_errors import mapped, mapped_error, not_sqlite

OLDEST_SQLITE = (3, 51, 3)
SETTLING_SECONDS = 1.0  # more than it takes to open or close a store
TICK_SECONDS = 0.05  # a file's times move on more often than that
SMALLEST_SQLITE = 512  # SQLite takes anything shorter for a new, empty database
_READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


def check_sqlite(version: str | None = None) -> None:
    """Refuse an SQLite with the WAL-reset bug, which can lose committed rows.

    Source: sqlite.org/wal.html, "the WAL-reset bug": 3.7.0 to 3.51.2, two or more connections.
    """
    version = version or apsw.sqlite_lib_version()
    if tuple(map(int, version.split("."))) < OLDEST_SQLITE:
        raise StoreVersionError(
            f"SQLite {version} can lose committed rows (its WAL-reset bug): upgrade apsw to a "
            f"version with SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer"
        )


def mark(path: str) -> tuple[int, int, int] | None:
    """Return what differs once somebody has written to a file; None if it is not there."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size, status.st_ino, status.st_mtime_ns


def size(path: str) -> int | None:
    """Return a file's bytes; None if it is not there."""
    found = mark(path)
    return found and found[0]


def open_uri(path: str, options: str, vfs: str | None) -> apsw.Connection:
    """Open for reading, with SQLite's options for a URI."""
    return apsw.Connection(uri(path, options), flags=_READ_ONLY, vfs=vfs)


def uri(path: str, options: str) -> str:
    """Return the URI by which SQLite opens the file."""
    return f"file:{urllib.parse.quote(os.path.abspath(path))}?{options}"


def probe(path: str, vfs: str | None) -> None:
    """Refuse whatever is not a store of ours, before anything could write to it."""
    check_sqlite()
    _check_beside(path, check_file(path).st_uid)
    try:
        application_id, present = _identify(path, vfs)
    except apsw.NotADBError as error:
        if looks_like_pages(path, vfs):
            raise mapped_error(
                apsw.CorruptError("its first page is not what it was"), path
            ) from error
        raise not_sqlite(path, safe(error)) from error
    except apsw.Error as error:  # pragma: no cover - another user, or the disk fails
        raise mapped_error(error, path) from error
    if application_id == migrations.BEFORE_FORMAT_1:
        raise StoreVersionError(
            f"{path}: written by a checkpointdb from before its first release, whose format is no "
            "longer read; nothing was written. Give another path, or export its results with "
            "the version that wrote it",
            path,
        )
    if application_id != migrations.APPLICATION_ID and _has_our_tables(path, vfs):
        raise mapped_error(apsw.CorruptError("it is not marked as a store any more"), path)
    if application_id != migrations.APPLICATION_ID:
        raise StoreError(
            f"{path}: an SQLite file, but not a checkpointdb store; nothing was written. "
            "Give another path",
            path,
        )
    if present < 1:
        raise StoreCorruptError(
            f"{path}: damaged: it has no file format; nothing was written", path
        )
    if present > migrations.newest():
        raise StoreVersionError(
            f"{path}: written by a newer checkpointdb (file format {present}, this one knows "
            f"{migrations.newest()}); nothing was written. Upgrade checkpointdb",
            path,
        )


def check_file(path: str) -> os.stat_result:
    """Return a file's status; raise unless it may be one of SQLite's."""
    check_name(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", path) from error
    if stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{path}: a directory; give the path of a file, such as rows.ckpt", path)
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path}: not a regular file; give the path of one, or a new one", path)
    if 0 < status.st_size < SMALLEST_SQLITE:
        raise not_sqlite(path, "it is too short")
    if status.st_size == 0:
        raise StoreError(
            f"{path}: an empty file, which checkpointdb never makes; nothing was written. "
            "Delete it, or give another path",
            path,
        )
    return status


def check_name(path: str) -> None:
    """Raise unless SQLite can open a file of this name."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        text = f"{path!r}: SQLite opens only files whose names are UTF-8: rename it"
        raise StoreError(text, path) from error


def _check_beside(path: str, owner: int) -> None:
    """Refuse what would have SQLite wait for ever, write elsewhere, or undo what is saved.

    A rollback journal, which no store has, would be played back into it before anybody asks.
    """
    if os.path.lexists(path + "-journal"):
        raise StoreError(
            f"{path}-journal: a rollback journal, which checkpointdb never makes: another program "
            "wrote to this store, or somebody put it here. Nothing was read or written. Move it "
            "away if you do not know it",
            path,
        )
    owners = {owner, os.geteuid(), 0}
    for ending in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path + ending)
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in owners:
                raise StoreError(
                    f"{path}{ending}: not a regular file, or another user's: it does not belong "
                    "to this store. Nothing was read or written. Move it away",
                    path,
                )


def _identify(path: str, vfs: str | None) -> tuple[int, int]:
    """Return a file's application id and format, from its first page alone.

    A kill inside a wal_checkpoint leaves a first page that names pages which are still only in the
    log. A power cut may tear that page itself, and then it is whole in the log.
    """
    try:
        return _ask(open_uri(path, "immutable=1", vfs))
    except (apsw.NotADBError, apsw.CorruptError):
        if not size(path + "-wal"):
            raise
    if (found := _left(path, vfs)) is not None:
        return found[0]
    return _ask(open_uri(path, "mode=ro", vfs))  # pragma: no cover - a checkpoint in between


def _ask(connection: apsw.Connection) -> tuple[int, int]:
    with contextlib.closing(connection):
        connection.pragma("writable_schema", True)  # or SQLite refuses a file that is too short
        return connection.pragma("application_id"), connection.pragma("user_version")


def _has_our_tables(path: str, vfs: str | None) -> bool:
    with contextlib.closing(open_uri(path, "immutable=1", vfs)) as connection:
        sql = "select count(*) from sqlite_schema where name in ('records', 'system_key_index')"
        with contextlib.suppress(apsw.Error):
            return bool(connection.execute(sql).get == 2)
    return False  # pragma: no cover - its schema cannot be read either


def left_behind(path: str) -> bool:
    """Tell whether there is a log that nobody has open."""
    return bool(size(path + "-wal")) and lockers(path) == set()


def check_log(path: str, vfs: str | None) -> wal.Damage | None:
    """Say that commits in the log cannot be read, before anything is written over them."""
    with mapped(path):
        found = _left(path, vfs)
    if found is None or found[1] is None:
        return None
    warnings.warn(": ".join(lost_in_log(path, found[1])), stacklevel=4)
    return found[1]


def _left(path: str, vfs: str | None) -> tuple[tuple[int, int], wal.Damage | None] | None:
    """Return what `wal.look` says of a store whose log nobody has open; None if somebody has.

    Whoever opens, writes and closes meanwhile shows us two halves. So a fault is one only if
    nobody touches the files for longer than a tick of their times.
    """
    until = time.monotonic() + SETTLING_SECONDS
    while left_behind(path) and time.monotonic() < until:
        before, error = (mark(path), mark(path + "-wal")), None
        try:
            found = wal.look(uri(path, "mode=ro"), vfs or "")
            if found[1] is None:
                return found
        except (apsw.Error, struct.error) as problem:
            error = problem
        time.sleep(TICK_SECONDS)
        if left_behind(path) and (mark(path), mark(path + "-wal")) == before:
            if error is not None:
                raise error
            return found
    return None


def lost_in_log(path: str, damage: wal.Damage) -> tuple[str, str]:
    """Say what is damaged in a log, and what cannot be read because of it."""
    what = f"frame {damage.frame} of {damage.frames}" if damage.frame else "the header"
    return (
        f"{path}-wal: {what} is damaged, and SQLite reads nothing after it",
        f"{damage.commits:,} whole commits come after it, and the next write overwrites them. If "
        "they matter, copy the store with its -wal and -shm now, and work on the copy: "
        "`ckpt salvage COPY -o NEW` reads them",
    )


def refuse_other_name(path: str) -> None:
    """Raise if somebody has the file open under another name: a hard link, or it was renamed."""
    until = time.monotonic() + SETTLING_SECONDS
    while others := strangers(path):
        if time.monotonic() > until:  # not in the middle of opening or closing it
            raise StoreError(
                f"{path}: process {min(others)} has this file open under another name, and so "
                "with another log: each would not see, and overwrite, what the other writes. "
                "Nothing was read or written. Use one name, or copy the file",
                path,
            )
        time.sleep(0.01)


def check_schema(connection: apsw.Connection, path: str) -> None:
    """Raise unless the tables are as we created them."""
    wrong = migrations.wrong_in_schema(connection)
    if wrong is not None:
        raise StoreCorruptError(
            f"{path}: {safe(wrong)} is not as checkpointdb created it: another program changed the "
            "file. Nothing was read or written",
            path,
        )
