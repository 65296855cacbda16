"""The loops over a `Run`: in order, in batches, in tasks. Know when to call what, and when to end."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from .runner import READ_AHEAD, Run
from .signals import Signals
from .slots import Slot, Twin

Place = Slot | Twin

Rows = Iterable[Any] | AsyncIterable[Any]
Loop = Callable[[Run[Any], Signals], Iterator[Any]]


def drive(run: Run[Any], loop: Loop) -> Iterator[Any]:
    """Begin the run, loop, and end it, however the loop ends."""
    signals = Signals(lambda: run.busy, run.commit)
    run.start()
    signals.install()
    try:
        yield from loop(run, signals)
    except GeneratorExit:
        run.finish("closed")
        raise
    except BaseException as error:
        run.finish(how(error))
        run.explain(error)
        raise
    else:
        run.finish("finished")
    finally:
        signals.restore()


async def adrive(run: Run[Any], chunks: AsyncIterator[list[Place]]) -> AsyncIterator[Any]:
    """Begin the run, give out results, and end it: `drive` for async code."""
    run.start()
    try:
        async with aclosing(chunks):  # type: ignore[type-var]
            async for slots in chunks:
                for slot in slots:
                    yield run.take(slot)
    except GeneratorExit:
        run.finish("closed")
        raise
    except BaseException as error:
        run.finish(how(error))
        run.explain(error)
        raise
    else:
        run.finish("finished")


def how(error: BaseException) -> str:
    """Say in a few words how a run ended by `error`."""
    if isinstance(error, KeyboardInterrupt | SystemExit | asyncio.CancelledError):
        return "interrupted"
    return f"failed: {type(error).__name__}"


def sequential(run: Run[Any], rows: Iterable[Any], signals: Signals) -> Iterator[Any]:
    """Call the step for one row after the other."""
    take, compute = run.take, run.compute
    for slot in run.slots(rows):
        if slot.mine:
            compute(slot)  # type: ignore[arg-type]
        yield take(slot)
        if signals.held is not None:
            stop(run, signals)


def batches(run: Run[Any], rows: Iterable[Any], size: int, signals: Signals) -> Iterator[Any]:
    """Call a batch step for `size` rows at a time, hits left out."""
    window = Window(size)
    for slot in run.slots(rows):
        unit = window.push(slot)
        if unit is None and window.full:
            unit = window.rest()
        if unit:
            run.compute_batch(unit)
        yield from map(run.take, window.ready())
        if signals.held is not None:
            stop(run, signals)
    if unit := window.rest():
        run.compute_batch(unit)
    yield from map(run.take, window.ready())


def stop(run: Run[Any], signals: Signals) -> None:
    """Save, then let the signal that was held back do its work."""
    run.commit()
    signals.deliver()


def call(run: Run[Any], row: Any) -> Any:
    """Call the step for one row outside any loop; from any thread."""
    slot = run.lookup([row])[0]
    if isinstance(slot, Slot):
        if slot.mine:
            run.compute(slot)
    elif not slot.settled:
        settled = threading.Event()
        run.when_settled(slot, settled.set)
        settled.wait()
    return run.take(slot)


async def acall(run: Run[Any], row: Any) -> Any:
    """Call an async step for one row outside any loop; from any task."""
    slot = run.lookup([row])[0]
    if isinstance(slot, Slot):
        if slot.mine:
            await run.acompute([slot], batch=False)
    elif not slot.settled:
        loop, settled = asyncio.get_running_loop(), asyncio.Event()
        run.when_settled(slot, lambda: loop.call_soon_threadsafe(settled.set))
        await settled.wait()
    return run.take(slot)


class Window:
    """Rows in input order that wait for their outcome, and the call that is being filled."""

    def __init__(self, size: int, concurrency: int = 1) -> None:
        self._size = size
        self._limit = max(READ_AHEAD, 4 * size * concurrency)
        self._rows: deque[Place] = deque()
        self._unit: list[Slot] = []

    def __len__(self) -> int:
        return len(self._rows)

    def push(self, slot: Place) -> list[Slot] | None:
        """Add a row; return the rows of a call when there are enough for one."""
        self._rows.append(slot)
        if slot.mine:
            self._unit.append(slot)  # type: ignore[arg-type]
        return self.rest() if len(self._unit) == self._size else None

    def rest(self) -> list[Slot]:
        """Return the rows of a call that is not full."""
        unit, self._unit = self._unit, []
        return unit

    @property
    def full(self) -> bool:
        """Whether so many rows wait that no more should be read."""
        return len(self._rows) >= self._limit

    def ready(self) -> Iterator[Place]:
        """Give out rows from the front, as long as their outcome is there."""
        rows = self._rows
        while rows and rows[0].settled:
            yield rows.popleft()


class Tasks:
    """Call an async step from up to `concurrency` tasks that outlive each single row.

    A task that finds its next row waiting costs less than a task a row. The calls are never made in
    the consumer's own task, so that cancelling it does not cancel a call that is paid for.
    """

    def __init__(self, run: Run[Any], concurrency: int, batch_size: int | None) -> None:
        self._run, self._concurrency = run, concurrency
        self._batch = batch_size is not None
        self._window = Window(batch_size or 1, concurrency)
        self._todo: deque[list[Slot]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._wake = asyncio.Event()

    async def chunks(self, rows: Rows) -> AsyncIterator[list[Place]]:
        """Yield lists of settled rows, in input order."""
        try:
            async for slot in _aslots(self._run, rows, self._wake):
                if slot is not None:
                    self._start(self._window.push(slot))
                while True:
                    if ready := list(self._window.ready()):
                        yield ready
                    self._raise()
                    if not self._crowded:
                        break
                    await self._settled()
            self._start(self._window.rest())
            while len(self._window):
                if ready := list(self._window.ready()):
                    yield ready
                else:
                    await self._settled()
                self._raise()
        finally:
            self._todo.clear()
            await _finish(self._workers)

    @property
    def _crowded(self) -> bool:
        return len(self._todo) >= self._concurrency or self._window.full

    async def _settled(self) -> None:
        if not self._workers:
            self._start(self._window.rest())
        self._wake.clear()
        await self._wake.wait()

    def _start(self, unit: list[Slot] | None) -> None:
        if not unit:
            return
        self._todo.append(unit)
        if len(self._workers) < self._concurrency:
            self._workers.add(asyncio.create_task(self._work()))

    async def _work(self) -> None:
        while self._todo:
            try:
                await self._run.acompute(self._todo.popleft(), self._batch)
            except BaseException as error:  # noqa: BLE001 - raised in the consumer's task
                self._errors.append(error)
                self._todo.clear()
            self._wake.set()
        # not by a done callback: the next row must not count on a worker that has just ended
        self._workers.discard(asyncio.current_task())  # type: ignore[arg-type]

    def _raise(self) -> None:
        if self._errors:
            raise self._errors[0]


async def _aslots(run: Run[Any], rows: Rows, wake: asyncio.Event) -> AsyncIterator[Place | None]:
    """Yield slots; None when nothing came yet but something else may have happened."""
    if not isinstance(rows, AsyncIterable):
        for n, slot in enumerate(run.slots(rows), 1):
            yield slot
            if n % 64 == 0:  # a stretch of hits must not starve the other tasks of the loop
                await asyncio.sleep(0)
        return
    source = aiter(rows)
    while True:
        coming = asyncio.ensure_future(anext(source, _END))
        coming.add_done_callback(lambda _: wake.set())
        while not coming.done():
            wake.clear()
            yield None
            await wake.wait()
        row = coming.result()
        if row is _END:
            return
        yield run.lookup([row])[0]


_END: Any = object()


async def _finish(workers: set[asyncio.Task[None]]) -> None:
    """Await calls in flight, for they are paid for; a cancellation waits until they are saved."""
    cancelled: asyncio.CancelledError | None = None
    while workers:
        try:
            await asyncio.wait(set(workers))
        except asyncio.CancelledError as error:
            if cancelled is not None:
                raise
            cancelled = error
    if cancelled is not None:
        raise cancelled


def bridged(chunks: AsyncIterator[list[Place]], run: Run[Any], signals: Signals) -> Iterator[Any]:
    """Run an async loop from sync code, in a thread with an event loop of its own.

    A thread, so that it works inside Jupyter's running loop as well.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="checkpointdb-loop", daemon=True)
    thread.start()

    def wait(awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(_await(awaitable), loop).result()

    try:
        while slots := wait(anext(chunks, [])):
            for slot in slots:
                yield run.take(slot)
                if signals.held is not None:
                    stop(run, signals)
    finally:
        wait(chunks.aclose())  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _await(awaitable: Any) -> Any:
    return await awaitable
