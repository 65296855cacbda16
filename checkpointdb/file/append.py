"""The statements of a commit. Knows SQL and the columns of a record; knows no file and no lock."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from .records import Entry, checksum
from .sql import ids_array

# One statement a commit: apsw takes the GIL back once a statement, and `executemany` once a row.
# Beside a busy Python thread that costs hundreds of times as much (docs/benchmarks.md, the tricks).
ENTRIES_PER_STATEMENT = 1000


def insert(writer: apsw.Connection, step: int, run: int, entries: Sequence[Entry]) -> None:
    """Append `entries`, with their checksums, in one statement."""
    values: list[Any] = [step, run, time.time()]
    simple = True
    for entry in entries:
        values += (
            entry.key, entry.identity, entry.position, entry.seconds, checksum(entry),
            entry.result, entry.input,
        )  # fmt: skip
        if (
            entry.error is not None
            or entry.attempts != 1
            or entry.cost is not None
            or entry.input_form
            or entry.row_digest is not None
            or entry.occurrence
            or entry.usage is not None
        ):
            simple = False
    if not simple:
        values[3:] = _with_rare(values[3:], entries)
    writer.execute(_insert_sql(len(entries), simple), values)


def insert_all(writer: apsw.Connection, step: int, run: int, entries: Sequence[Entry]) -> None:
    """Append any number of entries; the caller's transaction."""
    for i in range(0, len(entries), ENTRIES_PER_STATEMENT):
        insert(writer, step, run, entries[i : i + ENTRIES_PER_STATEMENT])


def _with_rare(values: list[Any], entries: Sequence[Entry]) -> list[Any]:
    rows = zip(*[iter(values)] * 7, strict=True)
    return [
        value
        for row, e in zip(rows, entries, strict=True)
        for value in (
            *row,
            e.attempts,
            e.cost,
            e.error,
            e.input_form,
            e.row_digest,
            e.occurrence,
            e.usage,
        )
    ]


@functools.lru_cache(maxsize=16)
def _insert_sql(entries: int, simple: bool) -> str:
    """Return the insert of so many entries; a simple one is a first attempt at a whole row.

    A simple insert of 1,000 entries is under the 16 KiB up to which apsw keeps a statement
    prepared: 0.7 µs a row.
    """
    row = "(?,?,?,?,?,?,?)" if simple else "(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
    rare = ",1,null,null,0,null,0,null" if simple else ""
    return f"""
insert into records (step, run, saved_at, key, identity, position, seconds, checksum, result, input,
                     attempts, cost, error, input_form, row_digest, occurrence, usage)
select ?1,?2,?3,*{rare} from (values {",".join([row] * entries)})"""


def supersede(writer: apsw.Connection, ids: Sequence[int]) -> None:
    """Note that these records are no longer the newest of their key, for the views."""
    writer.execute(
        "insert or ignore into system_superseded select value from carray(?)",
        (ids_array(ids),),
    )


def delete_keys(writer: apsw.Connection, table: str, entries: Sequence[Entry]) -> None:
    """Delete the keys of `entries` from `sent_calls` or `system_claims`."""
    if entries:
        writer.execute(
            f"delete from {table} where key in (select value from carray(?))",
            (apsw.carray(tuple(entry.key for entry in entries)),),
        )


def update_run(
    writer: apsw.Connection, run: int, counts: dict[str, Any], ended: str | None = None
) -> None:
    """Bring columns of a run's row up to date."""
    assignments = ", ".join(f"{name} = ?" for name in counts)
    writer.execute(
        f"update runs set {assignments}, updated_at = ?, ended = ? where id = ?",
        (*counts.values(), time.time(), ended, run),
    )


@contextlib.contextmanager
def transaction(writer: apsw.Connection) -> Iterator[None]:
    """Commit what the block does, or nothing of it."""
    try:
        writer.execute("begin immediate")
        yield
        writer.execute("commit")
    except BaseException:
        if writer.in_transaction:
            writer.execute("rollback")
        raise
