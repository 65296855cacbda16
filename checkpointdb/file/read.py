"""Read a store without changing anything, while others write. Knows SQL and records.

`Store` answers its reading methods through this, and `ckpt` uses nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

import apsw
import msgspec

from ..errors import StoreCorruptError, StoreError
from ..events import Report
from ..values.keys import ARGUMENTS, KEY, ROW
from . import alike, codes, in_order, occurrences, probe, sqlite_errors, usage
from . import connection as files
from .key_index import KEY_BYTES, KeyIndex, indexed_to, last_id, tally
from .records import (
    Call,
    Entry,
    Made,
    Record,
    RunInfo,
    SavedCode,
    StepInfo,
    checksum,
    decoded,
    decoded_error,
)
from .sql import ids_array, rows, typed
from .usage import Usage, added, decoded_usage
from .verify import ENTRY, PAGE, OnProgress, Problem, problems

Status = Literal["ok", "failed"]

_COUNTS = ", ".join(f"runs.{name}" for name in Report.__struct_fields__)
_FORMS: dict[int, Any] = {ROW: "row", ARGUMENTS: "arguments", KEY: "key"}
_RECORD = f"checksum, name, version, saved_at, run, records.id, {ENTRY}"


class Outcome(NamedTuple):
    """Whether a record is a success, the run that wrote it, the digest of its whole row."""

    is_good: bool
    run: int
    row_digest: bytes | None


class Reader:
    """A store opened for reading only: it takes no write lock and creates no file.

    Raises:
        StoreError: no such file, or not a store.
    """

    def __init__(self, path: str | os.PathLike[str], vfs: str | None = None) -> None:
        self.path = os.path.realpath(os.fspath(path))
        self._mark = probe.mark(self.path)
        self._connection, self._immutable, self._damage = files.open_reader(self.path, vfs)
        self._format: int = self._connection.pragma("user_version")
        self._index: KeyIndex | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def connection(self) -> apsw.Connection:
        """The connection that it reads through."""
        return self._connection

    def is_unchanged(self) -> bool:
        """Tell whether it still reads the current file: without locks, that nobody wrote to it."""
        return not self._immutable or probe.mark(self.path) == self._mark

    def check_unchanged(self) -> None:
        """Raise if the file was read without locks and somebody wrote to it meanwhile."""
        if not self.is_unchanged():
            raise StoreError(f"{self.path}: a run began to write while it was read: read again")

    def since(self, format: int, column: str, otherwise: str) -> str:
        """Return what to select: a column, or what stands for it in a store older than `format`."""
        return column if self._format >= format else f"{otherwise} as {column.rpartition('.')[2]}"

    def steps(self) -> list[StepInfo]:
        """Return the steps, oldest first, with their counts; instant at any size."""
        with self.snapshot():
            low, high = indexed_to(self._connection), last_id(self._connection)
            newer = {row[0]: row[1:] for row in tally(self._connection, low, high)}
            used = usage.sums(self._connection, "id > ? and id <= ?", (low, high))
            rows: list[Any] = self._connection.execute(
                """
                select id, name, version, key_recipe,
                       (select fingerprint from runs join step_code on step_code.id = runs.code
                         where runs.step = steps.id order by runs.id desc limit 1),
                       created_at, results, failures, records, seconds, cost, usage
                  from steps order by id
                """
            ).fetchall()
            known = [typed(StepInfo, *row, decoded_usage(tokens)) for *row, tokens in rows]
        return [
            _with_newer(it, newer[it.id], used.get(it.id, {})) if it.id in newer else it
            for it in known
        ]

    def codes(self, step: int) -> list[SavedCode]:
        """Return the codes that a step was run with, in the order in which they were first used."""
        with sqlite_errors.mapped(self.path):
            return codes.codes(self._connection, step)

    def newest_code(self, step: int) -> SavedCode | None:
        """Return the code that a step's newest run had; None if none is known."""
        with sqlite_errors.mapped(self.path):
            id = codes.newest_code(self._connection, step)
        return next((code for code in self.codes(step) if code.id == id), None)

    def made_by(self, step: int, ids: Sequence[int]) -> Made:
        """Return what some of a step's codes made; reads the log once if there are any."""
        with sqlite_errors.mapped(self.path):
            return codes.made_by(self._connection, step, ids)

    def runs(self, step: str | None = None) -> list[RunInfo]:
        """Return the runs, oldest first."""
        with sqlite_errors.mapped(self.path):
            rows: list[Any] = self._connection.execute(
                f"""
                select runs.id, name, version, fingerprint, runs.store, started_at,
                       updated_at, ended, host, boot, pid_namespace, pid, pid_ticks, policy,
                       loss_window, durability, runs.total, meta,
                       runs.store <> (select value from system_state where name = 'store_id'),
                       {_COUNTS}
                  from runs join steps on steps.id = runs.step
                            left join step_code on step_code.id = runs.code
                 where ?1 is null or name = ?1 order by runs.id
                """,
                (step,),
            ).fetchall()
            return [
                typed(RunInfo, *row[:17], decoded(row[17]), _report(row[19:]), bool(row[18]))
                for row in rows
            ]

    def records(
        self,
        step: str | None = None,
        version: int | str | None = None,
        status: Status | None = None,
        run: int | None = None,
    ) -> Iterator[Record]:
        """Yield the newest record of each key, in input order, from one consistent snapshot.

        With `run` only what that run wrote counts, even where a later run has written it again.

        Raises:
            StoreCorruptError: a record is not what was written; the message names it.
        """
        self.select(step, version, run)
        for page in self._pages(status, "place, records.id"):
            yield from map(self._record, self._fetch([id for _, id in page]))

    def select(self, step: str | None, version: int | str | None, run: int | None = None) -> None:
        """List the newest record of each key for `selected`, as of now: see `file/in_order.py`."""
        with sqlite_errors.mapped(self.path):
            in_order.select(self._connection, step, version, run)

    def selected(self, status: Status | None = None) -> Iterator[Entry]:
        """Yield what `select` has listed, values encoded, each checked."""
        for page in self._pages(status, f"place, records.id, checksum, {ENTRY}"):
            for row in page:
                yield self._entry(row[1], row[2], row[3:])

    def _pages(self, status: Status | None, columns: str) -> Iterator[list[tuple[Any, ...]]]:
        """Yield columns of what `select` has listed, the first one `place`."""
        last, good = 0, None if status is None else status == "ok"
        while True:
            with sqlite_errors.mapped(self.path):
                page = self._page(last, good, columns)
            if not page:
                return
            yield page
            last = page[-1][0]

    def _page(self, last: int, good: bool | None, columns: str) -> list[tuple[Any, ...]]:
        sql = f"select {{}} from {in_order.LISTED} cross join records on records.id = listed"
        try:
            return rows(self._connection, sql.format(columns), (last, good))
        except UnicodeDecodeError:
            ids = [id for (id,) in rows(self._connection, sql.format("listed"), (last, good))]
            raise first_corrupt(self.path, self._connection, ids) from None

    def get(self, key: str) -> Record | None:
        """Return the newest record of a key, 32 hex digits; None if there is none."""
        found = self.find(key)
        return found[0] if found else None

    def find(self, start: str, limit: int = 2) -> list[Record]:
        """Return the newest records of up to `limit` keys that begin with `start`, in hex.

        Raises:
            TypeError, ValueError: it is no text, or not hexadecimal.
        """
        if type(start) is not str:
            raise TypeError(f"a key is a text of 32 hex digits, not {start!r}")
        low = bytes.fromhex(start.ljust(32, "0"))
        high = bytes.fromhex(start.ljust(32, "f"))
        with self.snapshot():
            wanted: list[Any] = self._connection.execute(
                """
                select key, max(id)
                  from (select key, id from system_key_index where key between ?1 and ?2
                         union all
                        select key, id from records where id > ?3 and key between ?1 and ?2)
                 group by key limit ?4
                """,
                (low, high, indexed_to(self._connection), limit),
            ).fetchall()
            rows = self._fetch([id for _, id in wanted])
            if [row[6] for row in rows] != [key for key, _ in wanted]:
                raise apsw.CorruptError("the key index points at other records")
        return [self._record(row) for row in rows]

    def check(self, id: int) -> None:
        """Raise unless a record is what was written."""
        for row in self._fetch([id]):
            self._record(row)

    def succeeded(self, keys: Sequence[bytes]) -> list[bool | None]:
        """Tell of each key whether its newest record is a success, None where there is none."""
        return [None if found is None else found.is_good for found in self.outcomes(keys)]

    def held_occurrences(self, contents: Sequence[bytes], shared: bool) -> dict[bytes, list[int]]:
        """Return the numbers of equal rows that a run which began now could not get."""
        with sqlite_errors.mapped(self.path):
            return occurrences.held(self._connection, contents, shared)

    def outcomes(self, keys: Sequence[bytes]) -> list[Outcome | None]:
        """Tell what the newest record of each key is, None where there is none."""
        with sqlite_errors.mapped(self.path):
            if self._index is None:
                self._index = KeyIndex(self._connection)
            ids = self._index.ids(keys)
            known = [id for id in ids if id is not None]
            good: dict[Any, Outcome] = {}
            if known:
                flags: list[Any] = self._connection.execute(
                    """
                    select id, error is null, run, cast(row_digest as blob)
                      from carray(?) as wanted cross join records on records.id = wanted.value
                    """,
                    (ids_array(known),),
                ).fetchall()
                good = {id: Outcome(bool(good), *rest) for id, good, *rest in flags}
            if len(good) != len(set(known)):
                raise apsw.CorruptError("the key index names records that are not there")
        return [None if id is None else good[id] for id in ids]

    def alike(self, step: int, parts: Sequence[str | bytes]) -> list[Record]:
        """Return the records of a step whose inputs look most like a row: see `file/alike.py`."""
        with sqlite_errors.mapped(self.path):
            ids = alike.alike(self._connection, step, parts)
            rows = self._fetch(ids)
        return [self._record(row) for row in rows]

    def entries(self, step: int) -> Iterator[list[tuple[int, Entry]]]:
        """Yield the newest successes of a step, each with its run, in pages, values encoded."""
        last = 0
        while True:
            with sqlite_errors.mapped(self.path):
                page: list[Any] = self._connection.execute(
                    f"""
                    select id, run, checksum, {ENTRY}
                      from records where id > ? and step = ? order by id limit ?
                    """,
                    (last, step, PAGE),
                ).fetchall()
            if not page:
                return
            last = page[-1][0]
            entries = {
                id: (run, self._entry(id, expected, fields)) for id, run, expected, *fields in page
            }
            keys = [entry.key for _, entry in entries.values()]
            good = self.succeeded(keys)
            assert self._index is not None
            newest = self._index.ids(keys)
            yield [
                entry
                for (id, entry), succeeded, last_of_key in zip(
                    entries.items(), good, newest, strict=True
                )
                if succeeded and id == last_of_key
            ]

    def _entry(self, id: int, expected: int, fields: Sequence[Any]) -> Entry:
        """Return a record as an entry.

        Raises:
            StoreCorruptError: it is not what was written.
        """
        entry = Entry(*fields)
        if checksum(entry) != expected:
            raise corrupt(self.path, id, entry.key)
        return entry

    def calls(self) -> list[Call]:
        """Return the calls that were sent and not answered, oldest first; kept by `ledger=True`."""
        with sqlite_errors.mapped(self.path):
            rows: list[Any] = self._connection.execute(
                """
                select input, lower(hex(key)), name, version, sent_calls.run, position, sent_at
                  from sent_calls join steps on steps.id = sent_calls.step order by sent_at
                """
            ).fetchall()
            return [typed(Call, *fields, decoded(stored_input)) for stored_input, *fields in rows]

    def last_commit(self) -> tuple[int, float | None]:
        """Return the id of the newest record and the time it was saved, (0, None) if empty."""
        with sqlite_errors.mapped(self.path):
            row: Any = self._connection.execute(
                "select id, saved_at from records order by id desc limit 1"
            ).fetchone()
            if row and type(row[1]) is not float:
                raise apsw.CorruptError("the time of a record is invalid")
        return row or (0, None)

    def missing_log(self) -> RunInfo | None:
        """Return the newest run if it goes on, or was killed, and its log is not here.

        Then this is a copy, made while it ran, of the main file alone; or a store that was opened
        since by something other than a run, which wrote the log into it.
        """
        newest = self.runs()[-1:]
        is_open = bool(newest) and newest[0].ended is None
        return newest[0] if is_open and not os.path.exists(self.path + "-wal") else None

    def verify(self, on_progress: OnProgress | None = None) -> list[Problem]:
        """Check the whole file, and its log; return what is damaged, [] if nothing is."""
        with sqlite_errors.mapped(self.path):
            found = problems(self._connection, on_progress)
        if self._damage is not None:
            what, means = probe.lost_in_log(self.path, self._damage)
            found.insert(0, Problem(what, means))
        return found

    def _fetch(self, ids: list[int]) -> list[tuple[Any, ...]]:
        if not ids:  # there is no array of nothing
            return []
        sql = f"""
            select {_RECORD}
              from carray(?) as wanted cross join records on records.id = wanted.value
                                       cross join steps on steps.id = records.step
            """
        with sqlite_errors.mapped(self.path):
            try:
                return rows(self._connection, sql, (ids_array(ids),))
            except UnicodeDecodeError:
                raise first_corrupt(self.path, self._connection, ids) from None

    def _record(self, row: tuple[Any, ...]) -> Record:
        expected, name, version, saved_at, run, id, *fields = row
        entry = self._entry(id, expected, fields)
        kept = "nothing" if entry.input is None else _FORMS.get(entry.input_form, "row")
        values = decoded(entry.input), decoded(entry.result), decoded_error(entry.error)
        with sqlite_errors.mapped(self.path):
            return typed(
                Record, entry.key.hex(), name, version, entry.position, *values, entry.attempts,
                entry.seconds, entry.cost, saved_at, run, id, entry.occurrence, kept,
                decoded_usage(entry.usage),
            )  # fmt: skip

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """Have everything that is read in the block come from one moment."""
        with sqlite_errors.mapped(self.path):
            self._connection.execute("begin")
            try:
                yield self._connection
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")


def first_corrupt(path: str, connection: apsw.Connection, ids: Sequence[int]) -> StoreCorruptError:
    """Name the first of some records with a text that is no longer UTF-8."""
    for id in ids:
        try:
            connection.execute("select * from records where id = ?", (id,)).fetchall()
        except UnicodeDecodeError:
            key = connection.execute(f"select {KEY_BYTES} from records where id = ?", (id,)).get
            return corrupt(path, id, key)
    return StoreCorruptError(f"{path}: the name of a step is not what was written", path)


def corrupt(path: str, id: int, key: bytes) -> StoreCorruptError:
    """Say that a record's bytes are not those that were written."""
    return StoreCorruptError(
        f"{path}: record {id} (key {key.hex()}) is not what was written: bits have rotted or "
        "another program changed it. Every other record is still readable",
        path,
    )


def _report(counts: Sequence[Any]) -> Report:
    *numbers, tokens = counts
    return typed(Report, *numbers, decoded_usage(tokens))


def _with_newer(info: StepInfo, newer: tuple[Any, ...], used: Usage) -> StepInfo:
    """Add what is newer than a step's counters."""
    names = ("results", "failures", "records", "seconds", "cost")
    sums = {
        name: getattr(info, name) + (more or 0) for name, more in zip(names, newer, strict=True)
    }
    return msgspec.structs.replace(info, **sums, usage=added(info.usage, used))


def to_builtins(info: msgspec.Struct) -> dict[str, Any]:
    """Return a record, step or run as a dict for JSON; a run's counts stand among the rest."""
    fields = {name: getattr(info, name) for name in info.__struct_fields__}
    report: Report | None = fields.pop("report", None)
    return fields if report is None else fields | msgspec.structs.asdict(report)
