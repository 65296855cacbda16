"""Sums and samples over all records of a store: each is one pass in SQL. Only reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from ..file.records import Record
from ..file.sql import ERROR_TYPE, ids_array, rows
from ..file.sqlite_errors import mapped
from .store_view import Look, retried

T = TypeVar("T")

SLOTS = 60  # points in the time of a run
PER_DECADE = 5  # steps between 1 s and 10 s
SAMPLE, NEWEST, FAILED = 1000, 250, 150
_IS_NEWEST = "not exists (select 1 from system_superseded where id = records.id)"


class Course(msgspec.Struct):
    """How a run went: seconds from its beginning, and what was saved in each stretch up to then."""

    run: int
    width: float
    made: list[int]
    failed: list[int]
    cost: list[float]


class Kind(msgspec.Struct, frozen=True):
    """Rows of a step that failed by one type of error: how many, one of them, tries at most."""

    step: int
    type: str
    count: int
    example: int
    attempts: int


class Totals(Look):
    """A reader that sums up what a report says; some seconds for a million records."""

    def courses(self, runs: Sequence[int]) -> list[Course]:
        """Return how some runs went."""
        if not runs:
            return []
        found: dict[int, Course] = {}
        with mapped(self.path):
            slots: list[Any] = rows(
                self._connection,
                f"""
                with chosen as (
                  select id, started_at, max((updated_at - started_at) / {SLOTS}, 0.001) as width
                    from runs where id in (select value from carray(?))
                )
                select chosen.id, width,
                       min(max(cast((saved_at - started_at) / width as integer), 0), {SLOTS - 1}),
                       sum(error is null), sum(error is not null), total(cost)
                  from records join chosen on chosen.id = records.run group by 1, 3
                """,
                (ids_array(runs),),
            )
        for run, width, slot, made, failed, cost in slots:
            course = found.get(run)
            if course is None:
                none = [0] * SLOTS
                course = found[run] = Course(run, width, none[:], none[:], [0.0] * SLOTS)
            course.made[slot], course.failed[slot], course.cost[slot] = made, failed, cost
        return [found[run] for run in runs if run in found]

    def times(self) -> list[tuple[int, int]]:
        """Return how many calls took up to 10 ** (n / 5) seconds, for each n there is."""
        sql = f"""
        select cast(ceil(log10(max(seconds, 1e-6)) * {PER_DECADE}) as integer), count(*)
          from records group by 1 order by 1
        """
        with mapped(self.path):
            return rows(self._connection, sql)

    def kinds(self) -> list[Kind]:
        """Return why rows failed whose newest record is a failure, the most frequent first."""
        sql = f"""
        select step, coalesce({ERROR_TYPE}, '?'), count(*), max(id), max(attempts)
          from records where error is not null and {_IS_NEWEST} group by 1, 2 order by 3 desc
        """
        with mapped(self.path):
            return [Kind(*row) for row in rows(self._connection, sql)]

    def made_by_code(self) -> dict[int, int]:
        """Return how many results each code made that are the newest of their row."""
        sql = f"""
        select runs.code, count(*) from records join runs on runs.id = records.run
         where error is null and runs.code is not null and {_IS_NEWEST} group by 1
        """
        with mapped(self.path):
            return dict(rows(self._connection, sql))

    def slowest(self, limit: int) -> list[Record]:
        """Return the records whose calls took longest."""
        sql = f"select id from records where {_IS_NEWEST} order by seconds desc, id limit ?"
        with mapped(self.path):
            return self._in_order(rows(self._connection, sql, (limit,)))

    def chosen(self, ids: Sequence[int]) -> list[Record]:
        """Return records by their numbers."""
        with mapped(self.path):
            return self._in_order([(id,) for id in ids])

    def sample(self, total: int) -> list[Record]:
        """Return all newest records if they are few; else the last, some failures, and some evenly.

        The newest comes first.
        """
        newest = f"select id from records where {_IS_NEWEST}"
        with mapped(self.path):
            if total <= SAMPLE:
                return self._in_order(rows(self._connection, f"{newest} order by id desc"))
            ids = rows(self._connection, f"{newest} order by id desc limit {NEWEST}")
            failed = f"{newest} and error is not null order by id desc limit {FAILED}"
            ids += rows(self._connection, failed)
            last, many = self.last_commit()[0], SAMPLE - NEWEST - FAILED
            places = sorted({1 + last * n // many for n in range(many)})
            evenly = f"select ({newest} and id >= value order by id limit 1) from carray(?)"
            ids += rows(self._connection, evenly, (ids_array(places),))
            return self._in_order(sorted({id for id in ids if id[0] is not None}, reverse=True))

    def _in_order(self, ids: list[Any]) -> list[Record]:
        return [self._record(row) for row in self._fetch([id for (id,) in ids])]


def read_totals(path: str, look: Callable[[Totals], T]) -> T:
    """Return what `look` makes of the store, as `read` does.

    Raises:
        StoreError: not a store, or damaged; or written to again and again while it was read.
    """

    def once() -> T:
        with Totals(path) as reader:
            seen = look(reader)
            reader.check_unchanged()
            return seen

    return retried(once)
