"""One row's place in a run. Knows its identity and its outcome; knows nothing of the store."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from .store import Found


class Failed(msgspec.Struct, frozen=True):
    """Takes the place of a result when the step failed under `on_error="record"`.

    Attributes:
        row: the input.
        error_type: the exception's class name, or `"invalid"` for a result that `valid=` refused.
        message: the exception's text.
        traceback: where it was raised.
        attempts: how often the row was tried, over all runs.
    """

    row: Any
    error_type: str
    message: str
    traceback: str
    attempts: int


class Slot:
    """A row's identity, and in time its result or error."""

    __slots__ = (
        "attempts", "encoded", "error", "found", "input", "key", "mine", "position", "row",
        "twin", "value", "waiters",
    )  # fmt: skip

    def __init__(
        self, row: Any, position: int, key: bytes, stored_input: str | bytes | None
    ) -> None:
        self.row, self.position, self.key, self.input = row, position, key, stored_input
        self.mine = False  # to be computed by whoever looked it up
        self.attempts = 0  # in earlier runs
        self.found: Found | None = None
        self.twin: Slot | None = None  # the equal row that is computed for both
        self.encoded: str | bytes | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.waiters: list[Callable[[], object]] | None = []  # None once it is settled

    @property
    def settled(self) -> bool:
        """Whether its outcome is there."""
        return self.waiters is None if self.twin is None else self.twin.waiters is None

    def settle(self) -> None:
        """Tell those who wait for the outcome that it is there; under the run's lock."""
        waiters, self.waiters = self.waiters, None
        for wake in waiters or ():
            wake()


def failure(slot: Slot, error: BaseException) -> Failed:
    """Describe what `error` did to the slot's row."""
    return Failed(
        row=slot.row,
        error_type=type(error).__qualname__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        attempts=slot.attempts + 1,
    )
