"""How a step is pickled: as a function is, by its name or by value. Knows nothing of stores.

A pickler decides that for functions alone: plain pickle writes their names; cloudpickle (joblib,
loky, Ray, Dask) writes those of `__main__`, of notebooks and of other functions by value. So a step
is pickled as a function of its own that gives back its parts: `label._parts`, found by that name
wherever `label` is.
"""

from __future__ import annotations

import threading
import uuid
import weakref
from collections.abc import Callable
from typing import Any

Parts = Callable[[], tuple[str, Any, Any, Any]]

_here: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
# Those that came by value stay: each task that brings one anew would begin a run of its own.
_arrived: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


def parts_of(step: Any, fn: Any, version: Any, options: Any) -> Parts:
    """Return the function as which `step` travels; it must be the step's `_parts`."""
    token = uuid.uuid4().hex

    def parts() -> tuple[str, Any, Any, Any]:
        return token, fn, version, options

    parts.__module__ = getattr(fn, "__module__", None) or ""
    parts.__qualname__ = f"{getattr(fn, '__qualname__', step.name)}._parts"
    _here[token] = step
    return parts


def arrive(kind: Callable[..., Any], parts: Parts, path: str) -> Any:
    """Return the step that a pickle names; or one made of the parts that it holds.

    Args:
        kind: the class `Step`.
        parts: what `parts_of` returned, or its copy in another process.
        path: of the step's store, which does not travel.
    """
    token, fn, version, options = parts()
    step = _here.get(token)
    if step is not None and step._parts is parts:
        return step
    with _lock:
        step = _arrived.get((token, path))
        if step is None:
            step = _arrived[token, path] = kind(fn, path, version=version, **options)
        else:
            step._rebind(fn)  # the globals that it brings may have changed
    return step
