"""Which saved inputs look most like a row, by its parts as they are encoded. Knows SQL; no values.

There is no index for that, and to decode and compare 100,000 inputs takes seconds. SQLite looks for
the parts in C, a microsecond or two an input, and in the newest inputs only.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import apsw

from .key_index import last_id
from .sql import rows

NEWEST = 100_000  # records that are looked at, whatever step they are of
BYTES = 32 << 20  # of inputs that are looked at
BEST = 10
_PAGE = 2_000
_PARTS = 100  # SQLite's expressions are no longer than some hundreds

Part = str | bytes


def alike(connection: apsw.Connection, step: int, parts: Sequence[Part]) -> list[int]:
    """Return the ids of up to `BEST` records whose inputs have the most of `parts`, best first.

    Among those that have equally many, the newest come first. It stops once one has all parts but
    one.

    Args:
        connection: for reading.
        step: id of the step.
        parts: each as text if the row is stored as JSON, else as bytes.
    """
    parts = parts[:_PARTS]
    score = " + ".join(["(instr(input, ?) > 0)"] * len(parts)) or "0"
    sql = f"""
        select {score}, id, octet_length(input) from records
         where id > ? and id <= ? and step = ? and input is not null
        """
    best: list[tuple[int, int]] = []
    last, size = _newest_of(connection, step), 0
    for high in range(last, max(last - NEWEST, 0), -_PAGE):
        found = rows(connection, sql, (*parts, high - _PAGE, high, step))
        best = heapq.nlargest(BEST, best + [(has, id) for has, id, _ in found])
        size += sum(octets for *_, octets in found)
        if size > BYTES or (best and best[0][0] >= len(parts) - 1):
            break
    return [id for _, id in best]


def _newest_of(connection: apsw.Connection, step: int) -> int:
    """Return where a step's newest records are: many of other steps may follow them.

    Runs mostly follow each other, so their ids rise with those of the records.
    """
    run = rows(connection, "select max(id) from runs where step = ?", (step,))[0][0] or 0
    low, high = 0, last_id(connection)
    sql = "select run <= ? from records where id >= ? order by id limit 1"
    while low < high:
        middle = (low + high + 1) // 2
        if rows(connection, sql, (run, middle))[0][0]:
            low = middle
        else:
            high = middle - 1
    return low
