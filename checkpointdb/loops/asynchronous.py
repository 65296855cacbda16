"""The loops over a `Runner` for async steps: in tasks, also from sync code. Know what to await."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from typing import Any

from ..engine.rows import Slot
from ..engine.runner import Runner
from ..engine.sharing import LOOK_EVERY
from .loop_thread import LoopThread
from .reorder import Place, Window
from .signals import Signals, always
from .sync import Rows, how, orphaned, progress, stop


async def adrive(runner: Runner, rows: Rows, concurrency: int) -> AsyncIterator[Any]:
    """Begin the run, give out results, and end it: `drive` for async code.

    SIGINT is left to asyncio, which cancels the task that iterates; SIGTERM does the same here.
    """
    signals = Signals(always, runner.commit, interrupt=False)
    tasks = Tasks(runner, concurrency, signals)
    runner.start()
    signals.install()
    try:
        async with aclosing(tasks.chunks(rows)) as chunks:
            with progress(runner, rows):
                async for places in chunks:
                    if not places:
                        stop(runner, signals)
                    for place in places:
                        yield runner.take(place)
        runner.lookup.raise_source_error()
    except GeneratorExit:
        runner.finish("closed")
        raise
    except BaseException as error:
        runner.finish(how(error))
        runner.explain(error, rows)
        raise
    else:
        runner.finish("finished")
    finally:
        signals.restore()


async def acall(runner: Runner, row: Any) -> Any:
    """Call an async step for one row outside any loop; from any task.

    The call runs in a task of its own: if the caller is cancelled, it is awaited and kept first.
    """
    while True:
        place = runner.lookup.rows([row])[0]
        if place.mine:
            assert isinstance(place, Slot)
            worker = asyncio.create_task(runner.acompute([place]))
            await _finish({worker})
            worker.result()
        elif not place.settled:
            settled = asyncio.Event()
            loop = asyncio.get_running_loop()
            runner.when_settled(place, functools.partial(loop.call_soon_threadsafe, settled.set))
            await settled.wait()
        if not orphaned(place):
            return runner.take(place)


class Tasks:
    """Call an async step from up to `concurrency` tasks that outlive each single row.

    A task that finds its next row waiting costs less than a task a row. The calls are never made in
    the consumer's own task, so that cancelling it does not cancel a call that is paid for.
    """

    def __init__(self, runner: Runner, concurrency: int, signals: Signals) -> None:
        self._runner, self._concurrency, self._signals = runner, concurrency, signals
        self._window = Window(runner, concurrency)
        self._todo: deque[list[Slot]] = deque()
        self._unbegun: list[list[Slot]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._wake = asyncio.Event()

    async def chunks(self, rows: Rows) -> AsyncGenerator[list[Place]]:
        """Yield lists of settled rows, in input order if they are to be in order.

        An empty list says that nothing is in flight and a held signal can be delivered.
        """
        self._signals.wake_by(asyncio.get_running_loop(), self._wake)
        try:
            async with aclosing(self._places(rows)) as places:
                async for place in places:
                    if place is not None:
                        self._start(self._window.push(place))
                    while True:
                        if ready := list(self._window.ready()):
                            yield ready
                        if await self._interrupted():
                            yield []
                            self._resume()
                        if not self._crowded:
                            break
                        await self._settled()
            self._start(self._window.rest())
            while len(self._window):
                if ready := list(self._window.ready()):
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
        held_up = self._window.full and not self._runner.lookup.ahead
        return len(self._todo) >= self._concurrency or held_up

    async def _settled(self) -> None:
        if not self._workers:
            self._start(self._window.rest())
            if self._runner.lookup.following:
                self._runner.commit()  # another worker may be waiting for what is pending here
        self._wake.clear()
        with suppress(TimeoutError):
            wait = LOOK_EVERY if self._runner.lookup.following else None
            await asyncio.wait_for(self._wake.wait(), wait)
        for slot in self._runner.lookup.look_abroad():
            self._start([slot])

    async def _interrupted(self) -> bool:
        if self._errors:
            raise self._errors[0]
        if self._signals.held is None:
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
                await self._runner.acompute(self._todo.popleft())
            except BaseException as error:  # noqa: BLE001 - raised in the consumer's task
                self._errors.append(error)
                self._todo.clear()
            self._wake.set()
        # not by a done callback: the next row must not count on a worker that has just ended
        self._workers.discard(asyncio.current_task())

    async def _places(self, rows: Rows) -> AsyncGenerator[Place | None]:
        """Yield rows looked up; None when none came yet but something else may have happened."""
        if not isinstance(rows, AsyncIterable):
            for n, place in enumerate(self._runner.lookup.slots(rows), 1):
                yield place
                if n % 64 == 0:  # a stretch of hits must not starve the other tasks of the loop
                    await asyncio.sleep(0)
            return
        source = aiter(rows)
        while True:
            coming = asyncio.ensure_future(anext(source, _END))
            coming.add_done_callback(lambda _: self._wake.set())
            try:
                while not coming.done():
                    self._wake.clear()
                    yield None
                    if not coming.done():
                        await self._wake.wait()
                row = coming.result()
                arrived = None if row is _END else self._runner.lookup.read_one(row)
            except Exception as error:  # noqa: BLE001 - raised after the rows before it
                self._runner.lookup.source_error = error
                return
            finally:
                coming.cancel()
            if arrived is None:
                return
            yield arrived


_END: Any = object()


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


def bridged(runner: Runner, rows: Rows, signals: Signals, concurrency: int) -> Iterator[Any]:
    """Run an async loop from sync code, in a thread with an event loop of its own.

    A thread, so that it works inside Jupyter's running loop as well.
    """
    with LoopThread() as loop:
        chunks = loop.wait(_begin, runner, rows, signals, concurrency)
        try:
            while (places := loop.wait(_next, chunks)) is not None:
                if not places:
                    stop(runner, signals)
                for place in places:
                    yield runner.take(place)
        finally:
            loop.wait(chunks.aclose)


async def _begin(
    runner: Runner, rows: Rows, signals: Signals, concurrency: int
) -> AsyncGenerator[list[Place]]:
    return Tasks(runner, concurrency, signals).chunks(rows)


async def _next(chunks: AsyncIterator[list[Place]]) -> list[Place] | None:
    return await anext(chunks, None)
