"""Which file formats there are. Knows names and endings only."""

from __future__ import annotations

import dataclasses
import os

from ..frames.packages import TableError

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
DELIMITERS = {"csv": ",", "tsv": "\t"}
FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a file is to be read, where its name or its bytes do not say it.

    Attributes:
        format: one of `FORMATS`, instead of what the ending says.
        delimiter: between the fields of CSV; a header with more of another one is refused unless
            it is given.
        encoding: of text, UTF-8 if not given.
    """

    format: str | None = None
    delimiter: str | None = None
    encoding: str | None = None


def format_of(path: str, asked: str | None = None) -> tuple[str, bool]:
    """Return the format that is asked for, or that the ending names, and whether it is gzipped.

    `-` is JSON lines.

    Raises:
        TableError: the ending names none; a gzipped Parquet file.
    """
    bare, is_gzipped = (path[:-3], True) if path.lower().endswith(".gz") else (path, False)
    format = asked or ("jsonl" if path == "-" else ENDINGS.get(os.path.splitext(bare)[1].lower()))
    if format is None:
        raise TableError(
            f"{path}: the ending must name the format: .jsonl, .json, .csv, .tsv or .parquet, all "
            "but the last with .gz too (- for standard input or output; --format names the format "
            "of an input)"
        )
    if format == "parquet" and (is_gzipped or path == "-"):
        raise TableError(f"{path}: a Parquet file is read from its end: unpack it into a file")
    return format, is_gzipped
