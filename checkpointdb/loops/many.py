"""Several rows at once in the session of a step's direct calls. Knows threads and tasks."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from ..engine.begin import Running
from ..engine.pause import PutBack
from ..engine.rows import Place, Slot, first_of
from .asynchronous import finish_call, is_under_way, paid, wait_for, worked
from .bridge import Watch
from .direct import Direct
from .loop_thread import shared_loop
from .sync import finish_call as finish_call_here
from .sync import orphaned
from .thread_pool import DaemonPool

_ORPHAN: Any = object()


class NotBegun(BaseException):
    """Why a row that nobody began to compute was given up: who waits for it tries itself."""


def many(
    direct: Direct, rows: Sequence[Any], numbers: list[int] | None, concurrency: int
) -> list[Any]:
    """Return the results of some rows; those that are missing are computed, in threads.

    Args:
        direct: the step's session.
        rows: of the step.
        numbers: which of equal rows each is, if that is named.
        concurrency: how many calls may be in flight.
    """
    running, places = direct.do(_look_up, rows, numbers)
    try:
        _raise_refused(running, places)
        ours = _ours(places)
        if concurrency > 1:
            _in_threads(running, ours, concurrency)
        for place in (*ours, *places):  # ours first: others may wait for them
            finish_call_here(running, place)
        outcomes = [_outcome(running, place) for place in places]
    finally:
        _withdraw(running, places)
    for i in _orphans(outcomes):
        outcomes[i : i + 1] = many(direct, [rows[i]], numbers and [numbers[i]], 1)
    return outcomes


def many_on_loop(
    direct: Direct, rows: Sequence[Any], numbers: list[int] | None, concurrency: int
) -> list[Any]:
    """Return the results of some rows of an async step, called on the loop of this process."""
    loop, calls = shared_loop(), set[Any]()
    try:
        found: list[Any] = loop.wait(amany(direct, rows, numbers, concurrency, calls), Watch(loop))
    except BaseException:
        loop.wait(wait_for(set(calls)))  # those in flight are paid for
        raise
    return found


async def amany(
    direct: Direct,
    rows: Sequence[Any],
    numbers: list[int] | None,
    concurrency: int,
    calls: set[asyncio.Task[None]],
) -> list[Any]:
    """Return the results of some rows; those that are missing are computed, in tasks.

    If we are cancelled, calls in flight go on, and are kept.

    Args:
        direct: the step's session.
        rows: of the step.
        numbers: which of equal rows each is, if that is named.
        concurrency: how many calls may be in flight.
        calls: has the calls that are in flight.
    """
    running, places = direct.do(_look_up, rows, numbers)
    todo = deque(_ours(places))
    try:
        _raise_refused(running, places)
        await _in_tasks(running, todo, concurrency, calls)
        for place in places:
            await finish_call(running, place)
        outcomes = [_outcome(running, place) for place in places]
    finally:
        _withdraw(running, (it for it in places if it in todo or not is_under_way(it)))
    for i in _orphans(outcomes):
        again = amany(direct, [rows[i]], numbers and [numbers[i]], 1, calls)
        outcomes[i : i + 1] = await again
    return outcomes


def _look_up(
    running: Running, rows: Sequence[Any], numbers: list[int] | None
) -> tuple[Running, list[Place]]:
    intake = running.intake
    return running, intake.places_of(rows, numbers)


def _ours(places: Sequence[Place]) -> list[Slot]:
    return [place for place in places if isinstance(place, Slot) and place.must_compute]


def _raise_refused(running: Running, places: Sequence[Place]) -> None:
    """Raise the error of an invalid row before any call."""
    options = running.options
    if options.on_error == "record":
        return
    for place in places:
        if isinstance(place, Slot) and place.error is not None:
            raise place.error


def _outcome(running: Running, place: Place) -> Any:
    """Return what a settled row gives out: `many` does not raise a failure that is recorded."""
    results, options = running.results, running.options
    if orphaned(place):
        return _ORPHAN
    if options.on_error == "record" and first_of(place).failed is not None:
        return results.take_failed(place)
    return results.take(place)


def _orphans(outcomes: Sequence[Any]) -> list[int]:
    return [i for i, outcome in enumerate(outcomes) if outcome is _ORPHAN]


def _withdraw(running: Running, places: Iterable[Place]) -> None:
    """Leave no trace of rows without a result, except what is saved of them."""
    intake = running.intake
    for place in places:
        intake.withdraw(place, NotBegun())


def _in_threads(running: Running, slots: Sequence[Slot], concurrency: int) -> None:
    calls = running.calls
    with DaemonPool(concurrency) as pool:
        made = [pool.submit(calls.compute, [slot]) for slot in slots]
        try:
            for call in concurrent.futures.as_completed(made):
                call.result()
        except BaseException:
            _give_up(running, slots)
            raise
        finally:  # calls in flight are paid for
            concurrent.futures.wait([call for call in made if not call.cancel()])


def _give_up(running: Running, slots: Iterable[Slot]) -> None:
    """Have calls that wait in a pause end: they have not begun."""
    if (pause := running.pause) is not None:
        pause.give_up(list(slots))


async def _in_tasks(
    running: Running, todo: deque[Slot], concurrency: int, calls: set[asyncio.Task[None]]
) -> None:
    """Make calls in up to `concurrency` tasks; an error ends that, once those in flight return."""
    errors, computing, slots = list[BaseException](), running.calls, list(todo)

    async def work() -> None:
        while todo and not errors:
            call = paid(computing.acompute([todo.popleft()]))
            calls.add(call)
            call.add_done_callback(calls.discard)
            try:
                await worked(call)
            except PutBack:
                return
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
                _give_up(running, slots)

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(todo)))]
    try:
        await asyncio.gather(*workers)
    except BaseException:
        for worker in workers:
            worker.cancel()
        raise
    if errors:
        raise errors[0]
