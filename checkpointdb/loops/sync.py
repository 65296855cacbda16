"""The loops over a run: in order, in batches, in a pool. Know when to call what."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

from .. import interrupts
from ..engine.begin import Running
from ..engine.pause import PutBack
from ..engine.rows import EqualRow, Place, Slot, first_of
from ..engine.sharing import POLL_EVERY
from ..engine.source import END
from ..engine.waiting import waiting
from .reorder import Reorder
from .session import Session
from .signals import Signals
from .thread_pool import DaemonPool
from .tracebacks import hide_ours

Loop = Callable[[Running, Signals], Iterator[Any]]
Compute = Callable[[list[Slot]], None]

WATCH_EVERY = 0.25  # seconds in which nothing happened


def drive(session: Session, loop: Loop) -> Iterator[Any]:
    """Give out the results of a run."""
    try:
        with session.running() as (running, signals):
            _stop_in_pauses(running, signals)
            yield from loop(running, signals)
    except BaseException as error:
        hide_ours(error)
        raise


def sequential(running: Running, signals: Signals, compute: Compute | None = None) -> Iterator[Any]:
    """Call the step for one row after the other, with `compute` if it is not to be called here."""
    passes, results, calls = running.passes, running.results, running.calls
    compute, take = compute or calls.compute, results.take
    for place in passes.slots():
        if place.must_compute:
            compute([place])  # type: ignore[list-item]
        yield take(place)
        if signals.deferred is not None:
            stop(running, signals)


def batches(running: Running, signals: Signals, compute: Compute | None = None) -> Iterator[Any]:
    """Call a batch step for some rows at a time, hits left out."""
    passes, results, calls = running.passes, running.results, running.calls
    compute = compute or calls.compute
    order, take = Reorder(running.in_flight, running.options), results.take
    for place in passes.slots():
        if place.settled and not len(order):  # of a resume nearly all: nothing waits
            yield take(place)
        elif unit := order.push(place) or (order.rest() if order.full else []):
            compute(unit)
            yield from map(take, order.ready())
        elif place.settled:
            yield from map(take, order.ready())
        if signals.deferred is not None:
            stop(running, signals)
    if unit := order.rest():
        compute(unit)
    yield from map(take, order.ready())


def stop(running: Running, signals: Signals) -> None:
    """Save, then let the deferred signal do its work."""
    running.commit()
    signals.deliver()


def _stop_in_pauses(running: Running, signals: Signals) -> None:
    """Have a signal end the run while its only call waits in a pause, in this thread."""

    def look() -> None:
        if signals.deferred is not None:
            stop(running, signals)

    if (pause := running.pause) is not None:
        pause.look = look


def threaded(running: Running, signals: Signals, concurrency: int) -> Iterator[Any]:
    """Keep `concurrency` calls in flight in threads."""
    calls = running.calls
    with DaemonPool(concurrency) as pool:
        submit = functools.partial(pool.submit, calls.compute)
        yield from Pooled(running, submit, concurrency).results(signals)


class Pooled:
    """Keep `concurrency` calls in flight in a pool, and as many ready to start.

    Rows are read and results are given out in the caller's thread; the pool's threads keep what
    returns, so that a slow consumer does not hold up saving. However the loop ends, calls in flight
    are awaited.

    Args:
        running: the run.
        submit: begins a call; the future it returns is done when the call's results are kept.
        concurrency: how many calls may be in flight.
        watch: called every `WATCH_EVERY` while nothing happens.
    """

    def __init__(
        self,
        running: Running,
        submit: Callable[[list[Slot]], Future[None]],
        concurrency: int,
        watch: Callable[[], object] | None = None,
    ) -> None:
        self._running, self._submit, self._concurrency = running, submit, concurrency
        self._intake, self._results, self._watch = running.intake, running.results, watch
        passes = running.passes
        self.places: Iterator[Place | None] = passes.slots()  # None: none came yet
        self._order = Reorder(running.in_flight, running.options, concurrency)
        self._sent: dict[Future[None], list[Slot]] = {}
        self._finished: SimpleQueue[Future[Any] | None] = SimpleQueue()
        self.wake = self._finished.put

    def results(self, signals: Signals) -> Iterator[Any]:
        """Yield results, in input order if they are to be in order."""
        order, places, more = self._order, self.places, True
        signals.wake_by(lambda: self.wake(None))
        try:
            while more or len(order):
                for slot in self._intake.poll_claimed():
                    self._start([slot])
                if more and self._has_room:
                    place = next(places, END)
                    more = place is not END
                    if place is None:
                        self._wait(comes=True)
                    else:
                        self._start(order.push(place) if more else order.rest())
                else:
                    self._wait()
                while not self._finished.empty():
                    self._reap()
                if signals.deferred is not None:
                    self._pause(signals)
                yield from map(self._results.take, order.ready())
            while self._sent:  # a row is settled before what `cost=` raised of it is here
                self._wait()
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

    def _wait(self, comes: bool = False) -> None:
        """Wait for something that lets the loop go on, perhaps a row that comes."""
        self._running.check_process()
        if self._sent or comes:
            try:
                self._reap(POLL_EVERY if self._intake.is_following else WATCH_EVERY)
            except Empty:
                if self._watch is not None:
                    self._watch()
        elif unit := self._order.rest():
            self._start(unit)
        elif self._intake.is_following:
            self._running.commit()  # another worker may be waiting for what is pending here
            with self._intake.waiting_for_others():
                time.sleep(POLL_EVERY)

    @interrupts.in_calls
    def _reap(self, timeout: float | None = None) -> None:
        future = self._finished.get(timeout=timeout)
        if future in self._sent:
            del self._sent[future]
            future.result()

    def _pause(self, signals: Signals) -> None:
        unbegun = self._drain()
        stop(self._running, signals)
        if (pause := self._running.pause) is not None:
            pause.go_on()
        for unit in unbegun:  # the user's own handler has let the run go on
            self._start(unit)

    def _drain(self) -> list[list[Slot]]:
        """Await calls in flight, for they are paid for; cancel and return those not begun."""
        flying = self._sent
        if self._running.is_forked:  # the threads stayed with the parent, and so did the calls
            return []
        if (pause := self._running.pause) is not None:
            pause.stop()
        unbegun = [flying.pop(future) for future in list(flying) if future.cancel()]
        put_back = [it for it in flying if isinstance(it.exception(), PutBack)]
        return unbegun + [flying.pop(future) for future in put_back]


def call(running: Running, row: Any) -> Any:
    """Call the step for one row outside any loop; from any thread."""
    intake, results = running.intake, running.results
    # no signal need wait for a hit, where nothing is paid for: a tenth of its time
    if intake.expects_hit and (hit := intake.hit(row)) is not None:
        return results.give(*hit)
    return _call(running, row)


@interrupts.one_call
def _call(running: Running, row: Any) -> Any:
    intake, results = running.intake, running.results
    while True:
        place = intake.place_of(row)
        intake.expects_hit = not place.must_compute
        try:
            finish_call(running, place)
            if not orphaned(place):
                return results.take(place)
        except BaseException as error:
            intake.withdraw(place, error)
            raise


@interrupts.one_call
def finish_call(running: Running, place: Place) -> None:
    """Compute a row if we must, or wait for whoever computes it, unless it is settled."""
    if not (place.must_compute or place.settled):
        wait = _followed if isinstance(place, Slot) else _settled
        interrupts.in_the_open(wait, (running, place))
    calls = running.calls
    if place.must_compute and not place.settled:
        calls.compute([place])  # type: ignore[list-item]


def _settled(waited: tuple[Running, Place]) -> None:
    """Wait until another thread has settled a row."""
    running, place = waited
    settled, in_flight = threading.Event(), running.in_flight
    with waiting((first_of(place),), running.name):
        in_flight.when_settled(place, settled.set)
        settled.wait()


def _followed(waited: tuple[Running, Any]) -> None:
    """Wait until another process has settled a row, or until we must compute it."""
    running, slot = waited
    intake = running.intake
    running.commit()  # another process may be waiting for what is pending here
    while not (slot.settled or slot.must_compute):
        with intake.waiting_for_others([slot]):
            time.sleep(POLL_EVERY)
        intake.take_over([slot])


def orphaned(place: Place) -> bool:
    """Tell whether an equal call that this one waited for was interrupted, not answered."""
    if not isinstance(place, EqualRow):
        return False
    return place.first.error is not None and not isinstance(place.first.error, Exception)
