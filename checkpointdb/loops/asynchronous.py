"""The loop over a run for async code, in its own event loop. Knows what to await."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from typing import Any

from ..engine import pause as pauses
from ..engine.begin import Running
from ..engine.pause import PutBack
from ..engine.rows import Place, Slot, first_of
from ..engine.sharing import POLL_EVERY
from ..engine.source import END
from ..engine.waiting import waiting
from ..interrupts import one_call
from .direct import Direct
from .reorder import Reorder
from .session import Session
from .signals import Signals
from .sync import orphaned, stop
from .tracebacks import hide_ours


async def adrive(session: Session, concurrency: int) -> AsyncIterator[Any]:
    """Give out the results of a run: `drive` for async code."""
    try:
        with session.running() as (running, signals):
            results = running.results
            async with aclosing(Tasks(running, concurrency, signals).chunks()) as chunks:
                async for places in chunks:
                    if not places:
                        stop(running, signals)
                    for place in places:
                        yield results.take(place)
            await asyncio.to_thread(running.commit)  # so that the end has nothing left to do
    except BaseException as error:
        hide_ours(error)
        raise


async def off_the_loop(rows: Iterable[Any]) -> AsyncIterator[Any]:
    """Yield the results of another, synchronous run; a thread waits for its calls, not the loop."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    reader = ThreadPoolExecutor(1, "checkpointdb-rows")
    read = functools.partial(context.run, next, iter(rows), END)
    try:
        while (row := await loop.run_in_executor(reader, read)) is not END:
            yield row
    finally:
        reader.shutdown(wait=False)


async def acall(direct: Direct, row: Any) -> Any:
    """Call an async step for one row outside any loop; from any task.

    The call runs in a task of its own: if the caller is cancelled, by `asyncio.wait_for` say, it
    goes on in the background and is kept when it returns; the end of the loop waits for it.
    """
    while True:
        running, place, worker = direct.do(_begin_call, row)
        intake, results = running.intake, running.results
        try:
            await finish_call(running, place, worker)
            if not orphaned(place):
                return results.take(place)
        except BaseException as error:
            if not is_under_way(place):  # else it goes on in the background
                intake.withdraw(place, error)
            hide_ours(error)
            raise


async def finish_call(
    running: Running, place: Place, worker: asyncio.Task[None] | None = None
) -> None:
    """Wait until a row is settled, whoever computes it; `worker` is our call, if we do."""
    if isinstance(place, Slot) and worker is None and not place.settled:
        worker = await _followed(running, place)
    if worker is not None:
        await worked(worker)
    elif not place.settled:
        await _settled(running, place)


def is_under_way(place: Place) -> bool:
    """Tell whether a call that we began for a row has not returned."""
    return place.must_compute and not place.settled


async def worked(worker: asyncio.Task[None]) -> None:
    """Wait for a call; if we are cancelled, let it go on, and the end of the loop wait for it."""
    try:
        await asyncio.wait({worker})
    except asyncio.CancelledError:
        if worker in pauses.tasks:  # it has not begun
            worker.cancel()
        _leave(worker)
        raise
    worker.result()


async def _settled(running: Running, place: Place) -> None:
    """Wait until another task or thread has settled a row."""
    settled, loop, in_flight = asyncio.Event(), asyncio.get_running_loop(), running.in_flight
    wake = functools.partial(loop.call_soon_threadsafe, settled.set)
    with waiting((first_of(place),), running.name):
        in_flight.when_settled(place, wake)
        await settled.wait()


async def _followed(running: Running, slot: Slot) -> asyncio.Task[None] | None:
    """Wait until another process has settled a row; or begin its call, if it falls to us."""
    intake = running.intake
    running.commit()  # another process may be waiting for what is pending here
    while not slot.settled:
        with intake.waiting_for_others([slot]):
            await asyncio.sleep(POLL_EVERY)
        if worker := _take_over(running, slot):
            return worker
    return None


@one_call
def _take_over(running: Running, slot: Slot) -> asyncio.Task[None] | None:
    """Begin the call of a row if we must compute it by now."""
    intake, calls = running.intake, running.calls
    intake.take_over([slot])
    return paid(calls.acompute([slot])) if slot.must_compute else None


@one_call
def _begin_call(running: Running, row: Any) -> tuple[Running, Place, asyncio.Task[None] | None]:
    """Look a row up, and begin its call if it is ours to compute."""
    intake, calls = running.intake, running.calls
    place = intake.place_of(row)
    if not place.must_compute:
        return running, place, None
    assert isinstance(place, Slot)
    return running, place, paid(calls.acompute([place]))


# Tasks in which calls are made: a loop itself keeps none alive.
_in_flight: set[asyncio.Task[Any]] = set()
_beating: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
BEAT_EVERY = 1.0  # seconds
GIVE_WAY_EVERY = 256  # rows: a stretch of hits must not starve the other tasks of the loop


def paid(call: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Make calls in a task that the end of the loop does not cancel: who waits for it decides."""
    task = asyncio.create_task(call)
    asyncio.tasks._unregister_task(task)
    _keep(task)
    if (loop := task.get_loop()) not in _beating:
        _beating.add(loop)
        _beat(loop)
    return task


def _leave(worker: asyncio.Task[None]) -> None:
    """Let a call go on after its caller has left; the end of the loop waits for it."""

    async def care() -> None:
        await wait_for({worker})
        worker.cancelled() or worker.exception()  # nobody else will ask

    _keep(asyncio.create_task(care()))


def _keep(task: asyncio.Task[Any]) -> None:
    _in_flight.add(task)
    task.add_done_callback(_in_flight.discard)


def _beat(loop: asyncio.AbstractEventLoop) -> None:
    """Wake the loop now and then: a signal that comes just as it begins to wait is not seen."""
    if any(task.get_loop() is loop for task in list(_in_flight)):
        loop.call_later(BEAT_EVERY, _beat, loop)
    else:
        _beating.discard(loop)


class Tasks:
    """Call an async step from up to `concurrency` tasks that outlive each single row.

    A task that finds its next row, or waits for it, costs less than a new task for each row. The
    calls are never made in the consumer's own task, so that cancelling it does not cancel a call
    that is paid for.

    Twice as many calls wait as may be made at once: a task that has to wait for its next row takes
    a tenth longer. Calls that another worker could make, or whose rows a loop may change, do not.
    """

    def __init__(self, running: Running, concurrency: int, signals: Signals) -> None:
        self._running, self._concurrency, self._signals = running, concurrency, signals
        self._intake, self._calls, self._source = running.intake, running.calls, running.source
        self._passes = running.passes
        options = running.options
        self._order = Reorder(running.in_flight, options, concurrency)
        is_bound = options.shared or concurrency == 1
        self._most_todo = concurrency if is_bound else 2 * concurrency
        self._todo: deque[list[Slot]] = deque()
        self._unbegun: list[list[Slot]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []  # what workers without a row wait for
        self._is_over = False
        self._errors: list[BaseException] = []
        self._wake = asyncio.Event()

    async def chunks(self) -> AsyncGenerator[list[Place]]:
        """Yield lists of settled rows, in input order if they are to be in order.

        An empty list says that nothing is in flight and a deferred signal can be delivered.
        """
        loop, order, n = asyncio.get_running_loop(), self._order, 0
        self._signals.wake_by(lambda: loop.call_soon_threadsafe(self._wake.set))
        is_async, more = self._source.is_async, True
        places: Any = self._arriving() if is_async else self._passes.slots()
        async with self._awaited_at_the_end(), aclosing(places) if is_async else nullcontext():
            while more or len(order):
                if more and not self._crowded:
                    n += 1
                    if n % GIVE_WAY_EVERY == 0:
                        await asyncio.sleep(0)
                    place = await anext(places, END) if is_async else next(places, END)
                    more = place is not END
                    if place is not None:
                        self._start(order.push(place) if more else order.rest())
                elif not order.is_ready:
                    await self._settled()
                if order.is_ready:
                    yield list(order.ready())
                if self._errors or self._signals.deferred is not None:
                    await self._interrupted()
                    yield []
                    self._resume()

    @asynccontextmanager
    async def _awaited_at_the_end(self) -> AsyncIterator[None]:
        """Begin no further call once the block ends, and await those in flight."""
        try:
            yield
            self._dismiss()
            await wait_for(self._workers, self._signals)
            if self._errors:  # a row is settled before what `cost=` raised of it is here
                raise self._errors[0]
        except asyncio.CancelledError as error:
            self._stop()
            await wait_for(self._workers, self._signals, error)
            raise
        finally:
            self._stop()
            await wait_for(self._workers, self._signals)

    def _stop(self) -> None:
        """Begin no further call, and have those that wait in a pause put back."""
        self._unbegun += self._todo
        self._todo.clear()
        self._dismiss()
        if (pause := self._running.pause) is not None:
            pause.stop()

    def _dismiss(self) -> None:
        """Let the workers end that wait for a row, and the others once their call is done."""
        self._is_over = True
        while self._wake_one():
            pass

    def _wake_one(self) -> bool:
        """Wake a worker that waits for a row; False if none does."""
        while self._idle:
            if not (idle := self._idle.pop()).done():  # else its worker was cancelled
                idle.set_result(None)
                return True
        return False

    @property
    def _crowded(self) -> bool:
        is_full = self._order.full and not self._intake.ahead
        return is_full or len(self._todo) >= self._most_todo

    @property
    def _is_calling(self) -> bool:
        return len(self._workers) > len(self._idle)

    async def _settled(self) -> None:
        if not self._is_calling:
            self._start(self._order.rest())
            if self._intake.is_following:
                self._running.commit()  # another worker may be waiting for what is pending here
        self._wake.clear()
        following = self._intake.is_following
        blocked = following and not self._is_calling
        others = self._intake.waiting_for_others() if blocked else nullcontext()
        with others, suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), POLL_EVERY if following else None)
        for slot in self._intake.poll_claimed():
            self._start([slot])

    async def _interrupted(self) -> None:
        """Raise what a call raised; or await the calls, so that a signal can be delivered."""
        if self._errors:
            raise self._errors[0]
        self._stop()
        await wait_for(self._workers, self._signals)

    def _resume(self) -> None:
        """Start what was held back: the user's own handler has let the run go on."""
        if (pause := self._running.pause) is not None:
            pause.go_on()
        unbegun, self._unbegun, self._is_over = self._unbegun, [], False
        for unit in unbegun:
            self._start(unit)

    def _start(self, unit: list[Slot]) -> None:
        if not unit:
            return
        self._todo.append(unit)
        if not self._wake_one() and len(self._workers) < self._concurrency:
            self._workers.add(paid(self._work()))

    async def _work(self) -> None:
        me: Any = asyncio.current_task()  # asked now: in a child that the step forks nobody knows
        try:
            while self._todo or await self._more():
                unit = self._todo.popleft()
                try:
                    await self._calls.acompute(unit)
                except PutBack:
                    self._unbegun.append(unit)
                except BaseException as error:
                    if self._running.is_forked:  # a child that the step forked: let it end
                        raise
                    self._errors.append(error)
                    self._todo.clear()
                self._wake.set()
        finally:
            # not by a done callback: the next row must not count on a worker that has just ended
            self._workers.discard(me)

    async def _more(self) -> bool:
        """Wait until there is a row to call for; False when no further call begins."""
        while not (self._todo or self._is_over):
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle
        return bool(self._todo)

    async def _arriving(self) -> AsyncGenerator[Place | None]:
        """Yield rows of an async source, looked up; None when none came yet."""
        passes, row = self._passes, None
        while row is not END and not passes.is_over:
            coming = asyncio.ensure_future(self._source.arrival())
            coming.add_done_callback(lambda _: self._wake.set())
            try:
                while not coming.done():
                    self._wake.clear()
                    yield None
                    if not coming.done():
                        await self._wake.wait()
                row = coming.result()
                arrived = passes.last() if row is END else passes.admit(row)
            except Exception as error:  # noqa: BLE001 - raised after the rows before it
                self._source.error = error
                return
            finally:
                coming.cancel()
            for place in arrived:
                yield place


async def wait_for(
    workers: set[asyncio.Task[None]],
    signals: Signals | None = None,
    cancelled: asyncio.CancelledError | None = None,
) -> None:
    """Await calls in flight, for they are paid for; a first cancellation waits for them too.

    A second one, or a second signal, gives them up.
    """
    while pending := {worker for worker in workers if not worker.done()}:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            if cancelled is not None or (signals is not None and signals.urgent):
                for worker in pending:
                    worker.cancel()
                raise
            cancelled = error
    if cancelled is not None:
        raise cancelled
