"""The one writer of a store, and the look-ups beside it. Knows bytes, SQL and locks; no rows.

Who holds which lock: `Log.lock` is held around every use of either connection, and around the index
of keys in memory. It is taken under a run's own lock, never the other way round.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import apsw

from ..errors import StoreError
from . import connection as files
from . import leases, schema
from .append import ENTRIES_PER_STATEMENT, delete_keys, insert, transaction, update_run
from .delete import check_alone, choose, delete
from .find import Finder
from .key_index import extend
from .read import Reader
from .records import Entry, Found, RunInfo, Stored

Durability = Literal["power", "process"]

UNCOMMITTED = 0  # the run of a record that is not committed yet


class Buffer(Protocol):
    """Entries on their way to a log."""

    @property
    def pending(self) -> Mapping[bytes, Entry]:
        """The newest entry of each key that is not committed."""

    def commit(self) -> None:
        """Commit them."""

    def close(self) -> None:
        """Commit them and take no more."""


class Log:
    """An open store file as the engine sees it: append, find, claim; safe to share by threads.

    Promises: a commit is all or nothing; what it acknowledged survives a power cut
    (`durability="power"`) or the death of the process (`"process"`); after `sync` all of it
    survives a power cut.

    Args:
        path: an existing store, absolute.
        durability: of commits.
        vfs: name of an SQLite VFS to use instead of the system's.
    """

    def __init__(self, path: str, durability: Durability, vfs: str | None = None) -> None:
        self.path, self.durability = path, durability
        self._vfs = vfs
        self.lock = threading.RLock()
        self._buffers: set[Buffer] = set()
        self._unsynced = False
        self._pid = os.getpid()
        self._own_runs: set[int] = set()
        self._writer: apsw.Connection | None = files.open_writer(path, durability, vfs)
        self._identity = files.identity(path)
        with files.mapped(path):
            self._reader = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
            try:
                schema.harden(self._reader)
                schema.tune_reader(self._reader)
                self._finder = Finder(path, self._reader)
            except BaseException:  # an open connection would keep the -wal and its locks
                self._reader.close()
                self._writer.close()
                raise

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the process this one was forked from."""
        return self._writer is None or self._pid != os.getpid()

    def close(self) -> None:
        """Close the file, synced; every buffer must be empty by now."""
        self._shorten_tail()
        self.sync()
        with self.lock, files.mapped(self.path):
            assert self._writer is not None
            self._reader.close()
            self._writer.close()
            self._writer = None

    def handles(self) -> list[Any]:
        """Return the SQLite connections, for a forked child to leave alone."""
        return [self._writer, self._reader]

    def _shorten_tail(self) -> None:
        """Spare the next process that opens the store the reading of a long tail."""
        if self._finder.index.is_worth_extending:
            # nothing is lost without it, so a full disk is no reason not to close
            with contextlib.suppress(StoreError), self._writing() as writer, transaction(writer):
                extend(writer)
                self._unsynced = self.durability != "power"

    # --- what is on its way

    def attach(self, buffer: Buffer) -> None:
        """Find the entries of `buffer` too, and have them committed when the store is flushed."""
        self._buffers.add(buffer)

    def detach(self, buffer: Buffer) -> None:
        """Forget a buffer."""
        self._buffers.discard(buffer)

    def commit_buffers(self) -> None:
        """Commit what is on its way."""
        for buffer in list(self._buffers):
            buffer.commit()

    def close_buffers(self) -> None:
        """Commit what is on its way; nothing more will come."""
        for buffer in list(self._buffers):
            buffer.close()

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
        """Return the newest outcome of each key, pending or committed, None where there is none.

        Raises:
            StoreCorruptError: a record is not what was written; the message names it.
        """
        # pending before committed: a row passes from here to there, never back
        here: list[Entry | None] = [None] * len(keys)
        for pending in [buffer.pending for buffer in list(self._buffers)]:
            if any(found := list(map(pending.get, keys))):
                here = [new or old for new, old in zip(found, here, strict=True)]
        if not any(here):
            return self._committed(keys)
        others = [key for key, entry in zip(keys, here, strict=True) if entry is None]
        there = iter(self._committed(others) if others else ())
        return [
            next(there)
            if entry is None
            else Found(entry.attempts, entry.error, entry.result, UNCOMMITTED)
            for entry in here
        ]

    def _committed(self, keys: Sequence[bytes]) -> list[Found | None]:
        with self.lock, files.mapped(self.path):
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
        there = self._committed([entry.key for entry in entries])
        return [
            entry
            for entry, found in zip(entries, there, strict=True)
            if found is not None and found.error is None
        ]

    def _appended(self, writer: apsw.Connection, entries: Sequence[Entry]) -> None:
        if entries:
            last, keys = writer.last_insert_rowid(), [entry.key for entry in entries]
            self._finder.index.added(keys, last - len(entries) + 1, last)
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
        with self.lock, files.mapped(self.path):
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
        with self.lock, files.mapped(self.path):
            row: Any = self._reader.execute(
                "select cost, (select value from state where name = 'indexed_to')"
                "  from steps where id = ?",
                (step,),
            ).fetchone()
        newer, last = self.spent(step, 0, row[1])
        return row[0] + newer, last

    def spent(self, step: int, run: int, after: int) -> tuple[float, int]:
        """Return the cost of a step's records after an id, one run's left out, and the last id."""
        with self.lock, files.mapped(self.path):
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
        self._own_runs.add(run)
        return run

    def end_run(self, run: int, counts: dict[str, float], ended: str) -> None:
        """Write a run's last counts and how it ended, and make it all survive a power cut."""
        with self._writing() as writer:
            update_run(writer, run, counts, ended)
            self._unsynced = self.durability != "power"
        self.sync()

    def forget(
        self,
        step: str | None,
        version: int | str | None,
        failed: bool,
        where: str | None,
        dry_run: bool,
    ) -> int:
        """Delete what is chosen, in one transaction; return how many: see `Store.forget`."""
        self.commit_buffers()
        with self.lock:
            self._check_open()
            ids = choose(self._reader, self.path, step, version, failed, where)
            if not ids or dry_run:
                return len(ids)
            check_alone(self.path, self._runs(), self._own_runs)
            with self._writing() as writer, transaction(writer):
                delete(writer, ids)
            self._unsynced = self.durability != "power"
            self._finder = Finder(self.path, self._reader)
        self.sync()
        return len(ids)

    def _runs(self) -> list[RunInfo]:
        with Reader(self.path, self._vfs) as reader:
            return reader.runs()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        with self.lock, files.mapped(self.path):
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
