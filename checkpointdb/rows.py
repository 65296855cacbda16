"""What a step does with single rows, next to its call: look up, save, several at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .engine.callables import checked_rows
from .engine.job import Spec
from .engine.occurrences import Counts
from .engine.options import StepSettings, check_count
from .engine.paid import Paid, counts, dollars
from .loops.direct import Direct, Miss

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
T = TypeVar("T")

_BATCH = 256  # rows that are looked up at once


class Rows(Generic[P, R]):
    """The part of a `Step` that is about single rows."""

    name: str
    _settings: StepSettings

    @property
    def _direct(self) -> Direct:
        raise NotImplementedError

    @property
    def _spec(self) -> Spec:
        raise NotImplementedError

    @overload
    def get(self: Rows[P, Coroutine[Any, Any, T]], row: Any, *, nth: int = 0) -> T | Miss: ...
    @overload
    def get(self, row: Any, *, nth: int = 0) -> R | Miss: ...
    def get(self, row: Any, *, nth: int = 0) -> Any:
        """Return the saved result of a row, or the falsy `MISS`; never call the function.

        It returns `MISS` for a failure too, for a row that is being computed, for a result of other
        code under `on_change="recompute"`, and for any row if there is no store; it creates none.

        Args:
            row: as the function takes it; `args(...)` for several arguments.
            nth: which of equal rows, from 0, under `duplicates="separate"`.

        Raises:
            EncodeError: it has no stable content.
            StoreError: the store cannot be read.
        """
        return self._direct.get(row, self._number(nth))

    @overload
    def results(
        self: Rows[P, Coroutine[Any, Any, T]], rows: Iterable[Any]
    ) -> Iterator[T | Miss]: ...
    @overload
    def results(self, rows: Iterable[Any]) -> Iterator[R | Miss]: ...
    def results(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Yield the saved result of each row, or the falsy `MISS`, in their order; call nothing.

        Args:
            rows: any iterable or frame, as `run` takes it. Under `duplicates="separate"` the n-th
                of equal rows gets the n-th result.

        Raises:
            TypeError: no rows; at once. EncodeError, StoreError: as `get`, while iterating.
        """
        return self._saved(iter(checked_rows(rows, Iterable)))

    def _saved(self, rows: Iterator[Any]) -> Iterator[Any]:
        spec, seen = self._spec, Counts()
        while batch := list(itertools.islice(rows, _BATCH)):
            numbers = [0] * len(batch)
            if spec.separate:
                contents = map(spec.binder.content, batch)
                numbers = seen.count([spec.keyer.identify(content)[0] for content in contents])
            yield from self._direct.get_all(batch, numbers)

    def put(
        self,
        row: Any,
        result: Any,
        *,
        cost: float | None = None,
        usage: Any = None,
        seconds: float = 0.0,
        nth: int = 0,
        replace: bool = False,
    ) -> None:
        """Save a result that was computed elsewhere, as if the function had returned it.

        Like the result of a direct call, it is pending until the save policy commits it: at once
        under `every(rows=1)`; under `adaptive()` within 5 s, or sooner if `seconds` says what is at
        stake. `flush()` makes it durable now. It takes the place of a failure.

        Args:
            row: as the function takes it; `args(...)` for several arguments.
            result: what the function would have returned.
            cost: dollars, counted for `max_cost`; the step's `cost=` computes them unless given.
            usage: token counts; the step's `usage=` returns them unless given.
            seconds: how long it took.
            nth: which of equal rows, from 0, under `duplicates="separate"`.
            replace: True to take the place of a saved result.

        Raises:
            ValueError: there is a saved result; or `valid=` refuses this one: then it is saved as a
                failure, as in a direct call.
            EncodeError: the row or the result cannot be stored; nothing is changed.
            StoreError: the commit failed; the result stays pending.
        """
        paid = Paid(
            None if cost is None else dollars(cost, "cost is"),
            None if usage is None else counts(usage, "usage is"),
        )
        if not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
            raise ValueError(f"seconds must be a number of at least 0, got {seconds!r}")
        self._direct.put(row, result, self._number(nth), paid, seconds, replace)

    @overload
    def many(
        self: Rows[P, Coroutine[Any, Any, T]],
        rows: Iterable[Any],
        *,
        concurrency: int | None = None,
        nth: int | Iterable[int] | None = None,
    ) -> list[T]: ...
    @overload
    def many(
        self,
        rows: Iterable[Any],
        *,
        concurrency: int | None = None,
        nth: int | Iterable[int] | None = None,
    ) -> list[R]: ...
    def many(
        self,
        rows: Iterable[Any],
        *,
        concurrency: int | None = None,
        nth: int | Iterable[int] | None = None,
    ) -> list[Any]:
        """Return the results of some rows, in their order: direct calls that are made together.

        The rows are looked up together, and the missing ones are computed. If the function raises,
        no further call begins: calls in flight are awaited, what returned is kept, and the
        exception is raised. If the step has `on_error="record"`, a `Failed` takes the result's
        place instead.

        Args:
            rows: any iterable; all of it is read first.
            concurrency: calls in flight; unless given, one for a plain function, and as many as
                there are rows for an async step.
            nth: which of equal rows each is, under `duplicates="separate"`: one number for all, or
                one a row. Unless given, rows are numbered as in direct calls.

        Raises:
            RuntimeError: the step is async, and an event loop is running here: `await amany(rows)`.
            EncodeError: a row has no stable content; before any call.
        """
        from .loops.many import many, many_on_loop

        rows, numbers = self._rows_of_many(rows, nth)
        if not self._spec.is_async:
            return many(self._direct, rows, numbers, _at_once(concurrency, 1))
        if _is_in_loop():
            raise RuntimeError(
                f"many() of the async step {self.name!r} was called where an event loop is running,"
                f" which it would block: use await {self.name}.amany(rows)"
            )
        return many_on_loop(self._direct, rows, numbers, _at_once(concurrency, len(rows)))

    async def amany(
        self: Rows[P, Coroutine[Any, Any, T]],
        rows: Iterable[Any],
        *,
        concurrency: int | None = None,
        nth: int | Iterable[int] | None = None,
    ) -> list[T]:
        """Return the results of some rows, in their order: `many` of an async step.

        If it is cancelled, calls in flight go on and are kept; no other call begins.

        Raises:
            TypeError: the step is not an `async def`.
        """
        from .loops.many import amany

        if not self._spec.is_async:
            raise TypeError(f"step {self.name!r} is not an async def: use many(), not amany()")
        rows, numbers = self._rows_of_many(rows, nth)
        most = _at_once(concurrency, len(rows))
        return await amany(self._direct, rows, numbers, most, set())

    def _rows_of_many(self, rows: Any, nth: Any) -> tuple[list[Any], list[int] | None]:
        rows = list(checked_rows(rows, Iterable))
        if nth is None:
            return rows, None
        numbers = [nth] * len(rows) if isinstance(nth, int) else list(nth)
        if len(numbers) != len(rows):
            raise ValueError(f"nth has {len(numbers)} numbers for {len(rows)} rows")
        return rows, [self._number(n) for n in numbers]

    def _number(self, nth: Any) -> int:
        if type(nth) is not int or nth < 0:
            raise ValueError(f"nth must be a whole number of at least 0, got {nth!r}")
        if nth and self._settings.duplicates != "separate":
            raise ValueError(
                f"nth={nth}: equal rows of step {self.name!r} share one result; "
                'step(duplicates="separate") gives each its own'
            )
        return nth


def _at_once(concurrency: Any, otherwise: int) -> int:
    if concurrency is None:
        return max(otherwise, 1)
    check_count("concurrency", concurrency)
    most: int = concurrency
    return most


def _is_in_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
