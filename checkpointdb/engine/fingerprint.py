"""A fingerprint of code, so that a change under the same version is noticed.

It is not part of any key: a `print` must not cost a thousand dollars. Formatting, comments,
docstrings and decorators do not count.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import linecache
import sys
import textwrap
import threading
import types
from collections.abc import Callable
from typing import Any, TypeVar

from xxhash import xxh3_64_hexdigest

from .. import system

Tree = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_UNSEEN = (OSError, TypeError, SyntaxError, ValueError)

# By the code's id, with the code, so that the id stays its own. The source of code that runs is
# looked up once: its file may be edited while it runs.
_trees: dict[int, tuple[types.CodeType, Tree | None]] = {}
_MOST_TREES = 4096
_parsing = threading.Lock()


def _begin_child() -> None:
    """In a forked child: whoever held the lock is not there to give it back."""
    global _parsing
    _parsing = threading.Lock()


system.at_fork(_begin_child)


def fingerprint(fn: Callable[..., Any]) -> str | None:
    """Return 16 hex digits that change when the code of `fn` does; None if it has no code to see.

    What it captures is not in it: see `captured.py`.
    """
    code = getattr(function_of(fn), "__code__", None)
    return None if code is None else code_print(code)


def code_print(code: types.CodeType) -> str:
    """Return 16 hex digits that change when `code` does.

    Where there is no source (`exec`) the byte code is taken, with the Python version in front:
    another Python then reads as "unknown", never as "changed".
    """
    tree = tree_of(code)
    if tree is not None:
        return outline_print(tree)
    digest = xxh3_64_hexdigest(repr(_compiled(code)).encode())
    return f"{sys.version_info.major}.{sys.version_info.minor}:{digest}"


def changed(stored: str | None, present: str | None) -> bool:
    """Tell whether the code is known to have changed between two fingerprints."""
    if stored is None or present is None or stored == present:
        return False
    return _kind(stored) == _kind(present)


def _kind(value: str) -> str:
    return value.rpartition(":")[0]


def function_of(fn: Any) -> Any:
    """Return the user's function inside partials, wrappers, bound methods and callable objects."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    if inspect.isroutine(fn) or inspect.isclass(fn):
        return fn
    return getattr(type(fn), "__call__", fn)  # noqa: B004 - its code is wanted, not whether it is there


# --- source


def tree_of(code: types.CodeType) -> Tree | None:
    """Return the syntax tree of a function's code; None if its source cannot be seen."""
    known = _trees.get(id(code))
    if known is None or known[0] is not code:
        if len(_trees) >= _MOST_TREES:
            _trees.clear()
        try:
            tree = _lambda_of(code) if code.co_name == "<lambda>" else _def_of(code)
            tree = tree and stripped(tree)
        except _UNSEEN:
            tree = None
        known = _trees[id(code)] = code, tree
    return known[1]


def parse(source: str) -> ast.Module:
    """Parse source, even while other threads do.

    CPython 3.11 counts the depth of all threads in one place, and raises SystemError if they took
    turns. Our own threads wait for each other; while somebody else's parses, we try again.
    """
    for _ in range(9):
        with _parsing, contextlib.suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def _def_of(code: types.CodeType) -> Tree | None:
    block = inspect.getblock(_lines_of(code)[code.co_firstlineno - 1 :])
    node = parse(textwrap.dedent("".join(block))).body[0]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    given = node.args.posonlyargs + node.args.args
    names = tuple(argument.arg for argument in given)
    same = names == code.co_varnames[: code.co_argcount] or any(n[:2] == "__" for n in names)
    return node if same and node.name == code.co_name else None  # or the file was edited since


def _lines_of(code: types.CodeType) -> list[str]:
    """Return the lines of the file that a code is in.

    `inspect.findsource` first asks every module that is loaded which one the code is of: half of
    a run's start, and more where more is loaded. So it is asked only about what is in no file.
    """
    linecache.checkcache(code.co_filename)
    return linecache.getlines(code.co_filename) or inspect.findsource(code)[0]


def _lambda_of(code: types.CodeType) -> Tree | None:
    """Find a lambda by its place: it has no name, and its line need not be a statement."""
    tree = parse("".join(_lines_of(code)))
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
    ]
    if len(found) > 1:
        found = [node for node in found if _begins(code) == _place(node.body)]
    return found[0] if len(found) == 1 else None


def _begins(code: types.CodeType) -> tuple[int, int] | None:
    """Return line and column where the body of a lambda begins: its widest piece of code."""
    places = [
        (line, column, -(end or line), -(end_column or 0))
        for line, end, column, end_column in code.co_positions()
        if line is not None and column is not None and (line, column) != (code.co_firstlineno, 0)
    ]
    return min(places)[:2] if places else None


def _place(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


T = TypeVar("T", bound=ast.AST)


def stripped(tree: T) -> T:
    """Take docstrings and decorators out of a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.decorator_list = []
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def outline_print(tree: ast.AST) -> str:
    """Return the fingerprint of a syntax tree, already `stripped`."""
    whole = ast.Module([tree], []) if isinstance(tree, ast.stmt) else tree
    return xxh3_64_hexdigest(repr(_outline(whole)).encode())


def _outline(node: Any) -> Any:
    """Rebuild a syntax tree of what every Python version agrees on.

    `ast.unparse` quotes f-strings differently in 3.12, `ast.dump` differs in 3.12 and in 3.13.
    """
    if isinstance(node, list):
        return [_outline(child) for child in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: _outline(child) for name, child in ast.iter_fields(node)}
    if isinstance(node, ast.JoinedStr):  # 3.12 puts an empty string after a nested format
        fields["values"] = [v for v in fields["values"] if v != ("Constant", {"value": ""})]
    return type(node).__name__, {k: v for k, v in fields.items() if v is not None and v != []}


# --- byte code


def _compiled(code: types.CodeType) -> tuple[Any, ...]:
    return code.co_code, code.co_names, [_constant(value) for value in code.co_consts]


def _constant(value: Any) -> Any:
    if inspect.iscode(value):
        return _compiled(value)
    if isinstance(value, frozenset):  # its order changes from process to process
        return sorted(map(repr, value))
    return value
