"""Have an executor's workers call a step. The step travels; the store stays with the driver."""

from __future__ import annotations

import copy
import pickle
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, NamedTuple

from ..engine.current import calling
from ..engine.rows import Slot
from ..engine.runner import Runner


def shipping(step: Any, runner: Runner, executor: Executor) -> Callable[[list[Slot]], Future[None]]:
    """Return a function that sends one call to `executor` and keeps what comes back.

    Raises:
        TypeError: the step cannot travel to another process; the message says which object.
    """
    batch = runner.options.batch_size is not None
    fn = _portable(step, executor)

    def submit(slots: list[Slot]) -> Future[None]:
        start = runner.begin_call(slots)
        rows = [slot.row for slot in slots] if batch else slots[0].row
        sent, kept = executor.submit(_call, fn, rows, slots[0].key), _Kept()
        sent.add_done_callback(lambda _: receive(slots, start, sent, kept))
        kept.sent = sent
        return kept

    def receive(slots: list[Slot], start: float, sent: Future[Any], kept: Future[None]) -> None:
        if sent.cancelled():  # the call was not made: no failure of its row
            Future.cancel(kept)
        if not kept.set_running_or_notify_cancel():
            return
        try:
            _keep(runner, slots, start, sent, batch)
        except BaseException as error:  # noqa: BLE001 - handed over by the future
            kept.set_exception(error)
        else:
            kept.set_result(None)

    return submit


class _Kept(Future[None]):
    """Done when a call's result is kept; cancelled only if the call itself could be."""

    sent: Future[Any]

    def cancel(self) -> bool:
        return self.sent.cancel() and super().cancel()


def _keep(runner: Runner, slots: list[Slot], start: float, sent: Future[Any], batch: bool) -> None:
    try:
        value = sent.result()
    except BaseException as error:  # noqa: BLE001 - `fail` raises it again, or records it
        runner.fail(slots, error, start)
        return
    if isinstance(value, _Raised):
        runner.fail(slots, value.exception(), start)
    elif batch:
        runner.keep_batch(slots, value, start)
    else:
        runner.keep(slots[0], value, start)


def _call(fn: Any, rows: Any, key: bytes) -> Any:
    calling.set(key)
    try:
        return getattr(fn, "__wrapped__", fn)(rows)
    except Exception as error:
        try:
            pickle.dumps(copy.copy(error))  # made anew from the parts that pickle would send
        except Exception:  # noqa: BLE001 - unpickling it at the other end would break the pool
            return _Raised(type(error), str(error), traceback.format_exc())
        raise


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
