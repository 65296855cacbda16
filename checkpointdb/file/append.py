"""The statements of a commit. Knows SQL and the columns of a record; knows no file and no lock."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from .records import Entry, checksum

# One statement a commit: apsw takes the GIL back once a statement, and `executemany` once a row.
# Beside a busy Python thread that costs hundreds of times as much (docs/benchmarks.md, the tricks).
ENTRIES_PER_STATEMENT = 1024


def insert(writer: apsw.Connection, step: int, run: int, entries: Sequence[Entry]) -> None:
    """Append `entries`, with their checksums, in one statement."""
    values: list[Any] = [step, run, time.time()]
    simple = True
    for entry in entries:
        key, error, result, stored_input = entry.key, entry.error, entry.result, entry.input
        check = checksum(key, stored_input, result, error)
        values += (key, entry.position, entry.seconds, check, result, stored_input)
        if error is not None or entry.cost is not None or entry.attempts != 1:
            simple = False
    if not simple:
        values[3:] = _with_rare(values[3:], entries)
    writer.execute(_insert_sql(len(entries), simple), values)


def _with_rare(values: list[Any], entries: Sequence[Entry]) -> list[Any]:
    rows = zip(*[iter(values)] * 6, strict=True)
    return [
        value
        for row, entry in zip(rows, entries, strict=True)
        for value in (*row, entry.attempts, entry.cost, entry.error)
    ]


@functools.lru_cache(maxsize=16)
def _insert_sql(entries: int, simple: bool) -> str:
    """Return the insert of so many entries; a simple one is a first attempt without cost or error.

    A simple insert of 1,024 entries is under the 16 KiB up to which apsw keeps a statement
    prepared: 0.7 µs a row.
    """
    row, rare = ("(?,?,?,?,?,?)", "1,null,null") if simple else ("(?,?,?,?,?,?,?,?,?)", "")
    return f"""
insert into records (step, run, saved_at, key, position, seconds, checksum, result, input,
                     attempts, cost, error)
select ?1,?2,?3,*{"," + rare if rare else ""} from (values {",".join([row] * entries)})"""


def delete_keys(writer: apsw.Connection, table: str, entries: Sequence[Entry]) -> None:
    """Delete the keys of `entries` from `calls` or `claims`."""
    if entries:
        writer.execute(
            f"delete from {table} where key in (select value from carray(?))",
            (apsw.carray(tuple(entry.key for entry in entries)),),
        )


def update_run(
    writer: apsw.Connection, run: int, counts: dict[str, float], ended: str | None = None
) -> None:
    """Bring a run's row up to date."""
    assignments = ", ".join(f"{name} = ?" for name in counts)
    writer.execute(
        f"update runs set {assignments}, updated_at = ?, ended = ? where id = ?",
        (*counts.values(), time.time(), ended, run),
    )


@contextlib.contextmanager
def transaction(writer: apsw.Connection) -> Iterator[None]:
    """Commit what the block does, or nothing of it."""
    writer.execute("begin immediate")
    try:
        yield
        writer.execute("commit")
    except BaseException:
        if writer.in_transaction:
            writer.execute("rollback")
        raise
