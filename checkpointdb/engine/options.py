"""What a run can be asked for. Checks it at the call; knows nothing of how it is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Literal, TypedDict

import msgspec

OnError = Literal["raise", "record"]


class RunOptions(TypedDict, total=False):
    """The keywords of `Step.run` and `Step.arun`.

    Attributes:
        concurrency: calls in flight: threads for a plain function, tasks for an `async def`.
        batch_size: the step gets a list of up to so many rows, and returns as long a list.
        executor: any `concurrent.futures.Executor`: processes, a cluster's. The step travels, the
            store stays here.
        ordered: False to get results as they complete.
        progress: True for a progress bar on stderr; in a log file, a line every so often.
        on_error: `"raise"`: the step's exception ends the run. `"record"`: it is saved, a `Failed`
            takes the result's place and the run goes on.
        retry_failed: False to give out failures of earlier runs again instead of trying once more.
        stop_on: exceptions that end the run even under `"record"`: a spent quota.
        valid: a predicate on results; a result it refuses is a failure, saved all the same.
        cost: dollars of a result, saved with it.
        max_cost: the step's budget in dollars over all runs; `BudgetExceeded` ends the run. Calls
            in flight when it is reached are awaited, so up to `concurrency` calls more are paid.
        shared: True when several processes run the same rows on one store at once: each row is
            computed by one of them. Costs a transaction, not synced, for each few rows.
        ledger: note each call durably before it is made, in groups; after a crash `ckpt inspect`
            lists calls that may have been billed without an answer. Costs a commit a group.
        on_event: called with each event of the run, in the thread where it happens.
    """

    concurrency: int
    batch_size: int | None
    executor: Executor | None
    ordered: bool
    progress: bool | None
    on_error: OnError
    retry_failed: bool
    stop_on: type[BaseException] | tuple[type[BaseException], ...]
    valid: Callable[[Any], bool] | None
    cost: Callable[[Any], float] | None
    max_cost: float | None
    shared: bool
    ledger: bool
    on_event: Callable[[Any], object] | None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`RunOptions`, checked."""

    concurrency: int = 1
    batch_size: int | None = None
    executor: Executor | None = None
    ordered: bool = True
    progress: bool | None = None
    on_error: OnError = "raise"
    retry_failed: bool = True
    stop_on: Any = ()
    valid: Callable[[Any], bool] | None = None
    cost: Callable[[Any], float] | None = None
    max_cost: float | None = None
    shared: bool = False
    ledger: bool = False
    on_event: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        _whole("concurrency", self.concurrency)
        if self.batch_size is not None:
            _whole("batch_size", self.batch_size)
        if self.on_error not in ("raise", "record"):
            raise ValueError(f"on_error={self.on_error!r}: give 'raise' or 'record'")
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            raise TypeError(f"executor={self.executor!r}: give a concurrent.futures.Executor")
        for name in ("valid", "cost", "on_event"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name}={value!r}: give a function")
        self._check_stop_on()
        self._check_budget()

    def _check_stop_on(self) -> None:
        kinds = self.stop_on if isinstance(self.stop_on, tuple | list) else (self.stop_on,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise TypeError(f"stop_on={self.stop_on!r}: give exception classes")
        msgspec.structs.force_setattr(self, "stop_on", tuple(kinds))

    def _check_budget(self) -> None:
        if self.max_cost is None:
            return
        if self.cost is None:
            raise ValueError("max_cost= needs cost=, a function from a result to its dollars")
        if not (isinstance(self.max_cost, int | float) and 0 <= self.max_cost < math.inf):
            raise ValueError(f"max_cost={self.max_cost!r}: give dollars, 0 or more")


def _whole(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}={value!r}: give a whole number above 0")
