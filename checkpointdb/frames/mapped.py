"""A step passed over a frame: the same kind of frame with the results joined. Knows all kinds."""

from __future__ import annotations

from typing import Any

from .kinds import kind_of
from .of_arrow import map_arrow
from .of_columns import map_columns
from .of_datasets import map_datasets
from .of_pandas import map_pandas
from .of_polars import map_polars
from .one_pass import Pass

_DO = {
    "pandas": map_pandas, "polars": map_polars, "pyarrow": map_arrow, "datasets": map_datasets
}  # fmt: skip


def mapped(frame: Any, one: Pass) -> Any:
    """Return a frame of the same kind with the results of its rows joined.

    Raises:
        TypeError: no frame, or one that cannot be joined to; the message has the line to write.
        ValueError: a column is not there, or one of an added name is.
    """
    package, name = kind = kind_of(frame)
    if kind in _LINES:
        raise TypeError(f"map: a {package} {name}: give {_LINES[kind]}")
    do = map_columns if kind == ("builtins", "dict") else _DO.get(package)
    if do is None and hasattr(frame, "__arrow_c_stream__"):
        do = map_arrow
    if do is None:
        raise TypeError(
            "map takes a data frame, a table, a data set or a dict of columns, not a "
            f"{package} {name}: for other rows, use run"
        )
    (one.check_series if name == "Series" else one.check_frame)()
    return do(frame, name, one)


_LINES = {
    ("polars", "LazyFrame"): "label.map(frame.collect()).lazy(): its results are paid for here",
    ("pyarrow", "ChunkedArray"): "a table: pa.table({'text': array})",
    ("dask", "DataFrame"): "frame.compute(), or frame.map_partitions(label.map)",
}
