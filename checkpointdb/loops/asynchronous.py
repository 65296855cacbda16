"""The loops over a run for async steps: in tasks, also from sync code. Know what to await."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from typing import Any

from ..engine.begin import Running
from ..engine.rows import Place, Slot
from ..engine.sharing import POLL_EVERY
from ..engine.source import END
from .loop_thread import LoopThread
from .reorder import Reorder
from .session import Session
from .signals import Signals
from .sync import orphaned, stop


async def adrive(session: Session, concurrency: int) -> AsyncIterator[Any]:
    """Give out the results of a run: `drive` for async code."""
    with session.running() as (running, signals):
        results = running.results
        async with aclosing(Tasks(running, concurrency, signals).chunks()) as chunks:
            async for places in chunks:
                if not places:
                    stop(running, signals)
                for place in places:
                    yield results.take(place)


async def acall(running: Running, row: Any) -> Any:
    """Call an async step for one row outside any loop; from any task.

    The call runs in a task of its own: if the caller is cancelled, it is awaited and kept first.
    """
    intake, in_flight = running.intake, running.in_flight
    calls, results = running.calls, running.results
    while True:
        place = intake.place_of(row)
        if place.must_compute:
            assert isinstance(place, Slot)
            worker = asyncio.create_task(calls.acompute([place]))
            await _finish({worker})
            worker.result()
        elif not place.settled:
            settled = asyncio.Event()
            loop = asyncio.get_running_loop()
            in_flight.when_settled(place, functools.partial(loop.call_soon_threadsafe, settled.set))
            await settled.wait()
        if not orphaned(place):
            return results.take(place)


class Tasks:
    """Call an async step from up to `concurrency` tasks that outlive each single row.

    A task that finds its next row waiting costs less than a task a row. The calls are never made in
    the consumer's own task, so that cancelling it does not cancel a call that is paid for.
    """

    def __init__(self, running: Running, concurrency: int, signals: Signals) -> None:
        self._running, self._concurrency, self._signals = running, concurrency, signals
        self._intake, self._calls, self._source = running.intake, running.calls, running.source
        self._order = Reorder(running.in_flight, running.options, concurrency)
        self._todo: deque[list[Slot]] = deque()
        self._unbegun: list[list[Slot]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._wake = asyncio.Event()

    async def chunks(self) -> AsyncGenerator[list[Place]]:
        """Yield lists of settled rows, in input order if they are to be in order.

        An empty list says that nothing is in flight and a deferred signal can be delivered.
        """
        self._signals.wake_by(asyncio.get_running_loop(), self._wake)
        try:
            async with aclosing(self._places()) as places:
                async for place in places:
                    if place is not None:
                        self._start(self._order.push(place))
                    while True:
                        if ready := list(self._order.ready()):
                            yield ready
                        if await self._interrupted():
                            yield []
                            self._resume()
                        if not self._crowded:
                            break
                        await self._settled()
            self._start(self._order.rest())
            while len(self._order):
                if ready := list(self._order.ready()):
                    yield ready
                else:
                    await self._settled()
                if await self._interrupted():
                    yield []
                    self._resume()
        finally:
            self._todo.clear()
            await _finish(self._workers)

    @property
    def _crowded(self) -> bool:
        is_full = self._order.full and not self._intake.ahead
        return len(self._todo) >= self._concurrency or is_full

    async def _settled(self) -> None:
        if not self._workers:
            self._start(self._order.rest())
            if self._intake.is_following:
                self._running.commit()  # another worker may be waiting for what is pending here
        self._wake.clear()
        with suppress(TimeoutError):
            wait = POLL_EVERY if self._intake.is_following else None
            await asyncio.wait_for(self._wake.wait(), wait)
        for slot in self._intake.poll_claimed():
            self._start([slot])

    async def _interrupted(self) -> bool:
        if self._errors:
            raise self._errors[0]
        if self._signals.deferred is None:
            return False
        self._unbegun = list(self._todo)
        self._todo.clear()
        await _finish(self._workers)
        return True

    def _resume(self) -> None:
        """Start what was held back: the user's own handler has let the run go on."""
        for unit in self._unbegun:
            self._start(unit)

    def _start(self, unit: list[Slot]) -> None:
        if not unit:
            return
        self._todo.append(unit)
        if len(self._workers) < self._concurrency:
            self._workers.add(asyncio.create_task(self._work()))

    async def _work(self) -> None:
        while self._todo:
            try:
                await self._calls.acompute(self._todo.popleft())
            except BaseException as error:  # noqa: BLE001 - raised in the consumer's task
                self._errors.append(error)
                self._todo.clear()
            self._wake.set()
        # not by a done callback: the next row must not count on a worker that has just ended
        self._workers.discard(asyncio.current_task())

    async def _places(self) -> AsyncGenerator[Place | None]:
        """Yield rows looked up; None when none came yet but something else may have happened."""
        if not self._source.is_async:
            for n, place in enumerate(self._intake.slots(), 1):
                yield place
                if n % 64 == 0:  # a stretch of hits must not starve the other tasks of the loop
                    await asyncio.sleep(0)
            return
        while True:
            coming = asyncio.ensure_future(self._source.arrival())
            coming.add_done_callback(lambda _: self._wake.set())
            try:
                while not coming.done():
                    self._wake.clear()
                    yield None
                    if not coming.done():
                        await self._wake.wait()
                row = coming.result()
                arrived = None if row is END else self._intake.admit(row)
            except Exception as error:  # noqa: BLE001 - raised after the rows before it
                self._source.error = error
                return
            finally:
                coming.cancel()
            if arrived is None:
                return
            yield arrived


async def _finish(workers: set[asyncio.Task[None]]) -> None:
    """Await calls in flight, for they are paid for; a first cancellation waits for them too."""
    cancelled: asyncio.CancelledError | None = None
    while pending := {worker for worker in workers if not worker.done()}:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            if cancelled is not None:
                raise
            cancelled = error
    if cancelled is not None:
        raise cancelled


def bridged(running: Running, signals: Signals, concurrency: int) -> Iterator[Any]:
    """Run an async loop from sync code, in a thread with an event loop of its own.

    A thread, so that it works inside Jupyter's running loop as well.
    """
    results = running.results
    with LoopThread() as loop:
        chunks = loop.wait(_begin, running, signals, concurrency)
        try:
            while (places := loop.wait(_next, chunks)) is not None:
                if not places:
                    stop(running, signals)
                for place in places:
                    yield results.take(place)
        finally:
            loop.wait(chunks.aclose)


async def _begin(
    running: Running, signals: Signals, concurrency: int
) -> AsyncGenerator[list[Place]]:
    return Tasks(running, concurrency, signals).chunks()


async def _next(chunks: AsyncIterator[list[Place]]) -> list[Place] | None:
    return await anext(chunks, None)
