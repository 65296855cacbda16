"""What code uses of a user's module that it imports when it is called. Knows text alone.

The module may not be loaded yet, and to load it would run the user's code; so its file is read: the
statements that bind what is used, and what those use in turn, in other modules of the user's too.
A constant counts by its value, anything else by its text.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import tokenize
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, NamedTuple

from .code_reads import Chain, Import, Path, chains_of, imports_of
from .fingerprint import outline_print, parse, stripped
from .plain import is_own_file

MOST_USES = 200
_DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


class Use(NamedTuple):
    """What is used: its name, and the fingerprint of its code or, for a constant, its value."""

    label: str
    code: str | None
    value: Any = None


def uses(imports: frozenset[Import], read: frozenset[Chain], package: str | None) -> list[Use]:
    """Return what code uses of the user's modules that it imports itself.

    Args:
        imports: what it imports, by the names that it gives it.
        read: the chains that it reads.
        package: the package that it is in.
    """
    walk = _Walk()
    for it in imports:
        walk.follow_import(it, read, package)
    return walk.found


class _Walk:
    def __init__(self) -> None:
        self.found: list[Use] = []
        self._seen: set[tuple[str, str]] = set()

    def follow_import(self, it: Import, read: frozenset[Chain], package: str | None) -> None:
        """Follow what is read behind the name that an import bound."""
        try:
            module = importlib.util.resolve_name("." * it.level + it.module, package)
        except ImportError:  # there is no package, or not so deep a one
            return
        for name, path in sorted(read, key=repr):
            if name == it.name:
                behind = [str(part) for kind, part in path if kind == "." and part]
                self._follow(module, [*it.path, *behind])

    def _follow(self, module: str, path: list[str]) -> None:
        """Follow a path from a module on: into modules in it, then to a name of one."""
        spec = _spec(module)
        while spec is not None and path and (deeper := _spec(f"{module}.{path[0]}")) is not None:
            module, path, spec = f"{module}.{path[0]}", path[1:], deeper
        if spec is None or not is_own_file(spec.origin) or not path or len(self._seen) > MOST_USES:
            return
        if (module, path[0]) not in self._seen:
            self._seen.add((module, path[0]))
            package = module if spec.submodule_search_locations else module.rpartition(".")[0]
            self._bound(module, path, _bindings(str(spec.origin)).get(path[0], []), package)

    def _bound(
        self, module: str, path: list[str], statements: list[ast.stmt], package: str
    ) -> None:
        for n, statement in enumerate(statements):
            read, is_import = frozenset(chains_of(statement)), False
            for it in imports_of(statement):
                if isinstance(statement, _DEFINITIONS):  # it imports when it is called, too
                    self.follow_import(it, read, package)
                elif it.name == path[0]:
                    is_import = True
                    behind: Path = tuple((".", part) for part in path[1:])
                    self.follow_import(it, frozenset([(path[0], behind)]), package)
            if not is_import:
                of_many = f" ({n + 1})" if n else ""
                self.found.append(_use(f"{module}.{path[0]}{of_many}", statement))
                for name, further in sorted(read, key=repr):
                    self._follow(module, [name, *(str(it) for kind, it in further if kind == ".")])


def _use(name: str, statement: ast.stmt) -> Use:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return Use(f"function {name}", outline_print(statement))
    if isinstance(statement, ast.ClassDef):
        return Use(f"class {name}", outline_print(statement))
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        try:
            return Use(f"global {name}", None, ast.literal_eval(statement.value))
        except (ValueError, TypeError, SyntaxError, RecursionError):
            pass
    return Use(f"global {name}", outline_print(statement))


def _spec(module: str) -> ModuleSpec | None:
    """Find a module without loading it or the packages that it is in."""
    spec, path, whole = None, None, ""
    for part in module.split("."):
        whole = f"{whole}.{part}".lstrip(".")
        try:
            spec = PathFinder.find_spec(whole, path)
        except (ImportError, ValueError, OSError):
            return None
        if spec is None:
            return None
        path = spec.submodule_search_locations or []
    return spec


@functools.lru_cache(maxsize=256)  # the code that runs is that of the file as it was
def _bindings(file: str) -> dict[str, list[ast.stmt]]:
    """Return the statements of a module that bind each of its names."""
    try:
        with tokenize.open(file) as source:
            tree = stripped(parse(source.read()))
    except (OSError, SyntaxError, ValueError):
        return {}
    bound: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in dict.fromkeys(_bound_by(statement)):
            bound.setdefault(name, []).append(statement)
    return bound


def _bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (it.name for it in imports_of(node))
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield node.id
    elif not isinstance(node, ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _bound_by(child)
