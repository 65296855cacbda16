"""Is a value a tree of plain JSON types, as nearly all are? Knows no other type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import msgspec

from .vectors import VECTOR, packed_vector

MAX_DEPTH = 128
WITH_VECTOR = 2  # what `is_plain` says of a value that is stored as MessagePack, not as JSON

_SCALARS = frozenset((str, int, bool, type(None)))
pack_plain: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode  # of what is plain, in order


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
