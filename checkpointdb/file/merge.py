"""Bring the records of another store into this one: a union by key. Knows SQL and records; no lock.

The rule does not depend on any clock. Records of one origin keep their order, and the newest of
them wins. Between origins a success beats a failure; else what is already there stays. A record
that loses is appended all the same, and the winner again after it, so that the newest of a key is
always the last one in the log. What was deleted anywhere by `forget` does not come back: its
tombstone is an event with a random id, and a record of that key counts only if its store knows
every event that is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw
import msgspec

from ..errors import KeyCollisionError
from .delete import delete_forgotten
from .incoming import Incoming, Source
from .key_index import KeyIndex
from .records import Entry, Stored
from .sql import ids_array, rows

MOST_LISTED = 1000  # conflicts that are named one by one
_COLUMNS = (
    "step, run, saved_at, checksum, origin_id, key, identity, position, attempts, seconds, cost, "
    "usage, error, result, input, input_form, row_digest, occurrence"
)


class Conflict(msgspec.Struct, frozen=True):
    """Two different results of one row.

    Attributes:
        key: of the row, 32 hex digits.
        kept: id of the record that counts.
        other: id of the one that is kept as history only.
    """

    key: str
    kept: int
    other: int


class Merged(msgspec.Struct):
    """What a merge did.

    Attributes:
        read: records of the other store that were looked at; those merged before are not.
        added: rows that were not here.
        replaced: rows whose record of the other store now counts: it is newer, of the same origin,
            or a success where there was a failure.
        same: records that say what is already here.
        history: records that do not count, and are kept as history.
        different: of these, results that differ from the one that counts.
        forgotten: records that were left out, for `forget` deleted their rows here.
        deleted: rows that were deleted here, for `forget` deleted them there.
        conflicts: the first 1,000 of those that differ.
    """

    read: int = 0
    added: int = 0
    replaced: int = 0
    same: int = 0
    history: int = 0
    different: int = 0
    forgotten: int = 0
    deleted: int = 0
    conflicts: list[Conflict] = []


class _Newest(msgspec.Struct, gc=False):
    """The newest record of a key, as far as a merge needs it."""

    id: int
    store: str
    run: int
    origin: int
    good: bool
    identity: bytes
    result: Stored | None


class Merging:
    """Pages of a source on their way into a store; the caller holds both locks of its log."""

    def __init__(self, path: str, source: Source) -> None:
        self._path, self._source = path, source
        self.merged = Merged()

    def take(
        self, writer: apsw.Connection, index: KeyIndex, page: Sequence[Any]
    ) -> tuple[list[bytes], list[int]]:
        """Append what is new of a page, in the caller's transaction.

        Returns:
            The keys of the records appended, in order, and the ids that are superseded by them.
        """
        incoming = self._source.incoming(writer, page)
        fresh = [it for it in incoming if self._source.is_new(it)]
        alive = self._alive(writer, fresh)
        newest = self._newest(writer, index, {it.entry.key for it in alive})
        placing = _Placing(self._path, newest, _next_id(writer))
        for it in alive:
            placing.place(it, self.merged)
        placing.write(writer)
        self.merged.read += len(fresh)
        self.merged.forgotten += len(fresh) - len(alive)
        self._source.note(writer, incoming)
        return placing.keys, placing.superseded

    def _alive(self, writer: apsw.Connection, incoming: list[Incoming]) -> list[Incoming]:
        """Return those that `forget` has not deleted: each event known here is known there."""
        keys = apsw.carray(tuple({it.entry.key for it in incoming}) or (b"",))
        sql = """
        select key, count(*) from system_forgotten where key in (select value from carray(?))
         group by key
        """
        here = rows(writer, sql, (keys,))
        if not here:
            return incoming
        there = dict(rows(self._source.connection, sql, (keys,)))
        dead = {key for key, events in here if there.get(key, 0) < events}
        return [it for it in incoming if it.entry.key not in dead]

    def _newest(
        self, writer: apsw.Connection, index: KeyIndex, keys: set[bytes]
    ) -> dict[bytes, _Newest]:
        asked = list(keys)
        ids = {id: key for key, id in zip(asked, index.ids(asked), strict=True) if id is not None}
        if not ids:
            return {}
        sql = """
        select records.id, store, run, coalesce(origin_id, records.id), error is null, identity,
               result
          from carray(?) as wanted cross join records on records.id = wanted.value
                                   cross join runs on runs.id = run
        """
        return {ids[row[0]]: _Newest(*row) for row in rows(writer, sql, (ids_array(ids),))}


class _Placing:
    """Where the records of a page go in the log."""

    def __init__(self, path: str, newest: dict[bytes, _Newest], first: int) -> None:
        self._path, self._newest, self._next = path, newest, first
        self._rows: list[tuple[Any, ...]] = []
        self._lost: dict[bytes, None] = {}  # keys with a record after the one that counts
        self.keys: list[bytes] = []
        self.superseded: list[int] = []

    def place(self, it: Incoming, merged: Merged) -> None:
        """Append a record, as the newest of its key or as history; or see that it is here."""
        entry = it.entry
        old = self._newest.get(entry.key)
        new = _Newest(
            self._next, it.store, it.run, it.origin, entry.error is None, entry.identity,
            entry.result,
        )  # fmt: skip
        if old is None:
            merged.added += 1
        elif old.identity != new.identity:
            raise self._collision(entry, old)
        elif (new.run, new.origin) == (old.run, old.origin):  # pragma: no cover - a kill in between
            merged.same += 1
            return
        elif _wins(new, old):
            merged.replaced += 1
            self.superseded.append(old.id)
            self._lost.pop(entry.key, None)
        elif new.good and old.good and new.result == old.result:
            merged.same += 1
            return
        else:
            self._append(it)
            self._lose(entry.key, old, new, merged)
            return
        self._newest[entry.key] = new
        self._append(it)

    def _append(self, it: Incoming) -> None:
        e = it.entry
        self._rows.append(
            (it.step, it.run, it.saved_at, it.checksum, it.origin, e.key, e.identity, e.position,
             e.attempts, e.seconds, e.cost, e.usage, e.error, e.result, e.input, e.input_form,
             e.row_digest, e.occurrence)
        )  # fmt: skip
        self.keys.append(e.key)
        self._next += 1

    def _lose(self, key: bytes, old: _Newest, new: _Newest, merged: Merged) -> None:
        self.superseded.append(new.id)
        self._lost[key] = None
        merged.history += 1
        if old.good and new.good and old.store != new.store:
            merged.different += 1
            if len(merged.conflicts) < MOST_LISTED:
                merged.conflicts.append(Conflict(key.hex(), old.id, new.id))

    def _collision(self, entry: Entry, old: _Newest) -> KeyCollisionError:
        return KeyCollisionError(
            f"{self._path}: record {old.id} here and a record of the other store have the same "
            f"key ({entry.key.hex()}) but are two different rows; nothing after it was merged",
            entry.key.hex(),
            entry.position,
            old.id,
        )

    def write(self, writer: apsw.Connection) -> None:
        """Write them, and again each record that counts but is not the last of its key any more."""
        if not self._rows:
            return
        marks = ", ".join("?" * len(self._rows[0]))
        writer.executemany(f"insert into records ({_COLUMNS}) values ({marks})", self._rows)
        copied = _COLUMNS.replace("origin_id", "coalesce(origin_id, id)")
        # they count where they were paid
        copied = copied.replace("seconds, cost, usage", "0.0, null, null")
        for key in self._lost:
            id = self._newest[key].id
            sql = f"insert into records ({_COLUMNS}) select {copied} from records where id = ?"
            writer.execute(sql, (id,))
            self.superseded.append(id)
            self.keys.append(key)


def _wins(new: _Newest, old: _Newest) -> bool:
    if new.store == old.store:
        return new.origin > old.origin
    return new.good and not old.good


def _next_id(writer: apsw.Connection) -> int:
    return 1 + (
        writer.execute(
            "select cast(seq as integer) from sqlite_sequence where name = 'records'"
        ).get
        or 0
    )


def bring_forgotten(
    writer: apsw.Connection, source: Source, check_alone: Callable[[], None]
) -> int:
    """Delete here what `forget` deleted there, and note that; return how many rows were here.

    In the caller's transaction. `check_alone` raises if somebody has a run open here.
    """
    unknown = [
        event
        for event in rows(source.connection, "select key, event from system_forgotten")
        if not writer.execute(
            "select 1 from system_forgotten where key = ? and event = ?", event
        ).get
    ]
    if not unknown:
        return 0
    check_alone()
    return delete_forgotten(writer, unknown)
