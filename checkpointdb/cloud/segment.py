"""Cut a slice out of a log, as a small store of its own. Knows SQL; no bucket, and no lock of ours.

It reads through a connection of its own, in one snapshot, so that neither commits nor look-ups wait
for it, and works in memory, for a slice is bounded. The ids and the store's id stay what they are
in the log: to merge its slices is to merge the log. Counters and index are left empty: to a store
that is opened, all that is in a slice is new.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import apsw
import msgspec

from ..file import migrations, pragmas
from ..file.key_index import last_id, state
from ..file.probe import uri
from ..file.sql import ids_array, rows
from ..file.sqlite_errors import mapped

MOST_BYTES = 16 << 20  # of a slice's values; one record may have more
MOST_RECORDS = 50_000
SMALL_BYTES, SMALL_PAGE = 1 << 20, 1024  # a store without records takes 200 KB in pages of 8 KiB
_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
# of a column itself: SQLite tells that from the record's head, and reads no long value for it
_BYTES = """
    coalesce(octet_length(input), 0) + coalesce(octet_length(result), octet_length(error), 0) + 100
"""


class Mark(msgspec.Struct, frozen=True):
    """Up to where a log was shipped: the id of a record, and how often rows had been deleted."""

    to: int = 0
    generation: int = 0


class Slice(msgspec.Struct, frozen=True):
    """A slice of a log.

    Attributes:
        data: a store.
        mark: where it ends.
        records: how many it has.
        is_full: whether the log has more than it takes.
        runs: what tells each run that is in it from what becomes of it later, by id.
    """

    data: bytes
    mark: Mark
    records: int
    is_full: bool
    runs: dict[int, str]


def cut(path: str, since: Mark, runs: Mapping[int, str] | None, last: bool) -> Slice | None:
    """Return what a log has after a mark, as much as a slice takes; None if there is nothing.

    Args:
        path: a store that this process has open.
        since: up to where it was shipped before.
        runs: those that its writer has shipped; None to have all of the small tables.
        last: whether counts that have changed are worth a slice, even if no record is new.
    """
    with mapped(path), _snapshot(path) as connection:
        mark, size, is_full = _end(connection, since.to)
        lay(connection, SMALL_PAGE if size < SMALL_BYTES else pragmas.PAGE_SIZE)
        count = _copy(connection, "records", "id > ? and id <= ?", (since.to, mark.to))
        deleted = _copy(
            connection,
            "system_forgotten",
            "generation > ? or key in (select key from main.records)",
            (since.generation,),
        )
        changed = _copy_runs(connection, runs)
        if not (count or deleted or (last and runs and changed)):
            return None
        _copy_small(connection, everything=runs is None)
        connection.execute("commit")
        return Slice(as_store(connection), mark, count, is_full, changed)


def mark_of(connection: apsw.Connection) -> Mark:
    """Return the mark of the end of a log."""
    return Mark(last_id(connection), state(connection, "generation"))


@contextlib.contextmanager
def _snapshot(path: str) -> Iterator[apsw.Connection]:
    """Give an empty file in memory, in a transaction with a snapshot of the log."""
    with contextlib.closing(apsw.Connection(":memory:", flags=_FLAGS)) as connection:
        connection.set_busy_timeout(pragmas.BUSY_MILLISECONDS)
        connection.execute("attach ? as log", (uri(path, "mode=ro"),))
        connection.execute("begin")
        yield connection


def _end(connection: apsw.Connection, since: int) -> tuple[Mark, int, bool]:
    """Return where a slice ends, about how many bytes it has, and whether more comes after it."""
    end, size, is_full = since, 0, False
    sql = f"select id, {_BYTES} from log.records where id > ? order by id limit ?"
    for n, (id, more) in enumerate(connection.execute(sql, (since, MOST_RECORDS + 1))):
        if is_full := n > 0 and (n == MOST_RECORDS or size + more > MOST_BYTES):
            break
        end, size = id, size + more
    sql = "select value from log.system_state where name = 'generation'"
    generation: Any = connection.execute(sql).get
    return Mark(end, generation), size, is_full


def lay(connection: apsw.Connection, page_size: int) -> None:
    """Make the tables."""
    connection.pragma("page_size", page_size, schema="main")
    for step in migrations.MIGRATIONS:
        step(connection)
    connection.pragma("user_version", migrations.newest(), schema="main")
    connection.pragma("application_id", migrations.APPLICATION_ID, schema="main")


def _copy(connection: apsw.Connection, table: str, where: str, values: tuple[Any, ...] = ()) -> int:
    """Copy rows of a table; return how many."""
    columns = columns_of(connection, table)
    connection.execute(
        f"insert into main.{table} ({columns}) select {columns} from log.{table} where {where}",
        values,
    )
    return connection.changes()


def columns_of(connection: apsw.Connection, table: str) -> str:
    """Return the names of the columns that are written."""
    sql = f"select name from pragma_table_info('{table}', 'main')"
    return ", ".join(name for (name,) in rows(connection, sql))


def _copy_runs(connection: apsw.Connection, known: Mapping[int, str] | None) -> dict[int, str]:
    """Copy the runs of the records, and those that have changed since; return what they are."""
    sql = "select id, updated_at || coalesce(ended, '') from log.runs"
    now = dict(rows(connection, sql))
    changed = {id: told for id, told in now.items() if known is None or known.get(id) != told}
    needed = {run for (run,) in rows(connection, "select distinct run from main.records")}
    ids = sorted(needed | changed.keys())
    _copy(connection, "runs", "id in (select value from carray(?))", (ids_array(ids or [0]),))
    return changed


def _copy_small(connection: apsw.Connection, everything: bool) -> None:
    """Copy what the records and runs refer to, and say whose log it is."""
    _copy(connection, "steps", "1")
    connection.execute(
        """
        update main.steps
           set results = 0, failures = 0, records = 0, seconds = 0, cost = 0, usage = '{}'
        """
    )
    _copy(connection, "step_code", "? or id in (select code from main.runs)", (everything,))
    _copy(connection, "system_superseded", "id in (select id from main.records)")
    connection.execute(
        """
        update main.system_state set value = there.value
          from log.system_state as there
         where there.name = system_state.name and there.name in ('store_id', 'created_at');
        update main.system_state set value = 1 + (
          select value from log.system_state where name = 'generation'
        ) where name = 'generation'
        """
    )


def as_store(connection: apsw.Connection) -> bytes:
    """Return a database in memory as the bytes of a store's file."""
    data = bytearray(connection.serialize("main"))
    data[18:20] = b"\x02\x02"  # it is in WAL mode when it is a file, as any store is
    return bytes(data)


def in_memory(data: bytes) -> bytes:
    """Return a store's file as a database that can be in memory, where there is no WAL."""
    return data[:18] + b"\x01\x01" + data[20:]
