"""What kind of frame a value is, by its class's name: no package is imported to tell."""

from __future__ import annotations

from typing import Any

Kind = tuple[str, str]

FRAMES: frozenset[Kind] = frozenset((
    ("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table"),
    ("pyarrow", "RecordBatch"),
))  # fmt: skip
_OTHERS: frozenset[Kind] = frozenset((
    ("pandas", "Series"), ("polars", "Series"), ("polars", "LazyFrame"),
    ("pyarrow", "RecordBatchReader"), ("pyarrow", "ChunkedArray"), ("duckdb", "DuckDBPyRelation"),
    ("dask", "DataFrame"), ("datasets", "Dataset"), ("datasets", "IterableDataset"),
    ("datasets", "DatasetDict"), ("datasets", "IterableDatasetDict"),
))  # fmt: skip


def package_of(value: Any) -> str:
    """Return the package that a value's class is of."""
    return type(value).__module__.partition(".")[0]


def kind_of(value: Any) -> Kind:
    """Return package and name of the class of a value; of a subclass of a frame, the frame's."""
    for kind in type(value).__mro__:
        found = kind.__module__.partition(".")[0].removeprefix("_"), kind.__name__
        if found in FRAMES or found in _OTHERS:
            return found
    return package_of(value), type(value).__name__
