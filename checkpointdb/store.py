"""A store file as people use it: what is in it, flush, forget, close. Knows no SQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self, cast

from . import interrupts
from .cloud.shipment import Pushed
from .cloud.shipper import Shipper
from .errors import StoreError
from .file import connection as files
from .file import lifetime, probe
from .file.backup import backup
from .file.log import Log
from .file.merge import Merged
from .file.opened import Durability
from .file.read import Reader, Status
from .file.read_log import ReadLog
from .file.records import Record, RunInfo, StepInfo
from .file.verify import OnProgress, Problem
from .policy import SavePolicy, check_policy
from .wording import duration, moment, money

if TYPE_CHECKING:
    from .frames.saved import Saved

LAST_RUNS = 5  # that a notebook shows


class Store:
    """A store file, open for reading and writing, or reading. A context manager; thread-safe.

    Promises: creation is whole or not at all, and durable; a commit is all or nothing; what a
    commit acknowledged survives a power cut (`durability="power"`) or the death of the process
    (`"process"`); `flush` always makes everything before it survive a power cut. A store is closed
    when neither your code nor an open step or run refers to it any more.

    Args:
        path: the file; created, mode 0600, if it does not exist.
        durability: `"power"` or `"process"`.
        create: False to raise instead of creating the file.
        vfs: name of an SQLite VFS to use instead of the system's.
        readonly: True to write nothing, create nothing and take no lock. Steps on this store only
            replay what is saved: see `replay=` of `step`.
        remote: URL of a bucket, as `push` takes it, to which a thread ships what is committed while
            the store is open. If there is no file, it is made from what is in the bucket.
        ship: how often to ship: a save policy over what is committed and not yet shipped,
            `every(seconds=30)` unless given. A lost machine costs what the policy allows, and what
            was being uploaded.

    Raises:
        StoreError: a directory, an empty file, not a store, a place that cannot be written.
        StoreVersionError: written by a newer version; or an SQLite with a known data-loss bug.
        StoreCorruptError: truncated or changed by another program.
        BucketError: the bucket does not know this store, or cannot be reached and there is no file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "power",
        create: bool = True,
        vfs: str | None = None,
        readonly: bool = False,
        remote: str | None = None,
        ship: SavePolicy | None = None,
    ) -> None:
        check_remote(remote, ship)
        if remote is not None and readonly:
            raise ValueError("a store with readonly=True ships nothing: leave remote= out")
        if durability not in ("power", "process"):
            raise ValueError(f"durability must be 'power' or 'process', got {durability!r}")
        probe.check_sqlite()
        self.path = os.path.realpath(os.fspath(path))
        self.durability, self.readonly = durability, readonly
        self._vfs = vfs
        self._shipper: Shipper | None = None
        self._remote: str | None = None
        if remote is not None and create:
            from .cloud.remote import fetch

            fetch(remote, self.path)
        if create and not readonly and not os.path.lexists(self.path):
            files.create(self.path, vfs)
        # of reading, it does the part; of the rest, it says what it is
        self.log = (
            cast("Log", ReadLog(self.path, vfs)) if readonly else Log(self.path, durability, vfs)
        )
        try:
            lifetime.opened(self.log, self.log.forked)
            lifetime.give_back(self, self.log)
            if remote is not None:
                from .cloud.remote import ship as begin_to_ship

                self._shipper, self._remote = begin_to_ship(self.log, remote, ship), remote
        except BaseException:  # no memory, say: nobody would ever close it
            self.log.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        kind = "readonly=True" if self.readonly else f"durability={self.durability!r}"
        return f"Store({self.path!r}, {kind})"

    def _repr_html_(self) -> str:
        from . import markup

        try:
            with Reader(self.path, self._vfs) as reader:
                steps, runs = reader.steps(), reader.runs()[-LAST_RUNS:]
        except StoreError as error:
            return markup.facts(self.path, {"cannot be read": str(error)})
        columns = ("step", "version", "results", "failed", "a call takes", "cost")
        rows = [
            (
                step.name, str(step.version), f"{step.results:,}", f"{step.failures:,}",
                duration(step.seconds / step.records) if step.records else "–",
                money(step.cost) if step.cost else "–",
            )
            for step in steps
        ]  # fmt: skip
        heads = ("run", "step", "started", "how it ended", "rows", "hits", "computed", "failed")
        last = [
            (
                str(run.id), f"{run.step} {run.version}", moment(run.started_at),
                run.ended or run.state, *(f"{count:,}" for count in (run.report.rows,
                run.report.hits, run.report.computed, run.report.failed)),
            )
            for run in runs
        ]  # fmt: skip
        tables = [markup.grid("steps", columns, rows), markup.grid("last runs", heads, last)]
        return markup.facts(self.path, {}, *(tables if steps else ["no step has run yet"]))

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
        """Yield the newest record of each key, in input order, as of when the first is read."""
        with Reader(self.path, self._vfs) as reader:
            yield from reader.records(step, status=status)

    def rows(
        self, step: str | None = None, *, version: int | str | None = None, prefix: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Yield each saved row of a step as a plain dict, in input order: its input and its result.

        A result that is a dict or a record adds its keys; any other result is under the step's
        name. An input that is not a dict is under `input`. Failed rows are left out: see `records`.

        Args:
            step: its name; may be left out if there is only one.
            version: may be left out if there is only one.
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
        from .frames.saved import Saved  # a tenth of the package's import, and used seldom

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

    def verify(self, *, on_progress: OnProgress | None = None) -> list[Problem]:
        """Check everything; return what is damaged and what that means, [] if nothing is.

        It checks SQLite's structure, the checksum of every record, the key index, the counters, and
        a log that nobody has open. Nothing is written; runs may go on meanwhile.

        Args:
            on_progress: called with what is being checked and how much of that is done, from 0 to
                1, None where it cannot be known.
        """
        with Reader(self.path, self._vfs) as reader:
            return reader.verify(on_progress)

    def backup(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Copy the store to `path`, as of one moment, with all that is committed.

        Promise: `path` appears whole, verified, on the disk and mode 0600, or not at all, whatever
        is killed meanwhile. Runs may go on.

        Args:
            path: where to; a symlink there is not followed.
            force: replace a file that is there.
            on_progress: called as by `verify`.

        Raises:
            StoreError: there is a file and no `force`; it is this store, or one that is open; or it
                cannot be written.
            StoreCorruptError: this store is damaged; nothing was written.
        """
        self.log.commit_buffers()
        backup(self.path, os.path.abspath(os.fspath(path)), force, self._vfs, on_progress)

    def compact(self, *, keep: int = 1, dry_run: bool = False) -> int:
        """Drop superseded records, give their room back; return how many were dropped.

        A record is superseded when its row was computed again. The newest record of a row stays,
        and its newest result; what was paid stays in the counters. Each of the two steps is one
        transaction: a kill leaves the store as it was before or after it.

        Args:
            keep: how many records of each row to keep, from 1.
            dry_run: only count.

        Raises:
            ValueError: `keep` is less than 1.
            StoreError: a run is open on the store; nothing was changed.
            StoreFullError: no room to rewrite the file; it needs twice its size for a while.
        """
        if type(keep) is not int or keep < 1:
            raise ValueError(f"keep must be a whole number of at least 1, got {keep!r}")
        return self.log.compact(keep, dry_run)

    def merge(
        self,
        other: str | os.PathLike[str] | Store,
        *,
        on_progress: OnProgress | None = None,
    ) -> Merged:
        """Bring the records of another store into this one, by key; return what was done.

        Promise: the other store is only read. Pages of records are committed one by one, so that
        after a kill another merge goes on; it skips what was merged before. Records of one origin
        keep their order, and the newest wins; between different origins a success beats a failure;
        otherwise what is here stays. What loses is kept as history. What `forget` deleted in one of
        the two is deleted in this one too, and does not come back.

        Args:
            other: a store, or its path. Runs may go on in it; merge again to bring what is new.
            on_progress: called as by `verify`.

        Raises:
            ValueError: it is this very store.
            StoreError: there is no such store; or it has rows to delete here, and a run is open.
            StoreCorruptError: one of its records is not what was written; the records before it are
                merged. `ckpt salvage` brings all that is whole into a new store.
            KeyCollisionError: two different rows have one key.
        """
        if isinstance(other, Store):
            other.log.commit_buffers()
            other = other.path
        with Reader(other) as reader:
            there = files.identity(reader.path)
            if there is not None and there == files.identity(self.path):
                raise ValueError(f"{self.path}: a store cannot be merged into itself")
            if on_progress is None:
                return self.log.merge(reader)
            last, report = max(reader.last_commit()[0], 1), on_progress
            return self.log.merge(reader, lambda done: report("records", min(done / last, 1.0)))

    def push(self, url: str | None = None) -> Pushed:
        """Ship what is new to a bucket: everything the first time, then what was not shipped yet.

        Promise: nothing in the bucket is ever written over. A kill at any moment loses nothing
        that is there; the next push goes on. Runs may go on meanwhile. Other stores may be shipped
        to the same prefix: `pull` makes one store of all.

        Args:
            url: `s3://bucket/prefix`, `gs://…`, `az://…`, or `file:///folder`. Credentials come
                from the environment. May be left out if the store was opened with `remote=`.

        Raises:
            BucketError: it cannot be reached, holds something else, or another process ships this
                store to it now.
            ImportError: the extra `cloud` is not installed.
            ValueError: not a URL of a bucket.
        """
        if self._shipper is not None and url in (None, self._remote):
            self.log.commit_buffers()
            return self._shipper.push()
        if url is None:
            raise ValueError("push needs the URL of a bucket: the store has no remote=")
        from .cloud.push import push

        return push(self.log, url)

    @interrupts.whole
    def flush(self) -> None:
        """Commit all that is pending on this store and make it survive a power cut.

        Raises:
            StoreFullError: no space; what is pending stays pending: flush again.
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

        This is the only way in which a saved result is ever deleted. Deleted bytes are overwritten;
        the file keeps its size and reuses the room.

        Args:
            step: of this step.
            version: of this version of it.
            failed: only rows whose newest record is a failure.
            where: an SQL condition on a record's columns, such as `"result ->> 'label' = 'x'"`.
            dry_run: only count.

        Raises:
            ValueError: no rows were named, or `where` is not a condition.
            StoreError: another run is open on the store.
        """
        return self.log.forget(step, version, failed, where, dry_run)


def check_remote(remote: object, ship: object) -> None:
    """Raise unless these make sense together; ask no bucket."""
    if remote is not None and not isinstance(remote, str):
        raise TypeError(f"remote must be the URL of a bucket, got {remote!r}")
    if ship is not None:
        check_policy(ship, "ship")
        if remote is None:
            raise ValueError("ship= says how often to ship; it needs remote=, the URL of a bucket")
