"""Which rows a loop gets, and when: a pilot's first ones; failed ones last. Calls no step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from .intake import READ_AHEAD, Intake
from .options import Options
from .rows import Place, first_of


class Passes:
    """Give a loop its rows: those of the source, then those that it put off.

    Args:
        intake: gives rows their slots.
        options: of the run.
    """

    def __init__(self, intake: Intake, options: Options) -> None:
        self._intake = intake
        self._is_plain = options.pilot is None and options.retry_failed != "last"
        self._left = options.pilot
        self._put_off: list[Place] = []  # failed rows, until all others had their turn
        self.is_over = False  # the pilot: a call that would be one more was due

    def slots(self) -> Iterator[Place]:
        """Yield a slot for each row of the source that is to have its turn in this run."""
        if self._is_plain:
            return self._intake.slots()
        return itertools.chain(self._chosen(self._intake.slots()), self.last())

    def admit(self, row: Any) -> list[Place]:
        """Return the slot of the next row of an async source, if it has its turn now."""
        return list(self._chosen([self._intake.admit(row)]))

    def last(self) -> Iterator[Place]:
        """Yield the rows that were put off, once the source is read."""
        put_off, self._put_off = self._put_off, []
        for start in range(0, len(put_off), READ_AHEAD):
            if self.is_over:
                return
            batch = put_off[start : start + READ_AHEAD]
            yield from self._chosen(self._intake.look_again(batch))

    def _chosen(self, places: Iterable[Place]) -> Iterator[Place]:
        for place in places:
            if first_of(place).is_put_off:
                self._put_off.append(place)
                continue
            if self._left is not None and place.must_compute:
                self.is_over = self._left == 0
                if self.is_over:
                    return
                self._left -= 1
            yield place
