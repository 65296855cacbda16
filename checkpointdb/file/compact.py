"""Drop superseded records on request, and give back their room. Knows SQL; no locks.

What was paid stays in the steps' counters, for a budget counts it: `key_index.dropped` is the part
of them that no record accounts for any more.
"""

from __future__ import annotations

import contextlib

import apsw
import msgspec

from . import usage
from .connection import wait_for_locks
from .key_index import DROPPED, dropped, extend
from .sql import rows

_SUPERSEDED = """
create temp table superseded as
select id, step, seconds, cost, usage
  from (select records.id, step, records.seconds, records.cost, usage, error is null as good,
               row_number() over newest_first as place,
               sum(error is null) over newest_first as successes
          from records
         where key in (select key from records join system_superseded using (id))
        window newest_first as (partition by key order by records.id desc))
 where place > ?1 and not (good and successes = 1)
"""


def drop_superseded(writer: apsw.Connection, keep: int, dry_run: bool) -> int:
    """Delete all but the `keep` newest records of each key, and its newest success.

    In one transaction; every open handle is told by the store's generation. Deleted bytes are
    overwritten with zeros.
    """
    writer.pragma("secure_delete", True)
    writer.execute("begin immediate")
    try:
        extend(writer)  # so that all that is superseded is noted
        writer.execute(_SUPERSEDED, (keep,))
        count: int = writer.execute("select count(*) from temp.superseded").get
        if not dry_run:
            if count:
                _delete(writer)
            writer.execute("drop table temp.superseded; commit")
    finally:
        if writer.in_transaction:
            writer.execute("rollback")
        writer.pragma("secure_delete", "fast")
    return count


def _delete(writer: apsw.Connection) -> None:
    gone = dropped(writer)
    sums = """
    select step, count(*), total(seconds), total(cost) from temp.superseded group by step
    """
    counts = usage.sums(writer, "true", table="temp.superseded")
    for step, count, seconds, cost in rows(writer, sums):
        before = gone.get(step, (0.0, 0.0, {}))
        counted = usage.added(before[2], counts.get(step, {}))
        gone[step] = (before[0] + seconds, before[1] + cost, counted)
        writer.execute("update steps set records = records - ? where id = ?", (count, step))
    writer.execute(  # so that a merge knows that they were here: see `incoming.py`
        """
        update runs set merged_to = dropped.highest
          from (select run, max(coalesce(origin_id, id)) as highest from records
                 where run in (select run from records join temp.superseded using (id))
                 group by run) as dropped
         where dropped.run = runs.id and merged_to is null
        """
    )
    for table in ("records", "system_superseded"):
        writer.execute(f"delete from {table} where id in (select id from temp.superseded)")
    writer.execute(
        "insert or replace into system_state values (?, ?)",
        (DROPPED, msgspec.json.encode(gone).decode()),
    )
    writer.execute("update system_state set value = value + 1 where name = 'generation'")
    writer.execute(
        """
        update system_state
           set value = exists (select 1 from system_superseded join records using (id)
                                where error is null)
         where name = 'repeated'
        """
    )


def shrink(writer: apsw.Connection) -> None:
    """Write the file again without its unused room, in one transaction of SQLite's.

    It needs room for a copy of the store in the directory for temporary files, and for one in its
    log. While a reader has the store open, the file itself does not shrink: it does when the last
    reader closes.

    Raises:
        apsw.FullError: there is no room; nothing was changed.
    """
    attached = writer.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)  # VACUUM attaches its copy
    try:
        writer.execute("vacuum")
    finally:
        writer.limit(apsw.SQLITE_LIMIT_ATTACHED, attached)
    wait_for_locks(writer, False)
    try:
        with contextlib.suppress(apsw.BusyError):  # somebody reads
            writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        wait_for_locks(writer)
