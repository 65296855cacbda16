"""Values to canonical bytes, never confusing two types. Knows nothing of steps, SQL or files.

The canonical encoding is deterministic MessagePack in which each type that MessagePack would blur
(tuple into list, Decimal into str, Enum into its value ...) is an extension with a code of its own.
Equal values have equal bytes; values that differ in any type have different bytes. Keys are hashes
of it, and a value that JSON cannot hold is stored in it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import msgspec

from ..errors import DecodeError, EncodeError

MAX_DEPTH = 128

_SCALARS = frozenset((str, int, bool, type(None)))
_pack = msgspec.msgpack.Encoder(order="deterministic").encode

# Codes are part of the file format and of every key: never reuse one.
_MAP, _TUPLE, _SET, _FROZENSET, _BIGINT, _DECIMAL = 1, 2, 3, 4, 5, 6
_DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _PATH, _ENUM, _OBJECT, _CALL = range(7, 16)


def is_plain(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Tell whether `value` is a tree of exact JSON types, so that JSON gives back an equal one.

    Written flat because it runs on every row and result: it is half the price of decoding the
    JSON again and comparing, and unlike `==` it does not take `True` or an IntEnum for `1`.
    """
    kind = type(value)
    if kind is dict:
        for name in value:
            if type(name) is not str:
                return False
        children: Iterable[Any] = value.values()
    elif kind is list:
        children = value
    else:
        return kind in _SCALARS or (kind is float and isfinite(value))
    for child in children:
        kind = type(child)
        if kind in _SCALARS:
            continue
        if kind is float:
            if not isfinite(child):
                return False
        elif depth <= 1 or not is_plain(child, depth - 1):
            return False
    return True


def canonical(value: Any) -> bytes:
    """Encode `value` so that equal values, and only those, have equal bytes.

    Dict order does not matter; `1`, `1.0`, `True` and `"1"` all differ.

    Raises:
        EncodeError: `value` holds something without a stable content (a lambda, an open file, a
            lone surrogate), contains itself, or is nested deeper than 128 levels.
    """
    if is_plain(value):
        try:
            return _pack(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # an int past 64 bits, a lone surrogate: the slow path encodes or names it
    return _pack(_tag(value, "$", MAX_DEPTH))


class Arguments(dict[str, Any]):
    """The bound arguments of a call with more than the row: never equal to a row that is a dict."""


def _ext(code: int, value: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, _pack(value))


def _tag(value: Any, where: str, depth: int) -> Any:
    """Rebuild `value` of types that MessagePack keeps apart; everything else becomes an Ext."""
    tag = _TAGGERS.get(type(value))
    if tag is not None:
        return tag(value, where, depth)
    if isinstance(value, enum.Enum):
        return _ext(_ENUM, [type(value).__name__, _tag(value.value, where, depth)])
    if isinstance(value, Arguments):
        return _ext(_CALL, _tag_dict(value, where, depth))
    if isinstance(value, dict):
        return _tag_dict(value, where, depth)
    fields = _fields(value)
    if fields is not None:
        return _ext(_OBJECT, [type(value).__name__, _tag_dict(fields, where, depth)])
    raise EncodeError(
        f"{where}: a value of type {_qualified(value)} cannot be stored or "
        f"compared by content{_advice(value)}",
        where,
    )


def _fields(value: Any) -> dict[str, Any] | None:
    """Return the fields of an instance of a data class of any kind, None for anything else."""
    kind = type(value)
    names: Iterable[str] | None = None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
    elif isinstance(value, msgspec.Struct):
        names = kind.__struct_fields__
    elif isinstance(value, tuple) and hasattr(kind, "_fields"):
        names = kind._fields
    elif hasattr(kind, "model_validate_json"):
        names = [*kind.model_fields, *(value.model_extra or ())]
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in kind.__attrs_attrs__]
    return None if names is None else {name: getattr(value, name) for name in names}


def _qualified(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _advice(value: Any) -> str:
    if hasattr(value, "tolist"):
        return ": convert it with .tolist()"
    if isinstance(value, str | int | float | bytes):
        return f": convert it to a plain {type(value).__mro__[1].__name__}"
    if callable(value) or hasattr(value, "read"):
        return ": pass what it is made from (a name, a path) instead"
    return ": use plain JSON types, a dataclass, or narrow the row's identity with key="


def _deeper(where: str, depth: int) -> int:
    if depth == 0:
        raise EncodeError(f"{where[:80]}: nested deeper than {MAX_DEPTH} levels", where)
    return depth - 1


def _text(value: str, where: str, _depth: int = 0) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(
            f"{where}: character {error.start} is a lone surrogate, which no file can hold: "
            "clean the text with .encode('utf-8', 'replace').decode()",
            where,
        ) from None
    return value


def _tag_int(value: int, *_: Any) -> Any:
    if -(1 << 63) <= value < 1 << 64:
        return value
    return _ext(_BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _tag_list(value: Iterable[Any], where: str, depth: int) -> list[Any]:
    depth = _deeper(where, depth)
    return [_tag(child, f"{where}[{i}]", depth) for i, child in enumerate(value)]


def _tag_set(value: Iterable[Any], where: str, depth: int) -> list[bytes]:
    depth = _deeper(where, depth)
    return sorted(_pack(_tag(child, f"{where}{{…}}", depth)) for child in value)


def _tag_dict(value: dict[Any, Any], where: str, depth: int) -> Any:
    depth = _deeper(where, depth)
    if all(type(name) is str for name in value):
        return {
            _text(name, where): _tag(child, where + _step_into(name), depth)
            for name, child in value.items()
        }
    pairs = [
        (
            _pack(_tag(name, f"{where}.keys()", depth)),
            _pack(_tag(child, f"{where}[{name!r}]", depth)),
        )
        for name, child in value.items()
    ]
    return _ext(_MAP, sorted(pairs))


def _step_into(name: str) -> str:
    return f".{name}" if name.isidentifier() else f"[{name!r}]"


def _tag_datetime(value: dt.datetime, where: str, _depth: int) -> Any:
    return _ext(_DATETIME, [value.isoformat(), value.fold, _zone(value, where)])


def _tag_time(value: dt.time, where: str, _depth: int) -> Any:
    return _ext(_TIME, [value.isoformat(), value.fold, _zone(value, where)])


def _zone(value: dt.datetime | dt.time, where: str) -> str | None:
    """Return the name of a time zone, where the offset that `isoformat` shows is not all of it."""
    zone = value.tzinfo
    if isinstance(zone, zoneinfo.ZoneInfo):
        return zone.key
    if zone is not None and value.utcoffset() is None:
        raise EncodeError(
            f"{where}: a time in a zone of type {_qualified(zone)} shows neither offset nor name: "
            "use zoneinfo.ZoneInfo",
            where,
        )
    return None


def _tag_path(value: pathlib.PurePosixPath, where: str, _depth: int) -> Any:
    return _ext(_PATH, _text(str(value), where))


_TAGGERS: dict[type, Callable[..., Any]] = {
    types.NoneType: lambda value, *_: value,
    bool: lambda value, *_: value,
    float: lambda value, *_: value if value == value else float("nan"),
    bytes: lambda value, *_: value,
    int: _tag_int,
    str: _text,
    list: _tag_list,
    dict: _tag_dict,
    tuple: lambda value, where, depth: _ext(_TUPLE, _tag_list(value, where, depth)),
    set: lambda value, where, depth: _ext(_SET, _tag_set(value, where, depth)),
    frozenset: lambda value, where, depth: _ext(_FROZENSET, _tag_set(value, where, depth)),
    decimal.Decimal: lambda value, *_: _ext(_DECIMAL, str(value)),
    dt.datetime: _tag_datetime,
    dt.date: lambda value, *_: _ext(_DATE, value.isoformat()),
    dt.time: _tag_time,
    dt.timedelta: lambda value, *_: _ext(
        _TIMEDELTA, [value.days, value.seconds, value.microseconds]
    ),
    uuid.UUID: lambda value, *_: _ext(_UUID, value.bytes),
    pathlib.PosixPath: _tag_path,
    pathlib.PurePosixPath: _tag_path,
}


def uncanonical(data: bytes) -> tuple[Any, bool]:
    """Decode canonical bytes; the flag tells whether objects came back as a builtin.

    An instance of a user's class comes back as a dict of its fields, an Enum as its value; a set of
    such dicts as a list, and a dict with such keys as a list of pairs.
    """
    objects: list[str] = []

    def unpack(raw: bytes | memoryview) -> Any:
        return msgspec.msgpack.decode(raw, ext_hook=revive)

    def revive(code: int, raw: memoryview) -> Any:
        value = unpack(raw)
        if code in (_SET, _FROZENSET):
            kind = set if code == _SET else frozenset
            return _collected(kind, [unpack(member) for member in value])
        if code == _MAP:
            return _collected(dict, [(unpack(name), unpack(child)) for name, child in value])
        if code in (_OBJECT, _ENUM):
            objects.append(value[0])
            return value[1]
        if code in _REVIVERS:
            return _REVIVERS[code](value)
        raise DecodeError(f"extension code {code} is not one this version knows")

    return unpack(data), bool(objects)


def _revive_time(value: Any, fold: int, zone: str | None) -> Any:
    tzinfo = value.tzinfo if zone is None else zoneinfo.ZoneInfo(zone)
    return value.replace(fold=fold, tzinfo=tzinfo)


def _collected(kind: Callable[[Any], Any], members: list[Any]) -> Any:
    try:
        return kind(members)
    except TypeError:
        return members


_REVIVERS: dict[int, Callable[[Any], Any]] = {
    _TUPLE: tuple,
    _BIGINT: lambda value: int.from_bytes(value, "big", signed=True),
    _DECIMAL: decimal.Decimal,
    _DATETIME: lambda value: _revive_time(dt.datetime.fromisoformat(value[0]), *value[1:]),
    _DATE: dt.date.fromisoformat,
    _TIME: lambda value: _revive_time(dt.time.fromisoformat(value[0]), *value[1:]),
    _TIMEDELTA: lambda value: dt.timedelta(*value),
    _UUID: lambda value: uuid.UUID(bytes=value),
    _PATH: pathlib.Path,
    _CALL: lambda value: value,
}
