"""Call the step, and have its result or its failure kept. Knows no loop and no SQL."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from .. import interrupts
from ..file.log import Log
from ..file.records import SentCall
from .beside import Beside
from .budget import Budget
from .committer import Committer
from .current import calling, calling_now, leave
from .in_flight import InFlight
from .job import Spec
from .ledger import Ledger
from .options import Options
from .outcomes import Outcomes
from .overdue import TimeLimit, in_time, is_copied, overdue, wait_for_overdue
from .pause import Pause, PutBack
from .rows import Slot
from .sharing import Sharing
from .tally import Tally

log = logging.getLogger("checkpointdb.run")


class Calls:
    """Call the step for rows that are to be computed; safe from any thread or task.

    Promise: what it returns is kept, see `Outcomes`, whose `keep`, `fail` and `put` are here too.

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
        pause: if calls wait for a rate limit.
        is_direct: whether these are direct calls: what is recorded is also raised. They have no
            `concurrency`.
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
        pause: Pause | None = None,
        is_direct: bool = False,
    ) -> None:
        self._log = log
        self._spec, self._options = spec, options
        self._committer, self._in_flight, self._tally = committer, in_flight, tally
        self._budget, self._ledger, self.pause = budget, ledger, pause
        # one entry a call that has not returned: threads append and pop it without a lock
        self._flying: list[None] = [] if sharing is None else sharing.under_way
        self._beside = Beside(committer, in_flight)
        self._outcomes = outcomes = Outcomes(
            spec, options, committer, in_flight, tally, self._beside, self._flying, is_direct
        )
        self.keep, self.fail, self.put = outcomes.keep, outcomes.fail, outcomes.put
        self._fn = spec.fn
        self._limit: TimeLimit | None = None
        if options.timeout is not None:
            self._set_limit(options.timeout, None if is_direct else options.concurrency)
        self._is_batch, self._binder = options.batch_size is not None, spec.binder
        self._takes_rows = spec.binder.is_bare and not self._is_batch and self._limit is None
        self._needs_begin = any(it is not None for it in (budget, ledger, self._limit))
        self._keep_whole = interrupts.one_call(self.keep)
        # the user's own functions may take long: not on the event loop that other calls are on
        judges = (options.cost, options.usage, options.valid, options.on_event)
        is_judged = callable(options.pause_on) or any(judge is not None for judge in judges)
        self._is_judged = spec.is_async and is_judged
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
                fn, name, self._log.path, seconds, places, self._outcomes.keep_late
            )

    # --- call

    @interrupts.computes
    def compute(self, slots: list[Slot]) -> None:
        """Call the step for one row, or a batch of rows, and keep what it returns."""
        outer = calling_now() if calling.get() else None
        for nth in itertools.count(1):  # more than once only after a pause
            if self.pause is not None:
                self.wait(slots)
            if interrupts.state.ending and outer is None:
                interrupts.halt()
            if (overdue or self._sharing is not None) and not (slots := self.to_make(slots)):
                return
            slot = slots[0]
            is_row = self._takes_rows and not slot.origin  # nearly always
            argument = slot.row if is_row else self.argument(slots)
            needs_begin = self._needs_begin or self._outcomes.unstorable
            start = self.begin(slots) if needs_begin else perf_counter()
            self._flying.append(None)
            try:
                calling.set((slots, outer))
                returned = self._fn(argument)
            except BaseException as error:
                self._flying.pop()
                if not self.is_paused_by(slots, error, nth):
                    if not self.fail(slots, error, start):
                        raise
                    return
            else:
                self._flying.pop()
                self.keep(slots, returned, start)
                self.passed()
                return
            finally:
                calling.set(outer)

    async def acompute(self, slots: list[Slot]) -> None:  # noqa: C901 - flat: it runs for each row
        """Call an async step, for one row or a batch of rows, and keep what it returns."""
        outer = calling_now() if calling.get() else None
        for nth in itertools.count(1):
            if self.pause is not None:
                await self._await_pause(slots)
            if outer is None and interrupts.is_stopping():
                await interrupts.ahalt()
            if (overdue or self._sharing is not None) and not (
                slots := await self._ato_make(slots)
            ):
                return
            slot = slots[0]
            is_row = self._takes_rows and not slot.origin  # nearly always
            argument = slot.row if is_row else self.argument(slots)
            needs_begin = self._needs_begin or self._outcomes.unstorable
            start = await self._abegin(slots) if needs_begin else perf_counter()
            call, departed = (slots, outer), interrupts.depart()
            self._flying.append(None)
            try:
                calling.set(call)
                returned = await self._fn(argument)
            except BaseException as error:
                if not await self._is_paused_by(slots, error, nth):
                    if not await self._failed(slots, error, start):
                        raise
                    return
            else:
                if self._is_judged:
                    await self._beside.call(self.keep, slots, returned, start)
                else:
                    self._keep_whole(slots, returned, start)
                self.passed()
                return
            finally:
                if self._beside.due:
                    await self._beside.commit_due(slots)
                self._flying.pop()  # only now: the event loop must not wait for a commit
                leave(call)
                interrupts.land(departed)

    # --- pause

    def wait(self, slots: list[Slot]) -> None:
        """Wait until calls may be made; meanwhile what is claimed is kept."""
        assert self.pause is not None
        with self._waiting(slots):
            self.pause.wait(slots)

    async def _await_pause(self, slots: list[Slot]) -> None:
        assert self.pause is not None
        with self._waiting(slots):
            await self.pause.await_end(slots)

    @contextmanager
    def _waiting(self, slots: list[Slot]) -> Iterator[None]:
        self._flying.append(None)
        try:
            yield
        except PutBack:
            raise
        except BaseException as error:
            self._in_flight.give_up(slots, error)
            raise
        finally:
            self._flying.pop()

    def is_paused_by(self, slots: list[Slot], error: BaseException, nth: int) -> bool:
        """Pause all calls if this error says so; tell whether its call is to be made again."""
        if self.pause is None:
            return False
        try:
            return self.pause.takes(slots, error, nth)
        except BaseException as problem:
            self._outcomes.settle_rest(slots, problem)
            raise

    async def _is_paused_by(self, slots: list[Slot], error: BaseException, nth: int) -> bool:
        if self._is_judged and self.pause is not None:
            paused: bool = await self._beside.call(self.is_paused_by, slots, error, nth)
            return paused
        return self.is_paused_by(slots, error, nth)

    def passed(self) -> None:
        """Say that a call returned: the next pause whose length nobody says is short again."""
        if self.pause is not None:
            self.pause.passed()

    async def _failed(self, slots: list[Slot], error: BaseException, start: float) -> bool:
        if self._is_judged:
            recorded: bool = await self._beside.call(self.fail, slots, error, start)
            return recorded
        return self.fail(slots, error, start)

    def close(self) -> None:
        """Let idle threads end; a call that returns later gets another thread."""
        if self._limit is not None:
            self._limit.end()
        self._beside.close()

    def forked(self) -> None:
        """In a forked child: the event loop stayed with the parent."""
        self._is_judged = False
        self._beside.forked()
        if self.pause is not None:
            self.pause.forked()

    def sent(self) -> None:
        """Count a call that another worker makes as in flight."""
        self._flying.append(None)

    def returned(self) -> None:
        """Stop counting it."""
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
            self._outcomes.check_storable()
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
        """Do as `begin`, but write the ledger in a thread, so as not to hold up the event loop."""
        if self._ledger is None:
            return self.begin(slots)
        import asyncio

        try:
            return await asyncio.to_thread(self.begin, slots)
        except asyncio.CancelledError as error:
            self._in_flight.give_up(slots, error)
            raise

    def to_make(self, slots: list[Slot]) -> list[Slot]:
        """Return the rows to call the step for.

        Others were answered by an overdue call, or lent to whoever is waited for.
        """
        if overdue:
            slots = self._not_overdue(slots)
        return slots if self._sharing is None else self._sharing.begin(slots)

    async def _ato_make(self, slots: list[Slot]) -> list[Slot]:
        if overdue:
            slots = await self._not_overdue_beside(slots)
        return slots if self._sharing is None else self._sharing.begin(slots)

    async def _not_overdue_beside(self, slots: list[Slot]) -> list[Slot]:
        """Do as `_not_overdue`, and do not hold up the event loop."""
        import asyncio

        rest = list[Slot]()
        try:
            rest = await asyncio.to_thread(self._not_overdue, slots)
        except BaseException as error:
            self._outcomes.settle_rest(slots, error)
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
