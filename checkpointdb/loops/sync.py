"""The loops over a `Runner`: in order, in batches, in a pool. Know when to call what."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import (
    AsyncIterable,
    Callable,
    Iterable,
    Iterator,
)
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from queue import Empty, SimpleQueue
from typing import Any

from ..engine.rows import Slot, Twin
from ..engine.runner import Runner
from ..engine.sharing import LOOK_EVERY
from .progress import Progress
from .reorder import Place, Window
from .signals import Signals
from .thread_pool import DaemonPool

Rows = Iterable[Any] | AsyncIterable[Any]
Loop = Callable[[Signals], Iterator[Any]]


def drive(runner: Runner, rows: Rows, loop: Loop) -> Iterator[Any]:
    """Begin the run, loop, and end it, however the loop ends."""
    signals = Signals(lambda: runner.busy, runner.commit)
    runner.start()
    signals.install()
    try:
        with progress(runner, rows):
            yield from loop(signals)
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


def progress(runner: Runner, rows: Any) -> AbstractContextManager[Any]:
    """Show the run's progress, if it was asked for."""
    if not runner.options.progress:
        return nullcontext()
    total = len(rows) if hasattr(rows, "__len__") else None
    return Progress(runner.spec.name, runner.report, total)


def how(error: BaseException) -> str:
    """Say in a few words how a run ended by `error`."""
    name = type(error).__name__
    if isinstance(error, KeyboardInterrupt | SystemExit) or name == "CancelledError":
        return "interrupted"
    return f"failed: {name}"


def sequential(runner: Runner, rows: Iterable[Any], signals: Signals) -> Iterator[Any]:
    """Call the step for one row after the other."""
    take, compute = runner.take, runner.compute
    for place in runner.lookup.slots(rows):
        if place.mine:
            compute(place)  # type: ignore[arg-type]
        yield take(place)
        if signals.held is not None:
            stop(runner, signals)


def batches(runner: Runner, rows: Iterable[Any], signals: Signals) -> Iterator[Any]:
    """Call a batch step for some rows at a time, hits left out."""
    window = Window(runner)
    for place in runner.lookup.slots(rows):
        unit = window.push(place) or (window.rest() if window.full else [])
        if unit:
            runner.compute_batch(unit)
        yield from map(runner.take, window.ready())
        if signals.held is not None:
            stop(runner, signals)
    if unit := window.rest():
        runner.compute_batch(unit)
    yield from map(runner.take, window.ready())


def stop(runner: Runner, signals: Signals) -> None:
    """Save, then let the signal that was held back do its work."""
    runner.commit()
    signals.deliver()


def threaded(
    runner: Runner, rows: Iterable[Any], signals: Signals, concurrency: int
) -> Iterator[Any]:
    """Keep `concurrency` calls in flight in threads."""
    with DaemonPool(concurrency) as pool:
        submit = functools.partial(pool.submit, runner.compute_unit)
        yield from Pooled(runner, submit, concurrency).results(rows, signals)


class Pooled:
    """Keep `concurrency` calls in flight in a pool, and as many ready to start.

    Rows are read and results are given out in the caller's thread; what returns is kept in the
    pool's, so that a slow consumer does not hold up saving. However the loop ends, calls in flight
    are awaited.
    """

    def __init__(
        self, runner: Runner, submit: Callable[[list[Slot]], Future[None]], concurrency: int
    ) -> None:
        self._runner, self._submit, self._concurrency = runner, submit, concurrency
        self._window = Window(runner, concurrency)
        self._in_flight: dict[Future[None], list[Slot]] = {}
        self._finished: SimpleQueue[Future[None]] = SimpleQueue()

    def results(self, rows: Iterable[Any], signals: Signals) -> Iterator[Any]:
        """Yield results, in input order if they are to be in order."""
        window, places, more = self._window, self._runner.lookup.slots(rows), True
        try:
            while more or len(window):
                for slot in self._runner.lookup.look_abroad():
                    self._start([slot])
                if more and self._has_room:
                    place = next(places, None)
                    more = place is not None
                    self._start(window.rest() if place is None else window.push(place))
                else:
                    self._wait()
                while not self._finished.empty():
                    self._reap()
                if signals.held is not None:
                    self._pause(signals)
                yield from map(self._runner.take, window.ready())
        finally:
            if not signals.urgent:
                self._drain()

    @property
    def _has_room(self) -> bool:
        held_up = self._window.full and not self._runner.lookup.ahead
        return len(self._in_flight) < 2 * self._concurrency and not held_up

    def _start(self, unit: list[Slot]) -> None:
        if unit:
            future = self._submit(unit)
            self._in_flight[future] = unit
            future.add_done_callback(self._finished.put)

    def _wait(self) -> None:
        """Wait for something to happen that lets the loop go on."""
        if self._in_flight:
            with suppress(Empty):
                self._reap(LOOK_EVERY if self._runner.lookup.following else None)
        elif unit := self._window.rest():
            self._start(unit)
        elif self._runner.lookup.following:
            self._runner.commit()  # another worker may be waiting for what is pending here
            time.sleep(LOOK_EVERY)

    def _reap(self, timeout: float | None = None) -> None:
        future = self._finished.get(timeout=timeout)
        if self._in_flight.pop(future, None):
            future.result()

    def _pause(self, signals: Signals) -> None:
        unbegun = self._drain()
        stop(self._runner, signals)
        for unit in unbegun:  # the user's own handler has let the run go on
            self._start(unit)

    def _drain(self) -> list[list[Slot]]:
        """Await calls in flight, for they are paid for; cancel and return those not begun."""
        flying = self._in_flight
        unbegun = [flying.pop(future) for future in list(flying) if future.cancel()]
        for future in flying:
            future.exception()
        return unbegun


def call(runner: Runner, row: Any) -> Any:
    """Call the step for one row outside any loop; from any thread."""
    while True:
        place = runner.lookup.rows([row])[0]
        if place.mine:
            assert isinstance(place, Slot)
            runner.compute(place)
        elif not place.settled:
            settled = threading.Event()
            runner.when_settled(place, settled.set)
            settled.wait()
        if not orphaned(place):
            return runner.take(place)


def orphaned(place: Place) -> bool:
    """Tell whether an equal call that this one waited for was interrupted, not answered."""
    if not isinstance(place, Twin):
        return False
    return place.first.error is not None and not isinstance(place.first.error, Exception)
