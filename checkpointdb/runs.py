"""What a step does with many rows: its runs, with the types that each gives out."""

from __future__ import annotations

from collections.abc import AsyncIterable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeVar, Unpack, overload

import msgspec

from .engine.arguments import Binder
from .engine.callables import checked_rows
from .engine.failures import Failed
from .engine.job import Job, Spec
from .engine.keywords import RunOptions, RunOptionsUntyped, Shard
from .engine.options import Options, StepSettings, run_options
from .engine.shard import Sharded
from .engine.source import is_async_source
from .loops import sync
from .loops.choice import loop_for, refuse_executor
from .loops.run_iterator import Run
from .loops.session import Session
from .store import Store
from .values.keys import Keyer

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
T = TypeVar("T")


class Runs(Generic[P, R]):
    """The part of a `Step` that passes it over rows."""

    name: str
    _settings: StepSettings
    _keyer: Keyer
    _binder: Binder

    @property
    def _spec(self) -> Spec:
        raise NotImplementedError

    @property
    def _batch_spec(self) -> Spec:
        raise NotImplementedError

    def _opened(self) -> Store:
        raise NotImplementedError

    def _asked(self, store: Store, spec: Spec, options: Options) -> Job:
        raise NotImplementedError

    @overload
    def run(
        self: Runs[P, Coroutine[Any, Any, Sequence[T]]],
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        batch_size: int,
        on_error: Literal["record"],
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[T | Failed]: ...
    @overload
    def run(
        self: Runs[P, Coroutine[Any, Any, Sequence[T]]],
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        batch_size: int,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[T]: ...
    @overload
    def run(
        self: Runs[P, Sequence[T]],
        rows: Iterable[Any],
        *,
        batch_size: int,
        on_error: Literal["record"],
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[T | Failed]: ...
    @overload
    def run(
        self: Runs[P, Sequence[T]],
        rows: Iterable[Any],
        *,
        batch_size: int,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[T]: ...
    @overload
    def run(
        self: Runs[P, Coroutine[Any, Any, T]],
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        on_error: Literal["record"],
        batch_size: None = None,
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[T | Failed]: ...
    @overload
    def run(
        self: Runs[P, Coroutine[Any, Any, T]],
        rows: Iterable[Any] | AsyncIterable[Any],
        **options: Unpack[RunOptions],
    ) -> Run[T]: ...
    @overload
    def run(
        self,
        rows: Iterable[Any],
        *,
        on_error: Literal["record"],
        batch_size: None = None,
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[R | Failed]: ...
    @overload
    def run(
        self,
        rows: Iterable[Any],
        **options: Unpack[RunOptions],
    ) -> Run[R]: ...
    def run(
        self, rows: Iterable[Any] | AsyncIterable[Any], **options: Unpack[RunOptions]
    ) -> Run[Any]:
        """Return an iterator over the results of all `rows`.

        Rows with a saved result are read from the store, the rest are computed and saved as the
        save policy says. It works for an async step too, even inside a running event loop: there a
        thread with a loop of its own reads the rows and makes the calls.

        Args:
            rows: any iterable, read lazily; it may be endless.
            **options: see `RunOptions`.

        Raises:
            TypeError, ValueError: wrong use, at once.
            StoreError: the store cannot be opened, at once; or written, while iterating.
            EncodeError: while iterating: for a row, before the step is called; for a result, with
                the result attached.
            BudgetExceeded: while iterating, when `max_cost` is spent.
        """
        checked = run_options("run", options, self._settings)
        rows = self._rows_of(checked, rows)
        if is_async_source(rows) and not (
            self._spec.is_async and (checked.concurrency > 1 or checked.shared)
        ):
            from .loops.bridge import readable

            rows = readable(rows, checked, self._spec.is_async)
        job, loop = self._job(checked), loop_for(self, self._spec.is_async, checked)
        session = Session(job, rows)
        return Run(session, drive=lambda: sync.drive(session, loop))

    @overload
    def arun(
        self: Runs[P, Coroutine[Any, Any, Sequence[T]]],
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        batch_size: int,
        on_error: Literal["record"],
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[T | Failed]: ...
    @overload
    def arun(
        self: Runs[P, Coroutine[Any, Any, Sequence[T]]],
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        batch_size: int,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[T]: ...
    @overload
    def arun(
        self: Runs[P, Coroutine[Any, Any, T]],
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        on_error: Literal["record"],
        batch_size: None = None,
        **options: Unpack[RunOptionsUntyped],
    ) -> Run[T | Failed]: ...
    @overload
    def arun(
        self: Runs[P, Coroutine[Any, Any, T]],
        rows: Iterable[Any] | AsyncIterable[Any],
        **options: Unpack[RunOptions],
    ) -> Run[T]: ...
    def arun(
        self, rows: Iterable[Any] | AsyncIterable[Any], **options: Unpack[RunOptions]
    ) -> Run[Any]:
        """Return an async iterator over the results of all `rows`; `run` for async code.

        Args:
            rows: any iterable or async iterable, read lazily.
            **options: see `RunOptions`.

        Raises:
            TypeError: the step is not an `async def`; and as `run`.
        """
        checked = run_options("arun", options, self._settings)
        if not self._spec.is_async:
            raise TypeError(f"step {self.name!r} is not an async def: use run() instead of arun()")
        refuse_executor(checked)
        from .loops import asynchronous

        if isinstance(rows, Run) and rows.is_synchronous:
            rows = asynchronous.off_the_loop(rows)
        rows = self._rows_of(checked, rows)
        session = Session(self._job(checked), rows, in_task=True)
        return Run(session, adrive=lambda: asynchronous.adrive(session, checked.concurrency))

    def _rows_of(self, options: Options, rows: Any) -> Any:
        rows = checked_rows(rows, (Iterable, AsyncIterable))
        if options.shard is None:
            return rows
        return self._sharded(options.shard, options.given).of(rows)

    def _sharded(self, shard: Shard, given: Mapping[str, Any] | None = None) -> Sharded:
        content = self._binder.with_values(given, None).content
        return Sharded(shard, lambda row: self._keyer.identify(content(row))[0])

    def _job(self, options: Options) -> Job:
        spec = self._spec if options.batch_size is None else self._batch_spec
        if options.given or options.using:
            binder = self._binder.with_values(options.given, options.using)
            spec = msgspec.structs.replace(spec, binder=binder)
        return self._asked(self._opened(), spec, options)
