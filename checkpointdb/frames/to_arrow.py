"""Row values to arrays of a given Arrow type. Knows Arrow's types; the caller checks the outcome.

Only what Arrow itself would cut or refuse is done here: times that are text, and what holds them.
"""

from __future__ import annotations

from typing import Any

from . import ticks
from .from_arrow import factor_of


def to_arrow(pa: Any, values: list[Any], kind: Any) -> Any:
    """Return an array of these values.

    Raises:
        ArrowException, OverflowError, TypeError, ValueError: they do not fit the type.
    """
    test = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return pa.array(values, kind)
        return pa.ExtensionArray.from_storage(kind, to_arrow(pa, values, kind.storage_type))
    if test.is_temporal(kind) and not test.is_interval(kind):
        return _times(pa, values, kind)
    if test.is_list(kind) or test.is_large_list(kind):
        return _lists(pa, values, kind)
    if test.is_struct(kind) and kind.num_fields:
        return _structs(pa, values, kind)
    return pa.array(values, kind)


def _times(pa: Any, values: list[Any], kind: Any) -> Any:
    test = pa.types
    if test.is_time(kind):
        count = ticks.of_time
    else:
        count = ticks.of_duration if test.is_duration(kind) else ticks.of_moment
    factor = factor_of(kind, test)
    counts = [None if value is None else _whole(count(value), factor) for value in values]
    whole = pa.int32() if kind.bit_width == 32 else pa.int64()
    return pa.array(counts, whole).view(kind)


def _whole(count: int, factor: int) -> int:
    whole, rest = divmod(count, factor)
    if rest:
        raise ValueError("finer than the type")
    return whole


def _lists(pa: Any, values: list[Any], kind: Any) -> Any:
    children = to_arrow(pa, [child for value in values for child in value or ()], kind.value_type)
    offsets, at = [], 0
    for value in values:
        offsets.append(None if value is None else at)
        at += len(value or ())
    large = pa.types.is_large_list(kind)
    make = pa.LargeListArray if large else pa.ListArray
    ends = pa.array([*offsets, at], pa.int64() if large else pa.int32())
    return make.from_arrays(ends, children, type=kind)


def _structs(pa: Any, values: list[Any], kind: Any) -> Any:
    fields = list(kind)
    inner = [
        to_arrow(pa, [None if value is None else value.get(field.name) for value in values],
                 field.type)
        for field in fields
    ]  # fmt: skip
    for field, array in zip(fields, inner, strict=True):
        if array.null_count and not field.nullable:  # no row has it, or a struct is null itself
            raise ValueError(f"{field.name} may not be null")
    mask = pa.array([value is None for value in values], pa.bool_())
    return pa.StructArray.from_arrays(inner, fields=fields, mask=mask)


def is_writable(kind: Any) -> bool:
    """Tell whether Parquet has the type: not a struct without fields, in which nothing can be."""
    inner = [kind.field(n).type for n in range(kind.num_fields)]
    return all(map(is_writable, inner)) and (bool(inner) or str(kind) != "struct<>")


def nullable(pa: Any, kind: Any) -> Any:
    """Return a type whose fields may all be null, as they are where the struct itself is."""
    if pa.types.is_struct(kind):
        return pa.struct([_nullable(pa, field) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_nullable(pa, kind.value_field))
    return kind


def _nullable(pa: Any, field: Any) -> Any:
    return field.with_type(nullable(pa, field.type)).with_nullable(True)
