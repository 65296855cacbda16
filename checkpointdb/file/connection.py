"""Open and create store files. Knows files and SQLite; knows nothing of records."""

from __future__ import annotations

import contextlib
import os
import stat
import time
import warnings

import apsw

from .. import interrupts, system
from ..errors import StoreError
from . import migrations, pragmas, wal
from .mounts import network_file_system
from .probe import (
    check_log,
    check_name,
    check_schema,
    left_behind,
    open_uri,
    probe,
    refuse_other_name,
    size,
)
from .sqlite_errors import mapped
from .temporary import half_made
from .unlocked import unlocked

_READ_WRITE = apsw.SQLITE_OPEN_READWRITE


def open_writer(path: str, durability: str, vfs: str | None = None) -> apsw.Connection:
    """Open an existing store for writing, hardened and brought to the newest format."""
    probe(path, vfs)
    refuse_other_name(path)
    is_left_behind = left_behind(path)
    damage = check_log(path, vfs)
    _warn_of_network(path)
    _warn_of_others(path)
    with mapped(path):
        connection = apsw.Connection(path, flags=_READ_WRITE, vfs=vfs)
        try:
            if connection.readonly("main"):  # pragma: no cover - another user: writes no coverage
                raise apsw.ReadOnlyError("no permission to write")  # noqa: TRY301 - mapped as if SQLite's
            pragmas.harden(connection)
            wait_for_locks(connection)
            check_schema(connection, path)
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
    cut. Nor may anything be written right after its end: a disk without powersafe overwrite would
    damage it.
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

    A store that is open somewhere has a -shm next to it, and is read under SQLite's locks. Where
    there is none, SQLite would create it: the store is read without locks instead, which is sound
    as long as nobody opens it and checkpoints meanwhile (`mark` tells).
    """
    probe(path, vfs)
    refuse_other_name(path)
    damage = check_log(path, vfs)
    log = size(path + "-wal")
    shared = log is not None and size(path + "-shm") is not None
    with mapped(path):
        if log and not shared:  # left by a run that was killed: index it in memory
            connection = open_uri(path, "mode=ro", vfs or unlocked().name)
        else:
            connection = open_uri(path, "mode=ro" if shared else "immutable=1", vfs)
        try:
            if not shared:
                connection.pragma("locking_mode", "exclusive")
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            pragmas.harden(connection)
            pragmas.tune_reader(connection)
            check_schema(connection, path)
        except BaseException:
            close(connection)
            raise
    return connection, not shared, damage


def close(connection: apsw.Connection) -> None:
    """Close a connection on which nothing is left to save.

    Only the copying of the log may fail, and then the log stays. SQLite says so only through a VFS
    written in Python, and has closed the file.
    """
    with contextlib.suppress(apsw.Error):
        connection.close()


def _warn_of_others(path: str) -> None:
    """Warn of a place where another user can put another file in the store's place."""
    directory = os.path.dirname(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:  # deleted meanwhile; SQLite says so
        return
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
        f"{path}: {why}. Whoever can change a store can change the results that you get",
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
    check_name(path)
    try:
        if size(path + "-wal") and not os.path.lexists(path):
            raise StoreError(
                f"{path}-wal: the log of a store that is gone; a new store would be read with it. "
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


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells this file from another that later takes its name; None if it is gone."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
