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

    def loop(running: Running, signals: Signals) -> Iterator[Any]:
        submit = _shipping(fn, running.calls, executor)
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


def _shipping(fn: Any, calls: Calls, executor: Executor) -> Callable[[list[Slot]], Future[None]]:
    """Return a function that sends one call to `executor` and keeps what comes back.

    Args:
        fn: the step, as it travels.
        calls: of the run.
        executor: the user's.
    """

    def submit(slots: list[Slot]) -> Future[None]:
        if interrupts.state.ending:
            interrupts.halt()
        kept = _Kept()
        if not (slots := calls.to_make(slots)):
            kept.set_result(None)
            return kept
        argument = calls.argument(slots)
        start = calls.begin(slots)
        sent = executor.submit(_call, fn, argument, slots[0].key)
        calls.sent()
        interrupts.sent.add(sent)
        sent.add_done_callback(lambda _: receive(slots, start, sent, kept))
        kept.sent = sent
        return kept

    def receive(slots: list[Slot], start: float, sent: Future[Any], kept: Future[None]) -> None:
        try:
            keep(slots, start, sent, kept)
        finally:
            interrupts.sent.discard(sent)

    def keep(slots: list[Slot], start: float, sent: Future[Any], kept: Future[None]) -> None:
        calls.returned()
        if sent.cancelled() and interrupts.state.ending:
            return  # its run goes no further
        if sent.cancelled():  # the call was not made: no failure of its row
            Future.cancel(kept)
        if kept.set_running_or_notify_cancel():
            _hand_over(calls, slots, start, sent, kept)

    return submit


class _Kept(Future[None]):
    """Done when a call's result is kept; cancelled only if the call itself could be."""

    sent: Future[Any]

    def cancel(self) -> bool:
        return self.sent.cancel() and super().cancel()


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
            return _Raised(type(error), str(error), traceback.format_exc())
        raise
    finally:
        calling.reset(token)


@functools.cache
def _end_with_driver(_process: int) -> None:
    """Have this worker end as by SIGTERM when the process that made it is gone, killed perhaps.

    A pool's own workers wait on for a call that nobody sends.
    """
    driver, parent = multiprocessing.parent_process(), os.getppid()
    if driver is None:
        return

    def watch() -> None:
        while driver.is_alive() and os.getppid() == parent:
            driver.join(LOOK_FOR_DRIVER_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="checkpointdb-driver", daemon=True).start()


class _Row(NamedTuple):
    """What a worker knows of the row."""

    key: bytes
    settled: bool = False


class _Raised(NamedTuple):
    """An exception that pickle cannot make anew, such as the openai SDK's, in parts that can."""

    kind: type[Exception]
    message: str
    traceback: str

    def exception(self) -> Exception:
        error = self.kind.__new__(self.kind)  # without __init__, whose arguments are not known
        error.args = (self.message,)
        error.__cause__ = RuntimeError(f"in another process:\n{self.traceback}")
        try:
            str(error)
        except Exception:  # noqa: BLE001 - its text needs what __init__ sets
            return RuntimeError(f"{self.kind.__qualname__}: {self.message}")
        return error
