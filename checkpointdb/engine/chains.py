"""Where a chain of names leads: one step further along it, found without running any code."""

from __future__ import annotations

import enum
import functools
import inspect
import os
import types
from collections.abc import Callable
from typing import Any

import msgspec

from .code_reads import Element, Path
from .plain import ABSENT, NO_ITEM, fields_of, is_own_class


class Found(msgspec.Struct, frozen=True):
    """Where a chain led: to a root and a path behind it, and the value there.

    `is_in` is the namespace and the name that hold the value, if it is simply a global.
    """

    root: str
    path: Path
    value: Any
    find: Callable[[], Any]
    is_in: tuple[dict[str, Any], str] | None = None

    @property
    def name(self) -> Any:
        """What it is called: the last name on the way to it."""
        return self.path[-1][1] if self.path else self.root.rpartition(" ")[2]


def defaults_of(fn: Any) -> dict[str, Any]:
    """Return the default values of a function, by parameter."""
    code = fn.__code__
    names = code.co_varnames[: code.co_argcount]
    values = fn.__defaults__ or ()
    given = dict(zip(names[len(names) - len(values) :], values, strict=True))
    return given | (fn.__kwdefaults__ or {})


def deeper(place: Found, path: Path, value: Any) -> Found:
    """Return the place that is `path` further than another, and holds `value`."""

    def find() -> Any:
        now = place.find()
        for kind, name in path:  # the two first are short cuts, for this is asked in each call
            if kind == "[" and type(now) is dict:
                now = now.get(name, NO_ITEM)
            elif kind == "." and name in getattr(now, "__dict__", ()):
                now = now.__dict__[name]
            else:
                now = one_further(now, (kind, name))
        return now

    return Found(place.root, place.path + path, value, find if path else place.find)


def content(cell: types.CellType) -> Any:
    """Return what a closure holds in a cell."""
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return ABSENT


def plain_function(value: Any) -> Any:
    """Return the function inside a property or a method."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, functools.cached_property):
        return value.func
    return getattr(value, "__func__", value)


def one_further(value: Any, element: Element) -> Any:
    """Return what is one step further along a chain, found without running any code."""
    kind, name = element
    if kind == "[":
        if isinstance(value, dict) or value is os.environ:
            return value.get(name, NO_ITEM)
        if not (isinstance(value, list | tuple) and isinstance(name, int)):
            return ABSENT
        return value[name] if -len(value) <= name < len(value) else NO_ITEM
    if isinstance(value, type):
        if not is_own_class(value):
            return ABSENT
        members = getattr(value, "__members__", {})
        return members[name] if name in members else inspect.getattr_static(value, name, ABSENT)
    fields = fields_of(value)
    if fields is None:
        return _member_code(value, name)
    if name in fields:
        return fields[name]
    found = inspect.getattr_static(type(value), name, ABSENT)
    return found if is_own_class(type(value)) else ABSENT


def _member_code(value: Any, name: str) -> Any:
    """Return a method of a member of an enumeration."""
    if not (isinstance(value, enum.Enum) and is_own_class(type(value))):
        return ABSENT
    found = inspect.getattr_static(type(value), name, ABSENT)
    return found if isinstance(plain_function(found), types.FunctionType) else ABSENT
