"""What a store has next to its records: steps, codes, runs, claims, calls. Knows SQL; no rows."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from .. import interrupts
from ..errors import StoreError
from . import codes, leases, occurrences, sqlite_errors
from .append import transaction, update_run
from .occurrences import Counter, Kind
from .opened import Durability, Opened
from .processes import Process, alive, this_process
from .records import Code, Registered, SavedCode, SentCall
from .sql import rows, typed

MOST_ALIVE = 100  # runs that did not end, so many of the newest, may still be alive


class Companion(Protocol):
    """What runs next to an open store; it gives up its own claims."""

    worker: str

    def wake(self) -> None:
        """Hear that a run has ended."""

    def finish(self) -> None:
        """End, before the store is closed or the process dies."""


class Registry(Opened):
    """An open store file, and its small tables."""

    def __init__(self, path: str, durability: Durability, vfs: str | None = None) -> None:
        self._open_runs: dict[int, float] = {}  # of this handle, and when each was started
        self._claiming: set[str] = set()  # workers that may hold claims
        self._counters: set[Counter] = set()  # that count, or whose end is not written yet
        self._done: set[Counter] = set()  # those
        self.companion: Companion | None = None
        super().__init__(path, durability, vfs)  # last: what is open then is whole

    # --- what others keep here

    def state(self, prefix: str) -> dict[str, Any]:
        """Return the values of `system_state` whose names begin with `prefix`, by name."""
        sql = "select name, value from system_state where substr(name, 1, length(?1)) = ?1"
        with self._reading, sqlite_errors.mapped(self.path):
            self._check_open()
            return dict(rows(self._reader, sql, (prefix,)))

    @interrupts.whole
    def set_state(self, name: str, value: str) -> None:
        """Keep a value; not synced."""
        with self._light(), self._writing() as writer:
            writer.execute("insert or replace into system_state values (?, ?)", (name, value))

    def newer(self, after: int, generation: int) -> tuple[int, int, float, float]:
        """Return how many records and deletions came later, the records' bytes, seconds, cost."""
        with self._reading, sqlite_errors.mapped(self.path):
            self._check_open()
            row: Any = self._reader.execute(
                """
                select count(*) + (select count(*) from system_forgotten where generation > ?2),
                       coalesce(sum(octet_length(coalesce(input, ''))
                                    + octet_length(coalesce(result, error, ''))), 0),
                       total(seconds), total(cost)
                  from records where id > ?1
                """,
                (after, generation),
            ).fetchone()
        return row  # type: ignore[no-any-return]

    # --- steps and their codes

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
        with self.lock, sqlite_errors.mapped(self.path):
            return codes.codes(self._reader, step)

    @interrupts.whole
    def accept(self, step: int, code: Code, undo: bool) -> None:
        """Note that a step's results so far are as good as those of `code`; or take that back."""
        with self._writing() as writer, transaction(writer):
            codes.accept(writer, step, code, undo)
            self._unsynced = self.durability != "power"
        self.sync()

    # --- runs

    @interrupts.whole
    def begin_run(
        self,
        step: int,
        policy: str,
        loss_window: str,
        meta: str | None,
        code: Code | None = None,
        total: int | None = None,
    ) -> int:
        """Record that a run begins, by which process and with which code; return its id.

        `total` is the number of its rows, if that is known.
        """
        now, process = time.time(), this_process()
        with self._writing() as writer, transaction(writer):
            writer.execute(
                """
                insert into runs (step, code, store, uid, started_at, updated_at,
                                  host, boot, pid_namespace, pid, pid_ticks,
                                  policy, loss_window, durability, total, meta)
                values (?1, ?2, (select value from system_state where name = 'store_id'), ?3, ?4,
                        ?4, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                (step, code and codes.code_id(writer, step, code), os.urandom(16).hex(), now,
                 *msgspec.structs.astuple(process), policy, loss_window, self.durability, total,
                 meta),
            )  # fmt: skip
            run = writer.last_insert_rowid()
            self._open_runs[run] = now  # even if the commit raises: it may have been made
        return run

    def run_elsewhere(self, step: int) -> tuple[int, int] | None:
        """Return id and pid of a run of a step that another process of this machine has open."""
        with self._reading, sqlite_errors.mapped(self.path):
            open_: list[Any] = self._reader.execute(
                """
                select id, host, boot, pid_namespace, pid, pid_ticks
                  from runs where step = ? and ended is null
                   and store = (select value from system_state where name = 'store_id')
                 order by id desc limit ?
                """,
                (step, MOST_ALIVE),
            ).fetchall()
        here = this_process()
        for run, *fields in open_:
            process = typed(Process, *fields)
            if process != here and alive(process):
                return run, process.pid
        return None

    @interrupts.whole
    def end_run(self, run: int, counts: dict[str, Any], ended: str) -> None:
        """Write a run's last counts and how it ended, and make it all survive a power cut."""
        with self._writing() as writer:
            update_run(writer, run, counts, ended)
            self._open_runs.pop(run, None)
            self._unsynced = self.durability != "power"
        self.sync()
        if self.companion is not None:
            self.companion.wake()

    def _give_up_the_rest(self) -> None:
        """End what could not be ended in its time: this process may live on for days.

        The runs would be open for as long, and the claims be held.
        """
        companions = {self.companion.worker} if self.companion is not None else set()
        for worker in self._claiming - companions:
            self.release_claims(worker)
        for run, started in list(self._open_runs.items()):
            with self._writing() as writer:
                writer.execute(  # its id may be another's, if its beginning was rolled back
                    """
                    update runs set ended = 'closed', updated_at = ?
                     where id = ? and started_at = ? and ended is null
                    """,
                    (time.time(), run, started),
                )
                self._open_runs.pop(run, None)  # another thread may have ended it
                self._unsynced = self.durability != "power"
        self._end_all_counters()

    # --- single-flight across processes: `file/leases.py`

    @interrupts.whole
    def claim(self, worker: str, keys: Sequence[bytes]) -> set[bytes]:
        """Claim the keys that no live worker holds; return those."""
        with self._light(), self._writing() as writer, transaction(writer):
            self._claiming.add(worker)
            return leases.take(writer, worker, keys)

    @interrupts.whole
    def renew_claims(self, worker: str) -> None:
        """Extend a worker's leases."""
        with self._light(), self._writing() as writer:
            leases.renew(writer, worker)

    @interrupts.whole
    def release_claims(self, worker: str, keys: Sequence[bytes] | None = None) -> None:
        """Give up what a worker holds of some keys, or all that it holds."""
        with self._light(), self._writing() as writer:
            leases.release(writer, worker, keys)
            if keys is None:
                self._claiming.discard(worker)

    def is_unclaimed(self, key: bytes) -> bool:
        """Tell whether nobody alive holds this key."""
        with self._reading, sqlite_errors.mapped(self.path):
            row: Any = self._reader.execute(
                "select worker, expires from system_claims where key = ?", (key,)
            ).fetchone()
        return row is None or leases.is_void(*row)

    def holders(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return the worker that has claimed each key, of those that are claimed."""
        with self._reading, sqlite_errors.mapped(self.path):
            return leases.holders(self._reader, keys)

    # --- the numbers of equal rows: `file/occurrences.py`

    @interrupts.whole
    def begin_counter(self, kind: Kind, shared: bool = False) -> Counter:
        """Begin to count equal rows."""
        self._end_counters()
        with self._light(), self._writing() as writer, transaction(writer):
            counter = occurrences.begin(writer, kind, shared)
        self._counters.add(counter)
        return counter

    @interrupts.whole
    def take_occurrences(
        self, counter: Counter, contents: Sequence[bytes], starts: dict[bytes, int], deaths: int
    ) -> tuple[list[int], int]:
        """Return the lowest free number of each row, and how many counters died next to this one.

        Args:
            counter: who takes them.
            contents: keys without a number.
            starts: where to look from; forgotten if another one died.
            deaths: as returned last time.
        """
        with self._light(), self._writing() as writer, transaction(writer):
            now = occurrences.deaths_beside(writer, counter)
            if now != deaths:
                starts.clear()
            return occurrences.take(writer, counter, contents, starts), now

    @interrupts.whole
    def give_back_occurrence(self, counter: Counter, content: bytes, n: int) -> None:
        """Free a number that led to no outcome."""
        with self._light(), self._writing() as writer:
            occurrences.give_back(writer, counter, content, n)

    @interrupts.whole
    def renew_counter(self, counter: Counter) -> None:
        """Say that a counter still counts."""
        with self._light(), self._writing() as writer:
            occurrences.renew(writer, counter)

    @interrupts.whole
    def unknown_counters(self, counter: Counter) -> dict[int, float]:
        """Return the counters next to this one that may or may not live: id, end of the lease."""
        with self._light(), self._writing() as writer, transaction(writer):
            return occurrences.unknown_beside(writer, counter)

    @interrupts.whole
    def end_counter(self, counter: Counter) -> None:
        """Stop counting; if the store cannot be written now, the next one to begin says so."""
        self._done.add(counter)
        self._end_counters()

    def _end_counters(self) -> None:
        if done := set(self._done):
            with contextlib.suppress(StoreError):
                with self._light(), self._writing() as writer, transaction(writer):
                    occurrences.end(writer, done)
                self._done -= done
                self._counters -= done

    def _end_all_counters(self) -> None:
        self._done |= self._counters
        self._end_counters()

    # --- calls sent, and what they cost

    @interrupts.whole
    def send(self, step: int, run: int, calls: Sequence[SentCall]) -> None:
        """Record, durably, that calls are about to be made."""
        now = time.time()
        with self._writing() as writer, transaction(writer):
            self.check_file()
            for call in calls:
                writer.execute(
                    "insert or replace into sent_calls values (?, ?, ?, ?, ?, ?, ?)",
                    (call.key, step, run, call.position, now, call.input, call.input_form),
                )
            self._unsynced = self.durability != "power"

    def spent_before(self, step: int) -> tuple[float, int]:
        """Return the cost of all of a step's records, and the last id."""
        with self._reading, sqlite_errors.mapped(self.path):
            row: Any = self._reader.execute(
                "select cost, (select value from system_state where name = 'indexed_to')"
                "  from steps where id = ?",
                (step,),
            ).fetchone()
        newer, last = self.spent(step, 0, row[1])
        return row[0] + newer, last

    def spent(self, step: int, run: int, after: int) -> tuple[float, int]:
        """Return the cost of a step's records after an id, one run's left out, and the last id."""
        with self._reading, sqlite_errors.mapped(self.path):
            row: Any = self._reader.execute(
                """
                select total(cost) filter (where step = ? and run <> ?), max(id) from records
                 where id > ?
                """,
                (step, run, after),
            ).fetchone()
        return row[0], row[1] or after
