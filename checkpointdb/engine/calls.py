"""Call the step, and keep what it returns or how it failed. Knows no loop and no SQL."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from .. import interrupts
from ..file.log import Log
from ..file.records import Entry, SentCall
from ..frames.rows import as_results
from .beside import Beside
from .budget import Budget
from .committer import Committer
from .current import calling, calling_now, leave
from .failures import Failed, to_error_text
from .in_flight import InFlight
from .job import Spec
from .kept import as_text
from .ledger import Ledger
from .options import Options
from .overdue import TimeLimit, in_time, is_copied, overdue, wait_for_overdue
from .rows import Slot
from .sharing import Sharing
from .tally import Tally
from .warn import warn

log = logging.getLogger("checkpointdb.run")


class Calls:
    """Call the step for rows that are to be computed; safe from any thread or task.

    Promise: a result is pending before anybody has it. A row leaves `in_flight` whatever happens.

    Args:
        log: of the store.
        spec: the step.
        options: of the run.
        committer: takes what returned.
        in_flight: has the rows.
        tally: of the run.
        budget: if the run has one.
        ledger: if calls are to be noted before they are made.
        sharing: under `shared=True`; it is told of each call that begins, and is under way.
        is_direct: whether these are direct calls: what is recorded is raised, too.
            They have no `concurrency`.
    """

    def __init__(
        self,
        log: Log,
        spec: Spec,
        options: Options,
        committer: Committer,
        in_flight: InFlight,
        tally: Tally,
        budget: Budget | None = None,
        ledger: Ledger | None = None,
        sharing: Sharing | None = None,
        is_direct: bool = False,
    ) -> None:
        self._log = log
        self._spec, self._options = spec, options
        self._committer, self._in_flight, self._tally = committer, in_flight, tally
        self._budget, self._ledger = budget, ledger
        # bound once: they are asked for each row
        self._fn, self._encode, self._notices = spec.fn, spec.codec.encode, spec.codec.notices
        self._limit: TimeLimit | None = None
        if options.timeout is not None:
            self._set_limit(options.timeout, None if is_direct else options.concurrency)
        self._is_batch, self._binder = options.batch_size is not None, spec.binder
        self._redactor = spec.settings.redactor
        self._is_direct = is_direct
        self._unstorable: Exception | None = None
        self._needs_begin = any(it is not None for it in (budget, ledger, self._limit))
        self._keep_whole = interrupts.one_call(self.keep)
        self._needs_check = options.cost is not None or options.valid is not None
        self._add = committer.put if spec.is_async else committer.add
        self._beside = Beside(committer, in_flight)
        # the user's own functions may take long: not on the event loop that other calls are on
        judges = (options.cost, options.valid, options.on_event)
        self._is_judged = spec.is_async and any(judge is not None for judge in judges)
        # one entry a call that has not returned: threads append and pop it without a lock
        self._flying: list[None] = [] if sharing is None else sharing.under_way
        self._sharing = sharing

    @property
    def name(self) -> str:
        """The name of the step."""
        return self._spec.name

    def _set_limit(self, seconds: float, places: int | None) -> None:
        fn, name = self._spec.fn, self._spec.name
        if self._spec.is_async:
            self._fn = in_time(fn, name, seconds)
        else:
            self._fn = self._limit = TimeLimit(
                fn, name, self._log.path, seconds, places, self.keep_late
            )

    # --- call

    @interrupts.computes
    def compute(self, slots: list[Slot]) -> None:
        """Call the step for one row, or a batch of rows, and keep what it returns."""
        outer = calling_now()
        if outer is None and interrupts.state.ending:
            interrupts.halt()
        if (overdue or self._sharing is not None) and not (slots := self.to_make(slots)):
            return
        argument = self.argument(slots)
        start = self.begin(slots) if self._needs_begin else perf_counter()
        call = slots, outer
        self._flying.append(None)
        try:
            calling.set(call)
            returned = self._fn(argument)
        except BaseException as error:
            self._flying.pop()
            if not self.fail(slots, error, start):
                raise
        else:
            self._flying.pop()
            self.keep(slots, returned, start)
        finally:
            leave(call)

    async def acompute(self, slots: list[Slot]) -> None:
        """Call an async step, for one row or a batch of rows, and keep what it returns."""
        outer = calling_now()
        if outer is None and interrupts.state.ending:
            await interrupts.ahalt()
        if overdue:
            slots = await self._not_overdue_beside(slots)
        if self._sharing is not None:
            slots = self._sharing.begin(slots)
        if not slots:
            return
        argument = self.argument(slots)
        start = await self._abegin(slots) if self._needs_begin else perf_counter()
        call, departed = (slots, outer), interrupts.depart()
        self._flying.append(None)
        try:
            calling.set(call)
            returned = await self._fn(argument)
        except BaseException as error:
            if not await self._failed(slots, error, start):
                raise
        else:
            if self._is_judged:
                await self._beside.call(self.keep, slots, returned, start)
            else:
                self._keep_whole(slots, returned, start)
        finally:
            if self._beside.due:
                await self._beside.commit_due(slots)
            self._flying.pop()  # only now: the event loop must not wait for a commit
            leave(call)
            interrupts.land(departed)

    async def _failed(self, slots: list[Slot], error: BaseException, start: float) -> bool:
        if self._is_judged:
            recorded: bool = await self._beside.call(self.fail, slots, error, start)
            return recorded
        return self.fail(slots, error, start)

    def close(self) -> None:
        """Let threads end that have no call; a call that returns later gets another."""
        if self._limit is not None:
            self._limit.end()
        self._beside.close()

    def forked(self) -> None:
        """In a forked child: the event loop stayed with the parent."""
        self._is_judged = False
        self._beside.forked()

    def sent(self) -> None:
        """Count a call that another worker makes as in flight."""
        self._flying.append(None)

    def returned(self) -> None:
        """Count it no more."""
        self._flying.pop()

    def argument(self, slots: list[Slot]) -> Any:
        """Return what the step gets, as `arguments.call` takes it: a row, or those of a batch.

        Raises:
            TypeError: the step cannot be called with it: wrong use, and no failure of the row.
        """
        rows = [slot.given for slot in slots]
        if self._limit is not None and is_copied(slots):  # the user may change them meanwhile
            rows = copy.deepcopy(rows)
        try:
            return self._binder.batch(rows) if self._is_batch else self._binder.argument(rows[0])
        except TypeError as error:
            self._in_flight.give_up(slots, error)
            raise

    def begin(self, slots: list[Slot]) -> float:
        """Return the time, for a call that may be made: within the budget, noted in the ledger."""
        try:
            self._check_storable()
            if self._limit is not None:
                self._limit.take_place()
        except BaseException as error:
            self._in_flight.give_up(slots, error)
            raise
        try:
            if self._budget is not None:
                self._budget.check()
            if self._ledger is not None:
                self._ledger.send(
                    SentCall(slot.key, slot.position, slot.input, slot.input_form) for slot in slots
                )
        except BaseException as error:
            if self._limit is not None:
                self._limit.free_place()
            self._in_flight.give_up(slots, error)
            raise
        return perf_counter()

    async def _abegin(self, slots: list[Slot]) -> float:
        """Do as `begin`; the ledger is written in a thread, and the event loop not held up."""
        if self._ledger is None:
            return self.begin(slots)
        import asyncio

        try:
            return await asyncio.to_thread(self.begin, slots)
        except asyncio.CancelledError as error:
            self._in_flight.give_up(slots, error)
            raise

    def _check_storable(self) -> None:
        """Raise if a result of this run could not be stored: no call is begun after that."""
        if self._unstorable is not None:
            raise self._unstorable

    def to_make(self, slots: list[Slot]) -> list[Slot]:
        """Return the rows to call the step for.

        Others were answered by an overdue call, or lent to whoever is waited for.
        """
        if overdue:
            slots = self._not_overdue(slots)
        return slots if self._sharing is None else self._sharing.begin(slots)

    async def _not_overdue_beside(self, slots: list[Slot]) -> list[Slot]:
        """Do as `_not_overdue`, and do not hold up the event loop."""
        import asyncio

        rest = list[Slot]()
        try:
            rest = await asyncio.to_thread(self._not_overdue, slots)
        except BaseException as error:
            self._settle_rest(slots, error)
            raise
        finally:
            if not rest and self._beside.due:
                await self._beside.commit_due(slots)
        return rest

    def _not_overdue(self, slots: list[Slot]) -> list[Slot]:
        """Wait for overdue calls of these rows, and take their results; return the other rows."""
        start = perf_counter()
        try:
            if not wait_for_overdue(self._log.path, self._spec.name, slots, self._options.timeout):
                return slots
            all_found = self._log.find([slot.key for slot in slots])
        except BaseException as error:
            if not self.fail(slots, error, start):
                raise
            return []
        for slot, found in zip(slots, all_found, strict=True):
            if found is None or found.error is not None or found.id == slot.replaces:
                continue
            if found.identity == slot.identity:
                slot.data, slot.must_compute = found.result, False
                self._in_flight.leave((slot,))
        return [slot for slot in slots if not slot.settled]

    # --- keep

    def keep(self, slots: list[Slot], returned: Any, start: float) -> None:
        """Make what the step returned pending; commit if the policy says so.

        Raises:
            EncodeError: a result cannot be stored; it is attached.
            ValueError: a batch is no list of results, or not as long as its rows; what was
                returned is attached.
            StoreError: the commit failed; the result stays pending.
        """
        now = perf_counter()
        try:
            if self._is_batch:
                self._keep_batch(slots, returned, now - start)
            else:
                self._keep(slots[0], returned, now - start, now)
        except BaseException as error:
            self._settle_rest(slots, error)
            raise

    def put(
        self, slot: Slot, value: Any, seconds: float, cost: float | None, is_over_good: bool
    ) -> None:
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
        self._tally.gave(False)
        self._keep(slot, value, seconds, perf_counter(), cost, self._committer.add)
        if slot.error is not None:
            raise slot.error

    def _keep(
        self, slot: Slot, value: Any, seconds: float, now: float, cost: float | None = None,
        add: Callable[..., int | None] | None = None,
    ) -> None:  # fmt: skip
        if slot.mutated is not None:
            self._in_flight.give_up([slot], slot.mutated)
            return
        try:
            data = self._encode(value)
        except Exception as error:
            self._keep_unstorable(slot, value, error, seconds, now)
            raise
        slot.value, slot.data = value, data
        problem = text = None
        if self._needs_check or cost is not None:
            cost, problem = self._check_result(slot, value, cost)
        if slot.failed is None:
            self._tally.computed()
        else:
            text = to_error_text(slot.failed)
        entry = Entry(
            slot.key, slot.identity, slot.position, slot.attempts + 1, seconds, cost, text, data,
            slot.input, slot.input_form, slot.row_digest, slot.occurrence, slot.replaces,
        )  # fmt: skip
        self._take(slot, entry, now, add)
        if problem is not None:
            raise problem
        if self._notices:
            self._tell_notices()

    def _take(
        self, slot: Slot, entry: Entry, now: float, add: Callable[..., int | None] | None = None
    ) -> None:
        """Make an outcome pending, or durable if that is due; only then may anybody have it."""
        due = None
        try:
            due = (add or self._add)(entry, now, len(self._flying))
        finally:
            if due is None:
                self._in_flight.leave((slot,))
            else:
                self._beside.leave_later(slot, due)

    def _keep_unstorable(
        self, slot: Slot, value: Any, error: Exception, seconds: float, now: float
    ) -> None:
        """Keep what a result was that cannot be stored; no call of this run is begun any more.

        It is a fault of the program, which the next row has too, and each of them costs money.
        """
        if not self._is_direct:
            self._unstorable, self._needs_begin = error, True
        slot.error = error
        self._tally.failed([slot], error, recorded=False)
        failed = slot.failed_by(error, self._redactor)
        text = to_error_text(failed, self._redactor.text(as_text(value), slot.row))
        self._add_failure(slot, text, seconds, now)

    def _tell_notices(self) -> None:
        """Say what results will come back as; the result that made it known is kept."""
        while self._notices:
            with contextlib.suppress(IndexError):  # another thread says it
                warn(f"step {self._spec.name!r}: {self._notices.pop()}")

    def _keep_batch(self, slots: list[Slot], returned: Any, seconds: float) -> None:
        """Keep each result of a batch that can be kept, before any raises."""
        values = as_results(returned)
        problem: Exception | None = self._misfit(slots, returned, values)
        if problem is not None:
            self._in_flight.give_up(slots, problem)
            raise problem
        assert values is not None
        for slot, value in zip(slots, values, strict=True):
            try:
                self._keep(slot, value, seconds / len(slots), perf_counter())
            except Exception as error:  # noqa: BLE001 - the others are paid for too: keep them first
                problem = problem or error
        if problem is not None:
            raise problem

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
        self, slot: Slot, value: Any, cost: float | None
    ) -> tuple[float | None, BaseException | None]:
        """Ask the user's `cost`, if it is not known, and `valid`.

        What they raise waits until the result is kept.
        """
        problem: BaseException | None = None
        try:
            if cost is None and self._options.cost is not None:
                cost = dollars(self._options.cost(value), "cost= returned", "; the result is saved")
            if cost is not None:
                self._tally.paid(cost)
        except BaseException as error:  # noqa: BLE001 - the result is paid for: keep it first
            return cost, error
        try:
            if self._options.valid is None or self._options.valid(value):
                return cost, None
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
        return cost, None if recorded else problem

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
                    "%s: a call that took too long returned, but its row (%d) is not what it was: "
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
        """Tell whether the step saw the rows that these keys are of, to the end of its call."""
        is_unchanged = self._spec.keyer.is_unchanged
        return is_copied(slots) or all(
            slot.mutated is None
            and is_unchanged(slot.row, slot.identity, slot.plain, slot.input, slot.row_digest)
            for slot in slots
        )

    # --- fail

    def fail(self, slots: list[Slot], error: BaseException, start: float) -> bool:
        """Settle rows whose call failed; tell whether as records, so that the run goes on.

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
            self._settle_rest(slots, problem)
            raise
        return recorded

    def _is_recorded(self, error: BaseException) -> bool:
        return (
            self._options.on_error == "record"
            and isinstance(error, Exception)
            and not isinstance(error, self._options.stop_on)
        )

    def _settle_rest(self, slots: list[Slot], error: BaseException) -> None:
        """Settle the rows that are not: whoever waits for one must not wait for ever."""
        kept = [slot for slot, _ in self._beside.due]
        rest = [slot for slot in slots if not slot.settled and slot not in kept]
        self._in_flight.give_up(rest, error)

    def _record(self, slots: list[Slot], error: BaseException, start: float) -> None:
        now = perf_counter()
        seconds = (now - start) / len(slots)
        for slot in slots:
            slot.failed = slot.failed_by(error, self._redactor)
            slot.error = error if self._is_direct else None
            self._add_failure(slot, to_error_text(slot.failed), seconds, now)

    def _add_failure(self, slot: Slot, text: str, seconds: float, now: float) -> None:
        """Make a failure pending; only now may anybody have it."""
        entry = Entry(
            slot.key, slot.identity, slot.position, slot.attempts + 1, seconds, None, text, None,
            slot.input, slot.input_form, slot.row_digest, slot.occurrence, slot.replaces,
        )  # fmt: skip
        self._take(slot, entry, now)


def dollars(cost: Any, what: str, more: str = "") -> float:
    """Return a cost; raise `ValueError` if it is none."""
    if isinstance(cost, int | float) and 0 <= cost < math.inf:
        return float(cost)
    raise ValueError(f"{what} {cost!r}: it must be dollars, 0 or more{more}")
