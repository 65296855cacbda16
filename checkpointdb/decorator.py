"""What users call first: the decorator, and a step and its run in one call. Knows keywords only."""

from __future__ import annotations

import typing
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from .engine.failures import Failed
from .engine.keywords import AllOptions, AllOptionsUntyped, StepOptions
from .engine.options import split, step_settings
from .loops.direct import StoreOrPath
from .loops.run_iterator import Run
from .step import Step
from .values.keys import Version

__all__ = [
    "Step",
    "arun",
    "run",
    "step",
]  # in one import: after `from .step import` pyright takes `step` for the module

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_REQUIRED: Any = object()


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
    when the code changes. The function's own exceptions pass through as the same objects.

    Args:
        store: path of the store file, created at first use; or an open `Store`.
        version: int or str. Results saved under another version are not used. Raise it when the
            step's results should be computed again.
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
    fn: Callable[..., Coroutine[Any, Any, Sequence[T]]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    batch_size: int,
    on_error: Literal["record"],
    **options: Unpack[AllOptionsUntyped],
) -> Run[T | Failed]: ...
@overload
def run(
    fn: Callable[..., Coroutine[Any, Any, Sequence[T]]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    batch_size: int,
    on_error: Literal["raise"] = "raise",
    **options: Unpack[AllOptionsUntyped],
) -> Run[T]: ...
@overload
def run(
    fn: Callable[..., Sequence[T]],
    rows: Iterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    batch_size: int,
    on_error: Literal["record"],
    **options: Unpack[AllOptionsUntyped],
) -> Run[T | Failed]: ...
@overload
def run(
    fn: Callable[..., Sequence[T]],
    rows: Iterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    batch_size: int,
    on_error: Literal["raise"] = "raise",
    **options: Unpack[AllOptionsUntyped],
) -> Run[T]: ...
@overload
def run(
    fn: Callable[..., Coroutine[Any, Any, T]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    on_error: Literal["record"],
    batch_size: None = None,
    **options: Unpack[AllOptionsUntyped],
) -> Run[T | Failed]: ...
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
    on_error: Literal["record"],
    batch_size: None = None,
    **options: Unpack[AllOptionsUntyped],
) -> Run[R | Failed]: ...
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


@overload
def arun(
    fn: Callable[..., Coroutine[Any, Any, Sequence[T]]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    batch_size: int,
    on_error: Literal["record"],
    **options: Unpack[AllOptionsUntyped],
) -> Run[T | Failed]: ...
@overload
def arun(
    fn: Callable[..., Coroutine[Any, Any, Sequence[T]]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    batch_size: int,
    on_error: Literal["raise"] = "raise",
    **options: Unpack[AllOptionsUntyped],
) -> Run[T]: ...
@overload
def arun(
    fn: Callable[..., Coroutine[Any, Any, T]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    on_error: Literal["record"],
    batch_size: None = None,
    **options: Unpack[AllOptionsUntyped],
) -> Run[T | Failed]: ...
@overload
def arun(
    fn: Callable[..., Coroutine[Any, Any, T]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    **options: Unpack[AllOptions],
) -> Run[T]: ...
def arun(
    fn: Callable[..., Coroutine[Any, Any, Any]],
    rows: Iterable[Any] | AsyncIterable[Any],
    *,
    store: StoreOrPath,
    version: Version,
    **options: Unpack[AllOptions],
) -> Run[Any]:
    """Pass an async `fn` over `rows`, for `async for`; see `run`."""
    of_step, of_run = split("arun", options)
    return Step(fn, store, version=version, **of_step).arun(rows, **of_run)
