"""Bytes in, bytes out. Knows SQL and files; knows nothing of rows, steps' code or policies."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

import apsw

from .errors import StoreError
from .file import connection as files
from .file import leases, lifetime, schema
from .file.append import (
    ENTRIES_PER_STATEMENT,
    Entry,
    Stored,
    insert,
    transaction,
    update_run,
)
from .file.append import delete as delete_keys
from .file.delete import check_alone, choose, delete
from .file.find import Finder, Found
from .file.key_index import extend
from .file.read import Reader, Status
from .file.records import Record, RunInfo, StepInfo

Durability = Literal["power", "process"]


HELD = 0  # the run of a record that is not committed yet


class _Missing:
    """Nothing is saved under that key; false in a boolean context."""

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "MISS"


MISS = _Missing()


class Holder(Protocol):
    """Something that holds results not yet committed to a store."""

    @property
    def held(self) -> Mapping[bytes, Entry]:
        """The newest of them by key."""

    def commit(self) -> None:
        """Commit them."""

    def close(self) -> None:
        """Commit them and hold nothing any more."""


class Store:
    """A store file, open for reading and writing. A context manager; safe to share by threads.

    Promises: creation is whole or not at all, and durable; a commit is all or nothing; what a
    commit acknowledged survives a power cut (`durability="power"`) or the death of the process
    (`"process"`); `flush` always makes everything before it survive a power cut.

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
            raise ValueError(f"durability={durability!r}: give 'power' or 'process'")
        files.check_sqlite()
        self.path = os.path.realpath(os.fspath(path))
        self.durability = durability
        self._vfs = vfs
        self._lock = threading.RLock()
        self._holders: set[Holder] = set()
        self._unsynced = False
        self._pid = os.getpid()
        self.own_runs: set[int] = set()
        if create and not os.path.lexists(self.path):
            files.create(self.path, vfs)
        self._writer: apsw.Connection | None = files.open_writer(self.path, durability, vfs)
        self._identity = files.identity(self.path)
        with files.mapped(self.path):
            self._reader = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
            try:
                schema.harden(self._reader)
                schema.tune_reader(self._reader)
                self._finder = Finder(self.path, self._reader)
            except BaseException:  # an open connection would keep the -wal and its locks
                self._reader.close()
                self._writer.close()
                raise
        lifetime.opened(self)

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

    def get(self, key: bytes) -> Record | _Missing:
        """Return the newest record of `key`, or `MISS`.

        Raises:
            StoreCorruptError: its bytes are not what was written.
        """
        with Reader(self.path, self._vfs) as reader:
            return reader.get(key) or MISS

    def verify(self) -> list[str]:
        """Check every byte that can be checked; return what is wrong, a line each."""
        with Reader(self.path, self._vfs) as reader:
            return reader.verify()

    def flush(self) -> None:
        """Commit all that is pending on this store and make it survive a power cut.

        Raises:
            StoreFullError: no space; what is pending stays so, flush again.
        """
        for holder in list(self._holders):
            holder.commit()
        self.sync()

    def close(self) -> None:
        """Flush, then close the file. What is pending is kept if that fails. Can be repeated."""
        if self._writer is None or self._pid != os.getpid():
            return
        for holder in list(self._holders):
            holder.close()
        self._shorten_tail()
        self.sync()
        with self._lock, files.mapped(self.path):
            self._reader.close()
            self._writer.close()
            self._writer = None
        lifetime.closed(self)

    def _shorten_tail(self) -> None:
        """Spare the next process that opens the store the reading of a long tail."""
        if self._finder.index.is_worth_extending:
            # nothing is lost without it, so a full disk is no reason not to close
            with contextlib.suppress(StoreError), self._writing() as writer, transaction(writer):
                extend(writer)
                self._unsynced = self.durability != "power"

    @property
    def closed(self) -> bool:
        """Whether the store was closed, or belongs to the process this one was forked from."""
        return self._writer is None or self._pid != os.getpid()

    def handles(self) -> list[Any]:
        """Return the SQLite connections, for a forked child to leave alone."""
        return [self._writer, self._reader]

    # --- for the runner

    def hold(self, holder: Holder) -> None:
        """Have `flush` and `close` commit what `holder` has pending."""
        self._holders.add(holder)

    def release(self, holder: Holder) -> None:
        """Forget a holder."""
        self._holders.discard(holder)

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
        for holder in list(self._holders):
            holder.commit()
        with self._lock:
            self._check_open()
            ids = choose(self._reader, self.path, step, version, failed, where)
            if not ids or dry_run:
                return len(ids)
            check_alone(self.path, self.runs(), self.own_runs)
            with self._writing() as writer, transaction(writer):
                delete(writer, ids)
            self._unsynced = self.durability != "power"
            self._finder = Finder(self.path, self._reader)
        self.sync()
        return len(ids)

    def sync(self) -> None:
        """Make every commit so far survive a power cut, whatever the durability."""
        with self._writing() as writer:
            if self._unsynced:  # an empty commit syncs nothing: write something, fully synced
                schema.set_durability(writer, "power")
                try:
                    writer.execute("update state set value = value + 1 where name = 'flushes'")
                finally:
                    schema.set_durability(writer, self.durability)
                self._unsynced = False

    def find(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return the newest outcome of each key, held or committed, None where there is none.

        Raises:
            StoreCorruptError: a record is not what was written; the message names it.
        """
        # held before committed: a row passes from here to there, never back
        here: list[Entry | None] = [None] * len(keys)
        for held in [holder.held for holder in list(self._holders)]:
            if any(found := list(map(held.get, keys))):
                here = [new or old for new, old in zip(found, here, strict=True)]
        if not any(here):
            return self._committed(keys)
        others = [key for key, entry in zip(keys, here, strict=True) if entry is None]
        there = iter(self._committed(others) if others else ())
        return [
            next(there) if entry is None else (entry[2], entry[5], entry[6], HELD) for entry in here
        ]

    def _committed(self, keys: Sequence[bytes]) -> list[Found | None]:
        with self._lock, files.mapped(self.path):
            self._check_open()
            return self._finder.find(keys)

    def append(
        self,
        step: int,
        run: int,
        entries: Sequence[Entry],
        counts: dict[str, float] | None = None,
        answered: bool = False,
        worker: str | None = None,
    ) -> list[Entry]:
        """Commit `entries` as new records, and a run's counts: all or, after any crash, nothing.

        Args:
            step: id.
            run: id.
            entries: in the order in which they returned.
            counts: columns of `runs` to bring up to date.
            answered: whether the calls were recorded by `send` and are now answered.
            worker: under `shared=True`, whose claims the entries fulfil.

        Returns:
            Entries that came late: another worker's result of the same key was committed first
            and stays. None of them without `worker`.

        Raises:
            StoreFullError: no space. StoreLockedError: another process holds the lock.
        """
        with self._writing() as writer:
            self._check_same_file()
            full = self._finder.index.is_full_with(len(entries))
            if len(entries) <= ENTRIES_PER_STATEMENT and not (counts or answered or full or worker):
                insert(writer, step, run, entries)
                self._appended(writer, entries)
                return []
            with transaction(writer):
                late = self._late(entries) if worker else []
                if late:
                    entries = [entry for entry in entries if entry not in late]
                for i in range(0, len(entries), ENTRIES_PER_STATEMENT):
                    insert(writer, step, run, entries[i : i + ENTRIES_PER_STATEMENT])
                if counts:
                    update_run(writer, run, counts)
                if answered:
                    delete_keys(writer, "calls", [*entries, *late])
                if worker:
                    delete_keys(writer, "claims", entries)
                if full:
                    extend(writer)
            self._appended(writer, entries)
            if full:
                self._finder.index.forget_indexed()
            return late

    def _late(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries whose key has a success by now; under the write lock."""
        there = self._committed([entry[0] for entry in entries])
        return [
            entry
            for entry, found in zip(entries, there, strict=True)
            if found is not None and found[1] is None
        ]

    def _appended(self, writer: apsw.Connection, entries: Sequence[Entry]) -> None:
        if entries:
            last = writer.last_insert_rowid()
            self._finder.index.added([entry[0] for entry in entries], last - len(entries) + 1, last)
        self._unsynced = self.durability != "power"

    def append_all(self, step: int, run: int, batches: Iterable[Sequence[Entry]]) -> int:
        """Commit all batches as new records in one transaction; return how many records."""
        total = 0
        with self._writing() as writer, transaction(writer):
            for entries in batches:
                for i in range(0, len(entries), ENTRIES_PER_STATEMENT):
                    insert(writer, step, run, entries[i : i + ENTRIES_PER_STATEMENT])
                total += len(entries)
            self._unsynced = self.durability != "power"
        return total

    # --- single-flight across processes: `file/leases.py`

    def claim(self, worker: str, keys: Sequence[bytes]) -> set[bytes]:
        """Claim the keys that no live worker holds; return those."""
        with self._light(), self._writing() as writer, transaction(writer):
            return leases.take(writer, worker, keys)

    def renew_claims(self, worker: str) -> None:
        """Extend a worker's leases."""
        with self._light(), self._writing() as writer:
            leases.renew(writer, worker)

    def release_claims(self, worker: str) -> None:
        """Give up all that a worker holds."""
        with self._light(), self._writing() as writer:
            leases.release(writer, worker)

    def is_unclaimed(self, key: bytes) -> bool:
        """Tell whether nobody alive holds this key."""
        with self._lock, files.mapped(self.path):
            row: Any = self._reader.execute(
                "select worker, expires from claims where key = ?", (key,)
            ).fetchone()
        return row is None or leases.is_void(*row)

    @contextlib.contextmanager
    def _light(self) -> Iterator[None]:
        """Write without waiting for the disk: a claim that a power cut undoes harms nobody."""
        with self._writing() as writer:
            schema.set_durability(writer, "process")
            try:
                yield
            finally:
                schema.set_durability(writer, self.durability)

    def send(self, step: int, run: int, calls: Sequence[tuple[bytes, int, Stored | None]]) -> None:
        """Record, durably, that calls are about to be made: (key, position, input) each."""
        now = time.time()
        with self._writing() as writer, transaction(writer):
            self._check_same_file()
            for key, position, stored_input in calls:
                writer.execute(
                    "insert or replace into calls values (?, ?, ?, ?, ?, ?)",
                    (key, step, run, position, now, stored_input),
                )
            self._unsynced = self.durability != "power"

    def spent_before(self, step: int) -> tuple[float, int]:
        """Return the cost of all of a step's records, and the last id."""
        with self._lock, files.mapped(self.path):
            row: Any = self._reader.execute(
                "select cost, (select value from state where name = 'indexed_to')"
                "  from steps where id = ?",
                (step,),
            ).fetchone()
        newer, last = self.spent(step, 0, row[1])
        return row[0] + newer, last

    def spent(self, step: int, run: int, after: int) -> tuple[float, int]:
        """Return the cost of a step's records after an id, one run's left out, and the last id."""
        with self._lock, files.mapped(self.path):
            row: Any = self._reader.execute(
                """
                select total(cost) filter (where step = ? and run <> ?), max(id) from records
                 where id > ?
                """,
                (step, run, after),
            ).fetchone()
        return row[0], row[1] or after

    def register_step(
        self, name: str, version: int | str, key_recipe: str, fingerprint: str | None
    ) -> tuple[int, str, str | None]:
        """Return the step's id, stored key recipe and stored fingerprint; add it if it is new."""
        with self._writing() as writer:
            writer.execute(
                """
                insert or ignore into steps (name, version, key_recipe, fingerprint, created_at)
                values (?, ?, ?, ?, ?)
                """,
                (name, version, key_recipe, fingerprint, time.time()),
            )
            row: Any = writer.execute(
                "select id, key_recipe, fingerprint from steps where name = ? and version = ?",
                (name, version),
            ).fetchone()
        return row[0], row[1], row[2]

    def update_step(self, step: int, key_recipe: str, fingerprint: str | None) -> None:
        """Store a step's new code fingerprint and key recipe."""
        with self._writing() as writer:
            writer.execute(
                "update steps set key_recipe = ?, fingerprint = ? where id = ?",
                (key_recipe, fingerprint, step),
            )

    def begin_run(self, step: int, policy: str, loss_window: str, meta: str | None) -> int:
        """Record that a run begins; return its id."""
        now = time.time()
        with self._writing() as writer:
            writer.execute(
                """
                insert into runs (step, started_at, updated_at, host, pid,
                                  policy, loss_window, durability, meta)
                values (?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                (step, now, now, os.uname().nodename, os.getpid(),
                 policy, loss_window, self.durability, meta),
            )  # fmt: skip
            run = writer.last_insert_rowid()
        self.own_runs.add(run)
        return run

    def end_run(self, run: int, counts: dict[str, float], ended: str) -> None:
        """Write a run's last counts and how it ended, and make it all survive a power cut."""
        with self._writing() as writer:
            update_run(writer, run, counts, ended)
            self._unsynced = self.durability != "power"
        self.sync()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        with self._lock, files.mapped(self.path):
            self._check_open()
            assert self._writer is not None
            yield self._writer

    def _check_open(self) -> None:
        if self._writer is None:
            raise StoreError(f"{self.path}: the store is closed", self.path)
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.path}: opened by process {self._pid} and used in {os.getpid()}, forked "
                "from it: open the store anew in the child",
                self.path,
            )

    def _check_same_file(self) -> None:
        if files.identity(self.path) != self._identity:
            raise StoreError(
                f"{self.path}: the file was deleted or replaced while it was open; what is pending "
                "is kept in memory. Put the file back to go on",
                self.path,
            )
