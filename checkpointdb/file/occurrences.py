"""Which of equal rows is whose, among all who count them on one store. Knows SQL; not rows.

Who counts is a run, or the direct calls of a process. A number that one of them took is not given
to another whose life overlaps with its own. It is free again for those that begin after its taker
ended; and, if its taker was killed, for everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import apsw
import msgspec

from .leases import LEASE_SECONDS, is_unknown, is_void, new_worker, now
from .sql import ids_array, rows

Kind = Literal["run", "calls"]  # these two do not count together
KILLED = 0  # `ended` is the newest counter that had begun by then: before anybody's beginning


class Counter(msgspec.Struct, frozen=True):
    """Who counts: a run, or the direct calls of a process.

    Runs that are `shared` pass over the same rows, so the n-th equal row is the same one in each.
    """

    id: int
    kind: Kind
    shared: bool = False


def begin(writer: apsw.Connection, kind: Kind, shared: bool = False) -> Counter:
    """Begin to count; the caller's transaction."""
    _note_killed(writer)
    _forget_unless_live(writer)
    writer.execute(
        "insert into system_counters (kind, shared, worker, expires) values (?, ?, ?, ?)",
        (kind, shared, new_worker(), now() + LEASE_SECONDS),
    )
    return Counter(writer.last_insert_rowid(), kind, shared)


def end(writer: apsw.Connection, counters: Iterable[Counter]) -> None:
    """Stop counting; the caller's transaction."""
    for counter in counters:
        writer.execute(
            "update system_counters set ended = (select max(id) from system_counters) where id = ?",
            (counter.id,),
        )
    _note_killed(writer)
    _forget_unless_live(writer)


def renew(writer: apsw.Connection, counter: Counter) -> None:
    """Say that a counter still counts, to those who cannot see its process."""
    writer.execute(
        "update system_counters set expires = ? where id = ?",
        (now() + LEASE_SECONDS, counter.id),
    )


def deaths_beside(writer: apsw.Connection, counter: Counter) -> int:
    """Return how many counters of its kind were killed since this one began."""
    _note_killed(writer)
    deaths: int = writer.execute(
        "select deaths from system_counters where id = ?", (counter.id,)
    ).get
    return deaths


def take(
    writer: apsw.Connection, counter: Counter, contents: Sequence[bytes], starts: dict[bytes, int]
) -> list[int]:
    """Return the lowest free number of each row; the caller's transaction.

    Args:
        writer: a connection.
        counter: who takes them.
        contents: the keys of the rows, without a number.
        starts: numbers below which nothing is free; brought up to date.
    """
    taken = []
    for content in contents:
        n = _lowest_free(writer, counter, content, starts.get(content, 0))
        writer.execute("insert into system_occurrences values (?, ?, ?)", (content, n, counter.id))
        starts[content] = n + 1
        taken.append(n)
    return taken


def _lowest_free(writer: apsw.Connection, counter: Counter, content: bytes, start: int) -> int:
    held = writer.execute(
        """
        select n from system_occurrences
               cross join system_counters on system_counters.id = counter
         where content = ?1 and n >= ?2 and (
                 counter = ?3
                 or (kind = ?4 and (ended is null or ended >= ?3) and not (shared and ?5)))
         order by n
        """,
        (content, start, counter.id, counter.kind, counter.shared),
    )
    n = start
    for (other,) in held:
        if other > n:
            break
        n = other + 1
    held.close()  # it was not read to its end
    return n


def held(
    reader: apsw.Connection, contents: Sequence[bytes], shared: bool
) -> dict[bytes, list[int]]:
    """Return the numbers that a run which began now could not get, in order, by content.

    Args:
        reader: a connection.
        contents: keys without a number.
        shared: whether that run would be.
    """
    counters = """
        select id, shared, worker, expires from system_counters
         where kind = 'run' and ended is null
        """
    live = [
        id
        for id, is_shared, worker, expires in rows(reader, counters)
        if not (is_shared and shared) and not is_void(worker, expires)
    ]
    numbers: dict[bytes, list[int]] = {}
    if live:
        taken = """
            select distinct content, n from system_occurrences
             where content in (select value from carray(?1))
               and counter in (select value from carray(?2))
             order by content, n
            """
        for content, n in rows(reader, taken, (apsw.carray(tuple(contents)), ids_array(live))):
            numbers.setdefault(content, []).append(n)
    return numbers


def give_back(writer: apsw.Connection, counter: Counter, content: bytes, n: int) -> None:
    """Free a number that led to no outcome."""
    writer.execute(
        "delete from system_occurrences where content = ? and n = ? and counter = ?",
        (content, n, counter.id),
    )


def unknown_beside(writer: apsw.Connection, counter: Counter) -> dict[int, float]:
    """Return those of its kind that may live or not, as seen from here: id, end of the lease."""
    _note_killed(writer)
    others = "select id, worker, expires from system_counters where kind = ? and ended is null"
    return {
        id: expires
        for id, worker, expires in rows(writer, others, (counter.kind,))
        if is_unknown(worker)
    }


def _note_killed(writer: apsw.Connection) -> None:
    for id, kind, worker, expires in rows(
        writer, "select id, kind, worker, expires from system_counters where ended is null"
    ):
        if is_void(worker, expires):
            writer.execute("update system_counters set ended = ? where id = ?", (KILLED, id))
            writer.execute(
                "update system_counters set deaths = deaths + 1 where kind = ? and ended is null",
                (kind,),
            )


def _forget_unless_live(writer: apsw.Connection) -> None:
    """Forget all numbers once nobody counts: all of them are free."""
    if not rows(writer, "select 1 from system_counters where ended is null limit 1"):
        writer.execute("delete from system_occurrences")
        writer.execute("delete from system_counters")
