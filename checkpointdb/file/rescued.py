"""A new store, filled with the rows of a damaged one. Knows the tables; no page and no file.

A record counts if its checksum holds, which says nothing about its position, cost, times or id.
What is known of steps and runs has no checksum: it is taken if it is of the right types.
"""

from __future__ import annotations

from typing import Any

import apsw

from . import usage
from .cells import BrokenError, types
from .key_index import DROPPED, dropped, extend
from .records import Entry, checksum
from .scan import Row
from .sql import rows
from .verify import Problem

MOST_NAMED = 1000  # problems
HIGHEST_ID = 1 << 53
_AGAIN = "a run computes it again"
_OLDER = "an older record of its row is whole: a run takes that"
_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "real": (int, float),
    "text": (str,),
    "blob": (bytes,),
}
# What stands for a number of a record that is none any more.
_USUAL: dict[str, Any] = {
    "step": 0, "run": 0, "position": 0, "occurrence": 0, "attempts": 1, "seconds": 0.0,
    "cost": None, "usage": None, "saved_at": 0.0, "input_form": 0,
}  # fmt: skip
_TABLES = ("records", "runs", "steps", "step_code", "sent_calls")


class Table:
    """A table as it is on disk: columns with their types, and which may be null."""

    def __init__(self, connection: apsw.Connection, name: str) -> None:
        columns = [
            (column, kind.lower(), bool(needed or key))
            for _, column, kind, needed, _, key, hidden in rows(
                connection, f"pragma table_xinfo({name})"
            )
            if not hidden
        ]
        self.columns = [column for column, _, _ in columns]
        self._types = [_TYPES.get(kind, (int, float, str, bytes)) for _, kind, _ in columns]
        self._needed = [needed for _, _, needed in columns]
        places = ", ".join("?" * len(columns))
        self.insert = f"insert or ignore into {name} ({', '.join(self.columns)}) values ({places})"

    def fits(self, values: list[Any]) -> bool:
        """Tell whether values may be a row of this table."""
        return all(map(self._fits, values, self._types, self._needed))

    def _fits(self, value: Any, types: tuple[type, ...], needed: bool) -> bool:
        return not needed if value is None else type(value) in types

    def usual(self, values: list[Any]) -> list[Any]:
        """Return values, with the usual ones in place of numbers that are no longer numbers."""
        return [
            value if self._fits(value, kinds, needed) else _USUAL.get(column, value)
            for column, value, kinds, needed in zip(
                self.columns, values, self._types, self._needed, strict=True
            )
        ]


class Rescued:
    """A new store that is being filled; the caller's transaction.

    Attributes:
        record_width: how many values a record has on disk.
        records: how many are there.
        lost: how many are known to be missing.
        problems: what is missing, the first thousand.
        is_store: whether anything of a store was found.
    """

    def __init__(self, writer: apsw.Connection) -> None:
        self._writer = writer
        self._tables = {name: Table(writer, name) for name in _TABLES}
        self._records = self._tables["records"]
        self._calls = self._tables.pop("sent_calls")  # which is kept as an index is
        self._by_width = {len(table.columns): table for table in self._tables.values()}
        self.record_width = len(self._records.columns)
        self._state: dict[str, Any] = {}
        self._names: dict[int, tuple[str, int | str]] = {}  # of steps, out of their index
        self.is_store = False
        self.records = self.lost = 0
        self.problems: list[Problem] = []
        writer.execute("create temp table expected (id integer primary key, key blob)")
        writer.execute("create temp table strays as select * from records")

    # --- what was found

    def add(self, row: Row) -> None:
        """Take a row of the damaged store, if it is one of a table that counts."""
        if row.is_index:
            self._add_indexed(row.values or [])
        elif row.width == self.record_width:
            self._add_record(row)
        elif row.values is not None:
            self._add_other(row.rowid, row.values)

    def _add_record(self, row: Row) -> None:
        values = row.values
        if values is None or not self._is_whole(values):
            self._expect(row.rowid, _key_of(row))
            return
        self.is_store = True
        values = self._records.usual([row.rowid, *values[1:]])
        if 0 < row.rowid < HIGHEST_ID:
            self._writer.execute(self._records.insert, values)
            if self._writer.changes() or self._is_there(row.rowid, values):
                return
        self._stray(values)

    def _is_whole(self, values: list[Any]) -> bool:
        of = dict(zip(self._records.columns, values, strict=True))
        key, identity, digest = of["key"], of["identity"], of["row_digest"]
        if type(key) is not bytes or type(identity) is not bytes:
            return False
        if type(digest) not in (bytes, type(None)) or type(of["error"]) not in (str, type(None)):
            return False
        entry = Entry(
            key, identity, 0, 0, 0.0, None, of["error"], of["result"], of["input"],
            row_digest=digest,
        )  # fmt: skip
        return bool(checksum(entry) == of["checksum"])

    def _is_there(self, id: int, values: list[Any]) -> bool:
        """Tell whether a record is saved already: pages have older images, and copies."""
        sql = "select key, checksum from records where id = ?"
        of = dict(zip(self._records.columns, values, strict=True))
        return rows(self._writer, sql, (id,)) == [(of["key"], of["checksum"])]

    def _stray(self, values: list[Any]) -> None:
        """Set aside, for the end, a record whose id another one has."""
        columns = ", ".join(self._records.columns)
        places = ", ".join("?" * len(values))
        self._writer.execute(f"insert into temp.strays ({columns}) values ({places})", values)

    def _expect(self, id: int, key: bytes | None) -> None:
        if 0 < id < HIGHEST_ID:
            self._writer.execute("insert or ignore into temp.expected values (?, ?)", (id, key))

    def _add_indexed(self, values: list[Any]) -> None:
        match values:
            case [bytes(key), int(id)] if len(key) == 16:
                self._expect(id, key)
            case [str(name), value] if name in ("generation", "store_id", DROPPED):
                self._state[name] = value
                self.is_store = True
            case [str(name), int() | str() as version, int(id)]:
                self._names[id] = name, version
            case [bytes(key), bytes(event), int(generation)] if len(key) == len(event) == 16:
                sql = "insert or ignore into system_forgotten values (?, ?, ?)"
                self._writer.execute(sql, (key, event, generation))
            case [bytes(), *_] if len(values) == len(self._calls.columns):
                if self._calls.fits(values):
                    self._writer.execute(self._calls.insert, values)

    def _add_other(self, rowid: int, values: list[Any]) -> None:
        if values[0] == "records" and len(values) == 2 and type(values[1]) is int:
            self._state["seq"] = values[1]
        table, row = self._by_width.get(len(values)), [rowid, *values[1:]]
        if table is None or values[0] is not None or not 0 < rowid < HIGHEST_ID:
            return
        if table.fits(row):
            self._writer.execute(table.insert, row)
            self.is_store = True

    # --- what was not

    def finish(self, is_damaged: bool) -> None:
        """Give the records what they need to be a store, and note what is missing.

        Args:
            is_damaged: whether pages are known to be.
        """
        self._place_strays()
        self._name_steps()
        self._name_runs()
        self._note_lost(is_damaged)
        self._count()

    def _place_strays(self) -> None:
        columns = ", ".join(self._records.columns[1:])
        self._writer.execute(
            f"""
            insert into records ({columns})
            select {columns} from temp.strays where key not in (select key from records)
            """
        )

    def _name_steps(self) -> None:
        """Give names to lost steps that other rows still refer to."""
        lost = """
        select step, min(at)
          from (select step, saved_at as at from records
                 union all select step, started_at from runs
                 union all select step, sent_at from sent_calls
                 union all select step, first_used from step_code)
         where step not in (select id from steps) group by step
        """
        for id, at in rows(self._writer, lost):
            name, version = self._names.get(id, (f"step {id}", 0))
            self._writer.execute(
                """
                insert into steps (id, name, version, key_recipe, created_at)
                values (?, ?, ?, 'null', ?)
                """,
                (id, f"{name} (salvaged)", version, at or 0.0),
            )
            self._tell(
                f"what is known of step {name!r} is lost",
                f"its results stand under '{name} (salvaged)'; a run of it finds them all the same",
            )

    def _name_runs(self) -> None:
        lost = rows(
            self._writer,
            """
            insert into runs (id, step, store, uid, started_at, updated_at, ended, host, boot,
                              pid_namespace, pid, pid_ticks, policy, loss_window, durability)
            select run, min(step), '', lower(hex(randomblob(16))), min(saved_at), max(saved_at),
                   'closed', '', '', 0, 0, 0, 'unknown', 'unknown', 'unknown'
              from (select run, step, saved_at from records
                     union all select run, step, sent_at from sent_calls)
             where run not in (select id from runs) group by run
            returning id
            """,
        )
        if lost:
            self._tell(
                f"what is known of {len(lost):,} runs is lost",
                "inspect shows them as unknown; their results are saved",
            )
        self._writer.execute(
            "update runs set code = null where code not in (select id from step_code)"
        )

    def _note_lost(self, is_damaged: bool) -> None:
        last = self._last_id()
        lost = rows(
            self._writer,
            """
            select id, key, key in (select key from records) from temp.expected
             where id <= ? and id not in (select id from records)
               and (key is null or key not in (select key from temp.strays)) order by id
            """,
            (last,),
        )
        for id, key, has_older in lost:
            name = "" if key is None else f" (key {key.hex()})"
            means = _OLDER if has_older else _AGAIN
            self._tell(f"record {id}{name} is not whole", means, id, key and key.hex())
        self.lost += len(lost)
        deleted = self._state.get("generation")
        for first, end in self._gaps(last):
            which = f"record {first} is" if first == end else f"records {first} to {end} are"
            if deleted == 0:
                self.lost += end - first + 1
                self._tell(f"{which} gone", _AGAIN)
            elif is_damaged or lost or deleted is None:
                self._tell(f"{which} not there", "deleted (forget, compact), or lost")

    def _last_id(self) -> int:
        """Return the last id that was given, which may be of a record that is lost."""
        given: int | None = self._state.get("seq")
        highest: int = self._writer.execute("select max(id) from records").get or 0
        return highest if given is None else min(given, HIGHEST_ID)

    def _gaps(self, last: int) -> list[tuple[int, int]]:
        sql = """
        select id + 1, following - 1
          from (select id, lead(id) over (order by id) as following
                  from (select 0 as id union select id from records where id <= ?1
                         union select id from temp.expected where id <= ?1 union select ?1 + 1))
         where following > id + 1
        """
        return rows(self._writer, sql, (last,))

    def _count(self) -> None:
        writer = self._writer
        self.records = writer.execute("select count(*) from records").get
        writer.execute(
            "update steps set results=0, failures=0, records=0, seconds=0, cost=0, usage='{}'"
        )
        extend(writer)
        # ids are missing, which means damage where nothing was ever deleted
        writer.execute("update system_state set value = 1 where name = 'generation'")
        sql = "update sqlite_sequence set seq = max(seq, ?) where name = 'records'"
        writer.execute(sql, (self._last_id(),))
        self._add_dropped()

    def _add_dropped(self) -> None:
        """Keep what was paid for records that a compaction dropped."""
        value = self._state.get(DROPPED)
        if type(value) is not str:
            return
        self._writer.execute("insert into system_state values (?, ?)", (DROPPED, value))
        try:
            sums = dropped(self._writer)
        except apsw.CorruptError:
            self._writer.execute("delete from system_state where name = ?", (DROPPED,))
            return
        self._writer.executemany(
            "update steps set seconds = seconds + ?2, cost = cost + ?3 where id = ?1",
            [(step, seconds, cost) for step, (seconds, cost, _) in sums.items()],
        )
        usage.change(self._writer, ((step, counts) for step, (*_, counts) in sums.items()))

    def _tell(self, what: str, means: str, record: int | None = None, key: Any = None) -> None:
        if len(self.problems) < MOST_NAMED:
            self.problems.append(Problem(what, means, record, key))


def _key_of(row: Row) -> bytes | None:
    """Return the key of a record that is not whole, if it is there."""
    if row.values is not None:
        return row.values[1] if type(row.values[1]) is bytes else None
    try:
        _, begin, _ = types(row.head)
    except BrokenError:
        return None
    return row.head[begin : begin + 16]
