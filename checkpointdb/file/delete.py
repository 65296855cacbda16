"""Delete saved rows on request, and only then. Knows SQL; knows nothing of steps' code."""

from __future__ import annotations

import array
import os
from collections.abc import Container, Iterable, Sequence

import apsw

from ..errors import StoreError
from . import usage
from .key_index import indexed_to
from .processes import alive
from .records import RunInfo
from .sql import rows
from .sqlite_errors import mapped

# What a condition of the user's may name.
COLUMNS = """
         records.id, lower(hex(records.key)) as key, steps.name as step, version, position, input,
         result, error, error ->> 'type' as error_type, error ->> 'message' as message, attempts,
         records.seconds, records.cost, records.usage, saved_at, run
"""
_SELECT = f"""
select id from (
  select {COLUMNS}
    from (select max(id) as id from records group by key) as newest
    join records on records.id = newest.id join steps on steps.id = records.step
) where {{conditions}}
"""


def choose(
    reader: apsw.Connection,
    path: str,
    step: str | None,
    version: int | str | None,
    failed: bool,
    where: str | None,
) -> array.array[int]:
    """Return the ids of the newest records that fit, asked on a connection that cannot write.

    Raises:
        ValueError: nothing given to choose by, or `where` is not an SQL expression on the columns.
    """
    conditions: list[str] = ["1"]
    values: list[int | str] = []
    if step is None and where is None and not failed:
        raise ValueError("forget needs a choice: a step, failed ones, or a condition")
    if step is not None:
        conditions.append("step = ?")
        values.append(step)
    if version is not None:
        conditions.append("version = ?")
        values.append(version)
    if failed:
        conditions.append("error is not null")
    if where is not None:
        conditions.append(f"({where}\n)")
    sql = _SELECT.format(conditions=" and ".join(conditions))
    try:
        return array.array("q", (id for (id,) in rows(reader, sql, values)))
    except (apsw.SQLError, apsw.ReadOnlyError, apsw.BindingsError) as error:
        raise no_condition(where, error) from None
    except apsw.Error:
        with mapped(path):
            raise


def no_condition(where: str | None, error: apsw.Error) -> ValueError:
    """Say which columns a condition may name."""
    hint = ""
    if "JSON" in str(error):
        hint = "; a value of other types is MessagePack: add typeof(result) = 'text' and …"
    return ValueError(
        f"where={where!r} is not a condition on a record's columns (key, step, version, "
        f"position, input, result, error, error_type, message, attempts, seconds, cost, "
        f"usage, saved_at, run): {error}{hint}"
    )


def delete(writer: apsw.Connection, ids: array.array[int]) -> None:
    """Delete the keys of these records with all their history; the caller's transaction.

    Deleted bytes are overwritten with zeros. Every open handle, of any process, is told by the
    store's generation; the ids are never used again. A tombstone stays of each key, so that a merge
    does not bring it back.
    """
    sql = """
    select records.key from carray(?) as wanted cross join records on records.id = wanted.value
    """
    event = os.urandom(16)
    delete_forgotten(writer, [(key, event) for (key,) in rows(writer, sql, (apsw.carray(ids),))])


def delete_forgotten(writer: apsw.Connection, events: Sequence[tuple[bytes, bytes]]) -> int:
    """Delete keys with all their history, and note the events that deleted them.

    Returns:
        How many of the keys were here.
    """
    writer.pragma("secure_delete", True)
    writer.execute("create temp table chosen (key blob primary key) without rowid")
    try:
        insert = "insert or ignore into temp.chosen values (?)"
        writer.executemany(insert, [(key,) for key, _ in events])
        _uncount(writer)
        chosen = "key in (select key from temp.chosen)"
        here: int = writer.execute(f"select count(distinct key) from records where {chosen}").get
        writer.execute(
            f"delete from system_superseded where id in (select id from records where {chosen})"
        )
        for table in ("system_key_index", "sent_calls", "system_claims", "records"):
            writer.execute(f"delete from {table} where {chosen}")
        writer.execute("update system_state set value = value + 1 where name = 'generation'")
        writer.executemany(
            """
            insert into system_forgotten
            select ?, ?, value from system_state where name = 'generation'
            """,
            events,
        )
    finally:
        writer.execute("drop table temp.chosen")
        writer.pragma("secure_delete", "fast")
    return here


def _uncount(writer: apsw.Connection) -> None:
    """Take the chosen records out of the counters that include them."""
    chosen = "key in (select key from temp.chosen) and id <= ?"
    gone = usage.sums(writer, chosen, (indexed_to(writer),))
    usage.change(writer, ((step, usage.negative(counts)) for step, counts in gone.items()))
    writer.execute(
        """
        with held as (
          select records.* from records, (select value from system_state where name = 'indexed_to')
           where key in (select key from temp.chosen) and records.id <= value
        ), newest as (
          select held.step, held.error is null as good
            from system_key_index as indexed join held on held.id = indexed.id
        )
        update steps set
          results = results - (select count(*) from newest where newest.step = steps.id and good),
          failures = failures
                     - (select count(*) from newest where newest.step = steps.id and not good),
          records = records - (select count(*) from held where held.step = steps.id),
          seconds = seconds - (select total(held.seconds) from held where held.step = steps.id),
          cost = cost - (select total(held.cost) from held where held.step = steps.id)
         where id in (select step from held)
        """
    )


def check_alone(path: str, runs: Iterable[RunInfo], own: Container[int]) -> None:
    """Raise if another process, or another handle of this one, has a run on the store.

    It may be computing, or have pending, what is about to be deleted.

    Args:
        path: of the store.
        runs: all its runs.
        own: ids of those of this handle.
    """
    for run in runs:
        open_ = run.ended is None and run.id not in own and not run.is_merged
        if open_ and alive(run.process) is not False:
            raise StoreError(
                f"{path}: run {run.id} of step {run.step!r} (process {run.pid}) is open: nothing "
                "was changed. Wait until it ends, or stop it",
                path,
            )
