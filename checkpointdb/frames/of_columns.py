"""A step passed over a batch that is a dict of columns: numpy's arrays, or lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .one_pass import Pass

_PLAIN = "biufSUO"  # kinds of numpy's types whose elements are values of Python
_KINDS = {bool: "b", int: "i", float: "f"}


def map_columns(batch: dict[Any, Any], _name: str, one: Pass) -> dict[Any, Any]:
    """Return the batch with columns added: lists if all of its columns are, else arrays.

    Raises:
        TypeError: a column is neither.
        ValueError: two columns are not of one length.
    """
    chosen, added = one.chosen(batch), one.added(batch)
    columns = [_values(batch[name], name) for name in batch]
    if len(set(map(len, columns))) > 1:
        raise ValueError(f"map: the columns are of lengths {sorted(set(map(len, columns)))}")
    of_rows = [column for name, column in zip(batch, columns, strict=True) if name in chosen]
    names = [name for name in batch if name in chosen]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*of_rows, strict=True)]
    results = list(one.rows(added, rows))
    make = list if all(isinstance(it, list) for it in batch.values()) else _array
    return batch | {name: make([row.get(name) for row in results]) for name in added.names()}


def _values(column: Any, name: Any) -> Sequence[Any]:
    if isinstance(column, list):
        return column
    if not getattr(column, "ndim", 0) or not hasattr(column, "dtype"):
        raise TypeError(
            f"map: a dict is taken for a batch, a list or an array for each of its columns, and "
            f"{name!r} is a {type(column).__name__}: for other rows, use run"
        )
    whole: list[Any] = column.tolist() if _is_plain(column) else list(column)
    return whole


def _is_plain(column: Any) -> bool:
    return column.ndim == 1 and column.dtype.kind in _PLAIN


def _array(values: list[Any]) -> Any:
    """Return an array of one type if that changes no value, else one of objects."""
    import numpy

    kinds = set(map(type, values))
    if kinds == {numpy.ndarray} and len({(it.shape, it.dtype.str) for it in values}) == 1:
        return numpy.stack(values)
    if len(kinds) == 1 and (kind := _KINDS.get(kinds.pop())):
        array = numpy.array(values)
        if array.dtype.kind == kind:  # not of integers that are too large for it
            return array
    array = numpy.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array
