"""A step passed over a frame or series of pandas. The results never become another type."""

from __future__ import annotations

from typing import Any

from .one_pass import VALUE, Pass
from .rows import TableRows, check_columns


def map_pandas(frame: Any, name: str, one: Pass) -> Any:
    """Return the frame with columns added, or a series of the results; the index is the frame's."""
    import pandas

    if name == "Series":
        values = [row[VALUE] for row in one.values(frame)]
        return pandas.Series(column_of(pandas, values), frame.index, name=frame.name)
    names = list(frame.columns)
    chosen = frame if one.columns is None else frame[one.chosen(names)]
    check_columns(chosen)
    added = one.added(names)
    rows = list(one.rows(added, TableRows(chosen)))
    columns = {name: column_of(pandas, [row.get(name) for row in rows]) for name in added.names()}
    if not columns:
        return frame.copy()
    results = pandas.DataFrame(columns, frame.index)
    if (levels := frame.columns.nlevels) > 1:
        blank = ("",) * (levels - 1)
        results.columns = pandas.MultiIndex.from_tuples([(name, *blank) for name in columns])
    joined = pandas.concat([frame, results], axis=1)
    joined.attrs = dict(frame.attrs)
    return joined


def column_of(pandas: Any, values: list[Any]) -> Any:
    """Return a column as pandas makes it, unless that would change a value."""
    kinds = set(map(type, values))
    present = kinds - {type(None)}
    if len(present) < len(kinds) and present == {bool}:
        return pandas.array(values, dtype="boolean")
    if len(present) < len(kinds) and present == {int} and _fits(values):
        return pandas.array(values, dtype="Int64")
    try:
        return pandas.Series(values, dtype=None if present else object).array
    except (TypeError, ValueError, OverflowError):  # half of a surrogate pair, say
        return pandas.Series(values, dtype=object).array


def _fits(values: list[Any]) -> bool:
    return all(value is None or -(1 << 63) <= value < 1 << 63 for value in values)
