"""One row's place in a run: its identity and its outcome. Knows nothing of the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .failures import Failed


class Slot:
    """A row's identity, and in time its result or error. `InFlight` alone settles it.

    Defaults are class attributes: most slots never set most of them, and a million are made.
    """

    must_compute = False  # by whoever looked it up
    settled = False  # its outcome is there
    attempts = 0  # in earlier runs
    input: str | bytes | None = None  # the stored form of the row
    input_form = 0  # which form that is
    row_digest: bytes | None = None  # of the whole row, where the key has only part of it
    occurrence = 0  # which of equal rows it is, each counted on its own
    replaces = 0  # id of the record that is the newest of its key so far
    data: str | bytes | None = None  # the stored form of the result
    value: Any = None  # the result as the step returned it
    mutated: Exception | None = None  # its object was changed by the source before its call ended
    skipped = False  # failed in an earlier run, and not tried again
    error: BaseException | None = None  # what the run will raise for it
    failed: Failed | None = None  # or what takes the place of its result
    waiters: tuple[Callable[[], object], ...] = ()

    def __init__(self, row: Any, position: int, key: bytes, identity: bytes, plain: int) -> None:
        self.row, self.position, self.identity, self.plain = row, position, identity, plain
        self.key = self.content = key  # they differ for the n-th equal row, counted on its own


class EqualRow:
    """A row equal to an earlier one that is computed for both."""

    must_compute = False

    def __init__(self, first: Slot) -> None:
        self.first = first

    @property
    def settled(self) -> bool:
        """Whether the earlier row's outcome is there."""
        return self.first.settled


Place = Slot | EqualRow
