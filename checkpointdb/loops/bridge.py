"""The loops over an async step for sync code. Rows are read here; calls are made on the one loop.

So the rows may come from another run whose calls are made on the same loop.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any

from ..engine.begin import Running
from ..engine.calls import Calls
from ..engine.options import Options
from ..engine.pause import PutBack
from ..engine.rows import Place, Slot
from ..engine.source import END
from ..engine.warn import is_ours, warn
from .loop_thread import LoopThread, shared_loop
from .signals import Signals
from .sync import Loop, Pooled, batches, sequential, stop


def bridged(step: str, options: Options) -> Loop:
    """Return the loop for a run with these options.

    Raises:
        RuntimeError: the caller is on the shared event loop, and would wait for itself.
    """
    loop = shared_loop()
    if loop.is_here:
        raise RuntimeError(
            f"run() of the async step {step!r} was called in an async step that a run() calls: it "
            "would wait for the event loop that it is on. Use `async for ... in "
            f"{step}.arun(rows)` there"
        )
    if _is_concurrent(options):
        return lambda run, signals: _concurrent(run, signals, loop, options.concurrency)
    one_by_one = sequential if options.batch_size is None else batches
    return lambda run, signals: one_by_one(run, signals, _computing(run, signals, loop))


def _is_concurrent(options: Options) -> bool:
    """Tell whether a result may be there before the newest call has returned."""
    return options.concurrency > 1 or options.shared


def _computing(
    running: Running, signals: Signals, loop: LoopThread
) -> Callable[[list[Slot]], None]:
    """Return a function that makes one call and waits for it."""
    blocked, calls, pause = Watch(loop), running.calls, running.pause

    def watch() -> None:
        blocked()
        if pause is not None and signals.deferred is not None:
            pause.stop()

    def compute(slots: list[Slot]) -> None:
        running.check_process()
        while True:
            try:
                return loop.wait(calls.acompute(slots), watch)  # type: ignore[no-any-return]
            except PutBack:
                stop(running, signals)
                assert pause is not None
                pause.go_on()  # the user's own handler has let the run go on

    return compute


def _concurrent(
    running: Running, signals: Signals, loop: LoopThread, concurrency: int
) -> Iterator[Any]:
    with _Workers(running, loop, concurrency) as workers:
        pooled = Pooled(running, workers.submit, concurrency, Watch(loop))
        source = running.source
        if source.is_async:
            pooled.places = _arriving(running, loop, pooled.wake)
        yield from pooled.results(signals)


class _Workers:
    """Call an async step from up to `size` tasks on a loop, each of which makes call after call.

    The caller's thread appends to `_todo` and the loop's takes from it, without a lock.
    """

    def __init__(self, running: Running, loop: LoopThread, size: int) -> None:
        self._running, self._calls = running, running.calls
        self._loop, self._size = loop.loop, size
        self._todo: deque[tuple[Future[None], list[Slot]]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_called = False

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._running.is_forked:
            self._loop.call_soon_threadsafe(self._end)

    def submit(self, unit: list[Slot]) -> Future[None]:
        """Have a task make a call."""
        future: Future[None] = Future()
        self._todo.append((future, unit))
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon_threadsafe(self._fill)
        return future

    def _fill(self) -> None:
        self._is_called = False  # before looking: what is appended from now on calls again
        for _ in range(min(len(self._todo), self._size - len(self._tasks))):
            self._tasks.add(self._loop.create_task(self._work()))

    def _end(self) -> None:
        """End what is left when nobody waits for it any more: after a second Ctrl-C."""
        for task in self._tasks:
            task.cancel()

    async def _work(self) -> None:
        me: Any = (
            asyncio.current_task()
        )  # asked now: in a child that the step forks nobody can tell
        try:
            while self._todo:
                future, unit = self._todo.popleft()
                if future.set_running_or_notify_cancel():
                    await self._call(future, unit)
        finally:
            self._tasks.discard(me)

    async def _call(self, future: Future[None], unit: list[Slot]) -> None:
        try:
            await self._calls.acompute(unit)
        except BaseException as error:
            if self._running.is_forked:  # a child that the step forked: let it end
                raise
            future.set_exception(error)
        else:
            future.set_result(None)


# --- rows of an async source


def _arriving(
    running: Running, loop: LoopThread, wake: Callable[[Any], object]
) -> Iterator[Place | None]:
    """Yield rows of an async source as they come; None when none came yet."""
    source, passes, row = running.source, running.passes, None
    try:
        while row is not END and not passes.is_over:
            coming = asyncio.run_coroutine_threadsafe(source.arrival(), loop.loop)
            coming.add_done_callback(wake)
            try:
                while not coming.done():
                    yield None
                row = coming.result()
                arrived = passes.last() if row is END else passes.admit(row)
            except Exception as error:  # noqa: BLE001 - raised after the rows before it
                source.error = error
                return
            finally:
                coming.cancel()
            yield from arrived
    finally:
        if not (running.is_forked or sys.is_finalizing()):
            loop.wait(source.aclose())


def readable(rows: Any, options: Options, is_async: bool) -> Any:
    """Return the rows of an async iterable as the loop of a run reads them."""
    return rows if is_async and _is_concurrent(options) else _waited_for(rows)


def _waited_for(rows: AsyncIterable[Any]) -> Iterator[Any]:
    """Yield the rows of an async iterable, read on the shared loop while the caller waits."""
    loop, iterator = shared_loop(), aiter(rows)
    try:
        while (row := loop.wait(_next(iterator))) is not END:
            yield row
    finally:  # the loop's thread has ended when the process ends with us still alive
        if hasattr(iterator, "aclose") and not sys.is_finalizing():
            loop.wait(iterator.aclose())


async def _next(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator, END)


# --- what blocks the loop


class Watch:
    """Warn, once, of a step that keeps the loop from turning: no other call goes on meanwhile."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop, self._warned = loop, False

    def __call__(self) -> None:
        """Look, and warn if it is so."""
        frame = None if self._warned else self._loop.blocked_in()
        if frame is not None and (found := _step_on(frame)) is not None:
            self._warned = True
            step, at = found
            warn(
                f"step {step!r} blocks its event loop in {at.f_code.co_qualname}, line "
                f"{at.f_lineno} of {at.f_code.co_filename}: no async call of any run goes on "
                "meanwhile. Await an async client there, or asyncio.to_thread(...)",
                RuntimeWarning,
            )


def _step_on(frame: FrameType | None) -> tuple[str, FrameType] | None:
    """Return the step that is on a stack, and the frame of its own function."""
    function = None
    while frame is not None:
        if frame.f_code is Calls.acompute.__code__:
            calls: Calls = frame.f_locals["self"]
            return None if function is None else (calls.name, function)
        if not is_ours(frame):
            function = frame
        frame = frame.f_back
    return None
