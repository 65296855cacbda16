"""What a user hands over as a step and as rows: is it fit, and what is it. Knows no store."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import typing
from collections.abc import Container, Mapping, Sequence
from typing import Any

from ..frames.rows import as_rows
from ..values.classes import resolved
from ..values.keys import Version


def bare(fn: Any) -> Any:
    """Return the function inside partials and callable objects."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn if inspect.isroutine(fn) else fn.__call__


def is_async(fn: Any) -> bool:
    """Tell whether `fn` is an `async def`, inside partials and callable objects too."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(bare(fn))


def is_method(fn: Any) -> bool:
    """Tell whether `fn` was defined in the body of a class and would bind to its objects."""
    if inspect.ismethod(fn) or not hasattr(type(fn), "__get__"):
        return False
    _, _, scope = getattr(fn, "__qualname__", "").rpartition(".")[0].rpartition(".")
    return scope not in ("", "<locals>")


def method_error(fn: Any, decorated: str) -> TypeError:
    """Return the error for the use of a step that is a method.

    Args:
        fn: the method.
        decorated: what its decorator was given.
    """
    name = fn.__name__ if fn.__name__.isidentifier() else "label"
    return TypeError(
        f"{fn.__qualname__} is a step and a method: nothing says what the result depends on in its "
        "object, and one object's result must never be returned for another object. Outside the "
        "class, write a function of what it needs:\n"
        f"    @ckpt.step({decorated})\n"
        f"    def {name}(row, model): ...\n"
        f"and call it in the method: return {name}(row, self.model). If it needs no object, put "
        "@staticmethod above @ckpt.step"
    )


def parameter_of_row(signature: inspect.Signature, using: Container[str] = ()) -> str | None:
    """Return the name of the parameter that is the row: the first one that is not a means."""
    left = (it for it in signature.parameters.values() if it.name not in using)
    first = next(left, None)
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return first.name if first is not None and first.kind in by_position else None


def row_name(fn: Any, using: Container[str] = ()) -> str:
    """Return the name of the parameter of `fn` that is the row; `row` if that cannot be told."""
    try:
        return parameter_of_row(inspect.signature(fn), using) or "row"
    except (TypeError, ValueError):
        return "row"


def return_type(fn: Any) -> Any:
    """Return what `fn` is annotated to return; Any if that cannot be told."""
    return _annotation(fn, "return")


def row_type(fn: Any, using: Container[str] = ()) -> Any:
    """Return the annotation of the parameter of `fn` that is the row; Any if it has none."""
    return _annotation(fn, row_name(fn, using))


def _annotation(fn: Any, name: str) -> Any:
    """Return one annotation, even if another one cannot be resolved."""
    function = bare(fn)
    hint = getattr(function, "__annotations__", {}).get(name, Any)
    inside = inspect.unwrap(function)
    local = {parameter.__name__: parameter for parameter in getattr(inside, "__type_params__", ())}
    with contextlib.suppress(TypeError, ValueError):  # a builtin; a cell that is empty yet
        local |= inspect.getclosurevars(inside).nonlocals
    return resolved(name, hint, namespace_of(fn), local).get(name, Any)


def namespace_of(fn: Any) -> dict[str, Any]:
    """Return the globals of a step's function; empty for one that Python did not write."""
    inside = inspect.unwrap(bare(fn))
    found: dict[str, Any] = getattr(inside, "__globals__", {})
    return found


def has_each(annotation: Any) -> bool:
    """Tell whether a return type is a list of results, and says which type each of them has."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    return isinstance(origin, type) and issubclass(origin, Sequence) and bool(args)


def type_of_each(annotation: Any) -> Any:
    """Return the type of each result of a batch, from the step's return type; or Any."""
    if not has_each(annotation):
        return Any
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and args[1:] != (...,):
        return functools.reduce(operator.or_, args)
    return args[0]


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
        raise TypeError(f"version must be an int or a str, got {version!r}")
    return version


def checked_rows(rows: Any, kinds: Any) -> Any:
    """Return what to read rows from; raise unless it is an iterable of rows.

    Raises:
        TypeError: it is not one, or it is a table that cannot be taken as rows.
    """
    rows = as_rows(rows)
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, kinds):
        raise TypeError(
            f"rows must be an iterable of rows, not {type(rows).__name__}"
            + (": for one row, call the step itself" if isinstance(rows, str | Mapping) else "")
        )
    return rows
