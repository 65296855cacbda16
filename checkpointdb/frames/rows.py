"""Data frames and tables of other packages, as rows and as the results of a batch. Imports none.

A frame's own iterator gives the names of its columns: taken for rows, each name would be paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .from_arrow import FromArrow
from .kinds import FRAMES, kind_of, package_of
from .packages import arrow

_CHUNK = 1024  # rows of a frame that are made at once


class TableRows:
    """The rows of a table as dicts, made while they are read; it knows how many there are."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.shape[0])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        package, name = kind_of(self._table)
        if package == "pandas":
            return _rows_of_pandas(self._table)
        if package == "polars":
            rows: Iterator[dict[str, Any]] = self._table.iter_rows(named=True)
            return rows
        is_table = name == "Table"
        return rows_of_arrow(
            self._table.to_batches(max_chunksize=_CHUNK) if is_table else [self._table]
        )


def as_rows(rows: Any) -> Any:
    """Return what rows are to be read from: the rows of a table, or what was given.

    Raises:
        TypeError: a table that would give something else than its rows; the message has the line
            to write.
    """
    package, name = kind = kind_of(rows)
    if kind in FRAMES:
        check_columns(rows)
        if package == "pandas":
            _check_index(rows)
        return TableRows(rows)
    line = _LINES.get(kind)
    if line is None and name == "DataFrame" and not hasattr(rows, "__next__"):
        line = "rows.to_dict('records')"
    if line is None and package == "numpy" and getattr(rows.dtype, "names", None):
        line = "[dict(zip(rows.dtype.names, row.tolist())) for row in rows]"
    if line is not None:
        raise TypeError(
            f"rows must be an iterable of rows, and a {package} {name} gives something else when "
            f"it is iterated: give {line}"
        )
    return rows


_LINES = {
    ("polars", "LazyFrame"): "rows.collect()",
    ("pyarrow", "RecordBatchReader"): "rows.read_all()",
    ("pyarrow", "ChunkedArray"): "rows.to_pylist()",
    ("duckdb", "DuckDBPyRelation"): "rows.arrow()",
    ("dask", "DataFrame"): "rows.compute()",
    ("datasets", "DatasetDict"): "rows['train'], or another of its parts",
    ("datasets", "IterableDatasetDict"): "rows['train'], or another of its parts",
}


def as_results(returned: Any) -> list[Any] | None:
    """Return what a batch step returned as a list with a result a row; None if it is none."""
    if isinstance(returned, list):
        return returned
    kind, package = kind_of(returned), package_of(returned)
    if kind in FRAMES:
        return list(TableRows(returned))
    if package == "pyarrow" and hasattr(returned, "to_pylist"):
        return list(returned.to_pylist())
    if kind in (("pandas", "Series"), ("polars", "Series")):
        return list(returned)
    if isinstance(returned, str | bytes | bytearray | memoryview):
        return None
    if isinstance(returned, Sequence) or hasattr(returned, "ndim"):
        return list(returned) if getattr(returned, "ndim", 1) else None
    return None


def check_columns(table: Any) -> None:
    """Raise if the rows of a table would not have all of its content.

    Raises:
        TypeError: two columns have one name.
    """
    names = names_of(table)
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise TypeError(
            f"rows: the {kind_of(table)[0]} table has two columns of the name {twice[0]!r}, of "
            "which a row can have only one: rename them"
        )


def names_of(table: Any) -> list[Any]:
    """Return the names of the columns of a frame or a table."""
    return list(table.schema.names if kind_of(table)[0] == "pyarrow" else table.columns)


def _check_index(frame: Any) -> None:
    if any(name is not None for name in frame.index.names):
        raise TypeError(
            f"rows: the data frame has an index {list(frame.index.names)}, which is no column and "
            "would not be in its rows: give rows.reset_index(), or rows.reset_index(drop=True) to "
            "leave it out; a step's map(frame) leaves it where it is"
        )


def _rows_of_pandas(frame: Any) -> Iterator[dict[str, Any]]:
    for start in range(0, len(frame), _CHUNK):
        yield from frame.iloc[start : start + _CHUNK].to_dict("records")


def rows_of_arrow(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of batches of Arrow: those that `ckpt run` reads from a Parquet file."""
    values = FromArrow(arrow("a table")[0], "a table")
    for batch in batches:
        yield from values.rows(batch)
