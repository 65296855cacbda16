"""Which file formats there are, and the one error about them. Knows names and endings only."""

from __future__ import annotations

import os
from typing import Any

from ..errors import CheckpointError

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}


class TableError(CheckpointError):
    """A file of rows that cannot be read or written; the message names the file and the line."""


def format_of(path: str) -> str:
    """Return the format that the ending of `path` names; `-` is JSON lines.

    Raises:
        TableError: the ending names none.
    """
    if path == "-":
        return "jsonl"
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise TableError(
            f"{path}: the ending must name the format: .jsonl, .json, .csv or .parquet "
            "(- for JSON lines on standard input or output)"
        )
    return ENDINGS[ending]


def arrow(path: str) -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`, which only Parquet files need.

    Raises:
        TableError: not installed; says how to.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise TableError(
            f"{path}: Parquet files need pyarrow: pip install 'checkpointdb[arrow]'"
        ) from error
    return pyarrow, pyarrow.parquet
