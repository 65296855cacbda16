"""What a run has done so far, counted and told. The counts are the fields of `Report`."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import msgspec

from ..events import CameLate, Committed, Paused, Report, RowFailed, emit
from ..file.records import Appended
from ..file.usage import added
from ..values.redact import Redactor
from .failures import text_of
from .rows import Slot

_STEPS = ("computed", "new", "hits")


class Tally:
    """Count what happens in a run, and tell whoever listens.

    The lock is held for the counting alone; listeners are called after it. What happens to each row
    is counted without it: a step of `itertools.count` is one of C, which no thread interrupts.

    Args:
        step: name of the step.
        listener: called with each event.
        redactor: cleans what is told of errors.

    Attributes:
        computed: counts a result that the step returned.
        gave_new: counts a result given out for the first time.
        gave_hit: counts one that was saved.
    """

    def __init__(
        self,
        step: str,
        listener: Callable[[Any], object] | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self._step, self._listener = step, listener
        self._redactor = redactor or Redactor(())
        self._lock = threading.Lock()
        self._counts: dict[str, Any] = msgspec.structs.asdict(Report())
        self._steps, self._reads = {name: itertools.count() for name in _STEPS}, 0
        self.computed, self.gave_new, self.gave_hit = (
            functools.partial(next, steps) for steps in self._steps.values()
        )
        self._failures, self._late, self._pauses = Counter[str](), 0, 0
        self._began, self._ended = perf_counter(), 0.0

    def gave(self, hit: bool, failed_before: bool = False) -> None:
        """Count a failure given out."""
        if hit:
            self.gave_hit()
        else:
            self.gave_new()
        if failed_before:
            with self._lock:
                self._counts["failed"] += 1

    def paid(self, dollars: float | None, usage: Mapping[str, int] | None = None) -> None:
        """Count what a result cost, as far as that is known."""
        with self._lock:
            self._counts["cost"] += dollars or 0.0
            if usage:
                self._counts["usage"] = added(self._counts["usage"], usage)

    def failed(self, slots: Sequence[Slot], error: BaseException, recorded: bool) -> None:
        """Count rows that failed, and tell whether the run goes on."""
        text, kind = _text(error), type(error).__qualname__
        with self._lock:
            self._counts["failed"] += len(slots)
            before = self._failures[kind]
            self._failures[kind] += len(slots)
        for nth, slot in enumerate(slots, before + 1):
            shown = self._redactor.text(text, slot.row)
            self._tell(
                RowFailed(self._step, slot.position, kind, shown, slot.attempts + 1, recorded, nth)
            )

    def paused(self, slot: Slot, error: BaseException, seconds: float) -> None:
        """Tell that all calls wait, because of an error of this row."""
        with self._lock:
            self._pauses += 1
            nth = self._pauses
        shown = self._redactor.text(_text(error), slot.row)
        kind = type(error).__qualname__
        self._tell(Paused(self._step, slot.position, kind, shown, seconds, nth))

    def committed(self, rows: int, appended: Appended, seconds: float) -> None:
        """Count a commit, and tell of those that came late."""
        late = appended.late
        with self._lock:
            self._counts["commits"] += 1
            self._counts["commit_seconds"] += seconds
            before = self._late
            self._late += len(late)
        for nth, entry in enumerate(late, before + 1):
            self._tell(CameLate(self._step, entry.position, entry.key.hex(), nth))
        ids = appended.first_id, appended.last_id
        self._tell(Committed(self._step, rows, seconds, *ids))

    def forked(self) -> None:
        """In a forked child: whoever held the lock is not there to give it back."""
        self._lock = threading.Lock()

    def end(self) -> None:
        """Stop the clock."""
        self._ended = perf_counter()

    def report(self) -> Report:
        """Return the counts so far."""
        seconds = (self._ended or perf_counter()) - self._began
        with self._lock:
            computed, new, hits = (next(it) - self._reads for it in self._steps.values())
            self._reads += 1  # which were steps, too
            counted = {"rows": new + hits, "hits": hits, "computed": computed, "seconds": seconds}
            return Report(**self._counts | counted)

    def failures(self) -> tuple[tuple[str, int], ...]:
        """Return the types of errors by which rows failed, with their numbers."""
        with self._lock:
            return tuple(self._failures.most_common())

    def _tell(self, event: Any) -> None:
        emit(event, self._listener)


def _text(error: BaseException) -> str:
    """Return an exception's text for a log file, which holds no lone surrogates."""
    return text_of(error).encode("utf-8", "backslashreplace").decode()
