"""Rows settled by what the store has of them, or refused before a call. Knows the log."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from ..errors import CheckpointError, KeyCollisionError
from ..file.log import Log
from ..file.records import Found
from .changed_input import ChangedInput
from .failures import from_error_text
from .in_flight import InFlight
from .job import Spec
from .options import Options
from .replay import replay_miss
from .rows import Slot
from .tally import Tally


class Saved:
    """Give rows the outcomes that are saved for them.

    Args:
        log: where they are.
        spec: the step.
        options: of the run.
        run: its id.
        in_flight: where rows are settled.
        tally: told of rows that are refused.
        is_direct: whether the rows are of direct calls.
        stale_runs: runs whose results are to be computed again.
        replay: says why a row is a miss; given if nothing is to be called.

    Attributes:
        changed: rows whose saved result is of another row.
        puts_off: rows that failed before wait until all others had their turn.
    """

    def __init__(
        self,
        log: Log,
        spec: Spec,
        options: Options,
        run: int,
        in_flight: InFlight,
        tally: Tally,
        is_direct: bool,
        stale_runs: frozenset[int],
        replay: Callable[[Any], Any] | None,
    ) -> None:
        self._log, self._spec, self._options, self._run = log, spec, options, run
        self._in_flight, self._tally, self._is_direct = in_flight, tally, is_direct
        self._redactor, self._stale_runs, self._replay = spec.settings.redactor, stale_runs, replay
        self.changed = ChangedInput(log, spec, single=is_direct)
        self.puts_off = options.retry_failed == "last"

    def settle(self, slots: list[Slot], following: bool = False) -> list[Slot]:
        """Settle the rows with a saved outcome; return the others.

        A saved failure is not an outcome if failures are to be tried again, unless this very run
        has just tried, or the worker that it is `following` has.
        """
        all_found = self._log.find([slot.key for slot in slots])
        if not any(all_found):
            return slots
        changed = self.changed.among(slots, all_found) if self.changed.is_watched else ()
        is_doubtful = bool(changed or self._stale_runs)
        misses, saved = list[Slot](), list[Slot]()
        for slot, found in zip(slots, all_found, strict=True):
            if found is None:
                misses.append(slot)
            elif found.identity != slot.identity:
                self.refuse(slot, self._collided(slot, found))
            elif found.error is not None:
                self._settle_failure(slot, found, following, misses, saved)
            elif not is_doubtful or self._is_good(slot, found, changed):
                slot.data = found.result
                saved.append(slot)
            elif not slot.settled:
                slot.attempts, slot.replaces = found.attempts, found.id
                misses.append(slot)
        self._in_flight.leave(saved)
        return misses

    def hit(self, key: bytes, identity: bytes) -> str | bytes | None:
        """Return a result that is there to be given out as it is; None proves nothing."""
        if self.changed.is_watched or self._replay is not None:
            return None
        found = self._log.saved(key)
        if found is None or found.identity != identity or found.run in self._stale_runs:
            return None
        return found.result

    def _settle_failure(
        self,
        slot: Slot,
        found: Found,
        following: bool,
        misses: list[Slot],
        saved: list[Slot],
    ) -> None:
        if self._is_to_be_retried(slot, found, following):
            slot.attempts, slot.replaces = found.attempts, found.id
            slot.is_put_off = self.puts_off and not following
            if not slot.is_put_off:
                misses.append(slot)
            return
        assert found.error is not None
        slot.failed = from_error_text(slot.given, found.attempts, found.error)
        slot.skipped = found.run != self._run
        saved.append(slot)

    def miss(self, slots: list[Slot]) -> None:
        """Settle rows neither saved nor to be computed; the first error says what differs."""
        for slot in slots:
            is_told = self._is_direct or slot is slots[0]
            slot.error = replay_miss(
                self._spec, self._log.path, slot, self._replay if is_told else None
            )
            self._tally.failed([slot], slot.error, False)
        self._in_flight.leave(slots)

    def _is_good(self, slot: Slot, found: Found, changed: Container[bytes]) -> bool:
        """Tell whether to give out a saved result, which may be of other code or another row."""
        is_changed, asked = slot.key in changed, self.changed.asked
        if is_changed and asked == "error":
            self.refuse(slot, self.changed.refused())
            return False
        if found.run in self._stale_runs or (is_changed and asked == "recompute"):
            return False
        if is_changed:
            self.changed.note()
        return True

    def _collided(self, slot: Slot, found: Found) -> KeyCollisionError:
        if not found.id:
            return collision(slot, "a row that is not yet committed")
        self._log.check(found.id)  # or its bits have rotted
        return collision(slot, f"record {found.id}", found.id)

    def _is_to_be_retried(self, slot: Slot, found: Found, following: bool) -> bool:
        if self._replay is not None:
            return self._is_direct or self._options.on_error == "raise"
        if self._is_direct:
            return True  # who calls once more wants it tried once more
        if not self._options.retry_failed or found.run == self._run:
            return False
        return not (following and found.attempts > slot.attempts)

    def refuse(self, slot: Slot, error: CheckpointError) -> None:
        """Settle a row that cannot be a row; it has no key, so there is nothing to record."""
        error.add_note(f"in row {slot.position} of step {self._spec.name!r}; it was not called")
        recorded = self._options.on_error == "record"
        if recorded:
            slot.failed = slot.failed_by(error, self._redactor)
        if self._is_direct or not recorded:
            slot.error = error
        self._tally.failed([slot], error, recorded)
        self._in_flight.leave([slot])


def collision(slot: Slot, met: str, record: int = 0) -> KeyCollisionError:
    """Return the error of a row that has the key of another one."""
    return KeyCollisionError(
        f"row {slot.position} has the key {slot.key.hex()}, and so has {met}, whose content "
        "differs. That does not happen by chance: somebody made the two rows to collide. "
        "The step was not called. Leave the row out, or tell it apart by one more field",
        slot.key.hex(),
        slot.position,
        record or None,
    )
