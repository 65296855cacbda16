"""What a user hands over as a step and as rows: is it fit, and what is it. Knows no store."""

from __future__ import annotations

import functools
import inspect
import typing
from typing import Any

from ..values.keys import Version


def bare(fn: Any) -> Any:
    """Return the function inside partials and callable objects."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn if inspect.isroutine(fn) else fn.__call__


def is_async(fn: Any) -> bool:
    """Tell whether `fn` is an `async def`, inside partials and callable objects too."""
    return inspect.iscoroutinefunction(bare(fn))


def return_type(fn: Any) -> Any:
    """Return what `fn` is annotated to return; Any if that cannot be told."""
    try:
        return typing.get_type_hints(bare(fn)).get("return", Any)
    except Exception:  # noqa: BLE001 - a name that cannot be resolved: decode without a type
        return Any


def check_function(fn: Any) -> None:
    """Raise unless `fn` is a function of one row with one result."""
    if not callable(fn):
        raise TypeError(f"a step is a function, not {fn!r}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"{fn!r} is a generator: a step returns one result for one row")


def check_name(fn: Any, name: str | None) -> str:
    """Return the step's name, given or the function's own."""
    name = getattr(fn, "__name__", None) if name is None else name
    if not isinstance(name, str) or not name or name == "<lambda>":
        raise TypeError("this step has no name of its own: give name=, which goes into every key")
    return name


def check_version(version: Any) -> Version:
    """Return the version if it is one."""
    if isinstance(version, bool) or not isinstance(version, int | str):
        raise TypeError(f"version={version!r}: give an int or a str")
    return version


def check_rows(rows: Any, kinds: Any) -> None:
    """Raise unless `rows` is an iterable of rows."""
    if isinstance(rows, str | bytes | dict) or not isinstance(rows, kinds):
        raise TypeError(
            f"rows must be an iterable of rows, not {type(rows).__name__}"
            + (": for one row, call the step itself" if isinstance(rows, str | dict) else "")
        )
