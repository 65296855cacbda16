"""Rows out of a file, one at a time. Knows files and formats; knows nothing of steps or stores."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Self, cast

from ..frames.from_arrow import FromArrow
from ..frames.packages import TableError, arrow
from .delimited import Numbered, csv_rows
from .formats import DELIMITERS, Dialect, format_of
from .json_rows import JsonArray, json_lines, parsed

_BATCH = 1024  # rows of a Parquet file
_QUICK_BYTES = 16 << 20  # read in some tenths of a second


class Source:
    """The rows of one input: a file of any of our formats, or `-` for standard input.

    Iterate once. Promises: the file is opened at once and read lazily, in bounded memory; what
    cannot be read raises a `TableError` that names the file and the line, after all rows before it
    were given out. CSV values stay the strings they are: "007" is not guessed to be a number.

    Attributes:
        name: of the input, for messages.
        at: the line that the last row given out begins on; of Parquet, its row, from 0.
        columns: of the input, as far as it has been read, each with its Arrow type, or None if the
            format has no types; {} for JSON, where each row has its own.

    Args:
        path: of the file.
        dialect: how to read it, where its name does not say.

    Raises:
        TableError: no such file, an unknown ending.
    """

    def __init__(self, path: str, dialect: Dialect | None = None) -> None:
        self.path, self._dialect = path, dialect or Dialect()
        self.name = "<stdin>" if path == "-" else path
        self.at = 0
        self.columns: dict[str, Any] = {}
        self._format, self._is_gzipped = format_of(path, self._dialect.format)
        if self._format == "parquet":
            arrow(path)
        self._raw, self._size = _open(path)
        self._file = self._raw
        if self._is_gzipped:
            self._file = cast("BinaryIO", gzip.GzipFile(fileobj=self._raw))
        self._parquet = self._open_parquet() if self._format == "parquet" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()
        self._raw.close()

    def __iter__(self) -> Iterator[Any]:
        try:
            for at, row in self._numbered():
                self.at = at
                yield row
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise TableError(f"{self.name}: damaged after line {self.at}: {error}") from error

    def _numbered(self) -> Numbered:
        encoding = self._dialect.encoding
        match self._format:
            case "jsonl":
                return json_lines(self.name, self._file, encoding)
            case "json":
                return JsonArray(self.name, self._file, encoding).values()
            case "parquet":
                return self._parquet_rows()
            case _:
                asked = self._dialect.delimiter
                return csv_rows(
                    self.name, self._file, asked or DELIMITERS[self._format], encoding,
                    self.columns, asked is not None,
                )  # fmt: skip

    def place(self, at: int) -> str:
        """Name a row for people, by what `at` was."""
        if self._parquet is not None:
            return f"{self.name}: row {at}"
        return f"{self.name}:{at}"

    def fraction(self) -> float | None:
        """Return which part of the input has been read, from 0 to 1; None if nobody can know."""
        if self._parquet is not None:
            return (self.at + 1) / max(int(self._parquet.metadata.num_rows), 1)
        with contextlib.suppress(ValueError):  # closed, perhaps in another thread just now
            return self._raw.tell() / self._size if self._size else None
        return None

    def count(self) -> int | None:
        """Return how many rows there are, None for a pipe. Reads the file once, unless Parquet."""
        if self._parquet is not None:
            return int(self._parquet.metadata.num_rows)
        if not self._size:
            return None
        with Source(self.path, self._dialect) as again:
            return sum(1 for _ in again)

    def quick_count(self) -> int | None:
        """Return how many rows there are, None for what would take long, or cannot be read."""
        if self._parquet is None and (self._is_gzipped or self._size > _QUICK_BYTES):
            return None
        with contextlib.suppress(TableError):  # the run meets it in its place, after other rows
            return self.count()
        return None

    def _open_parquet(self) -> Any:
        pyarrow, parquet = arrow(self.name)
        try:
            file = parquet.ParquetFile(self._file)
            FromArrow(pyarrow, self.name).check(file.schema_arrow)
        except TableError:
            self._file.close()
            raise
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            self._file.close()
            raise TableError(f"{self.name}: not a Parquet file ({error})") from error
        self.columns.update(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
        return file

    def _parquet_rows(self) -> Numbered:
        pyarrow, parquet = arrow(self.name)
        assert self._parquet is not None
        number, convert = 0, FromArrow(pyarrow, self.name)
        with contextlib.ExitStack() as stack:
            batches = self._parquet.iter_batches(batch_size=_BATCH)
            again: Iterator[Any] | None = None
            if _has_int96(self._parquet):  # Arrow keeps its nanoseconds or its range, not both
                other = stack.enter_context(open(self.path, "rb"))
                coarse = parquet.ParquetFile(other, coerce_int96_timestamp_unit="s")
                again = coarse.iter_batches(batch_size=_BATCH)
            while True:
                try:
                    batch = next(batches, None)
                    rows = [] if batch is None else convert.rows(batch, again and next(again))
                except (pyarrow.ArrowException, OSError, ValueError) as error:
                    raise TableError(f"{self.name}: after row {number}: {error}") from error
                if batch is None:
                    break
                yield from enumerate(rows, number)
                number += len(rows)
        if number != self._parquet.metadata.num_rows:
            raise TableError(
                f"{self.name}: damaged: {number} rows, but it says that it has "
                f"{self._parquet.metadata.num_rows}"
            )


def _has_int96(file: Any) -> bool:
    schema = file.schema
    return any(schema.column(n).physical_type == "INT96" for n in range(len(schema)))


def _open(path: str) -> tuple[BinaryIO, int]:
    if path == "-":
        return cast("BinaryIO", sys.stdin.buffer), 0
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by Source
        status = os.fstat(file.fileno())
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    return file, status.st_size if stat.S_ISREG(status.st_mode) else 0


def parse_row(text: str) -> Any:
    """Return the row that a person wrote as JSON, or put in a file and wrote `@FILE`, or pipes.

    Raises:
        TableError: no such file; not JSON.
    """
    if text == "-":
        return parsed("<stdin>: not JSON", sys.stdin.buffer.read())
    if text.startswith("@"):
        with _open(text[1:])[0] as file:
            return parsed(f"{text[1:]}: not JSON", file.read())
    return parsed(
        'ROW is not JSON (@FILE reads a file; text is written "in quotes")', text.encode()
    )
