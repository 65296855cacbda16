"""What a call returned, or how it failed: pending, and only then given out. Knows no loop."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from ..file.records import Entry
from ..frames.rows import as_results
from .beside import Beside
from .committer import Committer
from .failures import Failed, to_error_text
from .in_flight import InFlight
from .job import Spec
from .kept import as_text
from .options import Options
from .overdue import is_copied
from .paid import NOTHING_SAID, Paid, asked
from .rows import Slot
from .tally import Tally
from .warn import warn

log = logging.getLogger("checkpointdb.run")


class Outcomes:
    """Keep results and failures; safe from any thread or task.

    Promise: a result is pending before anybody has it. A row leaves `in_flight` whatever happens.

    Args:
        spec: the step.
        options: of the run.
        committer: takes what returned.
        in_flight: has the rows.
        tally: of the run.
        beside: commits for calls on an event loop.
        flying: has an entry for each call that has not returned.
        is_direct: whether these are of direct calls: what is recorded is also raised.

    Attributes:
        unstorable: why a result could not be stored: no call of the run is begun after that.
    """

    def __init__(
        self,
        spec: Spec,
        options: Options,
        committer: Committer,
        in_flight: InFlight,
        tally: Tally,
        beside: Beside,
        flying: list[None],
        is_direct: bool,
    ) -> None:
        self._spec, self._options, self._is_direct = spec, options, is_direct
        self._committer, self._in_flight, self._tally = committer, in_flight, tally
        self._beside, self._flying = beside, flying
        # bound once: they are asked for each row
        self._encode, self._notices = spec.codec.encode, spec.codec.notices
        self._redactor, self._is_batch = spec.settings.redactor, options.batch_size is not None
        self._needs_check = any(
            it is not None for it in (options.cost, options.usage, options.valid)
        )
        self._add = committer.put if spec.is_async else committer.add
        self.unstorable: Exception | None = None

    def check_storable(self) -> None:
        """Raise if a result could not be stored: the next one could not be either, and costs."""
        if self.unstorable is not None:
            raise self.unstorable

    def keep(self, slots: list[Slot], returned: Any, start: float) -> None:
        """Make what the step returned pending; commit if the policy says so.

        Raises:
            EncodeError: a result cannot be stored; it is attached.
            ValueError: a batch is not a list of results, or not as long as its rows; what was
                returned is attached.
            StoreError: the commit failed; the result stays pending.
        """
        now = perf_counter()
        try:
            if self._is_batch:
                self._keep_batch(slots, returned, now - start, now)
            else:
                self._keep(slots[0], returned, now - start, now)
        except BaseException as error:
            self.settle_rest(slots, error)
            raise

    def put(self, slot: Slot, value: Any, seconds: float, paid: Paid, is_over_good: bool) -> None:
        """Keep a result that was computed elsewhere; commit before this returns if that is due.

        Raises:
            EncodeError: it cannot be stored, and nothing is changed.
            ValueError: `valid=` refuses it. It is saved as a failure, but not over a good one.
            StoreError: the commit failed; the result stays pending.
        """
        self._encode(value)
        valid = self._options.valid
        if is_over_good and valid is not None and not valid(value):
            raise self._refused(slot, value)
        self._committer.answers_calls()
        self._tally.gave_new()
        self._keep(slot, value, seconds, perf_counter(), paid, self._committer.add)
        if slot.error is not None:
            raise slot.error

    def _keep(
        self, slot: Slot, value: Any, seconds: float, now: float, paid: Paid = NOTHING_SAID,
        add: Callable[..., int | None] | None = None,
    ) -> None:  # fmt: skip
        entry, problem = self._judged(slot, value, seconds, paid)
        if entry is not None:
            if entry.error is None:
                self._tally.computed()
            self._take((slot,), (entry,), now, add or self._add)
        if problem is not None:
            raise problem
        if self._notices:
            self._tell_notices()

    def _judged(
        self, slot: Slot, value: Any, seconds: float, paid: Paid = NOTHING_SAID
    ) -> tuple[Entry | None, BaseException | None]:
        """Return what is to be kept of a result, and what is to be raised once it is kept."""
        if slot.mutated is not None:
            self._in_flight.give_up([slot], slot.mutated)
            return None, None
        try:
            data = self._encode(value)
        except Exception as error:  # noqa: BLE001 - what it was is kept before this is raised
            return self._unstorable(slot, value, error, seconds), error
        slot.value, slot.data = value, data
        problem = text = None
        if self._needs_check or paid is not NOTHING_SAID:
            paid, problem = self._check_result(slot, value, paid)
        if slot.failed is not None:
            text = to_error_text(slot.failed)
        entry = Entry(
            slot.key, slot.identity, slot.position, slot.attempts + 1, seconds, paid.cost, text,
            data, slot.input, slot.input_form, slot.row_digest, slot.occurrence,
            None if paid is NOTHING_SAID else paid.as_json(), slot.replaces,
        )  # fmt: skip
        return entry, problem

    def _take(
        self,
        slots: Sequence[Slot],
        entries: Sequence[Entry],
        now: float,
        add: Callable[..., int | None],
    ) -> None:
        """Make outcomes pending, or durable if that is due; nobody gets one before that."""
        due = None
        try:
            due = add(entries, now, len(self._flying))
        finally:
            if due is None:
                self._in_flight.leave(slots)
            else:
                self._beside.leave_later(slots, due)

    def _unstorable(self, slot: Slot, value: Any, error: Exception, seconds: float) -> Entry:
        """Keep what a result was that cannot be stored; no call of this run is begun any more.

        It is a fault of the program: the next row would have it too, and each row costs money.
        """
        if not self._is_direct:
            self.unstorable = error
        slot.error = error
        self._tally.failed([slot], error, recorded=False)
        failed = slot.failed_by(error, self._redactor)
        text = to_error_text(failed, self._redactor.text(as_text(value), slot.row))
        return _failure(slot, text, seconds)

    def _tell_notices(self) -> None:
        """Say what results will come back as; the result that made it known is kept."""
        while self._notices:
            with contextlib.suppress(IndexError):  # another thread says it
                warn(f"step {self._spec.name!r}: {self._notices.pop()}")

    def _keep_batch(self, slots: list[Slot], returned: Any, seconds: float, now: float) -> None:
        """Keep each result of a batch that can be kept, together, before any raises."""
        values = as_results(returned)
        misfit = self._misfit(slots, returned, values)
        if misfit is not None:
            self._in_flight.give_up(slots, misfit)
            raise misfit
        assert values is not None
        kept, entries, problems = list[Slot](), list[Entry](), list[BaseException]()
        each = seconds / len(slots)
        for slot, value in zip(slots, values, strict=True):
            try:
                entry, problem = self._judged(slot, value, each)
            except BaseException as error:  # noqa: BLE001 - the others are paid for too
                entry, problem = None, error
            if entry is not None:
                kept.append(slot)
                entries.append(entry)
            if problem is not None:
                problems.append(problem)
        for _ in range(sum(entry.error is None for entry in entries)):
            self._tally.computed()
        if entries:
            self._take(kept, entries, now, self._add)
        if problems:  # one that is no mere error first: Ctrl-C in `valid=`
            raise min(problems, key=lambda problem: isinstance(problem, Exception))
        if self._notices:
            self._tell_notices()

    def _misfit(
        self, slots: list[Slot], returned: Any, values: list[Any] | None
    ) -> Exception | None:
        if values is None:
            what = f"a {type(returned).__name__}"
        elif len(values) != len(slots):
            what = f"{len(values)} results"
        else:
            return None
        error = ValueError(
            f"step {self._spec.name!r} was given a list of {len(slots)} rows and returned "
            f"{what}: with batch_size= it must return a list of {len(slots)} results; "
            "what it returned is attached to this error as .result"
        )
        error.result = returned  # type: ignore[attr-defined]
        return error

    def _check_result(
        self, slot: Slot, value: Any, paid: Paid
    ) -> tuple[Paid, BaseException | None]:
        """Ask the user's `cost` and `usage`, if they are not known, and `valid`.

        What they raise waits until the result is kept.
        """
        paid, problem = asked(self._options, value, paid)
        self._tally.paid(paid.cost, paid.usage)
        if problem is not None:
            return paid, problem
        try:
            if self._options.valid is None or self._options.valid(value):
                return paid, None
        except BaseException as error:  # noqa: BLE001 - not judged is not good: a failure, with its result
            problem = error
            slot.failed = slot.failed_by(error, self._redactor)
        else:
            problem = self._refused(slot, value)
            shown = self._redactor.text(str(problem), slot.row)
            slot.failed = Failed(slot.given, "invalid", shown, "", slot.attempts + 1)
        recorded = self._is_recorded(problem)
        if self._is_direct or not recorded:
            slot.error = problem
        self._tally.failed([slot], problem, recorded)
        return paid, None if recorded else problem

    def _refused(self, slot: Slot, value: Any) -> ValueError:
        error = ValueError(f"valid= refused the result of row {slot.position}: {value!r:.200}")
        error.result = value  # type: ignore[attr-defined]
        return error

    def keep_late(self, slots: list[Slot], rows: list[Slot], returned: Any, start: float) -> None:
        """Keep what an overdue call returned, over the failure of its rows; for `TimeLimit`."""
        settled = threading.Event()
        for slot in slots:
            settled.clear()
            self._in_flight.when_settled(slot, settled.set)
            settled.wait()
        try:
            if not self._are_unchanged(slots):
                log.warning(
                    "%s: a call that took too long returned, but its row (%d) has changed since: "
                    "the result is not saved", self._spec.name, slots[0].position,
                )  # fmt: skip
                return
            try:
                self.keep(rows, returned, start)
            finally:
                self._committer.commit_late()
        except Exception:  # nobody waits for it any more
            log.exception("%s: a late result could not be saved", self._spec.name)

    def _are_unchanged(self, slots: list[Slot]) -> bool:
        """Tell whether the step saw, to the end of its call, the rows that these keys are of."""
        is_unchanged = self._spec.keyer.is_unchanged
        return is_copied(slots) or all(
            slot.mutated is None
            and is_unchanged(slot.row, slot.identity, slot.plain, slot.input, slot.row_digest)
            for slot in slots
        )

    # --- fail

    def fail(self, slots: list[Slot], error: BaseException, start: float) -> bool:
        """Settle rows whose call failed; tell whether they were recorded, so that the run goes on.

        Args:
            slots: the rows.
            error: what was raised.
            start: from `begin`.
        """
        recorded = self._is_recorded(error)
        try:
            self._tally.failed(slots, error, recorded)
            if recorded:
                self._record(slots, error, start)
            else:
                self._in_flight.give_up(slots, error)
        except BaseException as problem:
            self.settle_rest(slots, problem)
            raise
        return recorded

    def _is_recorded(self, error: BaseException) -> bool:
        return (
            self._options.on_error == "record"
            and isinstance(error, Exception)
            and not isinstance(error, self._options.stop_on)
        )

    def settle_rest(self, slots: list[Slot], error: BaseException) -> None:
        """Settle the rows that are not settled: whoever waits for one must not wait for ever."""
        kept = [slot for slot, _ in self._beside.due]
        rest = [slot for slot in slots if not slot.settled and slot not in kept]
        self._in_flight.give_up(rest, error)

    def _record(self, slots: list[Slot], error: BaseException, start: float) -> None:
        now, entries = perf_counter(), list[Entry]()
        seconds = (now - start) / len(slots)
        for slot in slots:
            slot.failed = slot.failed_by(error, self._redactor)
            slot.error = error if self._is_direct else None
            entries.append(_failure(slot, to_error_text(slot.failed), seconds))
        self._take(slots, entries, now, self._add)


def _failure(slot: Slot, text: str, seconds: float) -> Entry:
    return Entry(
        slot.key, slot.identity, slot.position, slot.attempts + 1, seconds, None, text, None,
        slot.input, slot.input_form, slot.row_digest, slot.occurrence, None, slot.replaces,
    )  # fmt: skip
