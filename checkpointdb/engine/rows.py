"""One row's place in a run: its identity and its outcome. Knows nothing of the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..values.redact import Redactor
from .failures import Failed, failure


class Slot(msgspec.Struct, eq=False):
    """A row's identity, and in time its result or error. `InFlight` alone settles it.

    Attributes:
        row: what its key is made of: as the user gave it, or the arguments that are the row.
        position: in the source, from 0.
        key: 16 bytes; under `duplicates="separate"` a different one for each of several equal rows.
        identity: 16 bytes, the digest of what the key is made of.
        plain: what `is_plain` said of the row.
        must_compute: whoever looked it up must compute it.
        begun: its call is being made, or was; known under `shared=True` alone.
        settled: its outcome is there.
        attempts: in earlier runs.
        input: the stored form of the row.
        input_form: which form that is.
        row_digest: of the whole row, where the key has only part of it.
        content: the key without the count, where equal rows are counted.
        occurrence: which of equal rows it is, where they are counted.
        replaces: id of the record that is the newest of its key so far.
        data: the stored form of the result.
        value: the result as the step returned it.
        mutated: its object was changed by the source before its call ended.
        skipped: failed in an earlier run, and not tried again.
        error: what the run will raise for it.
        failed: what takes the place of its result, if the failure is recorded.
        waiters: called once it is settled.
        origin: what the user gave, alone in a tuple, where `row` was made of it.
        is_named: the caller said which of equal rows it is.
        is_put_off: it failed before, and waits until all other rows had their turn.
        is_given_up: nobody waits for its call any more, if that is paused.
    """

    row: Any
    position: int
    key: bytes
    identity: bytes
    plain: int
    must_compute: bool = False
    begun: bool = False
    settled: bool = False
    attempts: int = 0
    input: str | bytes | None = None
    input_form: int = 0
    row_digest: bytes | None = None
    content: bytes = b""
    occurrence: int = 0
    replaces: int = 0
    data: str | bytes | None = None
    value: Any = None
    mutated: Exception | None = None
    skipped: bool = False
    error: BaseException | None = None
    failed: Failed | None = None
    waiters: tuple[Callable[[], object], ...] = ()
    origin: tuple[Any, ...] = ()
    is_named: bool = False
    is_put_off: bool = False
    is_given_up: bool = False

    @property
    def given(self) -> Any:
        """The row as the user gave it."""
        return self.origin[0] if self.origin else self.row

    def failed_by(self, error: BaseException, redactor: Redactor) -> Failed:
        """Describe what `error` did to this row, cleaned as asked."""
        failed = failure(self.row, self.attempts + 1, error, redactor)
        return msgspec.structs.replace(failed, row=self.origin[0]) if self.origin else failed


class EqualRow:
    """A row equal to an earlier one that is computed for both."""

    must_compute = False

    def __init__(self, first: Slot, given: Any) -> None:
        self.first, self.given = first, given

    @property
    def settled(self) -> bool:
        """Whether the earlier row's outcome is there."""
        return self.first.settled


Place = Slot | EqualRow


def first_of(place: Place) -> Slot:
    """Return the row that is computed for this one."""
    return place.first if isinstance(place, EqualRow) else place
