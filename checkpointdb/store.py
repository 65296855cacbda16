"""A store file as people use it: what is in it, flush, forget, close. Knows no SQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Self

from . import interrupts
from .file import connection as files
from .file import lifetime
from .file.log import Log
from .file.opened import Durability
from .file.read import Reader, Status
from .file.records import Record, RunInfo, StepInfo
from .frames.saved import Saved


class Store:
    """A store file, open for reading and writing. A context manager; safe to share by threads.

    Promises: creation is whole or not at all, and durable; a commit is all or nothing; what a
    commit acknowledged survives a power cut (`durability="power"`) or the death of the process
    (`"process"`); `flush` always makes everything before it survive a power cut. A store that
    nobody names any more, nor a step or a run that is open, is closed.

    Args:
        path: the file; created, mode 0600, if it does not exist.
        durability: `"power"` or `"process"`.
        create: False to raise instead of creating the file.
        vfs: name of an SQLite VFS to use instead of the system's.

    Raises:
        StoreError: a directory, an empty file, not a store, a place that cannot be written.
        StoreVersionError: written by a newer version; or an SQLite with a known data-loss bug.
        StoreCorruptError: truncated or changed by another program.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "power",
        create: bool = True,
        vfs: str | None = None,
    ) -> None:
        if durability not in ("power", "process"):
            raise ValueError(f"durability must be 'power' or 'process', got {durability!r}")
        files.check_sqlite()
        self.path = os.path.realpath(os.fspath(path))
        self.durability = durability
        self._vfs = vfs
        if create and not os.path.lexists(self.path):
            files.create(self.path, vfs)
        self.log = Log(self.path, durability, vfs)
        try:
            lifetime.opened(self.log, self.log.forked)
            lifetime.give_back(self, self.log)
        except BaseException:  # no memory, say: nobody would ever close it
            self.log.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.path!r}, durability={self.durability!r})"

    # --- for people

    def steps(self) -> list[StepInfo]:
        """Return the steps, oldest first, with their counts."""
        with Reader(self.path, self._vfs) as reader:
            return reader.steps()

    def runs(self, step: str | None = None) -> list[RunInfo]:
        """Return the runs, oldest first."""
        with Reader(self.path, self._vfs) as reader:
            return reader.runs(step)

    def records(self, step: str | None = None, status: Status | None = None) -> Iterator[Record]:
        """Yield the newest record of each key, in input order, as of the first one asked for."""
        with Reader(self.path, self._vfs) as reader:
            yield from reader.records(step, status=status)

    def rows(
        self, step: str | None = None, *, version: int | str | None = None, prefix: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Yield each saved row of a step as a plain dict, in input order: its input and its result.

        A result that is a dict or a record is there by its keys, any other under the step's name;
        an input that is no dict is under `input`. Failed rows are left out: see `records`.

        Args:
            step: its name; may be left out if there is one.
            version: may be left out if there is one.
            prefix: of the names that come from results.

        Raises:
            ValueError: no such step, or several; a name that both input and result have.
        """
        return self._saved(step, version, prefix).rows()

    def to_arrow(
        self, step: str | None = None, *, version: int | str | None = None, prefix: str = ""
    ) -> Any:
        """Return what `rows` yields as a `pyarrow.Table`, typed by all rows; memory is bounded.

        A column whose values share no type has their JSON as text. See `rows` for the rest.
        """
        return self._saved(step, version, prefix).to_arrow()

    def to_pandas(
        self, step: str | None = None, *, version: int | str | None = None, prefix: str = ""
    ) -> Any:
        """Return what `rows` yields as a `pandas.DataFrame`. See `rows` for the rest."""
        return self._saved(step, version, prefix).to_pandas()

    def _saved(self, step: str | None, version: int | str | None, prefix: str) -> Saved:
        found = self._one_step(step, version)
        return Saved(self._pairs(found), found.name, prefix)

    def _one_step(self, step: str | None, version: int | str | None) -> StepInfo:
        steps = self.steps()
        found = [it for it in steps if step in (None, it.name) and version in (None, it.version)]
        if len(found) != 1:
            known = ", ".join(f"{it.name!r} version {it.version!r}" for it in steps) or "none"
            what = "no such step" if not found else "several steps: give step= and version="
            raise ValueError(f"{self.path}: {what}; its steps: {known}")
        return found[0]

    def _pairs(self, step: StepInfo) -> Iterator[tuple[Any, Any]]:
        with Reader(self.path, self._vfs) as reader:
            for record in reader.records(step.name, step.version, "ok"):
                yield record.input, record.result

    def get(self, key: str) -> Record | None:
        """Return the newest record of a key, as `key_of` gives it; None if there is none.

        Raises:
            StoreCorruptError: its bytes are not what was written.
        """
        with Reader(self.path, self._vfs) as reader:
            return reader.get(key)

    def verify(self) -> list[str]:
        """Check every byte that can be checked; return what is wrong, a line each."""
        with Reader(self.path, self._vfs) as reader:
            return reader.verify()

    @interrupts.whole
    def flush(self) -> None:
        """Commit all that is pending on this store and make it survive a power cut.

        Raises:
            StoreFullError: no space; what is pending stays so, flush again.
        """
        self.log.flush()

    @interrupts.whole
    def close(self) -> None:
        """Flush, then close the file. What is pending is kept if that fails. Can be repeated."""
        self.log.close()

    @property
    def closed(self) -> bool:
        """Whether the store was closed, or belongs to the process this one was forked from."""
        return self.log.closed

    def forget(
        self,
        step: str | None = None,
        *,
        version: int | str | None = None,
        failed: bool = False,
        where: str | None = None,
        dry_run: bool = False,
    ) -> int:
        """Delete saved rows with all their history, in one transaction; return how many.

        The only way in which a saved result is ever deleted. Deleted bytes are overwritten; the
        file keeps its size and reuses the room.

        Args:
            step: of this step.
            version: of this version of it.
            failed: only rows whose newest record is a failure.
            where: an SQL condition on a record's columns, such as `"result ->> 'label' = 'x'"`.
            dry_run: only count.

        Raises:
            ValueError: nothing to choose by, or `where` is not a condition.
            StoreError: another run is open on the store.
        """
        return self.log.forget(step, version, failed, where, dry_run)
