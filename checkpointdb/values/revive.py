"""Tagged bytes to values again. Knows codes and classes; knows no way to encode.

A class is looked up in the scope that it is given, never imported.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import DecodeError
from . import codes
from .arrays import revive_array, revive_number, revive_objects
from .canonical import FACTORIES
from .classes import Scope
from .hooks import hook_named
from .leaves import LEAVES
from .packages import revive_image, revive_pandas, revive_url
from .records import build
from .vectors import revive_vector

_OF_CLASSES = (codes.OBJECT, codes.ENUM, codes.ENUM_MEMBER, codes.REGISTERED, codes.KEYED)


def uncanonical(data: bytes, scope: Scope | None = None) -> tuple[Any, bool]:
    """Decode tagged bytes; the flag tells whether objects came back as a builtin.

    Args:
        data: what `canonical` or `ordered` wrote.
        scope: the classes that there may be instances of. Without it, an instance of a user's
            class comes back as a dict of its fields, an Enum as its value; a set of such dicts as
            a list, and a dict with such keys as a list of pairs.

    Raises:
        DecodeError: an extension code of a newer version; a class that the scope does not have.
    """
    reader = _Reader()
    value = reader.unpack(data, scope)
    return value, reader.has_objects


class _Reader:
    """Decode one value."""

    def __init__(self) -> None:
        self.has_objects = False

    def unpack(self, raw: bytes | memoryview | msgspec.Raw, scope: Scope | None) -> Any:
        return msgspec.msgpack.decode(raw, ext_hook=functools.partial(self._revive, scope))

    def _revive(self, scope: Scope | None, code: int, raw: memoryview) -> Any:
        if not codes.MAP <= code <= codes.NEWEST:
            raise DecodeError(
                f"it holds a value of extension code {code}, which this version of checkpointdb "
                "does not know: upgrade checkpointdb"
            )
        if code in (codes.FLOAT32S, codes.FLOAT64S):
            return revive_vector(code, raw)
        if code in _OF_CLASSES:
            return self._instance(scope, code, raw)
        value = self.unpack(raw, scope)
        if code in (codes.SET, codes.FROZENSET):
            kind = set if code == codes.SET else frozenset
            return _collected(kind, [self.unpack(member, scope) for member in value])
        if code == codes.MAP:
            pairs = [(self.unpack(name, scope), self.unpack(it, scope)) for name, it in value]
            return _collected(dict, pairs)
        return _REVIVERS[code](value)

    def _instance(self, scope: Scope | None, code: int, raw: memoryview) -> Any:
        """Return an instance of a user's class, whose name decides what the rest of it is."""
        parts = msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
        name: str = msgspec.msgpack.decode(parts[0], type=str)
        if code == codes.REGISTERED and scope is not None:
            return self._registered(name, self.unpack(parts[1], scope))
        if scope is None or code == codes.KEYED:
            self.has_objects = True
            return self.unpack(parts[1], scope)
        kind = scope.find(name)
        if kind is None:
            raise DecodeError(
                f"it is an instance of a class {name!r}, which is neither in the annotation of the "
                "step's result nor a global of the step's module under that name"
            )
        inner = scope.within(kind)
        values = [self.unpack(part, inner) for part in parts[1:]]
        if code == codes.ENUM:
            return kind(values[0])
        if code == codes.ENUM_MEMBER:
            return kind[values[0]]  # type: ignore[index]
        return build(kind, values[0], values[1] if len(values) > 1 else {})

    @staticmethod
    def _registered(name: str, value: Any) -> Any:
        hook = hook_named(name)
        if hook is None:
            raise DecodeError(f"it is a {name}: call ckpt.register({name}, to=, back=) first")
        return hook.back(value)


def _collected(kind: Callable[[Any], Any], members: list[Any]) -> Any:
    try:
        return kind(members)
    except TypeError:
        return members


def _dict_kind(payload: list[Any]) -> Any:
    if payload[0] == "defaultdict":
        factory = None if payload[2] is None else FACTORIES[payload[2]]
        return collections.defaultdict(factory, payload[1])
    kind: Any = {"OrderedDict": collections.OrderedDict, "Counter": collections.Counter}[payload[0]]
    return kind(payload[1])


_REVIVERS: dict[int, Callable[[Any], Any]] = {leaf.code: leaf.back for leaf in LEAVES.values()}
_REVIVERS |= {
    codes.TUPLE: tuple,
    codes.BIGINT: lambda value: int.from_bytes(value, "big", signed=True),
    codes.CALL: lambda value: value,
    codes.ARRAY: lambda value: revive_array(*value),
    codes.NUMBER: lambda value: revive_number(*value),
    codes.OBJECTS: lambda value: revive_objects(*value),
    codes.DEQUE: lambda value: collections.deque(value[1], value[0]),
    codes.DICT_KIND: _dict_kind,
    codes.PANDAS: revive_pandas,
    codes.IMAGE: revive_image,
    codes.URL: revive_url,
    codes.SURROGATES: lambda value: value.decode("utf-8", "surrogatepass"),
}
