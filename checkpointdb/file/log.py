"""The one writer of a store, and the look-ups beside it. Knows bytes, SQL and locks; no rows.

Who holds which lock: `Log.lock` is held around every use of the writing connection, `_reading`
around the reading one and the index of keys in memory, so that nobody who looks rows up waits for a
commit. `_reading` may be taken under `Log.lock`, and that under a run's own lock, never the other
way round.
"""

from __future__ import annotations

import array
import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import apsw
import msgspec

from .. import interrupts
from ..errors import StoreError
from . import codes, leases, lifetime, pragmas
from . import connection as files
from .append import (
    ENTRIES_PER_STATEMENT,
    delete_keys,
    insert,
    insert_all,
    supersede,
    transaction,
    update_run,
)
from .delete import check_alone, choose, delete
from .find import Finder
from .key_index import extend
from .log_file import LogFile
from .processes import Process, alive, this_process
from .read import Reader
from .records import (
    Code,
    Entry,
    Found,
    Made,
    Registered,
    RunInfo,
    SavedCode,
    SentCall,
)

Durability = Literal["power", "process"]

MOST_ALIVE = 100  # runs that did not end, so many of the newest, may still be alive
UNCOMMITTED = 0  # the run of a record that is not committed yet


class Buffer(Protocol):
    """Entries on their way to a log."""

    @property
    def pending(self) -> Mapping[bytes, Entry]:
        """The newest entry of each key that is not committed."""

    def commit(self) -> None:
        """Commit them."""

    @interrupts.whole
    def close(self) -> None:
        """Commit them and take no more."""

    def forked(self) -> None:
        """Make new locks, in a forked child."""


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
        self._reading = threading.RLock()
        self._buffers: set[Buffer] = set()
        self._unsynced = False
        self._pid = os.getpid()
        self._own_runs: set[int] = set()
        self._writer: apsw.Connection | None = files.open_writer(path, durability, vfs)
        with files.mapped(path):
            self._reader = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
            try:
                pragmas.harden(self._reader)
                pragmas.tune_reader(self._reader)
                self._finder = Finder(path, self._reader)
                self._file = LogFile(path, self._writer)  # SQLite has made the -wal by now
            except BaseException:  # an open connection would keep the -wal and its locks
                self._reader.close()
                self._writer.close()
                raise

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the process this one was forked from."""
        return self._writer is None or self.is_forked

    @property
    def is_forked(self) -> bool:
        """Whether it belongs to the process that this one was forked from."""
        return self._pid != os.getpid()

    @interrupts.whole
    def close(self) -> None:
        """Commit what is on its way and close the file, synced. Can be repeated."""
        if self.closed:
            return
        self.close_buffers()
        if self.closed:  # the last of them had the last handle to the store, which closed it
            return
        self._shorten_tail()
        self.sync()
        with self.lock, self._reading, files.mapped(self.path):
            assert self._writer is not None
            self._reader.close()
            self._writer.close()
            self._writer = None
        lifetime.closed(self)

    def forked(self) -> list[Any]:
        """In a forked child, make new locks; return the SQLite connections, to be left alone."""
        self.lock, self._reading = threading.RLock(), threading.RLock()
        for buffer in list(self._buffers):
            buffer.forked()
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

    @interrupts.whole
    def flush(self) -> None:
        """Commit what is on its way, and make it survive a power cut."""
        self.commit_buffers()
        self.sync()

    def close_buffers(self) -> None:
        """Commit what is on its way; nothing more will come."""
        for buffer in list(self._buffers):
            buffer.close()

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

    def find(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return the newest outcome of each key, pending or committed, None where there is none.

        Raises:
            StoreCorruptError: a record is not what was written; the message names it.
        """
        self._check_open()
        self._file.check()  # before the next call is paid
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
            else Found(
                0,
                entry.identity,
                entry.attempts,
                entry.error,
                entry.result,
                UNCOMMITTED,
                entry.row_digest,
            )
            for entry in here
        ]

    def _committed(self, keys: Sequence[bytes]) -> list[Found | None]:
        with self._reading, files.mapped(self.path):
            self._check_open()
            return self._finder.find(keys)

    def row_digests(self, ids: Sequence[int]) -> dict[int, bytes | None]:
        """Return the digest of the whole row of some records, by id; None where there is none."""
        if not ids:
            return {}
        sql = """
        select id, row_digest from carray(?) as wanted cross join records on records.id = value
        """
        with self.lock, files.mapped(self.path):
            self._check_open()
            found: list[Any] = self._reader.execute(
                sql, (apsw.carray(array.array("q", ids)),)
            ).fetchall()
        return dict(found)

    def check(self, id: int) -> None:
        """Raise unless a record is what was written, its identity and input too.

        Raises:
            StoreCorruptError: it is not; the message names it.
        """
        with Reader(self.path, self._vfs) as reader:
            reader.check(id)

    @interrupts.whole
    def append(
        self,
        step: int,
        run: int,
        entries: Sequence[Entry],
        counts: dict[str, Any] | None = None,
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
            Entries that came late: of `worker`, when another's result of their key is saved.

        Raises:
            StoreFullError: no space. StoreLockedError: another process holds the lock.
        """
        with self._writing() as writer:
            self._file.check_replaced()
            full = self._finder.index.is_full_with(len(entries))
            replaced = [entry.replaces for entry in entries if entry.replaces]
            more = counts or answered or full or worker or replaced
            if len(entries) <= ENTRIES_PER_STATEMENT and not more:
                insert(writer, step, run, entries)
                self._appended(writer, entries)
                return []
            # the index in memory shrinks as the one on disk grows: nobody looks in between
            with self._reading if full else contextlib.nullcontext():
                with transaction(writer):
                    late = self._late(entries) if worker else []
                    entries = [it for it in entries if it not in late] if late else entries
                    insert_all(writer, step, run, entries)
                    if replaced:
                        supersede(writer, replaced)
                    if counts:
                        update_run(writer, run, counts)
                    if answered:
                        delete_keys(writer, "sent_calls", [*entries, *late])
                    if worker:
                        delete_keys(writer, "system_claims", entries)
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
            if found is not None and found.error is None and found.id != entry.replaces
        ]

    def _appended(self, writer: apsw.Connection, entries: Sequence[Entry]) -> None:
        if entries:
            last, keys = writer.last_insert_rowid(), [entry.key for entry in entries]
            with self._reading:
                repeated = self._finder.index.added(keys, last - len(entries) + 1, last)
            # A retry has said so in its own transaction. What is left are rows that two computed at
            # the same time; if we die right here, the next extension of the index notes them.
            if unsaid := set(repeated).difference(entry.replaces for entry in entries):
                with contextlib.suppress(apsw.FullError, apsw.BusyError):  # they are committed
                    supersede(writer, sorted(unsaid))
        self._unsynced = self.durability != "power"
        self._file.save_if_gone()

    def check_file(self) -> None:
        """Raise if the file or its -wal is not what was opened."""
        self._file.check()

    @interrupts.whole
    def append_all(self, step: int, run: int, batches: Iterable[Sequence[Entry]]) -> int:
        """Commit all batches as new records in one transaction; return how many records."""
        total = 0
        with self._writing() as writer, transaction(writer):
            for entries in batches:
                insert_all(writer, step, run, entries)
                total += len(entries)
            self._unsynced = self.durability != "power"
        return total

    # --- single-flight across processes: `file/leases.py`

    @interrupts.whole
    def claim(self, worker: str, keys: Sequence[bytes]) -> set[bytes]:
        """Claim the keys that no live worker holds; return those."""
        with self._light(), self._writing() as writer, transaction(writer):
            return leases.take(writer, worker, keys)

    @interrupts.whole
    def renew_claims(self, worker: str) -> None:
        """Extend a worker's leases."""
        with self._light(), self._writing() as writer:
            leases.renew(writer, worker)

    @interrupts.whole
    def release_claims(self, worker: str) -> None:
        """Give up all that a worker holds."""
        with self._light(), self._writing() as writer:
            leases.release(writer, worker)

    def is_unclaimed(self, key: bytes) -> bool:
        """Tell whether nobody alive holds this key."""
        with self._reading, files.mapped(self.path):
            row: Any = self._reader.execute(
                "select worker, expires from system_claims where key = ?", (key,)
            ).fetchone()
        return row is None or leases.is_void(*row)

    @contextlib.contextmanager
    def _light(self) -> Iterator[None]:
        """Write without waiting for the disk: a claim that a power cut undoes harms nobody."""
        with self._writing() as writer:
            pragmas.set_durability(writer, "process")
            try:
                yield
            finally:
                pragmas.set_durability(writer, self.durability)

    @interrupts.whole
    def send(self, step: int, run: int, calls: Sequence[SentCall]) -> None:
        """Record, durably, that calls are about to be made."""
        now = time.time()
        with self._writing() as writer, transaction(writer):
            self._file.check()
            for call in calls:
                writer.execute(
                    "insert or replace into sent_calls values (?, ?, ?, ?, ?, ?, ?)",
                    (call.key, step, run, call.position, now, call.input, call.input_form),
                )
            self._unsynced = self.durability != "power"

    def spent_before(self, step: int) -> tuple[float, int]:
        """Return the cost of all of a step's records, and the last id."""
        with self._reading, files.mapped(self.path):
            row: Any = self._reader.execute(
                "select cost, (select value from system_state where name = 'indexed_to')"
                "  from steps where id = ?",
                (step,),
            ).fetchone()
        newer, last = self.spent(step, 0, row[1])
        return row[0] + newer, last

    def spent(self, step: int, run: int, after: int) -> tuple[float, int]:
        """Return the cost of a step's records after an id, one run's left out, and the last id."""
        with self._reading, files.mapped(self.path):
            row: Any = self._reader.execute(
                """
                select total(cost) filter (where step = ? and run <> ?), max(id) from records
                 where id > ?
                """,
                (step, run, after),
            ).fetchone()
        return row[0], row[1] or after

    @interrupts.whole
    def register_step(
        self, name: str, version: int | str, key_recipe: str, on_change: str | None = None
    ) -> Registered:
        """Return what the store knows of a step; add it if it is new."""
        with self._writing() as writer:
            writer.execute(
                """
                insert or ignore into steps (name, version, key_recipe, created_at, on_change)
                values (?, ?, ?, ?, ?)
                """,
                (name, version, key_recipe, time.time(), on_change),
            )
            row: Any = writer.execute(
                """
                select id, key_recipe,
                       (select fingerprint from runs join step_code on step_code.id = runs.code
                         where runs.step = steps.id order by runs.id desc limit 1),
                       on_change
                  from steps where name = ? and version = ?
                """,
                (name, version),
            ).fetchone()
        return Registered(*row)

    @interrupts.whole
    def update_recipe(self, step: int, key_recipe: str) -> None:
        """Store a step's new key recipe."""
        with self._writing() as writer:
            writer.execute("update steps set key_recipe = ? where id = ?", (key_recipe, step))

    @interrupts.whole
    def update_on_change(self, step: int, on_change: str) -> None:
        """Store what a step's runs are told to do with results of other code."""
        with self._writing() as writer:
            writer.execute("update steps set on_change = ? where id = ?", (on_change, step))

    def codes(self, step: int) -> list[SavedCode]:
        """Return the codes that a step was run with."""
        with self.lock, files.mapped(self.path):
            return codes.codes(self._reader, step)

    def made_by(self, step: int, ids: Sequence[int]) -> Made:
        """Return what some of a step's codes made; what is pending is committed first."""
        if ids:
            self.commit_buffers()
        with self.lock, files.mapped(self.path):
            return codes.made_by(self._reader, step, ids)

    @interrupts.whole
    def accept(self, step: int, code: Code, undo: bool) -> None:
        """Note that a step's results so far are as good as those of `code`; or take that back."""
        with self._writing() as writer, transaction(writer):
            codes.accept(writer, step, code, undo)
            self._unsynced = self.durability != "power"
        self.sync()

    @interrupts.whole
    def begin_run(
        self,
        step: int,
        policy: str,
        loss_window: str,
        meta: str | None,
        code: Code | None = None,
    ) -> int:
        """Record that a run begins, by which process and with which code; return its id."""
        now, process = time.time(), this_process()
        with self._writing() as writer, transaction(writer):
            writer.execute(
                """
                insert into runs (step, code, store, started_at, updated_at,
                                  host, boot, pid_namespace, pid, pid_ticks,
                                  policy, loss_window, durability, meta)
                values (?1, ?2, (select value from system_state where name = 'store_id'), ?3, ?3,
                        ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                (step, code and codes.code_id(writer, step, code), now,
                 *msgspec.structs.astuple(process), policy, loss_window, self.durability, meta),
            )  # fmt: skip
            run = writer.last_insert_rowid()
        self._own_runs.add(run)
        return run

    def run_elsewhere(self, step: int) -> tuple[int, int] | None:
        """Return id and pid of a run of a step that another process of this machine has open."""
        with self._reading, files.mapped(self.path):
            open_: list[Any] = self._reader.execute(
                """
                select id, host, boot, pid_namespace, pid, pid_ticks
                  from runs where step = ? and ended is null order by id desc limit ?
                """,
                (step, MOST_ALIVE),
            ).fetchall()
        here = this_process()
        for run, *fields in open_:
            process = Process(*fields)
            if process != here and alive(process):
                return run, process.pid
        return None

    @interrupts.whole
    def end_run(self, run: int, counts: dict[str, Any], ended: str) -> None:
        """Write a run's last counts and how it ended, and make it all survive a power cut."""
        with self._writing() as writer:
            update_run(writer, run, counts, ended)
            self._unsynced = self.durability != "power"
        self.sync()

    @interrupts.whole
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
            with self._reading:
                ids = choose(self._reader, self.path, step, version, failed, where)
            if not ids or dry_run:
                return len(ids)
            check_alone(self.path, self._runs(), self._own_runs)
            with self._writing() as writer, transaction(writer):
                delete(writer, ids)
            self._unsynced = self.durability != "power"
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

    def _check_open(self) -> None:
        if self._writer is None:
            raise StoreError(f"{self.path}: the store is closed", self.path)
        self.check_process()

    def check_process(self) -> None:
        """Raise in a child forked from the process that opened the file."""
        if self.is_forked:
            raise StoreError(
                f"{self.path}: opened by process {self._pid} and used in {os.getpid()}, forked "
                "from it: open the store anew in the child",
                self.path,
            )
