"""Values of Python's own types that hold no others: each to a payload, and back.

A payload is made of what MessagePack holds, or of values that are tagged in their turn.
"""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import ipaddress
import math
import pathlib
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from . import codes, zones


class Leaf(NamedTuple):
    """How values of one type are stored: an extension code, and the way there and back."""

    code: int
    to: Callable[[Any], Any]
    back: Callable[[Any], Any]


_ADDRESSES: tuple[type, ...] = (
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
    ipaddress.IPv4Interface, ipaddress.IPv6Interface,
)  # fmt: skip
_ADDRESS_NAMED = {kind.__name__: kind for kind in _ADDRESSES}
_PURE_PATHS = {
    kind.__name__: kind for kind in (pathlib.PurePosixPath, pathlib.PureWindowsPath)
}  # fmt: skip


def big_int(value: int) -> bytes:
    """Return the bytes of an int past 64 bits: big-endian two's complement."""
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _time(value: dt.datetime | dt.time) -> list[Any]:
    return [value.isoformat(), value.fold, zones.describe(value.tzinfo)]


def _view(value: memoryview) -> list[Any]:
    return [value.format, list(value.shape or ()), value.tobytes()]


def _revive_view(payload: list[Any]) -> memoryview:
    kind, shape, data = payload
    view = memoryview(data)
    if not shape:
        return view.cast(kind, [])
    return view.cast(kind) if 0 in shape else view.cast(kind, shape)


def _complex(value: complex) -> list[float]:
    return [part if part == part else math.nan for part in (value.real, value.imag)]


LEAVES: dict[type, Leaf] = {
    decimal.Decimal: Leaf(codes.DECIMAL, str, decimal.Decimal),
    dt.datetime: Leaf(
        codes.DATETIME, _time, lambda it: zones.in_zone(dt.datetime.fromisoformat(it[0]), *it[1:])
    ),
    dt.date: Leaf(codes.DATE, dt.date.isoformat, dt.date.fromisoformat),
    dt.time: Leaf(
        codes.TIME, _time, lambda it: zones.in_zone(dt.time.fromisoformat(it[0]), *it[1:])
    ),
    dt.timedelta: Leaf(
        codes.TIMEDELTA,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda it: dt.timedelta(*it),
    ),
    uuid.UUID: Leaf(codes.UUID, lambda value: value.bytes, lambda it: uuid.UUID(bytes=it)),
    pathlib.PosixPath: Leaf(codes.PATH, str, pathlib.Path),
    complex: Leaf(codes.COMPLEX, _complex, lambda it: complex(*it)),
    fractions.Fraction: Leaf(
        codes.FRACTION,
        lambda value: [value.numerator, value.denominator],
        lambda it: fractions.Fraction(*it),
    ),
    bytearray: Leaf(codes.BYTEARRAY, bytes, bytearray),
    memoryview: Leaf(codes.MEMORYVIEW, _view, _revive_view),
    range: Leaf(
        codes.RANGE, lambda value: [value.start, value.stop, value.step], lambda it: range(*it)
    ),
}
for _kind in _ADDRESSES:
    LEAVES[_kind] = Leaf(
        codes.ADDRESS,
        lambda value: [type(value).__name__, str(value)],
        lambda it: _ADDRESS_NAMED[it[0]](it[1]),
    )
for _kind in _PURE_PATHS.values():
    LEAVES[_kind] = Leaf(
        codes.PURE_PATH,
        lambda value: [type(value).__name__, str(value)],
        lambda it: _PURE_PATHS[it[0]](it[1]),
    )
