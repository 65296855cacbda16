"""Vectors of floats to bytes and back. Knows their layouts; knows no other value.

Bytes are little-endian, whatever the machine's are.
"""

from __future__ import annotations

import array
import math
import sys
from typing import Any

import msgspec

from ..errors import EncodeError
from .codes import FLOAT32S, FLOAT64S

VECTOR = 64  # floats: lists as long as this are stored as MessagePack, shorter ones as JSON

_pack = msgspec.msgpack.Encoder().encode
# What numpy calls the types, and `struct`, which memoryview follows.
FORMATS: dict[str, Any] = {
    "f4": "f", "f8": "d", "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B",
    "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip


def packed_vector(value: list[Any]) -> bytes | None:
    """Return the MessagePack of a long list of finite floats, None for any other list.

    It asks C, not each float: a float takes nine bytes, the first 0xcb, so where every ninth byte
    is one there is nothing else. An embedding of 1,536 floats takes a quarter of the time.
    """
    if len(value) < VECTOR or type(value[0]) is not float:
        return None
    try:
        data = _pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    each = data[3 if len(value) < 1 << 16 else 5 :: 9]
    if len(each) != len(value) or each.count(0xCB) != len(value) or not math.isfinite(sum(value)):
        return None
    return data


def tag_vector(value: array.array[Any], where: str, *_: Any) -> msgspec.msgpack.Ext:
    """Return an array of floats as an extension."""
    code = {"f": FLOAT32S, "d": FLOAT64S}.get(value.typecode)
    if code is None:
        raise EncodeError(
            f"{where}: an array of type code {value.typecode!r} cannot be stored or compared by "
            "content: use 'f' or 'd', or a list",
            where,
        )
    return msgspec.msgpack.Ext(code, _little_endian(value))


def _little_endian(value: array.array[Any]) -> bytes:
    if sys.byteorder == "big":  # pragma: no cover - the tests run on little-endian machines
        value = array.array(value.typecode, value)
        value.byteswap()
    return value.tobytes()


def revive_vector(code: int, raw: bytes | memoryview) -> array.array[float]:
    """Return the floats of an extension."""
    typecode = "f" if code == FLOAT32S else "d"
    vector: array.array[float] = array.array(typecode, bytes(raw))
    if sys.byteorder == "big":  # pragma: no cover - as above
        vector.byteswap()
    return vector
