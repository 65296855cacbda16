"""Find what is damaged in a store, and what that means for the next run. Knows SQL; no files.

A run checks what it reads; this checks all there is, and what can only be seen from all of it: a
key that is missing from the index, a counter that is wrong. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import msgspec

from . import usage
from .key_index import IDENTITY_BYTES, KEY_BYTES, dropped, indexed_to, state, tally
from .records import Entry, checksum
from .sql import rows

PAGE = 256
MOST_NAMED = 10  # of one kind that SQL finds
STEPS_OF_SQLITE = 200_000  # of its virtual machine, between two looks at signals and the bar
# What an `Entry` is made of, up to `replaces`.
ENTRY = f"""
       {KEY_BYTES}, {IDENTITY_BYTES}, position, attempts, records.seconds, records.cost, error,
       result, input, input_form, cast(row_digest as blob), occurrence, records.usage
"""

OnProgress = Callable[[str, float | None], object]


class Problem(msgspec.Struct, frozen=True):
    """Something in a store that is not as it was written.

    Attributes:
        what: what is damaged.
        means: what that means for the next run, and what to do.
        record: id of the damaged record, None if it is something else.
        key: of that record, 32 hex digits.
    """

    what: str
    means: str
    record: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.means}"


_SALVAGE = "`ckpt salvage STORE -o NEW` brings all that is whole into a new store"
_STOPS = (
    "a run that needs this row stops with a StoreCorruptError. `ckpt forget STORE --where "
    "\"key = '{key}'\"` has it computed again"
)
_UNREADABLE = (
    f"saved results may be unreadable; a run that needs one stops with a StoreCorruptError. "
    f"{_SALVAGE}"
)
_PAID_AGAIN = f"a run does not find this result, and pays for it again. {_SALVAGE}"
_ELSEWHERE = f"a run that needs this row stops with a StoreCorruptError. {_SALVAGE}"
_COUNTS = f"inspect, plan and max_cost= count wrong; no result is affected. {_SALVAGE}"
_VIEWS = f"SQL on the views shows it wrong; runs do not read them. {_SALVAGE}"


def problems(connection: apsw.Connection, on_progress: OnProgress | None = None) -> list[Problem]:
    """Check all of a store; return what is damaged, [] if nothing is.

    Args:
        connection: for reading.
        on_progress: called with what is being checked and how much of that is done, from 0 to 1;
            None where it cannot be known.
    """
    found: list[Problem] = []
    progress = on_progress or unseen
    checks: tuple[tuple[str, _Check], ...] = (
        ("structure", _structure),
        ("records", _records),
        ("references", _references),
        ("key index", _index),
        ("counters", _counters),
        ("ids", _ids),
    )
    for name, check in checks:
        with _watched(connection, name, progress):
            try:
                found.extend(check(connection, progress))
            except (apsw.Error, UnicodeDecodeError) as error:
                found.append(Problem(f"{name}: SQLite: {error}", _UNREADABLE))
    return found


_Check = Callable[[apsw.Connection, OnProgress], Iterator[Problem]]


def unseen(_what: str, _share: float | None) -> None:
    """Show no progress."""


@contextlib.contextmanager
def _watched(connection: apsw.Connection, name: str, progress: OnProgress) -> Iterator[None]:
    """Let signals and the bar come through while SQLite is busy for minutes."""

    def look() -> bool:
        progress(name, None)
        return False

    progress(name, None)
    connection.set_progress_handler(look, STEPS_OF_SQLITE)
    try:
        yield
    finally:
        connection.set_progress_handler(None)


def _structure(connection: apsw.Connection, _progress: OnProgress) -> Iterator[Problem]:
    sql = "select rootpage, tbl_name from sqlite_schema where rootpage > 0"
    tables = dict(rows(connection, sql))
    for (line,) in connection.execute("pragma integrity_check").fetchall():
        if line != "ok":
            yield Problem(f"SQLite: {line}", _of_structure(str(line), tables))


def _of_structure(line: str, tables: dict[Any, Any]) -> str:
    """Say what a line of SQLite's own check means."""
    if "never used" in line:
        return "room in the file is lost, and no result; `ckpt compact STORE` gives it back"
    tree = re.match(r"Tree (\d+)", line)
    if tree and tables.get(int(tree[1])) == "system_key_index":
        return f"a run may not find saved results, and pay for them again. {_SALVAGE}"
    return _UNREADABLE


def _records(connection: apsw.Connection, progress: OnProgress) -> Iterator[Problem]:
    last, end = 0, _last_id(connection)
    while last < end:
        try:
            page = _page(connection, last)
        except apsw.CorruptError:
            first, last = last + 1, _before_readable(connection, last, end)
            which = f"record {first}" if first == last else f"records {first} to {last}"
            yield Problem(f"{which} cannot be read", _UNREADABLE)
            continue
        if not page:  # pragma: no cover - their number is read elsewhere if their tree is damaged
            return
        for id, *fields in page:
            yield from _of_record(id, *fields)
        last = page[-1][0]
        progress("records", min(1.0, last / end))


def _last_id(connection: apsw.Connection) -> int:
    for sql in (
        "select max(id) from records",
        "select cast(seq as integer) from sqlite_sequence where name = 'records'",
    ):
        with contextlib.suppress(apsw.CorruptError):
            return connection.execute(sql).get or 0
    return 0  # pragma: no cover - both trees are damaged


def _of_record(id: int, expected: int, step: Any, run: Any, *fields: Any) -> Iterator[Problem]:
    entry = Entry(*fields)
    key = entry.key.hex()
    if checksum(entry) != expected:
        what = f"record {id} (key {key}) is not what was written"
        yield Problem(what, _STOPS.format(key=key), id, key)
    elif any(type(number) is not int for number in (step, run, entry.position, entry.attempts)):
        yield Problem(
            f"record {id}: a numeric column no longer holds a number", _ELSEWHERE, id, key
        )
    elif not usage.is_sound(entry.usage):
        yield Problem(f"record {id}: its token counts are not numbers by name", _ELSEWHERE, id, key)


def _page(connection: apsw.Connection, last: int) -> list[tuple[Any, ...]]:
    """Return the records after `last`; only the next one, where not all of it can be read.

    Raises:
        apsw.CorruptError: nothing of the next one can be read.
    """
    unreadable = f"-2, 0, 0, {KEY_BYTES}, x'', 0, 0, 0, null, null, null, null"
    sql = "select id, {} from records where id >= ? + 1 order by id limit ?"
    for limit in (PAGE, 1):
        with contextlib.suppress(UnicodeDecodeError, apsw.CorruptError):
            return rows(connection, sql.format(f"checksum, step, run, {ENTRY}"), (last, limit))
    return rows(connection, sql.format(unreadable), (last, 1))


def _before_readable(connection: apsw.Connection, last: int, end: int) -> int:
    """Return the last id of those after `last` that are on a page which cannot be read."""
    low, high = last + 1, last + 1
    while high < end and not _is_readable(connection, high):
        low, high = high, min(2 * high - last, end)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _is_readable(connection, middle) else (middle, high)
    return low if _is_readable(connection, high) else end


def _is_readable(connection: apsw.Connection, id: int) -> bool:
    try:
        connection.execute("select key from records where id >= ? limit 1", (id,)).fetchall()
    except (apsw.CorruptError, UnicodeDecodeError):
        return False
    return True


def _references(connection: apsw.Connection, _progress: OnProgress) -> Iterator[Problem]:
    for table in ("steps", "step_code", "runs", "sent_calls", "system_counters"):
        connection.execute(f"select * from {table}").fetchall()
    for table, id, parent, _ in rows(connection, "pragma foreign_key_check")[:MOST_NAMED]:
        yield Problem(
            f"{table} {id}: names a row of {parent} that is not there",
            f"inspect and exports leave it out; a run still finds it by its key. {_SALVAGE}",
        )


def _index(connection: apsw.Connection, _progress: OnProgress) -> Iterator[Problem]:
    for sql, what, means in (
        (_WRONG_INDEX, "its entry in the key index is wrong", _ELSEWHERE),
        (_NOT_INDEXED, "its key is missing from the key index", _PAID_AGAIN),
        (_HIDDEN, "it is noted as superseded and is not", _VIEWS),
        (_SHOWN, "it is superseded and not noted as such", _VIEWS),
    ):
        for id, key in rows(connection, sql, (MOST_NAMED,)):
            hexed = key.hex() if isinstance(key, bytes) else None
            yield Problem(f"record {id}: {what}", means, id, hexed)


_INDEXED = "(select value from system_state where name = 'indexed_to')"
_NEWEST = f"(select key, max(id) as id from records where id <= {_INDEXED} group by key) as newest"
_WRONG_INDEX = """
select indexed.id, indexed.key
  from system_key_index as indexed left join records on records.id = indexed.id
 where records.key is not indexed.key limit ?
"""
_NOT_INDEXED = f"""
select newest.id, newest.key
  from {_NEWEST} left join system_key_index as indexed on indexed.key = newest.key
 where indexed.id is not newest.id limit ?
"""
_HIDDEN = """
select newest.id, newest.key
  from (select key, max(id) as id from records group by key) as newest
 where newest.id in (select id from system_superseded) limit ?
"""
_SHOWN = f"""
select records.id, records.key
  from records join {_NEWEST} on newest.key = records.key
 where records.id < newest.id and records.id not in (select id from system_superseded) limit ?
"""


def _counters(connection: apsw.Connection, _progress: OnProgress) -> Iterator[Problem]:
    connection.execute("begin")
    try:
        high = indexed_to(connection)
        truth = {row[0]: row[1:] for row in tally(connection, 0, high)}
        used = usage.sums(connection, "id <= ?", (high,))
        gone = dropped(connection)
        counted: list[Any] = connection.execute(
            "select id, name, version, results, failures, records, seconds, cost, usage from steps"
        ).fetchall()
    finally:
        connection.execute("rollback")
    for id, name, version, *counts in counted:
        seconds, cost, more = gone.get(id, (0.0, 0.0, {}))
        *numbers, measured, paid = truth.get(id, (0, 0, 0, 0.0, 0.0))
        tokens = usage.as_json(usage.added(used.get(id, {}), more))
        right = [*numbers, measured + seconds, paid + cost, tokens]
        if not all(map(_equal, counts, right)):
            yield Problem(
                f"step {name!r} version {version!r}: its counters say {_listed(counts)}; its "
                f"records say {_listed(right)}",
                _COUNTS,
            )


def _equal(one: Any, other: Any) -> bool:
    """Compare two sums; those of fractions depend on the order of adding."""
    if isinstance(other, str):
        return usage.is_equal(one, other)
    return type(one) in (int, float) and bool(abs(one - other) <= 1e-6 * max(1, abs(other)))


def _listed(counts: list[Any]) -> str:
    results, failures, records, seconds, cost, tokens = counts
    said = f"{results} results, {failures} failures, {records} records, {seconds} s, ${cost}"
    return said if tokens == usage.NOTHING else f"{said}, {tokens}"


def _ids(connection: apsw.Connection, _progress: OnProgress) -> Iterator[Problem]:
    sql = """
    select (select seq from sqlite_sequence where name = 'records'), max(id), count(*) from records
    """
    ((given, last, count),) = rows(connection, sql)
    if type(given or 0) is not int or (given or 0) < (last or 0):
        yield Problem("the last id given is lower than a record's", f"ids repeat. {_SALVAGE}")
    elif indexed_to(connection) > (given or 0):
        yield Problem(
            "the state says that more records are indexed than there are",
            f"a run does not find its next results, and pays for them again. {_SALVAGE}",
        )
    elif state(connection, "generation") == 0 and count != (given or 0):
        yield Problem(
            f"{(given or 0) - count:,} records are gone, and nobody deleted any",
            f"runs pay for them again. {_SALVAGE}",
        )
