"""Packages that are imported only when they are used; the one error about tables of any kind."""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError


class TableError(CheckpointError):
    """Rows that cannot be read or written; the message names the file and the line."""


def arrow(path: str) -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`, which tables and Parquet files need.

    Raises:
        TableError: not installed; says how to.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise TableError(f"{path}: pyarrow is needed: pip install 'checkpointdb[arrow]'") from error
    return pyarrow, pyarrow.parquet
