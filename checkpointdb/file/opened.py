"""A store file as a process has it open: two connections, their locks. Knows SQL; no record.

Who holds which lock: `lock` is held around every use of the writing connection, `_reading` around
the reading one and the index of keys in memory, so that nobody who looks rows up waits for a
commit. `_reading` may be taken under `lock`, and that under a run's own lock, never the other way
round.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Literal

import apsw

from .. import interrupts
from ..errors import StoreError
from . import connection as files
from . import pragmas, sqlite_errors
from .find import Finder
from .log_file import LogFile
from .processes import OfProcess

Durability = Literal["power", "process"]


class Opened(OfProcess):
    """A store file, open for reading and writing; safe to share by threads.

    Args:
        path: an existing store, absolute.
        durability: of commits.
        vfs: name of an SQLite VFS to use instead of the system's.
    """

    def __init__(self, path: str, durability: Durability, vfs: str | None = None) -> None:
        super().__init__(path)
        self.durability, self._vfs = durability, vfs
        self.lock = threading.RLock()
        self._reading = threading.RLock()
        self.shut = threading.Event()  # set once it is closed
        self._unsynced = False
        self._is_closing = False  # all is saved: if closing raises, closing is all there is to do
        self._writer: apsw.Connection | None = None
        reader = None
        try:
            self._writer = files.open_writer(path, durability, vfs)
            with sqlite_errors.mapped(path):
                reader = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
                self._reader = reader
                pragmas.harden(self._reader)
                pragmas.tune_reader(self._reader)
                self._finder = Finder(path, self._reader)
                self._file = LogFile(path, self._writer)  # SQLite has made the -wal by now
        except BaseException:  # an open connection would keep the -wal and its locks
            for connection in (reader, self._writer):
                if connection is not None:
                    files.close(connection)
            raise

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the process this one was forked from."""
        return self._writer is None or self.is_forked

    @interrupts.whole
    def sync(self) -> None:
        """Make every commit so far survive a power cut, whatever the durability."""
        with self._writing() as writer:
            if self._unsynced:  # an empty commit syncs nothing: write something, fully synced
                pragmas.set_durability(writer, "power")
                try:
                    writer.execute(
                        "update system_state set value = value + 1 where name = 'flushes'"
                    )
                finally:
                    pragmas.set_durability(writer, self.durability)
                self._unsynced = False
            self._file.save_if_gone()

    def _close(self) -> None:
        with self.lock, self._reading, sqlite_errors.mapped(self.path):
            if self._writer is None:  # another thread, a finalizer's perhaps, was first
                return
            self._is_closing = True
            self._reader.close()
            files.close(self._writer)
            self.shut.set()
            self._writer = None

    def forked(self) -> list[Any]:
        """In a forked child, make new locks; return the SQLite connections, to be left alone."""
        self.lock, self._reading = threading.RLock(), threading.RLock()
        return [self._writer, self._reader]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        with self.lock, sqlite_errors.mapped(self.path):
            self._check_open()
            assert self._writer is not None
            if self._writer.in_transaction:  # a handler of the user's own raised inside of one
                self._writer.execute("rollback")
            if self._file.is_doubtful:
                self._file.begin_anew()
                self._unsynced = True  # the main file is, but not yet that the log is begun anew
            try:
                yield self._writer
            except apsw.IOError:
                self._file.is_doubtful = True
                raise

    @contextlib.contextmanager
    def _light(self) -> Iterator[None]:
        """Write without waiting for the disk: a claim that a power cut undoes harms nobody."""
        with self._writing() as writer:
            pragmas.set_durability(writer, "process")
            try:
                yield
            finally:
                pragmas.set_durability(writer, self.durability)

    def check_file(self) -> None:
        """Raise if the file or its -wal is not what was opened, or if it is closed meanwhile."""
        try:
            self._file.check()
        except StoreError:
            with self.lock:  # whoever closes it removes the -wal, and holds this until it is closed
                self._check_open()
            raise

    def _check_open(self) -> None:
        if self._writer is None:
            raise StoreError(f"{self.path}: the store is closed", self.path)
        self.check_process()
