"""The decorator: names and versions a function. Knows how users call; the rest is the run's."""

from __future__ import annotations

import functools
import os
import threading
import types
import typing
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

import msgspec

from . import interrupts
from . import plan as plans
from .engine.begin import Running, begin
from .engine.callables import (
    Parameters,
    bare,
    check_function,
    check_name,
    check_version,
    checked_rows,
    is_async,
    is_method,
    method_error,
    namespace_of,
    return_type,
    row_name,
    row_type,
    type_of_each,
)
from .engine.failures import Failed
from .engine.job import Job, Spec
from .engine.on_change import accept
from .engine.options import (
    AllOptions,
    OnChange,
    Options,
    RunOptions,
    StepOptions,
    run_options,
    split,
    step_settings,
)
from .engine.partials import bound_in_key
from .engine.source import is_async_source
from .errors import StoreError
from .file.opened import Durability
from .frames.added import Added
from .frames.mapped import mapped
from .frames.one_pass import Columns, Pass
from .loops import direct, sync
from .loops.run_iterator import Run
from .loops.session import Session
from .loops.travel import arrive, parts_of
from .plan import Plan, Why
from .policy import SavePolicy
from .store import Store
from .values.canonical import Arguments
from .values.codec import Codec
from .values.keys import Keyer, Version, depends_digest, describe_recipe

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F")

StoreOrPath = Store | str | os.PathLike[str]

_REQUIRED: Any = object()


class Step(Generic[P, R]):
    """A function with a name and a version whose results are kept in a store; made by `step`.

    Call it like the function, for one row; `run` and `arun` pass it over many. `__wrapped__` is
    the function itself. Nothing is opened before the first use.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        store: StoreOrPath,
        *,
        version: Version,
        **options: Unpack[StepOptions],
    ) -> None:
        settings = step_settings("step", options)
        check_function(fn)
        self._look_like(fn)  # first, so that what is ours replaces what is the function's
        self.name = check_name(fn, settings.name)
        self.__name__: str = getattr(self, "__name__", self.name)
        self.version = check_version(version)
        self._settings = settings
        self._keyer = Keyer(
            self.name, version, settings.key, settings.input, depends_digest(settings.depends),
            bound_in_key(fn), row_name(fn), settings.redactor,
        )  # fmt: skip
        self._key_recipe = describe_recipe(settings.key, settings.depends or ())
        self._save, self._meta = settings.policy, settings.meta
        self._where = store
        if not isinstance(store, Store):  # wherever the program goes, it stays the same file
            self._path = os.path.abspath(os.fspath(store))
        self._lock = threading.Lock()
        self._store: Store | None = store if isinstance(store, Store) else None
        self._single_calls: Running | None = None
        self._is_store_named = False
        self._method = is_method(fn)
        self.__wrapped__ = fn
        interrupts.watch()
        self._parts = parts_of(self, fn, version, self._options())

    def _look_like(self, fn: Any) -> None:
        """Take on the name, signature and attributes of `fn`, except those that a step has."""
        functools.update_wrapper(self, fn, updated=())
        for name, value in getattr(fn, "__dict__", {}).items():
            if not hasattr(Step, name):
                setattr(self, name, value)

    # `inspect` looks for these three to see an `async def`, and asyncio and frameworks ask it. They
    # are not in __dict__, nor is a mark: functools.wraps would give it to a plain wrapper too.
    __defaults__ = __kwdefaults__ = None

    @property
    def __code__(self) -> types.CodeType:
        if not is_async(self.__wrapped__):
            raise AttributeError("__code__")
        code: types.CodeType = bare(self.__wrapped__).__code__
        return code

    def __repr__(self) -> str:
        return f"<step {self.name!r} version {self.version!r} in {self._where!r}>"

    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> Any:
        if protocol.__index__() < 4:  # they have no way to name an attribute of a step
            return getattr(self, "__qualname__", self.name)
        identity = self.name, self.version, self._keyer.depends
        return arrive, (type(self), self._parts, self.path, identity)

    def _rebind(self, fn: Callable[P, R]) -> None:
        """Call `fn`, the same function with the globals of now, from here on."""
        self.__wrapped__ = fn
        for name in ("_spec", "_batch_spec", "_parameters"):
            self.__dict__.pop(name, None)

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        if instance is not None and self._method:
            raise self._no_method()
        return self

    def _no_method(self) -> TypeError:
        return method_error(self.__wrapped__, f"{self._where!r}, version={self.version!r}")

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the saved result of this row, or call the function and keep what it returns.

        The result is pending until the save policy, its timer, `flush()` or the exit of the process
        commits it. Equal calls made at the same time, in threads or tasks, share one computation.
        """
        row = self._row(args, kwargs)
        if self._spec.is_async:
            from .loops import asynchronous

            return asynchronous.acall(self._call_run, row)  # type: ignore[return-value]
        while True:
            running = self._call_run()
            try:
                result: R = sync.call(running, row)
            except StoreError:
                if not running.is_given_back:  # or as idle, just before this call
                    raise
            else:
                return result

    @overload
    def run(
        self: Step[P, Coroutine[Any, Any, T]],
        rows: Iterable[Any] | AsyncIterable[Any],
        **options: Unpack[RunOptions],
    ) -> Run[T]: ...
    @overload
    def run(self, rows: Iterable[Any], **options: Unpack[RunOptions]) -> Run[R]: ...
    def run(
        self, rows: Iterable[Any] | AsyncIterable[Any], **options: Unpack[RunOptions]
    ) -> Run[Any]:
        """Return an iterator over the results of all `rows`.

        Rows with a saved result are read from the store, the rest are computed and saved as the
        save policy says. Works for an async step too, also inside a running event loop: there the
        rows are read and the calls made in a thread with a loop of its own.

        Args:
            rows: any iterable, read lazily; it may be endless.
            **options: see `RunOptions`.

        Raises:
            TypeError, ValueError: wrong use, at once.
            StoreError: the store cannot be opened, at once; or written, while iterating.
            EncodeError: while iterating: a row, before the step is called; or a result, attached.
            BudgetExceeded: while iterating, when `max_cost` is spent.
        """
        checked = run_options("run", options, self._settings)
        rows = checked_rows(rows, (Iterable, AsyncIterable))
        if is_async_source(rows) and not (
            self._spec.is_async and (checked.concurrency > 1 or checked.shared)
        ):
            from .loops.bridge import readable

            rows = readable(rows, checked, self._spec.is_async)
        session, loop = Session(self._job(checked), rows), self._loop(checked)
        return Run(session, drive=lambda: sync.drive(session, loop))

    def _loop(self, options: Options) -> sync.Loop:
        concurrency = options.concurrency
        if self._spec.is_async:
            from .loops.bridge import bridged

            _refuse_executor(options)
            return bridged(self.name, options)
        if options.executor is not None:
            from .loops.executors import in_executor

            return in_executor(self, options.executor, _workers(options))
        if concurrency > 1 or options.shared:
            return lambda run, signals: sync.threaded(run, signals, concurrency)
        return sync.sequential if options.batch_size is None else sync.batches

    @overload
    def arun(
        self: Step[P, Coroutine[Any, Any, T]],
        rows: Iterable[Any] | AsyncIterable[Any],
        **options: Unpack[RunOptions],
    ) -> Run[T]: ...
    @overload
    def arun(
        self, rows: Iterable[Any] | AsyncIterable[Any], **options: Unpack[RunOptions]
    ) -> Run[Any]: ...
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
        _refuse_executor(checked)
        rows = checked_rows(rows, (Iterable, AsyncIterable))
        from .loops import asynchronous

        if isinstance(rows, Run) and rows.is_synchronous:
            rows = asynchronous.off_the_loop(rows)
        session = Session(self._job(checked), rows, in_task=True)
        return Run(session, adrive=lambda: asynchronous.adrive(session, checked.concurrency))

    def map(
        self,
        frame: F,
        *,
        columns: Columns = None,
        prefix: str = "",
        error_column: str = "error",
        **options: Unpack[RunOptions],
    ) -> F:
        """Return `frame` with the results of its rows as further columns.

        It takes a data frame or series of pandas or polars, a table or record batch of pyarrow,
        whatever else has a stream of Arrow batches (then a `pyarrow.RecordBatchReader` is
        returned), or a data set of Hugging Face, and returns the same kind: its rows, order, index,
        types and metadata as they were. A result that is a dict or a record has a column for each
        key, where a row without it has null; any other result is in a column with the step's name.
        An `IterableDataset` computes when it is iterated. The promises are those of `run`.

        Args:
            frame: its rows are dicts of its columns.
            columns: the names of those that are in a row; a single name, not in a list, for rows
                that are the values themselves.
            prefix: of the names of all added columns.
            error_column: under `on_error="record"`, the column that says why a row failed.
            **options: see `RunOptions`; `ordered=False` makes no sense here.

        Raises:
            TypeError: not such a frame, or wrong use; no call was made.
            ValueError: an added column has the name of one that is there; before the first call
                if the step's annotation tells, else what was computed is saved.
        """
        checked = run_options("map", options, self._settings, ("columns", "prefix", "error_column"))
        if not checked.ordered:
            raise TypeError("map joins results to their rows in order: leave ordered= out")
        error = error_column if checked.on_error == "record" else None
        spec, takes = (
            (self._spec, row_type(self.__wrapped__))
            if checked.batch_size is None
            else (self._batch_spec, Any)
        )

        def added(taken: Iterable[Any]) -> Added:
            return Added(self.name, spec.codec.annotation, taken, prefix, error, Failed)

        result: F = mapped(
            frame, Pass(lambda rows: self.run(rows, **options), added, columns, takes)
        )
        return result

    def replace(
        self,
        *,
        store: StoreOrPath | None = None,
        save: SavePolicy | None = None,
        durability: Durability | None = None,
        on_change: OnChange | None = None,
    ) -> Step[P, R]:
        """Return the same step saved elsewhere or otherwise; nothing is opened."""
        options = self._options()
        if save is not None:
            options["save"] = save
        if durability is not None:
            options["durability"] = durability
        if on_change is not None:
            options["on_change"] = on_change
        where = self._where if store is None else store
        if store is None and not isinstance(where, Store):
            where = self._path
        return Step(self.__wrapped__, where, version=self.version, **options)

    def _options(self) -> StepOptions:
        """Return the keywords to make this step anew."""
        options: Any = msgspec.structs.asdict(self._settings) | {"name": self.name}
        if isinstance(self._where, Store):
            options["durability"] = self._where.durability
        return typing.cast("StepOptions", options)

    def plan(self, rows: Iterable[Any]) -> Plan:
        """Say what a run over `rows` would do, before paying: nothing is called or written."""
        rows = checked_rows(rows, Iterable)
        separate = self._settings.duplicates == "separate"
        return plans.plan(
            self.path, self.name, self.version, self._keyer, separate, rows,
            self._spec.capture(), self._settings.on_change == "recompute",
        )  # fmt: skip

    def why(self, /, *args: P.args, **kwargs: P.kwargs) -> Why:
        """Say why this row is a hit or a miss: which part of its key differs from what is saved."""
        row = self._row(args, kwargs)
        return plans.why(
            self.path, self.name, self.version, self._keyer, self._key_recipe, row,
            self._spec.capture(),
        )  # fmt: skip

    def accept(self, undo: bool = False) -> int:
        """Accept the saved results of other code as the present code's own; return how many.

        From then on they are no longer stale, until the code changes again. Nothing is copied.

        Args:
            undo: True to take that back; returns how many are stale again.
        """
        return accept(Job(self._opened(), self._spec, self._save), undo)

    @property
    def path(self) -> str:
        """The path of the store, with links resolved; the file need not exist yet."""
        where = self._where
        return where.path if isinstance(where, Store) else os.path.realpath(self._path)

    def flush(self) -> None:
        """Commit what is pending and make it survive a power cut."""
        self._opened().flush()

    @property
    def store(self) -> Store:
        """The store, opened now if it was not."""
        self._is_store_named = True  # whoever has it finds it open
        return self._opened()

    def _opened(self) -> Store:
        with self._lock:
            reopen = (
                self._store is not None and self._store.closed and self._where is not self._store
            )
            if self._store is None or reopen:
                assert not isinstance(self._where, Store)
                self._store = Store(self._path, durability=self._settings.durability)
            return self._store

    @functools.cached_property
    def _parameters(self) -> Parameters:
        return Parameters(self.__wrapped__)

    @functools.cached_property
    def _spec(self) -> Spec:
        return self._make_spec(return_type(self.__wrapped__))

    @functools.cached_property
    def _batch_spec(self) -> Spec:
        return self._make_spec(type_of_each(return_type(self.__wrapped__)))

    def _make_spec(self, annotation: Any) -> Spec:
        return Spec(
            fn=self.__wrapped__,
            name=self.name,
            version=self.version,
            keyer=self._keyer,
            key_recipe=self._key_recipe,
            codec=Codec(annotation, namespace_of(self.__wrapped__)),
            is_async=is_async(self.__wrapped__),
            separate=self._settings.duplicates == "separate",
            settings=self._settings,
            inside=self.__wrapped__,
        )

    def _job(self, options: Options) -> Job:
        spec = self._spec if options.batch_size is None else self._batch_spec
        return Job(self._opened(), spec, self._save, self._meta, options)

    def _call_run(self) -> Running:
        """Return the run of single calls, begun now if none is open, or the step has changed."""
        run = self._single_calls
        if run is None or run.closed or run.is_outdated(self._spec):
            store = self._opened()
            with self._lock:
                run = self._single_calls
                if run is None or run.closed or run.is_outdated(self._spec):
                    if run is not None and not run.closed:
                        run.commit()  # it stays open for calls that are in flight
                    fn = self._apply if self._spec.is_async else self._invoke
                    spec = msgspec.structs.replace(self._spec, fn=fn)
                    job = Job(store, spec, self._save, self._meta, self._settings.of_calls)
                    run = self._single_calls = begin(job)
                    if self._where is not store:
                        direct.opened(run, lambda: not self._is_store_named)
        return run

    def _row(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._method and args and isinstance(args[0], type):  # as classmethod does
            raise self._no_method()
        return args[0] if len(args) == 1 and not kwargs else self._parameters.row(args, kwargs)

    def _invoke(self, row: Any) -> Any:
        return interrupts.in_the_open(self._apply, row)

    def _apply(self, row: Any) -> Any:
        if type(row) is Arguments:
            return self._parameters.call(row)
        return self.__wrapped__(row)  # type: ignore[call-arg]


@overload
def step(
    store: StoreOrPath, *, version: Version, **options: Unpack[StepOptions]
) -> Callable[[Callable[P, R]], Step[P, R]]: ...
@overload
def step(store: Callable[..., Any]) -> typing.NoReturn: ...
def step(store: Any, *, version: Any = _REQUIRED, **options: Unpack[StepOptions]) -> Any:
    """Keep a function's results in a store, so that running it again computes only what is missing.

    Promises: a result is pending when it is returned and committed when the save policy says; a
    committed result survives what `durability` names; a saved result is never thrown away, not even
    when the code changes. The function's own exceptions pass through, the same objects.

    Args:
        store: path of the store file, created at first use; or an open `Store`.
        version: int or str. Results saved under another version are not used. Raise it when the
            step's results should be computed anew.
        **options: see `StepOptions`.

    Raises:
        TypeError, ValueError: wrong use, at decoration.
    """
    if callable(store):
        raise TypeError('@step needs its store and version: @step("rows.ckpt", version=1)')
    step_settings("step", options)
    if version is _REQUIRED:
        raise TypeError(
            "step() needs version=, for example version=1: results are reused as long as it stays "
            "the same, whatever happens to the code"
        )

    def decorate(fn: Callable[P, R]) -> Step[P, R]:
        return Step(fn, store, version=version, **options)

    return decorate


@overload
def run(
    fn: Callable[..., Coroutine[Any, Any, T]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    **options: Unpack[AllOptions],
) -> Run[T]: ...
@overload
def run(
    fn: Callable[..., R],
    rows: Iterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    **options: Unpack[AllOptions],
) -> Run[R]: ...
def run(
    fn: Callable[..., Any],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    **options: Unpack[AllOptions],
) -> Run[Any]:
    """Pass `fn` over `rows` with its results kept in `store`: `step` and `Step.run` in one call.

    Args:
        fn: a plain function, sync or async.
        rows: any iterable.
        store: path of the store file, or an open `Store`.
        version: as for `step`.
        **options: every keyword of `StepOptions` and of `RunOptions`.
    """
    of_step, of_run = split("run", options)
    return Step(fn, store, version=version, **of_step).run(rows, **of_run)


def arun(
    fn: Callable[..., Coroutine[Any, Any, T]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    **options: Unpack[AllOptions],
) -> Run[T]:
    """Pass an async `fn` over `rows`, for `async for`; see `run`."""
    of_step, of_run = split("arun", options)
    return Step(fn, store, version=version, **of_step).arun(rows, **of_run)


def _refuse_executor(options: Options) -> None:
    if options.executor is not None:
        raise TypeError("executor= is for a plain function; an async step runs in tasks: drop it")


def _workers(options: Options) -> int:
    known: int | None = getattr(options.executor, "_max_workers", None)
    return options.concurrency if options.concurrency > 1 else known or os.cpu_count() or 1
