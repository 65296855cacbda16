"""The newest record of each key, in input order, as of one moment. Knows ids and SQL; no values.

They are listed in a temporary table, so that no lock is held and no cursor is open while the caller
works, however long that takes.
"""

from __future__ import annotations

import apsw

from .key_index import indexed_to, last_id, tally
from .sql import rows
from .verify import PAGE

_NEWEST = """(
    select max(id) as id, step, position, run, error from records
     where ?3 is null or run = ?3 group by key)
"""


def select(
    connection: apsw.Connection, step: str | None, version: int | str | None, run: int | None
) -> None:
    """List records; with `run` only what that run wrote, even where a later run wrote it again."""
    connection.pragma("query_only", False)
    connection.execute("drop table if exists temp.ordered")
    connection.execute("begin")  # so that the counters and the records are of one moment
    try:
        is_grouped = run is not None or _has_superseded(connection)
        newest = _NEWEST if is_grouped else "records"
        connection.execute(
            f"""
            create temp table ordered as
            select newest.id, position, run, error is null as good
              from {newest} as newest join steps on steps.id = newest.step
             where (?1 is null or name = ?1) and (?2 is null or version = ?2)
               and (?3 is null or run = ?3)
             order by newest.step, position, newest.id
            """,
            (step, version, run),
        )
        connection.execute("commit")
    finally:
        if connection.in_transaction:
            connection.execute("rollback")
        connection.pragma("query_only", True)


def _has_superseded(connection: apsw.Connection) -> bool:
    """Tell, by the steps' counters, whether a key has more than one record.

    Where none has, reading them is enough; grouping them by key would take twice as long.
    """
    # `is not`: in a damaged file a counter may be no number, and proves nothing then
    counted = rows(connection, "select records - results - failures is not 0 from steps")
    newer = tally(connection, indexed_to(connection), last_id(connection))
    return any(differ for (differ,) in counted) or any(
        records != results + failures for _, results, failures, records, *_ in newer
    )


# some of what is listed after a place: the first of PAGE, only successes or failures if so asked
LISTED = f"""(
    select rowid as place, id as listed from temp.ordered
     where rowid > ?1 and (?2 is null or good = ?2) order by rowid limit {PAGE}
)"""


def at_one_place(connection: apsw.Connection) -> tuple[int, int, int] | None:
    """Return a position in the input at which two runs have different rows, and the runs."""
    found = rows(
        connection,
        """
        select here.position, here.run, next.run
          from temp.ordered as here join temp.ordered as next on next.rowid = here.rowid + 1
         where here.position = next.position limit 1
        """,
    )
    return found[0] if found else None
