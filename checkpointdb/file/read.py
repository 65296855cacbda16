"""Read a store without changing anything, while others write. Knows SQL and records.

`Store` answers its reading methods through this, and `ckpt` uses nothing else.
"""

from __future__ import annotations

import array
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import apsw
import msgspec

from ..errors import StoreCorruptError, StoreError
from . import connection as files
from .key_index import KEY_BYTES, KeyIndex, indexed_to, last_id, tally
from .records import Call, Entry, Record, RunInfo, StepInfo, checksum, decoded

Status = Literal["ok", "failed"]
PAGE = 256

_COLUMNS = f"""
       {KEY_BYTES}, steps.name, steps.version, records.position, records.input, records.result,
       records.error, records.attempts, records.seconds, records.cost, records.saved_at,
       records.run, records.id, records.checksum
"""


class Reader:
    """A store opened for reading only: it takes no write lock and creates no file.

    Raises:
        StoreError: no such file, or not a store.
    """

    def __init__(self, path: str | os.PathLike[str], vfs: str | None = None) -> None:
        self.path = os.path.realpath(os.fspath(path))
        self._mark = None
        if os.path.exists(self.path):
            self._mark = files.unchanged(self.path)
        self._connection, self._immutable = files.open_reader(self.path, vfs)
        self._index: KeyIndex | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; say so if what was read may be torn because somebody wrote meanwhile."""
        self._connection.close()

    def check_unchanged(self) -> None:
        """Raise if the file was read without locks and somebody wrote to it meanwhile."""
        if self._immutable and files.unchanged(self.path) != self._mark:
            raise StoreError(f"{self.path}: a run began to write while it was read: read again")

    def steps(self) -> list[StepInfo]:
        """Return the steps, oldest first, with their counts; instant at any size."""
        with self._snapshot():
            low, high = indexed_to(self._connection), last_id(self._connection)
            newer = {row[0]: row[1:] for row in tally(self._connection, low, high)}
            rows: list[Any] = self._connection.execute(
                """
                select id, name, version, key_recipe, fingerprint, created_at,
                       results, failures, records, seconds, cost
                  from steps order by id
                """
            ).fetchall()
        return [
            StepInfo(*row[:6], *map(_add, row[6:], newer.get(row[0], (0,) * 5))) for row in rows
        ]

    def runs(self, step: str | None = None) -> list[RunInfo]:
        """Return the runs, oldest first."""
        with files.mapped(self.path):
            rows: list[Any] = self._connection.execute(
                """
                select runs.id, name, version, started_at, updated_at, ended, host, pid, policy,
                       loss_window, durability, meta, rows, hits, computed, failed, commits,
                       runs.seconds, commit_seconds, runs.cost
                  from runs join steps on steps.id = runs.step
                 where ?1 is null or name = ?1 order by runs.id
                """,
                (step,),
            ).fetchall()
        return [_info(RunInfo, row[:11], decoded(row[11]), row[12:]) for row in rows]

    def records(
        self,
        step: str | None = None,
        version: int | str | None = None,
        status: Status | None = None,
    ) -> Iterator[Record]:
        """Yield the newest record of each key, in input order, from one consistent snapshot.

        The snapshot is a list of ids in a temporary table: no lock is held and no cursor is open
        while the caller works, however long that takes.

        Raises:
            StoreCorruptError: a record is not what was written; the message names it.
        """
        with files.mapped(self.path):
            self._select(step, version, status)
        last = 0
        while True:
            with files.mapped(self.path):
                page: list[Any] = self._connection.execute(
                    "select rowid, id from temp.ordered where rowid > ? order by rowid limit ?",
                    (last, PAGE),
                ).fetchall()
                rows = self._fetch([id for _, id in page])
            if not page:
                return
            for row in rows:
                yield self._record(row)
            last = page[-1][0]

    def _select(self, step: str | None, version: int | str | None, status: Status | None) -> None:
        self._connection.pragma("query_only", False)
        self._connection.execute("drop table if exists temp.ordered")
        self._connection.execute("create temp table ordered (id integer not null)")
        self._connection.execute(
            """
            insert into temp.ordered
            select newest.id
              from (select max(id) as id, step, position, error from records group by key) newest
              join steps on steps.id = newest.step
             where (?1 is null or name = ?1) and (?2 is null or version = ?2)
               and (?3 is null or (error is null) = (?3 = 'ok'))
             order by newest.step, newest.position, newest.id
            """,
            (step, version, status),
        )
        self._connection.pragma("query_only", True)

    def get(self, key: bytes) -> Record | None:
        """Return the newest record of `key`, None if there is none."""
        found = self.find(key.hex())
        return found[0] if found else None

    def find(self, start: str, limit: int = 2) -> list[Record]:
        """Return the newest records of up to `limit` keys whose hex form begins with `start`."""
        low = bytes.fromhex(start.ljust(32, "0"))
        high = bytes.fromhex(start.ljust(32, "f"))
        with self._snapshot():
            wanted: list[Any] = self._connection.execute(
                """
                select key, max(id)
                  from (select key, id from key_index where key between ?1 and ?2
                         union all
                        select key, id from records where id > ?3 and key between ?1 and ?2)
                 group by key limit ?4
                """,
                (low, high, indexed_to(self._connection), limit),
            ).fetchall()
            rows = self._fetch([id for _, id in wanted])
            if [row[0] for row in rows] != [key for key, _ in wanted]:
                raise apsw.CorruptError("the key index points at other records")
        return [self._record(row) for row in rows]

    def succeeded(self, keys: Sequence[bytes]) -> list[bool | None]:
        """Tell of each key whether its newest record is a success, None where there is none."""
        with files.mapped(self.path):
            if self._index is None:
                self._index = KeyIndex(self._connection)
            ids = self._index.ids(keys)
            known = [id for id in ids if id is not None]
            good: dict[Any, Any] = {}
            if known:
                flags: list[Any] = self._connection.execute(
                    """
                    select id, error is null
                      from carray(?) as wanted cross join records on records.id = wanted.value
                    """,
                    (apsw.carray(array.array("q", known)),),
                ).fetchall()
                good = dict(flags)
        return [None if id is None else bool(good[id]) for id in ids]

    def newest(self, step: str, version: int | str, limit: int) -> Iterator[Record]:
        """Yield up to `limit` records of a step, the newest first, superseded ones too."""
        last = last_id(self._connection) + 1
        while limit > 0:
            with files.mapped(self.path):
                page: list[Any] = self._connection.execute(
                    """
                    select records.id from records join steps on steps.id = records.step
                     where records.id < ? and name = ? and version = ?
                     order by records.id desc limit ?
                    """,
                    (last, step, version, min(PAGE, limit)),
                ).fetchall()
                rows = self._fetch([id for (id,) in page])
            if not page:
                return
            yield from map(self._record, rows)
            last, limit = page[-1][0], limit - len(page)

    def entries(self, step: int) -> Iterator[list[Entry]]:
        """Yield the newest successes of a step, values encoded, in pages, for `Log.append_all`."""
        last = 0
        while True:
            with files.mapped(self.path):
                page: list[Any] = self._connection.execute(
                    f"""
                    select id, {KEY_BYTES}, position, attempts, seconds, cost, error, result, input,
                           checksum
                      from records where id > ? and step = ? order by id limit ?
                    """,
                    (last, step, PAGE),
                ).fetchall()
            if not page:
                return
            last = page[-1][0]
            for id, key, *_, error, result, stored_input, expected in page:
                if checksum(key, stored_input, result, error) != expected:
                    raise rotten(self.path, id, key)
            good = self.succeeded([row[1] for row in page])
            assert self._index is not None
            newest = self._index.ids([row[1] for row in page])
            yield [
                Entry(*row[1:-1])
                for row, succeeded, id in zip(page, good, newest, strict=True)
                if succeeded and id == row[0]
            ]

    def calls(self) -> list[Call]:
        """Return the calls that were sent and not answered, oldest first; kept by `ledger=True`."""
        with files.mapped(self.path):
            rows: list[Any] = self._connection.execute(
                """
                select key, name, version, calls.run, position, sent_at, input
                  from calls join steps on steps.id = calls.step order by sent_at
                """
            ).fetchall()
        return [_info(Call, row[:6], decoded(row[6]), ()) for row in rows]

    def last_commit(self) -> tuple[int, float | None]:
        """Return the id of the newest record and the time it was saved, (0, None) if empty."""
        with files.mapped(self.path):
            row: Any = self._connection.execute(
                "select id, saved_at from records order by id desc limit 1"
            ).fetchone()
        return row or (0, None)

    def verify(self) -> list[str]:
        """Check the whole file; return what is wrong, a line each, [] if all is well.

        SQLite's structure, the checksum of every record, the index against the records.
        """
        problems: list[str] = []
        for check in (self._bad_structure, self._bad_records, self._bad_index):
            try:
                problems.extend(check())
            except apsw.Error as error:
                problems.append(f"SQLite: {error}")
        return problems

    def _bad_structure(self) -> Iterator[str]:
        for (line,) in self._connection.execute("pragma integrity_check").fetchall():
            if line != "ok":
                yield f"SQLite: {line}"
        mistyped = self._connection.execute(
            """
            select id from records
             where typeof(step) || typeof(run) || typeof(position) || typeof(attempts)
                   <> 'integerintegerintegerinteger' limit 10
            """
        ).fetchall()
        for (id,) in mistyped:
            yield f"record {id}: a number of it is none any more"

    def _bad_records(self) -> Iterator[str]:
        last = 0
        while page := self._page(last):
            for id, key, stored_input, result, error, expected in page:
                if checksum(key, stored_input, result, error) != expected:
                    yield f"record {id} (key {key.hex()}): not what was written"
            last = page[-1][0]

    def _page(self, last: int) -> list[tuple[Any, ...]]:
        """Return the records after `last`; where text is rotten to not being UTF-8, one of them."""
        for columns, limit in (
            (f"{KEY_BYTES}, input, result, error, checksum", PAGE),
            (f"{KEY_BYTES}, input, result, error, checksum", 1),
            (f"{KEY_BYTES}, null, null, null, -2", 1),
        ):
            with contextlib.suppress(UnicodeDecodeError):
                return self._connection.execute(
                    f"select id, {columns} from records where id > ? order by id limit ?",
                    (last, limit),
                ).fetchall()
        return []

    def _bad_index(self) -> Iterator[str]:
        wrong = self._connection.execute(
            """
            select key_index.id from key_index left join records on records.id = key_index.id
             where records.key is not key_index.key
             union
            select newest.id
              from (select key, max(id) as id from records
                     where id <= (select value from state where name = 'indexed_to')
                     group by key) as newest
              left join key_index on key_index.key = newest.key
             where key_index.id is not newest.id
             limit 10
            """
        ).fetchall()
        if indexed_to(self._connection) > last_id(self._connection):
            yield "the state: it says that more records are indexed than there are"
        for (id,) in wrong:
            yield f"record {id}: its entry in the key index is wrong"

    def _fetch(self, ids: list[int]) -> list[tuple[Any, ...]]:
        if not ids:  # there is no array of nothing
            return []
        try:
            return self._connection.execute(
                f"""
                select {_COLUMNS}
                  from carray(?) as wanted cross join records on records.id = wanted.value
                                           cross join steps on steps.id = records.step
                """,
                (apsw.carray(array.array("q", ids)),),
            ).fetchall()
        except UnicodeDecodeError:
            raise first_rotten(self.path, self._connection, ids) from None

    def _record(self, row: tuple[Any, ...]) -> Record:
        *fields, expected = row
        key, stored_input, result, error = fields[0], fields[4], fields[5], fields[6]
        if checksum(key, stored_input, result, error) != expected:
            raise rotten(self.path, fields[12], key)
        fields[4:7] = decoded(stored_input), decoded(result), decoded(error)
        return Record(*fields)

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        with files.mapped(self.path):
            self._connection.execute("begin")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")


def first_rotten(path: str, connection: apsw.Connection, ids: Sequence[int]) -> StoreCorruptError:
    """Name the first of some records whose text is rotten to not being UTF-8."""
    for id in ids:
        try:
            connection.execute("select * from records where id = ?", (id,)).fetchall()
        except UnicodeDecodeError:
            key = connection.execute(f"select {KEY_BYTES} from records where id = ?", (id,)).get
            return rotten(path, id, key)
    return StoreCorruptError(f"{path}: the name of a step is not what was written", path)


def rotten(path: str, id: int, key: bytes) -> StoreCorruptError:
    """Say that a record's bytes are not those that were written."""
    return StoreCorruptError(
        f"{path}: record {id} (key {key.hex()}) is not what was written: bits have rotted or "
        "another program changed it. Every other record is still readable",
        path,
    )


def _info(kind: Any, before: Any, value: Any, after: Any) -> Any:
    return kind(*before, value, *after)


def _add(before: Any, newer: Any) -> Any:
    return before + newer


def to_builtins(info: msgspec.Struct) -> dict[str, Any]:
    """Return a record, step or run as a dict for JSON, keys in hex."""
    fields = {name: getattr(info, name) for name in info.__struct_fields__}
    if isinstance(fields.get("key"), bytes):
        fields["key"] = fields["key"].hex()
    return fields
