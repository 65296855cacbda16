"""numpy's arrays and scalars to dtype, shape and bytes, and back. Knows no other value.

numpy is never imported to encode: a value of it can only exist where it is. The bytes are as the
dtype says, in C order; big-endian ones stay so.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from ..errors import EncodeError
from . import codes
from .vectors import FORMATS

_STORED_KINDS = "biufcSUVMm"  # what numpy calls them: from bool to timedelta64


def code_of(kind: type) -> int | None:
    """Return the extension code of one of numpy's types, None for any other."""
    numpy = sys.modules["numpy"]
    if kind is numpy.ndarray:
        return codes.ARRAY
    return codes.NUMBER if issubclass(kind, numpy.generic) else None


def to_parts(value: Any, where: str) -> tuple[int, Any]:
    """Return the extension code and the payload of an array or a scalar.

    Raises:
        EncodeError: its dtype has no bytes of its own.
    """
    numpy = sys.modules["numpy"]
    dtype = value.dtype
    if isinstance(value, numpy.str_ | numpy.bytes_):
        plain = str(value) if isinstance(value, numpy.str_) else bytes(value)
        return codes.NUMBER, [dtype.kind, plain]
    if dtype.kind == "O" and isinstance(value, numpy.ndarray):
        return codes.OBJECTS, [list(value.shape), list(value.ravel())]
    descr = numpy.lib.format.dtype_to_descr(dtype) if dtype.kind in _STORED_KINDS else None
    if descr is None or dtype.hasobject or numpy.lib.format.descr_to_dtype(descr) != dtype:
        raise EncodeError(
            f"{where}: an array of dtype {dtype} cannot be stored: convert it with .astype(...), "
            "or to a list with .tolist()",
            where,
        )
    if isinstance(value, numpy.ndarray):
        return codes.ARRAY, [descr, list(value.shape), value.tobytes()]
    return codes.NUMBER, [descr, value.tobytes()]


def revive_array(descr: Any, shape: list[int], data: bytes) -> Any:
    """Return a numpy array; where numpy is not installed, a memoryview of the same shape."""
    try:
        import numpy
    except ImportError:
        return _view(descr, shape, data)
    dtype = numpy.lib.format.descr_to_dtype(descr)
    if math.prod(shape) * dtype.itemsize != len(data) or any(size < 0 for size in shape):
        raise ValueError(f"an array of {shape} {descr} does not have {len(data)} bytes")
    if dtype.itemsize == 0:
        return numpy.zeros(shape, dtype)
    return numpy.frombuffer(bytearray(data), dtype).reshape(shape)


def _view(dtype: Any, shape: list[int], data: bytes) -> memoryview:
    kind = FORMATS.get(dtype[1:]) if isinstance(dtype, str) else None
    if kind is None or (dtype[0] not in "<|" and sys.byteorder == "little"):
        raise ValueError(f"an array of {dtype}: install numpy to read it")
    if math.prod(shape) * int(dtype[2:]) != len(data):
        raise ValueError(f"an array of {shape} {dtype} does not have {len(data)} bytes")
    flat = memoryview(bytearray(data))
    return flat.cast(kind, shape) if shape and 0 not in shape else flat.cast(kind)


def revive_number(descr: Any, data: Any) -> Any:
    """Return a numpy scalar.

    Raises:
        ValueError: numpy is not installed.
    """
    try:
        import numpy
    except ImportError as error:
        raise ValueError("a number of numpy, which is not installed") from error
    if descr in ("U", "S"):
        return numpy.str_(data) if descr == "U" else numpy.bytes_(data)
    return revive_array(descr, [], data)[()]


def revive_objects(shape: list[int], items: list[Any]) -> Any:
    """Return a numpy array of objects."""
    import numpy

    made = numpy.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        made[i] = item
    return made.reshape(shape)
