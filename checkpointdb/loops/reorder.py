"""Rows between being read and being given out. Knows their order; knows nothing of calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from ..engine.in_flight import InFlight
from ..engine.options import Options
from ..engine.rows import Place, Slot

WAIT_LIMIT = 1024  # rows, all of them saved, that wait behind a slow one


class Reorder:
    """Rows that wait for their outcome, and the call that is being filled.

    Args:
        in_flight: tells when a row is settled.
        options: of the run.
        concurrency: how many calls may be in flight.
    """

    def __init__(self, in_flight: InFlight, options: Options, concurrency: int = 1) -> None:
        self._in_flight, self._ordered = in_flight, options.ordered
        self._size = options.batch_size or 1
        self._limit = max(WAIT_LIMIT, 4 * self._size * concurrency)
        self._waiting = 0
        self._rows: deque[Place] = deque()
        self._unit: list[Slot] = []

    def __len__(self) -> int:
        return self._waiting

    @property
    def full(self) -> bool:
        """Whether so many rows wait that no more should be read."""
        return self._waiting >= self._limit

    @property
    def is_ready(self) -> bool:
        """Whether there is a row to be given out."""
        return bool(self._rows) and self._rows[0].settled

    def push(self, place: Place) -> list[Slot]:
        """Add a row; return the rows of a call when there are enough for one, else nothing."""
        self._waiting += 1
        if self._ordered or place.settled:
            self._rows.append(place)
        else:
            self._in_flight.when_settled(place, _appender(self._rows, place))
        if place.must_compute:
            assert isinstance(place, Slot)
            self._unit.append(place)
        return self.rest() if len(self._unit) >= self._size else []

    def rest(self) -> list[Slot]:
        """Return the rows of a call that is not full."""
        unit, self._unit = self._unit, []
        return unit

    def ready(self) -> Iterator[Place]:
        """Give out the rows whose outcome is there, in order if they are to be in order."""
        rows = self._rows
        while rows and rows[0].settled:
            self._waiting -= 1
            yield rows.popleft()


def _appender(rows: deque[Place], place: Place) -> Callable[[], object]:
    return lambda: rows.append(place)
