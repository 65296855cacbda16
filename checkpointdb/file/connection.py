"""Open, create and refuse store files. Knows files and SQLite; knows nothing of records.

Every foreign error becomes one of ours here, in `mapped`. A file is never opened by anything but
SQLite: closing another descriptor of it would drop the locks that SQLite holds in this process.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import urllib.parse
import warnings
from collections.abc import Iterator

import apsw

from .. import interrupts, system
from ..errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
)
from ..wording import safe
from . import migrations, pragmas, wal
from .locks import lockers, strangers
from .mounts import network_file_system
from .pages import looks_like_pages
from .temporary import half_made

OLDEST_SQLITE = (3, 51, 3)
SETTLING_SECONDS = 1.0  # more than it takes to open or close a store
SMALLEST_SQLITE = 512  # SQLite takes anything shorter for a new, empty database
_READ_WRITE = apsw.SQLITE_OPEN_READWRITE
_READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


@contextlib.contextmanager
def mapped(path: str) -> Iterator[None]:
    """Turn what apsw raises into our errors, naming the file and what to do."""
    try:
        yield
    except apsw.Error as error:
        raise _ours(error, path) from error
    except UnicodeDecodeError as error:
        raise _ours(apsw.CorruptError(f"a text is not UTF-8: {error}"), path) from error


def _ours(error: apsw.Error, path: str) -> StoreError:
    said = safe(error)  # it may name what stands in the file
    match error:
        case apsw.FullError():
            return StoreFullError(
                f"{path}: the disk is full; nothing pending is lost. Make room: the next commit "
                "tries again",
                path,
            )
        case apsw.BusyError() | apsw.LockedError():
            return StoreLockedError(
                f"{path}: another process has held the write lock for "
                f"{pragmas.BUSY_MILLISECONDS // 1000} s; nothing pending is lost",
                path,
            )
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreCorruptError(
                f"{path}: the file is damaged ({said}). Keep it as it is, with its -wal and -shm. "
                "`ckpt verify STORE` says what is damaged, and `ckpt salvage STORE -o NEW` brings "
                "all that is whole into a new store",
                path,
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.CantOpenError():
            return StoreError(
                f"{path}: cannot be opened ({said}). Check the permissions of the file and, for "
                "writing, of its directory, where SQLite puts two files next to it",
                path,
            )
        case _:
            return StoreError(f"{path}: {type(error).__name__}: {said}", path)


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


def open_writer(path: str, durability: str, vfs: str | None = None) -> apsw.Connection:
    """Open an existing store for writing, hardened and brought to the newest format."""
    _probe(path, vfs)
    _refuse_other_name(path)
    is_left_behind = _is_left_behind(path)
    damage = _check_log(path, vfs)
    _warn_of_network(path)
    _warn_of_others(path)
    with mapped(path):
        connection = apsw.Connection(path, flags=_READ_WRITE, vfs=vfs)
        try:
            if connection.readonly("main"):  # pragma: no cover - another user: writes no coverage
                raise apsw.ReadOnlyError("no permission to write")  # noqa: TRY301 - mapped as if SQLite's
            pragmas.harden(connection)
            wait_for_locks(connection)
            _check_schema(connection, path)
            if connection.pragma("user_version") < migrations.newest():
                migrations.migrate(connection)
            pragmas.tune_writer(connection, durability)
            if is_left_behind and damage is None:
                _settle_log(connection)
            _make_name_durable(connection, path)
        except BaseException:
            close(connection)
            raise
    return connection


def _settle_log(connection: apsw.Connection) -> None:
    """Bring what a killed process left in the log into the main file, before anything is read.

    A commit in it may not have been synced, and what is a hit from here on must survive a power
    cut. Nor may its end be written next to: a disk without powersafe overwrite damages it.
    """
    with contextlib.suppress(apsw.BusyError, apsw.FullError):  # it is whole where it is, too
        connection.wal_checkpoint()


def _make_name_durable(connection: apsw.Connection, path: str) -> None:
    """Sync the directory of a store without a run: whoever created it may have failed to, or died.

    Raises:
        StoreError: the disk failed.
    """
    if connection.execute("select 1 from runs limit 1").get is not None:
        return
    try:
        system.sync_directory(os.path.dirname(path) or ".")
    except PermissionError:  # who may not read the directory has not created the store
        return
    except OSError as error:
        raise StoreError(
            f"{path}: its directory could not be synced ({error.strerror}): a power cut may lose "
            "the whole store. Nothing was written; open it again",
            path,
        ) from error


def wait_for_locks(connection: apsw.Connection, wait: bool = True) -> None:
    """Have a connection wait for a lock that another one has, or fail at once."""
    connection.set_busy_handler(_LockWait() if wait else None)


class _LockWait:
    """Wait for another process's write lock; a second Ctrl-C, or half a minute, ends it."""

    def __init__(self) -> None:
        self._until = 0.0

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if not tries:
            self._until = now + pragmas.BUSY_MILLISECONDS / 1000
        if interrupts.state.urgent or now >= self._until:
            return False
        time.sleep(min(0.001 * 2 ** min(tries, 5), 0.025))
        return True


def open_reader(
    path: str, vfs: str | None = None
) -> tuple[apsw.Connection, bool, wal.Damage | None]:
    """Open a store for reading only, creating no file; the flag tells whether no locks are taken.

    A store that is open somewhere has a -shm beside it, and is read under SQLite's locks. Where
    there is none, SQLite would create it: the store is read without locks instead, which is sound
    as long as nobody opens it and checkpoints meanwhile (`unchanged` tells).
    """
    _probe(path, vfs)
    _refuse_other_name(path)
    damage = _check_log(path, vfs)
    log = _size(path + "-wal")
    shared = log is not None and _size(path + "-shm") is not None
    with mapped(path):
        if log and not shared:  # left by a run that was killed: index it in memory
            connection = _open_uri(path, "mode=ro", vfs or "unix-none")
        else:
            connection = _open_uri(path, "mode=ro" if shared else "immutable=1", vfs)
        try:
            if not shared:
                connection.pragma("locking_mode", "exclusive")
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            pragmas.harden(connection)
            pragmas.tune_reader(connection)
            _check_schema(connection, path)
        except BaseException:
            close(connection)
            raise
    return connection, not shared, damage


def close(connection: apsw.Connection) -> None:
    """Close a connection on which nothing is left to save.

    What may fail is only to copy the log, which stays then. SQLite says so through a VFS written in
    Python alone, and has closed the file.
    """
    with contextlib.suppress(apsw.Error):
        connection.close()


def _warn_of_others(path: str) -> None:
    """Warn of a place where another user can put another file in the store's place."""
    status, directory = os.stat(path), os.path.dirname(path)
    mode, shared = os.stat(directory).st_mode, stat.S_IWGRP | stat.S_IWOTH
    if mode & shared and not mode & stat.S_ISVTX:  # as in /tmp, where nobody takes others' files
        why = f"other users may write to its directory {directory}: chmod go-w it"
    elif status.st_mode & shared:
        why = "other users may write to it: chmod 600 it"
    elif status.st_uid != os.geteuid():
        why = "it belongs to another user"
    else:
        return
    warnings.warn(
        f"{path}: {why}. Who can change a store can change the results that you are given",
        stacklevel=4,
    )


def _warn_of_network(path: str) -> None:
    kind = network_file_system(path)
    if kind is not None:
        warnings.warn(
            f"{path} is on a network file system ({kind}), where SQLite can lose data once a "
            "second process opens it: keep the store on a local disk, copy it when the run ends",
            stacklevel=4,
        )


def create(path: str, vfs: str | None = None) -> None:
    """Create an empty store; under its name it appears whole, on the disk and mode 0600, or never.

    If another process creates it first, theirs is kept.
    """
    _check_name(path)
    try:
        if _size(path + "-wal") and not os.path.lexists(path):
            raise StoreError(
                f"{path}-wal: the log of a store that is gone; a new one would be read with it. "
                "Put the store back, or move its log away",
                path,
            )
        with half_made(path) as temporary, mapped(path):
            lay(temporary, vfs)
    except FileExistsError:
        return
    except OSError as error:
        raise StoreError(
            f"{path}: cannot create a store here ({error.strerror}). The directory "
            f"{os.path.dirname(path) or '.'} must exist and be writable",
            path,
        ) from error


def lay(temporary: str, vfs: str | None = None) -> None:
    """Make an empty file a store, synced."""
    connection = apsw.Connection(temporary, flags=_READ_WRITE, vfs=vfs)
    try:
        pragmas.harden(connection)
        pragmas.sync_fully(connection)
        connection.pragma("synchronous", "full")
        connection.pragma("page_size", pragmas.PAGE_SIZE)
        migrations.migrate(connection)
        connection.pragma("journal_mode", "wal")
    finally:
        connection.close()


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells this file from another that later takes its name; None if it is gone."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def unchanged(path: str) -> tuple[int, int, int]:
    """Return a mark that differs once somebody has written to the main file."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open_uri(path: str, options: str, vfs: str | None) -> apsw.Connection:
    return apsw.Connection(_uri(path, options), flags=_READ_ONLY, vfs=vfs)


def _uri(path: str, options: str) -> str:
    return f"file:{urllib.parse.quote(os.path.abspath(path))}?{options}"


def _probe(path: str, vfs: str | None) -> None:
    """Refuse whatever is not a store of ours, before anything could write to it."""
    check_sqlite()
    check_file(path)
    _check_beside(path)
    try:
        application_id, present = _identify(path, vfs)
    except apsw.NotADBError as error:
        if looks_like_pages(path, vfs):
            raise _ours(apsw.CorruptError("its first page is not what it was"), path) from error
        raise _no_sqlite(path, safe(error)) from error
    except apsw.Error as error:  # pragma: no cover - another user, or the disk fails
        raise _ours(error, path) from error
    if application_id == migrations.BEFORE_FORMAT_1:
        raise StoreVersionError(
            f"{path}: written by a checkpointdb from before its first release, whose format is not "
            "read any more; nothing was written. Give another path, or export its results with "
            "the version that wrote it",
            path,
        )
    if application_id != migrations.APPLICATION_ID and _has_our_tables(path, vfs):
        raise _ours(apsw.CorruptError("it is not marked as a store any more"), path)
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


def _no_sqlite(path: str, why: str) -> StoreError:
    return StoreError(
        f"{path}: not a checkpointdb store, nor any SQLite file ({why}); nothing was written. "
        "Give another path, or move the file away",
        path,
    )


def _check_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        text = f"{path!r}: SQLite opens only files whose names are UTF-8: rename it"
        raise StoreError(text, path) from error


def check_file(path: str) -> None:
    """Raise unless it is a file that may be one of SQLite's."""
    _check_name(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", path) from error
    if stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{path}: a directory; give the path of a file, such as rows.ckpt", path)
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path}: no regular file; give the path of one, or of a new one", path)
    if 0 < status.st_size < SMALLEST_SQLITE:
        raise _no_sqlite(path, "it is too short")
    if status.st_size == 0:
        raise StoreError(
            f"{path}: an empty file, which checkpointdb never makes; nothing was written. "
            "Delete it, or give another path",
            path,
        )


def _check_beside(path: str) -> None:
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
    owners = {os.stat(path).st_uid, os.geteuid(), 0}
    for ending in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path + ending)
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in owners:
                raise StoreError(
                    f"{path}{ending}: no regular file, or another user's: it is none of this "
                    "store's. Nothing was read or written. Move it away",
                    path,
                )


def _identify(path: str, vfs: str | None) -> tuple[int, int]:
    """Return a file's application id and format, from its first page alone.

    A kill inside a wal_checkpoint leaves a first page that speaks of pages which are only in the
    log yet; a power cut may tear that page itself, which is whole in the log then.
    """
    try:
        return _ask(_open_uri(path, "immutable=1", vfs))
    except (apsw.NotADBError, apsw.CorruptError):
        if not _size(path + "-wal"):
            raise
    if _is_left_behind(path):
        return wal.look(_uri(path, "mode=ro"), vfs or "unix-none")[0]
    return _ask(_open_uri(path, "mode=ro", vfs))  # pragma: no cover - a checkpoint in between


def _ask(connection: apsw.Connection) -> tuple[int, int]:
    with contextlib.closing(connection):
        connection.pragma("writable_schema", True)  # or SQLite refuses a file that is too short
        return connection.pragma("application_id"), connection.pragma("user_version")


def _has_our_tables(path: str, vfs: str | None) -> bool:
    with contextlib.closing(_open_uri(path, "immutable=1", vfs)) as connection:
        sql = "select count(*) from sqlite_schema where name in ('records', 'system_key_index')"
        with contextlib.suppress(apsw.Error):
            return bool(connection.execute(sql).get == 2)
    return False  # pragma: no cover - its schema cannot be read either


def _is_left_behind(path: str) -> bool:
    """Tell whether there is a log that nobody has open."""
    return bool(_size(path + "-wal")) and lockers(path) == set()


def _check_log(path: str, vfs: str | None) -> wal.Damage | None:
    """Say that commits in the log cannot be read, before anything is written over them."""
    if not _is_left_behind(path):
        return None
    with mapped(path):
        damage = wal.look(_uri(path, "mode=ro"), vfs or "unix-none")[1]
    if damage is not None:
        warnings.warn(": ".join(lost_in_log(path, damage)), stacklevel=4)
    return damage


def lost_in_log(path: str, damage: wal.Damage) -> tuple[str, str]:
    """Say what is damaged in a log, and what cannot be read because of it."""
    what = f"frame {damage.frame} of {damage.frames}" if damage.frame else "the header"
    return (
        f"{path}-wal: {what} is damaged, and SQLite reads nothing after it",
        f"{damage.commits:,} commits are there whole, and the next write goes over them. If they "
        "matter, copy the store with its -wal and -shm now, and work on the copy: "
        "`ckpt salvage COPY -o NEW` reads them",
    )


def _refuse_other_name(path: str) -> None:
    """Raise if somebody has the file open under another name: a hard link, or it was renamed."""
    until = time.monotonic() + SETTLING_SECONDS
    while others := strangers(path):
        if time.monotonic() > until:  # not in the middle of opening or closing it
            raise StoreError(
                f"{path}: process {min(others)} has this file open under another name, and with "
                "it another log: what either writes the other would not see, and overwrite. "
                "Nothing was read or written. Use one name, or copy the file",
                path,
            )
        time.sleep(0.01)


def _check_schema(connection: apsw.Connection, path: str) -> None:
    wrong = migrations.wrong_in_schema(connection)
    if wrong is not None:
        raise StoreCorruptError(
            f"{path}: {safe(wrong)} is not as checkpointdb created it: another program changed the "
            "file. Nothing was read or written",
            path,
        )
