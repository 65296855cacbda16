"""Have an executor's workers call a step. The step travels; the store stays with the driver."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, NamedTuple

from .. import interrupts
from ..engine.arguments import call
from ..engine.begin import Running
from ..engine.calls import Calls
from ..engine.current import calling
from ..engine.retry_after import retry_after
from ..engine.rows import Slot
from .signals import Signals
from .sync import Loop, Pooled

# In seconds. The end of the driver is seen at once, unless another child of it has its pipes open.
LOOK_FOR_DRIVER_EVERY = 1.0


def in_executor(step: Any, executor: Executor, workers: int) -> Loop:
    """Return the loop that keeps the workers of `executor` busy.

    Raises:
        TypeError: the step cannot travel to another process; the message says which object.
    """
    fn = _portable(step, executor)
    if isinstance(executor, ProcessPoolExecutor):
        _watch_from_the_start(executor)

    def loop(running: Running, signals: Signals) -> Iterator[Any]:
        submit = _Shipping(fn, running.calls, executor).submit
        return Pooled(running, submit, workers).results(signals)

    return loop


def _portable(step: Any, executor: Executor) -> Any:
    """Return what pickles: the step by its name in its module, else the function itself."""
    fn = step.__wrapped__
    if not isinstance(executor, ProcessPoolExecutor):
        return fn  # a thread pool, or a cluster's executor with a pickler of its own
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    there = getattr(sys.modules.get(module or ""), name, None)
    travels = there if getattr(there, "__wrapped__", None) is fn else fn
    try:
        pickle.dumps(travels)
    except Exception as error:
        raise TypeError(
            f"executor=: {travels!r} cannot be sent to another process ({error}): define the step "
            "at the top level of a module"
        ) from error
    return travels


class _Shipping:
    """Send calls to an executor's workers, and keep what comes back.

    Args:
        fn: the step, as it travels.
        calls: of the run.
        executor: the user's.
    """

    def __init__(self, fn: Any, calls: Calls, executor: Executor) -> None:
        self._fn, self._calls, self._executor = fn, calls, executor

    def submit(self, slots: list[Slot]) -> Future[None]:
        """Send a call; the future returned is done when the call's results are kept."""
        kept = _Kept()
        self._send(slots, kept, 1)
        return kept

    def _send(self, slots: list[Slot], kept: _Kept, nth: int) -> None:
        """Send a call for the nth time, now or when a pause is over."""
        if interrupts.state.ending:
            interrupts.halt()
        calls = self._calls
        if (pause := calls.pause) is not None and pause.left:
            self._send_later(slots, kept, nth)
            return
        if not (slots := calls.to_make(slots)):
            kept.set_result(None)
            return
        argument = calls.argument(slots)
        start = calls.begin(slots)
        sent = self._executor.submit(_call, self._fn, argument, slots[0].key)
        calls.sent()
        interrupts.sent.add(sent)
        kept.sent = sent
        # it must not hold itself: Dask computes again what it lost and somebody still holds
        sent.add_done_callback(lambda sent: self._receive(slots, start, sent, kept, nth))

    def _send_later(self, slots: list[Slot], kept: _Kept, nth: int) -> None:
        """Have a thread send a call after a pause, unless it is cancelled before."""
        waiting, calls = Future[Any](), self._calls
        kept.sent = waiting

        def send() -> None:
            problem: BaseException | None = None
            try:
                calls.wait(slots)
            except BaseException as error:  # noqa: BLE001 - handed over, unless it was cancelled
                problem = error
            if waiting.set_running_or_notify_cancel():
                self._sent(slots, kept, nth, problem)

        threading.Thread(target=send, name="checkpointdb-pause", daemon=True).start()

    def _sent(
        self, slots: list[Slot], kept: _Kept, nth: int, problem: BaseException | None
    ) -> None:
        try:
            if problem is None:
                self._send(slots, kept, nth)
            else:
                kept.set_exception(problem)
        except BaseException as error:  # noqa: BLE001 - handed over by the future
            kept.set_exception(error)

    def _receive(
        self, slots: list[Slot], start: float, sent: Future[Any], kept: _Kept, nth: int
    ) -> None:
        try:
            self._keep(slots, start, sent, kept, nth)
        finally:
            interrupts.sent.discard(sent)
            if kept.sent is sent:
                kept.sent = None

    def _keep(
        self, slots: list[Slot], start: float, sent: Future[Any], kept: _Kept, nth: int
    ) -> None:
        calls = self._calls
        calls.returned()
        if sent.cancelled() and interrupts.state.ending:
            return  # its run goes no further
        if sent.cancelled():  # the call was not made: no failure of its row
            Future.cancel(kept)
        elif calls.pause is not None and self._is_paused_by(slots, sent, kept, nth):
            self._send_later(slots, kept, nth + 1)
            return
        if not kept.done() and kept.set_running_or_notify_cancel():
            _hand_over(calls, slots, start, sent, kept)

    def _is_paused_by(self, slots: list[Slot], sent: Future[Any], kept: _Kept, nth: int) -> bool:
        try:
            _returned(sent.result())
            self._calls.passed()
        except BaseException as error:  # noqa: BLE001 - it is handed over
            try:
                return self._calls.is_paused_by(slots, error, nth)
            except BaseException as problem:  # noqa: BLE001 - of the user's function
                kept.set_exception(problem)
        return False


class _Kept(Future[None]):
    """Done when a call's result is kept; cancelled only if the call itself could be."""

    sent: Future[Any] | None

    def cancel(self) -> bool:
        sent = self.sent  # None once it has returned
        return not self.done() and sent is not None and sent.cancel() and super().cancel()


def _hand_over(
    calls: Calls, slots: list[Slot], start: float, sent: Future[Any], kept: Future[None]
) -> None:
    try:
        _keep(calls, slots, start, sent)
    except BaseException as error:  # noqa: BLE001 - handed over by the future
        kept.set_exception(error)
    else:
        kept.set_result(None)


def _keep(calls: Calls, slots: list[Slot], start: float, sent: Future[Any]) -> None:
    try:
        returned = _returned(sent.result())
    except BaseException as error:
        if not calls.fail(slots, error, start):
            raise
    else:
        calls.keep(slots, returned, start)


def _returned(value: Any) -> Any:
    if isinstance(value, _Raised):
        raise value.exception()
    return value


def _call(fn: Any, argument: Any, key: bytes) -> Any:
    _end_with_driver(os.getpid())
    token = calling.set(((_Row(key),), None))
    try:
        return call(getattr(fn, "__wrapped__", fn), argument)
    except Exception as error:
        try:
            pickle.dumps(copy.copy(error))  # made anew from the parts that pickle would send
        except Exception:  # noqa: BLE001 - unpickling it at the other end would break the pool
            said = retry_after(error)
            return _Raised(type(error), str(error), traceback.format_exc(), said)
        raise
    finally:
        calling.reset(token)


@functools.cache
def _end_with_driver(_process: int) -> None:
    """Have this worker end as by SIGTERM when the process that made it is gone, killed perhaps.

    By itself, a pool's worker keeps waiting for a call that nobody sends.
    """
    driver = multiprocessing.parent_process()
    if driver is None:
        return
    # the driver is the parent, and may be gone already; under forkserver the fork server is
    forked_by_server = multiprocessing.get_start_method() == "forkserver"
    parent = os.getppid() if forked_by_server else driver.pid

    def watch() -> None:
        while driver.is_alive() and os.getppid() == parent:
            driver.join(LOOK_FOR_DRIVER_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="checkpointdb-driver", daemon=True).start()


def _watch_from_the_start(pool: ProcessPoolExecutor) -> None:
    """Have the workers that a pool starts from now on end with the driver, even without a call."""
    before = pool._initializer  # a pool has no other way to reach a worker before its first call
    if getattr(before, "func", None) is not _begin_worker:
        pool._initializer = functools.partial(_begin_worker, before)


def _begin_worker(initializer: Callable[..., object] | None, *args: Any) -> None:
    _end_with_driver(os.getpid())
    if initializer is not None:
        initializer(*args)


class _Row(NamedTuple):
    """What a worker knows of the row."""

    key: bytes
    settled: bool = False


class _Raised(NamedTuple):
    """An exception that pickle cannot make again, such as the openai SDK's, in parts it can."""

    kind: type[Exception]
    message: str
    traceback: str
    retry_after: float | None = None

    def exception(self) -> Exception:
        error = self.kind.__new__(self.kind)  # without __init__, whose arguments are not known
        error.args = (self.message,)
        error.__cause__ = cause = RuntimeError(f"in another process:\n{self.traceback}")
        cause.retry_after = self.retry_after  # type: ignore[attr-defined]
        try:
            str(error)
        except Exception:  # noqa: BLE001 - its text needs what __init__ sets
            return RuntimeError(f"{self.kind.__qualname__}: {self.message}")
        return error
