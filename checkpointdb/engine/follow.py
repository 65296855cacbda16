"""Follow a step's function through the user's own code to what it reads. Knows no store.

It follows functions, methods and classes of the user's own modules, up to `MOST_FUNCTIONS`; never
installed code or Python's own. No code of the user's is run.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
import textwrap
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from .chains import Found, content, deeper, defaults_of, one_further, plain_function
from .code_reads import Element, Path, Reads, is_changed, reads_of, without_end
from .fingerprint import function_of, outline_print, parse, stripped
from .imported import uses
from .partials import bound_names
from .plain import (
    ABSENT,
    Content,
    Touched,
    is_changeable,
    is_own_class,
    is_own_file,
    is_own_module,
)

MOST_FUNCTIONS = 500
# Methods that are called by what is written: `x(...)`, `x[...]`, `x + 1`, `f"{x}"`, `with x` ...
_SYNTAX = tuple(f"__{name}__" for name in (
    "add", "aenter", "aexit", "aiter", "and", "anext", "await", "bool", "call", "contains",
    "delitem", "enter", "eq", "exit", "float", "floordiv", "format", "ge", "getattr", "getitem",
    "gt", "index", "int", "iter", "le", "len", "lt", "matmul", "missing", "mod", "mul", "ne",
    "neg", "next", "or", "pow", "radd", "reversed", "ror", "setitem", "str", "sub", "truediv",
    "xor",
))  # fmt: skip
ITS_CODE = "its code"


class _Task(msgspec.Struct, frozen=True):
    """Code to follow; `me` is what its first parameter is bound to."""

    fn: Any
    label: str
    me: Found | None = None


class Walk:
    """Follow a function through the user's code, and note what is read and assigned."""

    def __init__(self, fn: Any) -> None:
        self._tasks: deque[_Task] = deque()
        self._met: set[tuple[Any, ...]] = set()
        self._code: dict[str, str] = {}
        self._labels: dict[str, Any] = {}
        self._read: dict[tuple[str, Path], Found] = {}
        self._assigned: set[tuple[str, Path]] = set()
        self.touched = Touched()  # objects that the followed code changes
        inside = function_of(fn)
        self._inside = getattr(inside, "__func__", inside)
        self._home = getattr(self._inside, "__globals__", {})
        self._top(fn)

    def _top(self, fn: Any) -> None:
        """Begin with the step's function, and what wraps it."""
        while isinstance(fn, functools.partial):
            self._arguments(fn, "")
            fn = fn.func
        wrapped = getattr(fn, "__wrapped__", None)
        while wrapped is not None and not inspect.ismethod(fn):
            self._follow(fn, "")  # a decorator of the user's: its wrapper counts too
            fn, wrapped = wrapped, getattr(wrapped, "__wrapped__", None)
        me = None
        if inspect.ismethod(fn):
            me = self._found("self", fn.__self__)
        elif not inspect.isroutine(fn) and not isinstance(fn, type):
            me = self._found("self", fn)
        if isinstance(self._inside, types.FunctionType):
            self._add(self._inside, ITS_CODE, me)

    def _arguments(self, partial: functools.partial[Any], of: str) -> None:
        for name, value in bound_names(partial).items():
            self._note(self._found(f"argument {name}{of}", value))

    def _found(self, root: str, value: Any, find: Callable[[], Any] | None = None) -> Found:
        return Found(root, (), value, find or (lambda: value))

    def all(self) -> None:
        """Follow until nothing is left, or the limit is reached."""
        while self._tasks and len(self._code) < MOST_FUNCTIONS:
            task = self._tasks.popleft()
            reads = reads_of(task.fn.__code__)
            self._code[task.label] = reads.code
            of = "" if task.label == ITS_CODE else f" of {task.label.partition(' ')[2]}"
            self._defaults(task.fn, of)
            for name, path in sorted(reads.assigned, key=repr):
                place = self._locate(task, name, without_end(path), of, assigned=True)
                if place is not None:
                    self._assigned.add((place.root, place.path))
                    self._note_assigned(task, name, path, of, place)
            self._imported(task.fn, reads)
            for name, path in sorted(reads.read, key=repr):
                place = self._locate(task, name, without_end(path), of)
                if place is not None and not (reads.blind and is_changeable(place.value)):
                    self._note(place)

    def _imported(self, fn: Any, reads: Reads) -> None:
        """Note what is used of modules that the code imports itself."""
        for use in uses(reads.imports, reads.read, fn.__globals__.get("__package__")):
            if use.code is None:
                self._note(self._found(use.label, use.value))
            else:
                self._code.setdefault(use.label, use.code)

    def _note_assigned(self, task: _Task, name: str, path: Path, of: str, place: Found) -> None:
        """Note which object is changed, or which member of it, for it has other names too."""
        if is_changed(path):
            self.touched.objects.add(id(place.value))
        elif path:
            owner = self._locate(task, name, path[:-1], of)
            if owner is not None:
                self.touched.members.add((id(owner.value), path[-1]))

    def _defaults(self, fn: Any, of: str) -> None:
        for name, value in defaults_of(fn).items():
            self._note(self._found(f"default {name}{of}", value))

    # --- from a chain to a value

    def _locate(
        self, task: _Task, name: str, path: Path, of: str, assigned: bool = False
    ) -> Found | None:
        """Return where a chain leads, None if nothing there counts; follow code on the way."""
        fn, code = task.fn, task.fn.__code__
        if name in code.co_freevars:
            cell = (fn.__closure__ or ())[code.co_freevars.index(name)]
            start = Found(f"closure {name}{of}", (), content(cell), lambda: content(cell))
        elif task.me is not None and name == _first(code):
            start = task.me
        elif name == "super" and "__class__" in code.co_freevars:
            return self._in_super(task, path)
        elif name in reads_of(code).global_names or (assigned and name in fn.__globals__):
            if name not in fn.__globals__:
                return None
            start = self._global(fn.__globals__, name)
        elif assigned and name in (defaults := defaults_of(fn)):
            start = self._found(f"default {name}{of}", defaults[name])
        else:
            return None
        return self._along(start, path, assigned)

    def _in_super(self, task: _Task, path: Path) -> Found | None:
        """Follow a method that `super()` finds."""
        cells = dict(zip(task.fn.__code__.co_freevars, task.fn.__closure__ or (), strict=True))
        own = content(cells["__class__"])
        if not path or not isinstance(own, type):
            return None
        kind = own if task.me is None else _kind_of(task.me.value)
        after = kind.__mro__[kind.__mro__.index(own) + 1 :] if own in kind.__mro__ else ()
        base = next((it for it in after if path[0][1] in vars(it)), None)
        if base is not None and is_own_class(base):
            own, value = self._found(self._class_label(base), base), vars(base)[path[0][1]]
            if not self._is_method(task.me or own, path[0], value):
                return deeper(own, path[:1], value)
        return None

    def _global(self, namespace: dict[str, Any], name: str) -> Found:
        value = namespace[name]
        where = "" if namespace is self._home else f"{namespace.get('__name__')}."
        find = functools.partial(namespace.get, name, ABSENT)
        return Found(f"global {where}{name}", (), value, find, (namespace, name))

    def _along(self, place: Found, path: Path, assigned: bool) -> Found | None:
        for i, element in enumerate(path):
            if isinstance(place.value, types.ModuleType):
                inside = self._in_module(place.value, element, path[i:])
                if inside is None:
                    return None
                place = inside
                continue
            if isinstance(place.value, type) and is_own_class(place.value):
                place = Found(self._class_label(place.value), (), place.value, place.find)
            value = one_further(place.value, element)
            if value is ABSENT:
                rest = path[i:] if assigned else ()
                return deeper(place, rest, place.value)
            if self._is_method(place, element, value):
                return None
            place = deeper(place, (element,), value)
        return place if place.value is not ABSENT else None

    def _in_module(self, module: types.ModuleType, element: Element, rest: Path) -> Found | None:
        if element[0] != "." or element[1] not in vars(module):
            return None
        if is_own_module(module.__name__):
            return self._global(vars(module), element[1])
        value = vars(module)[element[1]]
        if (module is sys and element[1] == "argv") or (module is os and element[1] == "environ"):
            whole = dict(value) if module is os else value
            if len(rest) > 1:  # one argument, one variable; never all of them
                return self._found(f"global {module.__name__}.{element[1]}", whole)
        return None

    def _is_method(self, place: Found, element: Element, value: Any) -> bool:
        """Follow a method or a property that a chain reads; tell whether it was one."""
        if element[0] != ".":
            return False
        if isinstance(value, property | functools.cached_property):
            value = value.fget if isinstance(value, property) else value.func
        elif isinstance(value, staticmethod):
            self._follow(value.__func__, element[1])
            return True
        elif isinstance(value, functools.singledispatchmethod):
            for way in dict.fromkeys(value.dispatcher.registry.values()):
                self._follow(way, element[1], place)
            return True
        elif isinstance(value, classmethod):
            kind = place.value if isinstance(place.value, type) else type(place.value)
            self._follow(value.__func__, element[1], self._found(f"class {kind.__name__}", kind))
            return True
        elif not isinstance(value, types.FunctionType):
            return False
        me = None if isinstance(place.value, type) else place
        in_instance = element[1] in getattr(place.value, "__dict__", ())
        self._follow(value, element[1], None if in_instance and me is not None else me)
        return True

    # --- from a value to code

    def _note(self, place: Found) -> None:
        """Note a value that is read; follow it if it is code, or holds some."""
        if isinstance(place.value, types.ModuleType):
            return
        key = place.root, place.path
        if key in self._read:
            return
        self._read[key] = place
        for path, value in Content(place.value, place.name).code:
            self._follow(value, path[-1][1] if path else place.name, place)
        for name in _SYNTAX if is_own_class(type(place.value)) else ():
            method = inspect.getattr_static(type(place.value), name, None)
            if isinstance(method, types.FunctionType) and not _is_generated(method):
                self._follow(method, str(place.name), place)

    def _follow(self, value: Any, name: str, me: Found | None = None) -> None:
        """Queue the code of a function, class, partial or wrapper, if it is the user's."""
        if isinstance(value, functools.partial):
            self._arguments(value, f" of {name}")
            self._follow(value.func, name)
        elif inspect.ismethod(value):
            self._follow(value.__func__, name, self._found(f"self of {name}", value.__self__))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.FunctionType) and is_own_file(value.__code__.co_filename):
            self._add(value, self._label(value, name), me if _takes_me(value, me) else None)
        elif hasattr(value, "__wrapped__"):
            for way in dict.fromkeys(getattr(value, "registry", {}).values()):  # singledispatch
                self._follow(way, name)
            inside = _unwrapped(value)
            if inside is not value:
                self._follow(inside, name)

    def _add(self, fn: types.FunctionType, label: str, me: Found | None) -> None:
        key = (fn, me and (me.root, me.path))
        if key in self._met:
            return
        self._met.add(key)
        n, wanted = 1, label
        while self._labels.setdefault(label, fn) is not fn:  # two of one name
            n += 1
            label = f"{wanted} ({n})"
        self._tasks.append(_Task(fn, label, me))

    def _label(self, fn: types.FunctionType, name: str) -> str:
        if fn is self._inside:
            return ITS_CODE
        called = fn.__code__.co_qualname.replace("<locals>.", "")
        if "<lambda>" in called:
            called = str(name)
        where = "" if fn.__globals__ is self._home else f"{fn.__module__}."
        return f"function {where}{called}"

    def _class(self, kind: type) -> None:
        """Follow a class of the user's: its methods, its plain attributes, its text."""
        for own in (base for base in kind.__mro__ if is_own_class(base)):
            if (own, None) in self._met:
                continue
            self._met.add((own, None))
            name = self._class_label(own)
            if text := _class_print(own):
                self._code[name] = text
            for attribute, value in list(vars(own).items()):
                self._attribute(own, self._found(name, own), attribute, value)

    def _class_label(self, kind: type) -> str:
        where = "" if kind.__module__ == self._home.get("__name__") else f"{kind.__module__}."
        return f"class {where}{kind.__qualname__.replace('<locals>.', '')}"

    def _attribute(self, own: type, place: Found, name: str, value: Any) -> None:
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.cached_property):
            value = value.func
        if isinstance(value, types.FunctionType):
            if value.__module__ == own.__module__ and not _is_generated(value):
                self._follow(value, name)
        elif not name.startswith("__") and not callable(value):
            self._note(deeper(place, ((".", name),), value))

    # --- what came of it

    @property
    def top_code(self) -> Any:
        """The code object of the step's function."""
        return getattr(self._inside, "__code__", None)

    @property
    def code(self) -> dict[str, str]:
        """Fingerprints of the code that was followed, by label."""
        return self._code

    def places(self) -> list[Found]:
        """Return what is read and not assigned, in an order that is always the same."""
        return [
            place
            for (root, path), place in sorted(self._read.items(), key=lambda item: repr(item[0]))
            if not self.is_assigned(root, path)
        ]

    def is_assigned(self, root: str, path: Path) -> bool:
        """Tell whether the followed code itself assigns this."""
        return any((root, path[:n]) in self._assigned for n in range(len(path) + 1))


def _unwrapped(value: Any) -> Any:
    """Return the first function of the user's inside wrappers."""
    try:
        return inspect.unwrap(
            value,
            stop=lambda it: (
                isinstance(it, types.FunctionType) and is_own_file(it.__code__.co_filename)
            ),
        )
    except ValueError:  # wrapped in itself
        return value


def _is_generated(fn: Any) -> bool:
    """Tell whether a method was made from text, as dataclasses do; the class shows its fields."""
    inside = getattr(fn, "__wrapped__", fn)
    return bool(getattr(inside, "__code__", fn.__code__).co_filename == "<string>")


def _kind_of(value: Any) -> type:
    return value if isinstance(value, type) else type(value)


def _first(code: types.CodeType) -> str | None:
    return code.co_varnames[0] if code.co_argcount else None


def _takes_me(fn: types.FunctionType, me: Found | None) -> bool:
    """Tell whether `fn` is a method of the object that it was found through."""
    if me is None or fn.__code__.co_argcount == 0:
        return False
    value = me.value
    kinds = value.__mro__ if isinstance(value, type) else type(value).__mro__
    return any(plain_function(it) is fn for kind in kinds for it in vars(kind).values())


@functools.lru_cache(maxsize=1024)
def _class_print(kind: type) -> str | None:
    """Return the fingerprint of a class's body without its methods."""
    try:
        node = parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    if not isinstance(node, ast.ClassDef) or node.name != kind.__name__:
        return None
    tree = stripped(node)
    tree.body = [
        it for it in tree.body if not isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)
    ] or [ast.Pass()]
    return outline_print(tree)
