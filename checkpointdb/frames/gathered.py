"""Results as the columns of an Arrow table, of one type each. Knows Arrow; knows no frame."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any, Protocol

from ..system import scratch
from .columns import Columns
from .packages import arrow
from .spool import Spool
from .to_json import plain

Row = dict[str, Any]


class Names(Protocol):
    """Who knows the columns, when all rows have come."""

    def names(self) -> list[Any]:
        """Return their names."""

    def kinds(self) -> dict[str, type]:
        """Return the types of some, as Python has them."""


def gathered(added: Names, sources: Sequence[Generator[Row]]) -> list[Any]:
    """Return a table for each source of rows, all of the same types; memory is bounded.

    The rows wait in a file without a name, and the tables lie in others: they are gone with the
    process.

    Args:
        added: knows the columns, when all rows have come.
        sources: read to their ends, one after the other.
    """
    with contextlib.ExitStack() as stack:
        spools = [stack.enter_context(contextlib.closing(Spool())) for _ in sources]
        for spool, rows in zip(spools, sources, strict=True):
            with contextlib.closing(rows):
                for row in rows:
                    spool.write({name: plain(value) for name, value in row.items()})
        columns = Columns("a table", added.names(), {})
        for spool in spools:
            for batch in spool.batches():
                columns.learn(batch)
        columns.expect(added.kinds())
        while None in (tables := [_table(spool, columns) for spool in spools]):
            pass  # each time with one more column of another type
    return tables


def _table(spool: Spool, columns: Columns) -> Any:
    pa, _ = arrow("a table")
    with scratch() as path:
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, columns.schema()) as writer:
            for rows in spool.batches():
                batch = columns.batch(rows)
                if batch is None:
                    return None
                writer.write_batch(batch)
        return pa.ipc.open_stream(pa.memory_map(path)).read_all()
