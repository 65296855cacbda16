"""What users say of their own types: how a value becomes what can be stored, and back.

Knows no bytes. The table is the process's: a type is registered where it is defined, as with
`copyreg`, before rows or results of it come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class Hook(msgspec.Struct, frozen=True):
    """A registered type; `name` is what stands for it in a store."""

    kind: type
    name: str
    to: Callable[[Any], Any]
    back: Callable[[Any], Any]


_by_type: dict[type, Hook] = {}
_by_name: dict[str, Hook] = {}


def register(kind: type[T], *, to: Callable[[T], Any], back: Callable[[Any], T]) -> None:
    """Say how values of a type of your own are stored, in rows and in results.

    A store has the name of the class and what `to` returned; a class is never imported by that
    name: the same `register` must have run before such a result is read. What `to` returns is the
    row's identity, so changing it turns old rows into new ones. A result is checked when it is
    saved: what `back` makes of it must give the same again.

    Args:
        kind: the class itself; its subclasses are registered on their own.
        to: from a value to plain values, or any that can be stored.
        back: from those to an equal value.

    Raises:
        TypeError: `kind` is not a class, `to` or `back` not a function.
        ValueError: its values can be stored as they are, or another class has its name.
    """
    if not isinstance(kind, type):
        raise TypeError(f"register takes a class, not {kind!r}")
    if not (callable(to) and callable(back)):
        raise TypeError("register: to= and back= must be functions")
    if kind.__module__ == "builtins":
        raise ValueError(f"register: {kind.__name__} is Python's own: register a class of yours")
    other = _by_name.get(kind.__name__)
    if other is not None and _place(other.kind) != _place(kind):
        raise ValueError(
            f"register: {_place(other.kind)} is registered under the name {kind.__name__!r} "
            f"already, which would stand for {_place(kind)} too: give one of them another name"
        )
    if other is not None:  # the class was made again, as a notebook does
        _by_type.pop(other.kind, None)
    _by_type[kind] = _by_name[kind.__name__] = Hook(kind, kind.__name__, to, back)


def hook_of(kind: type) -> Hook | None:
    """Return what is registered for a class."""
    return _by_type.get(kind)


def hook_named(name: str) -> Hook | None:
    """Return what is registered under the name of a class."""
    return _by_name.get(name)


def _place(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
