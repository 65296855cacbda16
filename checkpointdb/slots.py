"""One row's place in a run. Knows its identity and its outcome; knows nothing of the store."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import msgspec



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
    """A row's identity, and in time its result or error.

    Defaults are class attributes: most slots never set most of them, and a million are made.
    """

    mine = False  # to be computed by whoever looked it up
    settled = False  # its outcome is there
    attempts = 0  # in earlier runs
    input: str | bytes | None = None  # the stored form of the row
    data: str | bytes | None = None  # the stored form of the result
    value: Any = None  # the result as the step returned it
    error: BaseException | None = None
    waiters: tuple[Callable[[], object], ...] = ()

    def __init__(self, row: Any, position: int, key: bytes, plain: bool) -> None:
        self.row, self.position, self.key, self.plain = row, position, key, plain

    def settle(self) -> None:
        """Tell those who wait for the outcome that it is there."""
        self.settled = True
        for wake in self.waiters:
            wake()


class Twin:
    """A row equal to an earlier one that is computed for both."""

    mine = False

    def __init__(self, first: Slot) -> None:
        self.first = first

    @property
    def settled(self) -> bool:
        """Whether the earlier row's outcome is there."""
        return self.first.settled


def failure(slot: Slot, error: BaseException) -> Failed:
    """Describe what `error` did to the slot's row."""
    return Failed(
        row=slot.row,
        error_type=type(error).__qualname__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        attempts=slot.attempts + 1,
    )
