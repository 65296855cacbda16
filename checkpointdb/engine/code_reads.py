"""Which names a function's code reads and assigns, with the path behind each. Knows no values.

`CONFIG["model"]`, `CONFIG.get("model")` and `prompts.TEXT` are chains: a name, and a path of
constant items and attributes. What is called to change a container counts as assigned.
"""

from __future__ import annotations

import ast
import dis
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from .fingerprint import code_print, tree_of

Element = tuple[Literal[".", "["], Any]
Path = tuple[Element, ...]
Chain = tuple[str, Path]

# Calling one of these changes what it is called on.
_CHANGING = frozenset((
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "extendleft",
    "insert", "intersection_update", "move_to_end", "pop", "popitem", "popleft", "put",
    "put_nowait", "remove", "reverse", "rotate", "setdefault", "sort", "subtract",
    "symmetric_difference_update", "update", "write", "writelines",
))  # fmt: skip
_READS_GLOBAL = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"))
_ASSIGNS_GLOBAL = frozenset(("STORE_GLOBAL", "DELETE_GLOBAL"))
_ASSIGNS_ITEM = frozenset(("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_ATTR", "STORE_SLICE"))


class Import(NamedTuple):
    """An import inside of code: the name that it binds, the module, and what of it."""

    name: str
    module: str
    level: int = 0
    path: tuple[str, ...] = ()


class Reads(msgspec.Struct, frozen=True):
    """What a function's code reads and assigns.

    Attributes:
        code: the code's fingerprint.
        global_names: names that it looks up among its globals, at any depth.
        read: chains that it reads.
        assigned: chains that it assigns.
        imports: what it imports when it is called.
        blind: its source cannot be seen, so that chains are names alone, and whether a container
            is changed cannot be told.
    """

    code: str
    global_names: frozenset[str]
    read: frozenset[Chain]
    assigned: frozenset[Chain]
    imports: frozenset[Import] = frozenset()
    blind: bool = False


_known: dict[int, tuple[types.CodeType, Reads]] = {}
_MOST_KNOWN = 4096


def reads_of(code: types.CodeType) -> Reads:
    """Return what `code` reads and assigns."""
    known = _known.get(id(code))
    if known is None or known[0] is not code:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        known = _known[id(code)] = code, _reads_of(code)
    return known[1]


def _reads_of(code: types.CodeType) -> Reads:
    names = frozenset(_names(code, _READS_GLOBAL))
    tree = tree_of(code)
    if tree is None:
        return _reads_of_bytes(code, names)
    visitor = _Visitor()
    for node in [tree.body] if isinstance(tree, ast.Lambda) else tree.body:
        visitor.visit(node)
    # A bare name that is assigned is a local one, unless the byte code says otherwise.
    assigned = {chain for chain in visitor.assigned if chain[1]}
    assigned |= {(name, ()) for name in _assigned_outside(code)}
    imports = frozenset(imports_of(tree))
    return Reads(code_print(code), names, frozenset(visitor.read), frozenset(assigned), imports)


def chains_of(node: ast.AST) -> set[Chain]:
    """Return the chains that are read anywhere in a syntax tree."""
    visitor = _Visitor()
    visitor.visit(node)
    return visitor.read


def imports_of(tree: ast.AST) -> Iterator[Import]:
    """Yield what is imported anywhere in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for it in node.names:
                whole = it.name if it.asname else it.name.partition(".")[0]
                yield Import(it.asname or whole, whole)
        elif isinstance(node, ast.ImportFrom):
            for it in node.names:
                path = () if it.name == "*" else (it.name,)
                yield Import(it.asname or it.name, node.module or "", node.level, path)


def _assigned_outside(code: types.CodeType) -> set[str]:
    """Return the global and nonlocal names that the code, or a function in it, assigns."""
    return set(_names(code, _ASSIGNS_GLOBAL)) | set(_names(code, frozenset(("STORE_DEREF",))))


def _reads_of_bytes(code: types.CodeType, names: frozenset[str]) -> Reads:
    operations = {instruction.opname for part in _parts(code) for instruction in _operations(part)}
    attributes = {name for part in _parts(code) for name in part.co_names} - names
    everything = [*names, *code.co_freevars, *code.co_varnames[:1]]
    deeper: Iterator[Chain] = (
        (name, ((".", attribute),)) for name in everything for attribute in attributes
    )
    changes = bool(operations & _ASSIGNS_ITEM or attributes & _CHANGING)
    assigned = frozenset((name, ()) for name in _assigned_outside(code))
    read = frozenset((*deeper, *((name, ()) for name in everything)))
    return Reads(code_print(code), names, read, assigned, blind=changes)


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts(constant)


def _operations(code: types.CodeType) -> Iterator[dis.Instruction]:
    return iter(dis.get_instructions(code))


def _names(code: types.CodeType, operations: frozenset[str]) -> Iterator[str]:
    for part in _parts(code):
        for instruction in _operations(part):
            if instruction.opname in operations:
                yield instruction.argval


class _Visitor(ast.NodeVisitor):
    """Collect chains; the byte code says whether a name is a global, and which one."""

    def __init__(self) -> None:
        self.read: set[Chain] = set()
        self.assigned: set[Chain] = set()

    def _note(self, node: ast.expr) -> None:
        chain = chain_of(node)
        if chain is None:
            self.generic_visit(node)
            return
        is_read = isinstance(getattr(node, "ctx", None), ast.Load) or isinstance(node, ast.Call)
        (self.read if is_read else self.assigned).add(chain)
        self._visit_indices(node)

    def _visit_indices(self, node: ast.expr) -> None:
        while isinstance(node, ast.Attribute | ast.Subscript):
            if isinstance(node, ast.Subscript):
                self.visit(node.slice)
            node = node.value

    visit_Name = visit_Attribute = visit_Subscript = _note  # noqa: N815 - as ast names them

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.target)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        if chain_of(node) is not None:  # x.get("name")
            self._note(node)
        elif isinstance(called, ast.Attribute) and called.attr in _CHANGING:
            chain = chain_of(called.value)
            if chain is None:
                self.visit(called)
            else:
                self.assigned.add((chain[0], (*chain[1], _END)))  # not the name: what it names
            if chain is not None:
                self.read.add((chain[0], (*chain[1], (".", called.attr))))
        else:
            self.visit(called)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)


def chain_of(node: ast.expr) -> Chain | None:
    """Return the chain that an expression is; up to the first index that is no constant."""
    if isinstance(node, ast.Name):
        return node.id, ()
    if isinstance(node, ast.Attribute):
        return _longer(node.value, (".", node.attr))
    if isinstance(node, ast.Subscript):
        return _longer(node.value, ("[", node.slice))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("get", "getenv")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ):
        base = node.func.value
        if node.func.attr == "getenv":
            base = ast.Attribute(base, "environ", ast.Load())
        return _longer(base, ("[", node.args[0]))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
        return "super", ()
    return None


_END: Element = (".", "")  # nothing behind it belongs to the chain


def _longer(base: ast.expr, element: tuple[Any, Any]) -> Chain | None:
    chain = chain_of(base)
    if chain is None:
        return None
    name, path = chain
    if path and path[-1] == _END:
        return chain
    kind, value = element
    if kind == "[":
        try:
            value = ast.literal_eval(value)
        except ValueError:
            value = None
        if not isinstance(value, str | int):
            return name, (*path, _END)
    return name, (*path, (kind, value))


def is_changed(path: Path) -> bool:
    """Tell whether an assigned path is that of a container whose content is changed."""
    return bool(path) and path[-1] == _END


def without_end(path: Path) -> Path:
    """Return the path up to an index that is no constant."""
    return path[:-1] if path and path[-1] == _END else path
