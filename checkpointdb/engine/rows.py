"""One row's place in a run. Knows its identity and its outcome; knows nothing of the store."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import msgspec

_REPR_LIMIT = 1 << 20


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
    input_form = 0  # which form that is
    row_digest: bytes | None = None  # of the whole row, where the key has only part of it
    occurrence = 0  # which of equal rows it is, each counted on its own
    replaces = 0  # id of the record that is the newest of its key so far
    data: str | bytes | None = None  # the stored form of the result
    value: Any = None  # the result as the step returned it
    spoilt = False  # its object was changed by the source before its call was done
    skipped = False  # failed in an earlier run, and not tried again
    error: BaseException | None = None  # what the run will raise for it
    failed: Failed | None = None  # or what takes the place of its result
    waiters: tuple[Callable[[], object], ...] = ()

    def __init__(self, row: Any, position: int, key: bytes, identity: bytes, plain: bool) -> None:
        self.row, self.position, self.identity, self.plain = row, position, identity, plain
        self.key = self.content = key  # they differ for the n-th equal row, counted on its own

    def settle(self) -> None:
        """Tell those who wait for the outcome that it is there."""
        self.settled = True
        if self.waiters:
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


def to_error_text(failed: Failed, result: Any = None) -> str:
    """Return a failure as the JSON of the `error` column.

    Args:
        failed: the failure.
        result: what the step returned, if that could not be stored: kept as its `repr`.
    """
    fields = {
        "type": failed.error_type,
        "message": failed.message,
        "traceback": failed.traceback,
    }
    if result is not None:
        fields["repr"] = repr(result)[:_REPR_LIMIT]
    # an exception's text may hold what no file can, such as the lone surrogate it complains about
    clean = {name: text.encode("utf-8", "replace").decode() for name, text in fields.items()}
    return msgspec.json.encode(clean).decode()


def from_error_text(row: Any, attempts: int, text: str) -> Failed:
    """Return the failure that an `error` column holds."""
    fields = msgspec.json.decode(text)
    return Failed(row, fields["type"], fields["message"], fields["traceback"], attempts)
