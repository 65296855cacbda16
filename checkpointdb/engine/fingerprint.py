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
import types
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
    digest = xxh3_64_hexdigest(repr(_compiled(code)).encode())
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
    return getattr(type(fn), "__call__", fn)  # noqa: B004 - its code is wanted, not whether it is there


def _compiled(code: types.CodeType) -> tuple[Any, ...]:
    return code.co_code, code.co_names, [_constant(value) for value in code.co_consts]


def _constant(value: Any) -> Any:
    if inspect.iscode(value):
        return _compiled(value)
    if isinstance(value, frozenset):  # its order changes from process to process
        return sorted(map(repr, value))
    return value


def _normalised(source: str) -> str:
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.decorator_list = []
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return repr(_outline(tree))


def _outline(node: Any) -> Any:
    """Rebuild a syntax tree of what every Python version agrees on.

    `ast.unparse` quotes f-strings anew in 3.12, `ast.dump` differs in 3.12 and again in 3.13.
    """
    if isinstance(node, list):
        return [_outline(child) for child in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: _outline(child) for name, child in ast.iter_fields(node)}
    if isinstance(node, ast.JoinedStr):  # 3.12 puts an empty string after a nested format
        fields["values"] = [v for v in fields["values"] if v != ("Constant", {"value": ""})]
    return type(node).__name__, {k: v for k, v in fields.items() if v is not None and v != []}
