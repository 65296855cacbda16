"""The loops over a run: in order, in batches, in a pool. Know when to call what."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from .. import interrupts
from ..engine.begin import Running
from ..engine.rows import EqualRow, Place, Slot, first_of
from ..engine.sharing import POLL_EVERY
from ..engine.waiting import waiting
from .reorder import Reorder
from .session import Session
from .signals import Signals
from .thread_pool import DaemonPool

Loop = Callable[[Running, Signals], Iterator[Any]]


def drive(session: Session, loop: Loop) -> Iterator[Any]:
    """Give out the results of a run."""
    with session.running() as (running, signals):
        yield from loop(running, signals)


def sequential(running: Running, signals: Signals) -> Iterator[Any]:
    """Call the step for one row after the other."""
    intake, calls, results = running.intake, running.calls, running.results
    compute, take = calls.compute, results.take
    for place in intake.slots():
        if place.must_compute:
            compute([place])  # type: ignore[list-item]
        yield take(place)
        if signals.deferred is not None:
            stop(running, signals)


def batches(running: Running, signals: Signals) -> Iterator[Any]:
    """Call a batch step for some rows at a time, hits left out."""
    intake, calls, results = running.intake, running.calls, running.results
    order = Reorder(running.in_flight, running.options)
    for place in intake.slots():
        unit = order.push(place) or (order.rest() if order.full else [])
        if unit:
            calls.compute(unit)
        yield from map(results.take, order.ready())
        if signals.deferred is not None:
            stop(running, signals)
    if unit := order.rest():
        calls.compute(unit)
    yield from map(results.take, order.ready())


def stop(running: Running, signals: Signals) -> None:
    """Save, then let the deferred signal do its work."""
    running.commit()
    signals.deliver()


def threaded(running: Running, signals: Signals, concurrency: int) -> Iterator[Any]:
    """Keep `concurrency` calls in flight in threads."""
    calls = running.calls
    with DaemonPool(concurrency) as pool:
        submit = functools.partial(pool.submit, calls.compute)
        yield from Pooled(running, submit, concurrency).results(signals)


class Pooled:
    """Keep `concurrency` calls in flight in a pool, and as many ready to start.

    Rows are read and results are given out in the caller's thread; what returns is kept in the
    pool's, so that a slow consumer does not hold up saving. However the loop ends, calls in flight
    are awaited.
    """

    def __init__(
        self, running: Running, submit: Callable[[list[Slot]], Future[None]], concurrency: int
    ) -> None:
        self._running, self._submit, self._concurrency = running, submit, concurrency
        self._intake, self._results = running.intake, running.results
        self._order = Reorder(running.in_flight, running.options, concurrency)
        self._sent: dict[Future[None], list[Slot]] = {}
        self._finished: SimpleQueue[Future[None]] = SimpleQueue()

    def results(self, signals: Signals) -> Iterator[Any]:
        """Yield results, in input order if they are to be in order."""
        order, places, more = self._order, self._intake.slots(), True
        try:
            while more or len(order):
                for slot in self._intake.poll_claimed():
                    self._start([slot])
                if more and self._has_room:
                    place = next(places, None)
                    more = place is not None
                    self._start(order.rest() if place is None else order.push(place))
                else:
                    self._wait()
                while not self._finished.empty():
                    self._reap()
                if signals.deferred is not None:
                    self._pause(signals)
                yield from map(self._results.take, order.ready())
        finally:
            if not signals.urgent:
                self._drain()

    @property
    def _has_room(self) -> bool:
        is_full = self._order.full and not self._intake.ahead
        return len(self._sent) < 2 * self._concurrency and not is_full

    def _start(self, unit: list[Slot]) -> None:
        if unit:
            future = self._submit(unit)
            self._sent[future] = unit
            future.add_done_callback(self._finished.put)

    def _wait(self) -> None:
        """Wait for something to happen that lets the loop go on."""
        self._running.check_process()
        if self._sent:
            with suppress(Empty):
                self._reap(POLL_EVERY if self._intake.is_following else None)
        elif unit := self._order.rest():
            self._start(unit)
        elif self._intake.is_following:
            self._running.commit()  # another worker may be waiting for what is pending here
            time.sleep(POLL_EVERY)

    @interrupts.in_calls
    def _reap(self, timeout: float | None = None) -> None:
        future = self._finished.get(timeout=timeout)
        if self._sent.pop(future, None):
            future.result()

    def _pause(self, signals: Signals) -> None:
        unbegun = self._drain()
        stop(self._running, signals)
        for unit in unbegun:  # the user's own handler has let the run go on
            self._start(unit)

    def _drain(self) -> list[list[Slot]]:
        """Await calls in flight, for they are paid for; cancel and return those not begun."""
        flying = self._sent
        if self._running.is_forked:  # the threads stayed with the parent, and so did the calls
            return []
        unbegun = [flying.pop(future) for future in list(flying) if future.cancel()]
        for future in flying:
            future.exception()
        return unbegun


@interrupts.one_call
def call(running: Running, row: Any) -> Any:
    """Call the step for one row outside any loop; from any thread."""
    intake, calls, results = running.intake, running.calls, running.results
    while True:
        place = intake.place_of(row)
        if place.must_compute:
            assert isinstance(place, Slot)
            calls.compute([place])
        elif not place.settled:
            interrupts.in_the_open(_settled, (running, place))
        if not orphaned(place):
            return results.take(place)


def _settled(waited: tuple[Running, Place]) -> None:
    """Wait until a row is settled that another thread computes."""
    running, place = waited
    settled, in_flight = threading.Event(), running.in_flight
    with waiting(first_of(place), running.name):
        in_flight.when_settled(place, settled.set)
        settled.wait()


def orphaned(place: Place) -> bool:
    """Tell whether an equal call that this one waited for was interrupted, not answered."""
    if not isinstance(place, EqualRow):
        return False
    return place.first.error is not None and not isinstance(place.first.error, Exception)
