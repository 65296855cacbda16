"""A fingerprint of a step's code, so that a change under the same version is noticed.

It is not part of any key: a `print` must not cost a thousand dollars. Formatting, comments,
docstrings and decorators do not count; the functions that the step calls are not followed.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from xxhash import xxh3_64_hexdigest


def fingerprint(fn: Callable[..., Any]) -> str | None:
    """Return 16 hex digits that change when the code of `fn` does; None if it has no code to see.

    Where there is no source (a REPL, `exec`) the byte code is taken, with the Python version in
    front: another Python then reads as "unknown", never as "changed".
    """
    fn = _function(fn)
    try:
        return xxh3_64_hexdigest(_normalised(inspect.getsource(fn)).encode())
    except (OSError, TypeError, SyntaxError, ValueError):
        code = getattr(fn, "__code__", None)
    if code is None:
        return None
    constants = repr([c for c in code.co_consts if not inspect.iscode(c)]).encode()
    digest = xxh3_64_hexdigest(code.co_code + constants)
    return f"{sys.version_info.major}.{sys.version_info.minor}:{digest}"


def changed(stored: str | None, present: str | None) -> bool:
    """Tell whether the code is known to have changed between two fingerprints."""
    if stored is None or present is None or stored == present:
        return False
    return _kind(stored) == _kind(present)


def _kind(value: str) -> str:
    return value.rpartition(":")[0]


def _function(fn: Any) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    if inspect.isroutine(fn) or inspect.isclass(fn):
        return fn
    return getattr(type(fn), "__call__", fn)


def _normalised(source: str) -> str:
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.decorator_list = []
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
