"""The log of another store; what its steps, codes and runs are here. Knows SQL; no rule, no lock.

A record's origin is the store of its run and its id in the log there. The highest origin of each
run that is or was here is its `merged_to`; a run of this store has none as long as its records show
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from .key_index import KEY_BYTES
from .read import Reader, corrupt
from .records import Entry, checksum
from .sql import rows
from .sqlite_errors import mapped
from .verify import ENTRY

PAGE = 1000  # records a transaction
_COUNTS = (
    "updated_at, ended, loss_window, rows, hits, computed, failed, commits, seconds, "
    "commit_seconds, cost, usage"
)
_PROCESS = "started_at, host, boot, pid_namespace, pid, pid_ticks, policy, durability, total, meta"


class Incoming(msgspec.Struct, gc=False):
    """A record of the other store: where it comes from, and the ids of its step and run here."""

    id: int
    step: int
    run: int
    store: str
    origin: int
    saved_at: float
    checksum: int
    entry: Entry


class Source:
    """The other store, read page by page, with its steps, codes and runs made known here."""

    def __init__(self, reader: Reader, writer: apsw.Connection) -> None:
        self._reader, self.connection = reader, reader.connection
        self.store: str = self._state("store_id")
        self.last = self._begin_at(writer)
        self._marks: dict[int, int] = {}  # run here: the last of its records that is here
        self._own: dict[int, int] | None = None  # the same of runs of this store, once needed
        self._runs: dict[int, tuple[int, int, str]] = {}  # run there: step, run, its store, here

    def _state(self, name: str) -> Any:
        sql = "select value from system_state where name = ?"
        return self.connection.execute(sql, (name,)).get

    def _begin_at(self, writer: apsw.Connection) -> int:
        """Return how far the log was read before, 0 if it is no longer that log."""
        sql = "select read_to, mark from system_sources where store = ?"
        known: Any = writer.execute(sql, (self.store,)).fetchone()
        return known[0] if known and known[1] == self._mark(known[0]) else 0

    def _mark(self, id: int) -> bytes | None:
        """Return what tells this log from that of a copy that was written to separately."""
        sql = f"select {KEY_BYTES}, checksum from records where id = ?"
        row = self.connection.execute(sql, (id,)).fetchone()
        return None if row is None else row[0] + row[1].to_bytes(8, "big", signed=True)

    def note(self, writer: apsw.Connection, read: Sequence[Incoming]) -> None:
        """Note in the transaction of a page that it was read."""
        self.last = read[-1].id
        writer.execute(
            "insert or replace into system_sources values (?, ?, ?)",
            (self.store, self.last, self._mark(self.last)),
        )
        for it in read:
            self._marks[it.run] = max(self._marks[it.run], it.origin)
        writer.executemany(
            "update runs set merged_to = ?2 where id = ?1 and merged_to is not null",
            [(run, self._marks[run]) for run in {it.run for it in read}],
        )

    def is_new(self, record: Incoming) -> bool:
        """Tell whether a record has not come here another way."""
        return record.origin > self._marks[record.run]

    def page(self) -> list[Any]:
        """Return the next records, [] at the end."""
        sql = f"""
        select id, run, saved_at, coalesce(origin_id, id), checksum, {ENTRY}
          from records where id > ? order by id limit ?
        """
        with mapped(self._reader.path):
            return rows(self.connection, sql, (self.last, PAGE))

    def incoming(self, writer: apsw.Connection, page: Sequence[Any]) -> list[Incoming]:
        """Return a page with the ids that steps and runs have here.

        Raises:
            StoreCorruptError: a record of the other store is not what was written.
        """
        if any(row[1] not in self._runs for row in page):
            self.register(writer)
        result = []
        for id, run, saved_at, origin, expected, *fields in page:
            entry = Entry(*fields)
            if checksum(entry) != expected:
                raise corrupt(self._reader.path, id, entry.key)
            step, here, store = self._runs[run]
            result.append(Incoming(id, step, here, store, origin, saved_at, expected, entry))
        return result

    # --- steps, codes, runs

    def register(self, writer: apsw.Connection) -> None:
        """Make steps, codes and runs known here, and what became of the runs; its transaction."""
        steps = self._steps(writer)
        codes = self._codes(writer, steps)
        sql = f"select id, step, code, store, uid, {_PROCESS}, {_COUNTS} from runs order by id"
        for id, step, code, store, uid, *rest in rows(self.connection, sql):
            mark = self._mark_here(writer, uid)
            writer.execute(
                f"""
                insert into runs (step, code, store, uid, merged_to, {_PROCESS}, {_COUNTS})
                values ({", ".join("?" * (5 + len(rest)))})
                on conflict (uid) do update set
                  ({_COUNTS}) = ({", ".join(f"excluded.{it}" for it in _COUNTS.split(", "))})
                 where excluded.updated_at > updated_at
                """,
                (steps[step], codes.get(code), store, uid, 0, *rest),
            )
            here: int = writer.execute("select id from runs where uid = ?", (uid,)).get
            self._runs[id] = steps[step], here, store
            self._marks[here] = mark

    def _mark_here(self, writer: apsw.Connection, uid: str) -> int:
        """Return the highest origin of the records of a run that are, or were, here."""
        sql = "select id, merged_to from runs where uid = ?"
        known: Any = writer.execute(sql, (uid,)).fetchone()
        if known is None:
            return 0
        run, merged_to = known
        if merged_to is not None:
            return int(merged_to)
        if self._own is None:  # this store may be an older copy, put back
            sql = "select run, max(coalesce(origin_id, id)) from records group by run"
            self._own = dict(rows(writer, sql))
        return self._own.get(run, 0)

    def _steps(self, writer: apsw.Connection) -> dict[int, int]:
        here: dict[int, int] = {}
        sql = "select id, name, version, key_recipe, created_at, on_change from steps"
        for id, name, version, *rest in rows(self.connection, sql):
            writer.execute(
                """
                insert or ignore into steps (name, version, key_recipe, created_at, on_change)
                values (?, ?, ?, ?, ?)
                """,
                (name, version, *rest),
            )
            sql = "select id from steps where name = ? and version = ?"
            here[id] = writer.execute(sql, (name, version)).get
        return here

    def _codes(self, writer: apsw.Connection, steps: dict[int, int]) -> dict[int | None, int]:
        here: dict[int | None, int] = {}
        sql = "select id, step, fingerprint, captured, first_used, accepted_at from step_code"
        for id, step, fingerprint, *rest in rows(self.connection, sql):
            writer.execute(
                """
                insert into step_code (step, fingerprint, captured, first_used, accepted_at)
                values (?, ?, ?, ?, ?)
                on conflict do update set first_used = min(first_used, excluded.first_used),
                  accepted_at = coalesce(max(accepted_at, excluded.accepted_at),
                                         accepted_at, excluded.accepted_at)
                """,
                (steps[step], fingerprint, *rest),
            )
            sql = "select id from step_code where step = ? and fingerprint = ?"
            here[id] = writer.execute(sql, (steps[step], fingerprint)).get
        return here
