"""How a step is pickled: as a function is, by its name or by value. Knows nothing of stores.

A pickler makes that choice only for functions: plain pickle writes their names; cloudpickle
(joblib, loky, Ray, Dask) writes those of `__main__`, of notebooks and of other functions by value.
So a step is pickled as a function of its own that gives back its parts: `label._parts`, found by
that name wherever `label` is.

Nothing in a pickle differs from one process to the next: `datasets` hashes it to know its caches.
"""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

from ..engine.callables import namespace_of
from ..values.keys import depends_digest

Parts = Callable[[], tuple[Any, Any, Any]]

_here: weakref.WeakValueDictionary[Parts, Any] = weakref.WeakValueDictionary()
# Those that came by value stay: each task that brings one anew would begin a run of its own.
_arrived: dict[tuple[Any, ...], Any] = {}
_lock = threading.Lock()


def parts_of(step: Any, fn: Any, version: Any, options: Any) -> Parts:
    """Return the function as which `step` travels; it must be the step's `_parts`."""

    def made() -> tuple[Any, Any, Any]:
        return fn, version, options

    # dill takes all globals of a function along, and those of this module know every step
    parts = types.FunctionType(made.__code__, namespace_of(fn), closure=made.__closure__)
    parts.__module__ = getattr(fn, "__module__", None) or ""
    parts.__qualname__ = f"{getattr(fn, '__qualname__', step.name)}._parts"
    _here[parts] = step
    return parts


def arrive(kind: Callable[..., Any], parts: Parts, path: str, _identity: Any = None) -> Any:
    """Return the step that a pickle names; or one made of the parts that it holds.

    Args:
        kind: the class `Step`.
        parts: what `parts_of` returned, or its copy in another process.
        path: of the step's store, which does not travel.
        _identity: what a hash of the pickle is to see even of a step that is pickled by its name.
    """
    if (step := _here.get(parts)) is not None:
        return step
    fn, version, options = parts()
    options_but = {name: value for name, value in options.items() if name != "depends"}
    same = (
        path, _likeness(fn), version, depends_digest(options["depends"]), _likeness(options_but)
    )  # fmt: skip
    with _lock:
        step = _arrived.get(same)
        if step is None:
            step = _arrived[same] = kind(fn, path, version=version, **options)
        else:
            step._rebind(fn)  # the globals that it brings may have changed
    return step


def _likeness(value: Any) -> tuple[Any, ...]:
    """Return what stays the same of a step's part each time that it arrives."""
    if isinstance(value, functools.partial):
        return (_likeness(value.func), _likeness(value.args), _likeness(value.keywords))
    if isinstance(value, dict):
        return tuple((name, _likeness(child)) for name, child in value.items())
    if isinstance(value, tuple | list):
        return tuple(map(_likeness, value))
    if hasattr(value, "__code__"):
        return (getattr(value, "__module__", None), value.__qualname__)
    text = repr(value)
    if callable(value) or " object at 0x" in text:  # where it lies says nothing of it
        return (type(value).__module__, type(value).__qualname__)
    return (type(value).__qualname__, text)
