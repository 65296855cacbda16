"""Saved records by key, in batches, each checked against its checksum. Knows SQL, not rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from .key_index import KeyIndex
from .read import corrupt, first_corrupt
from .records import Found, is_intact
from .sql import ids_array

_SAVED = """
select (select max(id) from records), (select value from system_state where name = 'generation'),
       id, attempts, key, result, error, checksum, run, identity
  from records where id = coalesce(?, (select id from system_key_index where key = ?))
"""


class Finder:
    """Find records on one reading connection; the caller holds the lock and maps the errors."""

    def __init__(self, path: str, reader: apsw.Connection) -> None:
        self._path, self._reader = path, reader
        self.index = KeyIndex(reader)
        self._next = 0  # id of the record that a run in order will ask for next; 0: cannot tell

    def find(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return the newest record of each key, None where there is none."""
        found = self._in_order(keys) if self._next else []
        rest = keys[len(found) :]
        if not rest:
            return found
        ids = self.index.ids(rest)
        known = [id for id in ids if id is not None]
        try:
            rows = iter(self._fetch(known)) if known else iter(())
        except apsw.CorruptError:
            if not self._were_deleted():
                raise
            return found + self.find(rest)
        in_order = len(known) > 1 and known[-2] + 1 == known[-1]
        self._next = known[-1] + 1 if in_order else 0
        found += [
            None if id is None else self._found(next(rows), key)
            for id, key in zip(ids, rest, strict=True)
        ]
        return found

    def saved(self, key: bytes) -> Found | None:
        """Return the result of a key if one statement finds it; None proves nothing: see `find`."""
        index = self.index
        try:
            row: Any = self._reader.execute(_SAVED, (index.in_tail(key), key)).get
        except (apsw.Error, UnicodeDecodeError):
            return None
        if row is None:
            return None
        last, generation, id, attempts, its_key, result, error, checksum, run, identity = row
        is_newest = error is None and its_key == key and index.is_current(last, generation)
        if not (is_newest and is_intact(key, result, None, checksum)):
            return None
        return Found(id, identity, attempts, None, result, run)

    def row_digests(self, ids: Sequence[int]) -> dict[int, bytes | None]:
        """Return the digest of the whole row of some records, by id; None where there is none."""
        if not ids:
            return {}
        found: list[Any] = self._reader.execute(
            """
            select id, row_digest from carray(?) as wanted cross join records on records.id = value
            """,
            (ids_array(ids),),
        ).fetchall()
        return dict(found)

    def _in_order(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return the records of as many of `keys` as follow the last one found in the log.

        Rows are mostly read in the order in which they were written; then one scan does instead of
        a look-up in the index for each, 2 µs a row less.
        """
        self.index.catch_up()
        first, is_newest = self._next, self.index.is_newest
        found: list[Found | None] = []
        for key, row in zip(keys, self._fetch(range(first, first + len(keys))), strict=False):
            id, attempts, its_key, result, error, checksum, run, identity = row
            if its_key != key or error is not None or not is_newest(key, id):
                break
            if not is_intact(key, result, None, checksum):
                raise corrupt(self._path, id, key)
            found.append(Found(id, identity, attempts, None, result, run))
        self._next = first + len(found) if len(found) == len(keys) else 0
        return found

    def _were_deleted(self) -> bool:
        """Tell whether rows were deleted since the index was asked."""
        before = self.index.generation
        self.index.catch_up()
        return self.index.generation != before

    def _fetch(self, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the records with these ids, in their order; of a range, those that are there."""
        if isinstance(ids, range):
            chosen = "records where id >= ? and id < ?"
            bindings: tuple[Any, ...] = (ids.start, ids.stop)
        else:
            chosen = "carray(?) as wanted cross join records on records.id = wanted.value"
            bindings = (ids_array(ids),)
        try:
            rows: list[tuple[Any, ...]] = self._reader.execute(
                f"""
                select id, attempts, key, result, error, checksum, run, identity
                  from {chosen}
                """,
                bindings,
            ).fetchall()
        except UnicodeDecodeError:
            raise first_corrupt(self._path, self._reader, ids) from None
        if len(rows) != len(ids) and not isinstance(ids, range):
            raise apsw.CorruptError("the key index names records that are not there")
        return rows

    def _found(self, row: tuple[Any, ...], wanted: bytes) -> Found:
        id, attempts, key, result, error, checksum, run, identity = row
        if key != wanted:
            raise apsw.CorruptError(
                f"record {id} has another key than the key index says, which is {wanted.hex()}"
            )
        if not is_intact(wanted, result, error, checksum):
            raise corrupt(self._path, id, wanted)
        return Found(id, identity, attempts, error, result, run)
