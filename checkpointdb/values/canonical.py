"""Values to bytes, never confusing two types. Knows nothing of steps, SQL or files.

The tagged encoding is MessagePack in which each type that MessagePack would blur (tuple into list,
Decimal into str, Enum into its value ...) is an extension with a code of its own. Its canonical
form sorts the keys of maps: equal values have equal bytes, values that differ in any type have
different bytes, and keys are hashes of it. Its ordered form leaves the keys as they come: it is
what is stored.
"""

from __future__ import annotations

import array
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
from .vectors import (
    ARRAY,
    FLOAT32S,
    FLOAT64S,
    VECTOR,
    packed_vector,
    revive_array,
    revive_vector,
    tag_vector,
)

MAX_DEPTH = 128
WITH_VECTOR = 2  # what `is_plain` says of a value that is stored as MessagePack, not as JSON

_SCALARS = frozenset((str, int, bool, type(None)))
Pack = Callable[[Any], bytes]
_pack: Pack = msgspec.msgpack.Encoder(order="deterministic").encode
pack_plain: Pack = msgspec.msgpack.Encoder().encode  # of a value that `is_plain`, in order

# Codes are part of the file format and of every key: never reuse one.
_MAP, _TUPLE, _SET, _FROZENSET, _BIGINT, _DECIMAL = 1, 2, 3, 4, 5, 6
_DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _PATH, _ENUM, _OBJECT, _CALL = range(7, 16)
_SURROGATES = 36  # text with half of a surrogate pair, which JSON can spell and UTF-8 cannot


def is_plain(value: Any, depth: int = MAX_DEPTH) -> int:  # noqa: C901 - flat, see below
    """Tell whether `value` is a tree of exact JSON types, so that JSON gives back an equal one.

    Written flat because it runs on every row and result: it is half the price of decoding the
    JSON again and comparing, and unlike `==` it does not take `True` or an IntEnum for `1`.

    Returns:
        0: no. 1: yes. 2, `WITH_VECTOR`: yes, and a long list of floats is in it.
    """
    kind, answer = type(value), 1
    if kind is dict:
        for name in value:
            if type(name) is not str:
                return 0
        children: Iterable[Any] = value.values()
    elif kind is list:
        if len(value) >= VECTOR and packed_vector(value):
            return WITH_VECTOR
        children = value
    else:
        return 1 if kind in _SCALARS or (kind is float and isfinite(value)) else 0
    for child in children:
        kind = type(child)
        if kind in _SCALARS:
            continue
        if kind is float:
            if not isfinite(child):
                return 0
        elif depth <= 1 or not (within := is_plain(child, depth - 1)):
            return 0
        elif within > answer:
            answer = within
    return answer


def canonical(value: Any) -> bytes:
    """Encode `value` so that equal values, and only those, have equal bytes.

    Dict order does not matter; `1`, `1.0`, `True` and `"1"` all differ.

    Raises:
        EncodeError: `value` holds something without a stable content (a lambda, an open file),
            contains itself, or is nested deeper than 128 levels.
    """
    if is_plain(value):
        try:
            return _pack(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # an int past 64 bits, a lone surrogate: the slow path encodes it
    return _pack(_tag(value, "$", MAX_DEPTH, _pack))


def ordered(value: Any) -> bytes:
    """Encode `value` as `canonical` does, but with the keys of each map in the order they have."""
    return pack_plain(_tag(value, "$", MAX_DEPTH, pack_plain))


def canonical_of(data: bytes) -> bytes:
    """Return the canonical form of a value from its ordered form, without making the value.

    An instance of a user's class need not be there, and keeps the name of its class.
    """

    def revive(code: int, raw: memoryview) -> msgspec.msgpack.Ext:
        if code in (FLOAT32S, FLOAT64S):
            return msgspec.msgpack.Ext(code, bytes(raw))
        value = msgspec.msgpack.decode(raw, ext_hook=revive)
        if code in (_SET, _FROZENSET):
            value = sorted(map(canonical_of, value))
        elif code == _MAP:
            value = sorted([canonical_of(name), canonical_of(child)] for name, child in value)
        return _ext(code, value)

    return _pack(msgspec.msgpack.decode(data, ext_hook=revive))


def canonical_call(arguments: bytes) -> bytes:
    """Return the canonical form of a call from that of its arguments as a dict."""
    return _pack(msgspec.msgpack.Ext(_CALL, arguments))


class Arguments(dict[str, Any]):
    """The bound arguments of a call with more than the row: never equal to a row that is a dict."""


def _ext(code: int, value: Any, pack: Pack = _pack) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, pack(value))


def _tag(value: Any, where: str, depth: int, pack: Pack) -> Any:
    """Rebuild `value` of types that MessagePack keeps apart; everything else becomes an Ext."""
    tag = _TAGGERS.get(type(value))
    if tag is not None:
        return tag(value, where, depth, pack)
    if isinstance(value, enum.Enum):
        return _ext(_ENUM, [type(value).__name__, _tag(value.value, where, depth, pack)], pack)
    if isinstance(value, Arguments):
        return _ext(_CALL, _tag_dict(value, where, depth, pack), pack)
    if isinstance(value, dict):
        return _tag_dict(value, where, depth, pack)
    fields = _fields(value)
    if fields is not None:
        return _ext(_OBJECT, [type(value).__name__, _tag_dict(fields, where, depth, pack)], pack)
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
        return ": give what it is made from (a name, a path) instead"
    return ": use plain JSON types or a dataclass"


def _deeper(where: str, depth: int) -> int:
    if depth == 0:
        raise EncodeError(f"{where[:80]}: nested deeper than {MAX_DEPTH} levels", where)
    return depth - 1


def _tag_text(value: str, *_: Any) -> Any:
    if _is_utf8(value):
        return value
    return _ext(_SURROGATES, value.encode("utf-8", "surrogatepass"))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tag_int(value: int, *_: Any) -> Any:
    if -(1 << 63) <= value < 1 << 64:
        return value
    return _ext(_BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _tag_list(value: Iterable[Any], where: str, depth: int, pack: Pack) -> list[Any]:
    depth = _deeper(where, depth)
    return [_tag(child, f"{where}[{i}]", depth, pack) for i, child in enumerate(value)]


def _tag_set(value: Iterable[Any], where: str, depth: int, pack: Pack) -> list[bytes]:
    depth = _deeper(where, depth)
    return sorted(pack(_tag(child, f"{where}{{…}}", depth, pack)) for child in value)


def _tag_dict(value: dict[Any, Any], where: str, depth: int, pack: Pack) -> Any:
    depth = _deeper(where, depth)
    if all(type(name) is str and _is_utf8(name) for name in value):
        return {
            name: _tag(child, where + _step_into(name), depth, pack)
            for name, child in value.items()
        }
    pairs = [
        (
            pack(_tag(name, f"{where}.keys()", depth, pack)),
            pack(_tag(child, f"{where}[{name!r}]", depth, pack)),
        )
        for name, child in value.items()
    ]
    return _ext(_MAP, pairs if pack is pack_plain else sorted(pairs), pack)


def _step_into(name: str) -> str:
    return f".{name}" if name.isidentifier() else f"[{name!r}]"


def _tag_datetime(value: dt.datetime, where: str, *_: Any) -> Any:
    return _ext(_DATETIME, [value.isoformat(), value.fold, _zone(value, where)])


def _tag_time(value: dt.time, where: str, *_: Any) -> Any:
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


def _tag_path(value: pathlib.PurePosixPath, *_: Any) -> Any:
    return _ext(_PATH, _tag_text(str(value)))


_TAGGERS: dict[type, Callable[..., Any]] = {
    types.NoneType: lambda value, *_: value,
    bool: lambda value, *_: value,
    float: lambda value, *_: value if value == value else float("nan"),
    bytes: lambda value, *_: value,
    int: _tag_int,
    str: _tag_text,
    list: _tag_list,
    dict: _tag_dict,
    tuple: lambda value, *at: _ext(_TUPLE, _tag_list(value, *at), at[-1]),
    set: lambda value, *at: _ext(_SET, _tag_set(value, *at), at[-1]),
    frozenset: lambda value, *at: _ext(_FROZENSET, _tag_set(value, *at), at[-1]),
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
    array.array: tag_vector,
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
        if not (_MAP <= code <= ARRAY or code == _SURROGATES):
            raise DecodeError(
                f"it holds a value of extension code {code}, which this version of checkpointdb "
                "does not know: upgrade checkpointdb"
            )
        if code in (FLOAT32S, FLOAT64S):
            return revive_vector(code, raw)
        value = unpack(raw)
        if code in (_SET, _FROZENSET):
            kind = set if code == _SET else frozenset
            return _collected(kind, [unpack(member) for member in value])
        if code == _MAP:
            return _collected(dict, [(unpack(name), unpack(child)) for name, child in value])
        if code in (_OBJECT, _ENUM):
            objects.append(value[0])
            return value[1]
        return _REVIVERS[code](value)

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
    _SURROGATES: lambda value: value.decode("utf-8", "surrogatepass"),
    ARRAY: lambda value: revive_array(*value),
}
