"""A step passed over a frame or series of polars."""

from __future__ import annotations

from typing import Any

from .added import Added
from .gathered import gathered
from .one_pass import VALUE, Pass
from .packages import arrow
from .rows import TableRows


def map_polars(frame: Any, name: str, one: Pass) -> Any:
    """Return the frame with columns added, or a series of the results."""
    import polars

    arrow("map: a frame of polars")  # or raise, before anything is paid for
    if name == "Series":
        (table,) = gathered(Added(VALUE, list), [one.values(frame)])
        series: Any = polars.from_arrow(table.column(0))
        return series.alias(frame.name)
    added = one.added(frame.columns)
    chosen = frame.select(one.chosen(frame.columns))
    (table,) = gathered(added, [one.rows(added, TableRows(chosen))])
    columns: Any = polars.from_arrow(table)
    return frame.hstack(columns) if table.num_columns else frame.clone()
