"""A store that is open for reading only, as the engine sees it: a log that writes nothing down."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import StoreError
from . import sqlite_errors
from .find import Finder
from .processes import OfProcess
from .read import Reader
from .records import Found, Made, Registered, SavedCode


class ReadLog(OfProcess):
    """What a run that calls nothing needs of `Log`; safe to share by threads.

    It finds what is committed, by whatever process. Runs are not registered; what would write is a
    `StoreError`. `_lock` is held around each use of the connection.

    Args:
        path: an existing store, absolute.
        vfs: name of an SQLite VFS to use instead of the system's.
    """

    def __init__(self, path: str, vfs: str | None = None) -> None:
        super().__init__(path)
        self._vfs = vfs
        self._lock = threading.RLock()
        self._buffers: set[Any] = set()
        self._reader: Reader | None = None
        self._open()

    def _open(self) -> None:
        self._reader = Reader(self.path, self._vfs)
        self._finder = Finder(self.path, self._reader.connection)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise StoreError(f"{self.path}: the store is open for reading only", self.path)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Reader]:
        """Give the reader, opened again if the file was read without locks and changed since."""
        with self._lock:
            self.check_process()
            if self._reader is None:
                raise StoreError(f"{self.path}: the store is closed", self.path)
            if not self._reader.is_unchanged():
                self._reader.close()
                self._open()
            with sqlite_errors.mapped(self.path):
                yield self._reader

    def finish(self) -> None:
        """Do nothing: nothing runs next to it."""

    # --- what is there

    def find(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return the newest committed outcome of each key, None where there is none."""
        with self._reading():
            return self._finder.find(keys)

    def row_digests(self, ids: Sequence[int]) -> dict[int, bytes | None]:
        """Return the digest of the whole row of some records, by id; None where there is none."""
        with self._reading():
            return self._finder.row_digests(ids)

    def check(self, id: int) -> None:
        """Raise unless a record is what was written."""
        with self._reading() as reader:
            reader.check(id)

    def codes(self, step: int) -> list[SavedCode]:
        """Return the codes that a step was run with."""
        with self._reading() as reader:
            return reader.codes(step)

    def made_by(self, step: int, ids: Sequence[int]) -> Made:
        """Return what some of a step's codes made."""
        with self._reading() as reader:
            return reader.made_by(step, ids)

    def register_step(
        self, name: str, version: int | str, key_recipe: str, on_change: str
    ) -> Registered:
        """Return what the store knows of a step; what it does not know is as the step has it."""
        with self._reading() as reader:
            steps = [it for it in reader.steps() if (it.name, it.version) == (name, version)]
        for step in steps:
            return Registered(step.id, step.key_recipe, step.fingerprint, on_change)
        return Registered(0, key_recipe, None, on_change)

    # --- what a log would write down

    def begin_run(self, *_: Any) -> int:
        """Return the id of a run that is not written down."""
        return 0

    def end_run(self, *_: Any) -> None:
        """Write nothing."""

    def update_recipe(self, *_: Any) -> None:
        """Write nothing."""

    def run_elsewhere(self, _step: int) -> None:
        """Say that nobody else is in the way."""

    # --- open and closed

    def attach(self, buffer: Any) -> None:
        """Have a run closed with the store."""
        self._buffers.add(buffer)

    def detach(self, buffer: Any) -> None:
        """Forget a run."""
        self._buffers.discard(buffer)

    def is_alone(self, buffer: Any) -> bool:
        """Tell whether no other run is open here."""
        return self._buffers == {buffer}

    def flush(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """End the runs, and close the file. Can be repeated."""
        for buffer in list(self._buffers):
            buffer.close()
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
                self._finder = None  # type: ignore[assignment]

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the process this one was forked from."""
        return self._reader is None or self.is_forked

    def forked(self) -> list[Any]:
        """In a forked child, make a new lock; return the connection, to be left alone."""
        self._lock = threading.RLock()
        for buffer in list(self._buffers):
            buffer.forked()
        return [self._reader]
