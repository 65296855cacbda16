"""Rows that `key=` finds but whose other fields differ. Knows the log; settles nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import StaleResultsError, StaleResultsWarning
from ..file.log import Log
from ..file.records import Found
from .job import Spec
from .rows import EqualRow, Place, Slot
from .warn import warn


class ChangedInput:
    """Compare whole rows where the key has only a part of them; a missing digest says nothing.

    Under `"error"` and `"recompute"` the digests of a run's rows are kept, some 100 bytes a row:
    there, two different rows with one key in one run are an error.

    Args:
        log: where saved digests are.
        spec: the step.
        single: whether the run is of single calls, each on its own.
    """

    def __init__(self, log: Log, spec: Spec, single: bool) -> None:
        self.asked = spec.settings.on_changed_input
        self.is_watched = spec.keyer.is_narrow and self.asked != "reuse"
        self._log, self._spec, self._single = log, spec, single
        self._digest = spec.keyer.row_digest
        self.is_strict = self.is_watched and self.asked != "warn" and not single
        self._seen: dict[bytes, bytes] | None = {} if self.is_strict else None
        self.count = 0

    def other_row(self, key: bytes, row: Any) -> StaleResultsError | None:
        """Return the error for a row if a different row with its key came before it in this run."""
        if self._seen is None or (digest := self._digest(row)) is None:
            return None
        if self._seen.setdefault(key, digest) == digest:
            return None
        return self._error("another row of this run has the same key", "Give each row a key")

    def forget(self, key: bytes) -> None:
        """Forget a row that will be read again."""
        if self._seen is not None:
            self._seen.pop(key, None)

    def among(self, slots: Sequence[Slot], found: Sequence[Found | None]) -> set[bytes]:
        """Return the keys of rows whose saved result was computed for another row."""
        hits = [
            (slot, it)
            for slot, it in zip(slots, found, strict=True)
            if it is not None and it.error is None and it.identity == slot.identity
        ]
        saved = self._log.row_digests([it.id for _, it in hits if it.id])
        changed = set()
        for slot, it in hits:
            before = saved.get(it.id) if it.id else it.row_digest
            if before is not None and self._digest(slot.row) not in (before, None):
                changed.add(slot.key)
        return changed

    def among_equal(self, slots: Sequence[Slot], places: Sequence[Place]) -> None:
        """Count rows that share the call of another row of the same key."""
        for slot, place in zip(slots, places, strict=True):
            if not isinstance(place, EqualRow) or slot.row is place.first.row:
                continue
            if self._digest(slot.row) != self._digest(place.first.row):
                self.note()

    def note(self) -> None:
        """Count a result that is given out for another row; of single calls, warn of the first."""
        self.count += 1
        if self._single and self.count == 1:
            self.warn()

    def warn(self) -> None:
        """Say how many results were given out for other rows than they were computed for."""
        rows = "1 row has" if self.count == 1 else f"{self.count:,} rows have"
        warn(
            f"step {self._spec.name!r}: {rows} a saved result under key={self._key}, but the rest "
            "of the row differs from the row it was computed for; the result is reused. Put the "
            'fields that matter into key=, or say on_changed_input="recompute", "error" or "reuse"',
            StaleResultsWarning,
        )

    def warn_at_end(self) -> None:
        """Warn, if there is something to say that was not said yet."""
        if self.count and not self._single:
            self.warn()

    def refused(self) -> StaleResultsError:
        """Return the error for a row whose saved result was computed for another row."""
        return self._error(
            "its saved result was computed for a row with the same key but a different rest",
            'Say on_changed_input="recompute" to compute it again, or put what matters into key=',
        )

    @property
    def _key(self) -> str:
        return self._spec.key_recipe

    def _error(self, what: str, remedy: str) -> StaleResultsError:
        return StaleResultsError(
            f"step {self._spec.name!r}, key={self._key}: {what}, and on_changed_input="
            f"{self.asked!r}. {remedy}"
        )
