"""Rows out of a file, one at a time. Knows formats; knows nothing of steps or stores."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Self, cast

import msgspec

from ..values.codec import MAX_BYTES
from .formats import TableError, arrow, format_of

CHUNK = 32 << 10
_AFTER = frozenset(" \t\r\n,]")
_SPACE = re.compile(r"[ \t\r\n]*")


class Source:
    """The rows of one input: `.jsonl`, `.json`, `.csv`, `.parquet`, or `-` for standard input.

    Iterate once. Promises: the file is opened at once and read lazily, in bounded memory; what
    cannot be read is a `TableError` that names the file and the line, raised after every row before
    it was given out. CSV values stay the strings they are: "007" is not guessed to be a number.

    Raises:
        TableError: no such file, an unknown ending.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "<stdin>" if path == "-" else path
        self._format = format_of(path)
        if self._format == "parquet":
            arrow(path)
        self._file, self._size = _open(path)
        self._rows = 0
        self._parquet = self._open_parquet() if self._format == "parquet" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        match self._format:
            case "jsonl":
                return _json_lines(self.name, self._file)
            case "json":
                return _JsonArray(self.name, self._file).values()
            case "csv":
                return _csv(self.name, self._file)
            case _:
                return self._parquet_rows()

    def fraction(self) -> float | None:
        """Return which part of the input has been read, from 0 to 1; None if nobody can know."""
        if self._parquet is not None:
            return self._rows / max(int(self._parquet.metadata.num_rows), 1)
        with contextlib.suppress(ValueError):  # closed, perhaps in another thread just now
            return self._file.tell() / self._size if self._size else None
        return None

    def count(self) -> int | None:
        """Return how many rows there are, None for a pipe. Reads the file once, unless Parquet."""
        if self._parquet is not None:
            return int(self._parquet.metadata.num_rows)
        if not self._size:
            return None
        with Source(self.path) as again:
            return sum(1 for _ in again)

    def _open_parquet(self) -> Any:
        pyarrow, parquet = arrow(self.name)
        try:
            return parquet.ParquetFile(self._file)
        except (pyarrow.ArrowException, OSError) as error:
            self._file.close()
            raise TableError(f"{self.name}: not a Parquet file ({error})") from error

    def _parquet_rows(self) -> Iterator[Any]:
        pyarrow, _ = arrow(self.name)
        assert self._parquet is not None
        batches = self._parquet.iter_batches(batch_size=1024)
        while True:
            try:
                rows = next(batches).to_pylist()
            except StopIteration:
                return
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                raise TableError(f"{self.name}: after row {self._rows}: {error}") from error
            for row in rows:
                self._rows += 1
                yield row


def _open(path: str) -> tuple[BinaryIO, int]:
    if path == "-":
        return cast("BinaryIO", sys.stdin.buffer), 0
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by Source
        status = os.fstat(file.fileno())
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    return file, status.st_size if stat.S_ISREG(status.st_mode) else 0


def _json_lines(name: str, file: BinaryIO) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line and not line.isspace():
            yield _parsed(f"{name}:{number}: not a line of JSON", line)


def parse_row(text: str) -> Any:
    """Return the row that a person wrote as JSON, or put in a file and wrote `@FILE`, or pipes.

    Raises:
        TableError: no such file; not JSON.
    """
    if text == "-":
        return _parsed("<stdin>: not JSON", sys.stdin.buffer.read())
    if text.startswith("@"):
        with _open(text[1:])[0] as file:
            return _parsed(f"{text[1:]}: not JSON", file.read())
    return _parsed(
        'ROW is not JSON (@FILE reads a file; text is written "in quotes")', text.encode()
    )


def _parsed(problem: str, line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if b"NaN" in line or b"Infinity" in line:  # not JSON, but what Python and pandas write
            try:
                return json.loads(line)
            except ValueError:
                pass
        raise TableError(f"{problem}: {error}") from error


class _JsonArray:
    """The values of a JSON array, one by one; the standard library reads only whole documents."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file, self._text = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._buffer, self._at, self._line = "", 0, 1
        self._decode = json.JSONDecoder().raw_decode

    def values(self) -> Iterator[Any]:
        if self._look() != "[":
            raise self._error("not a JSON array; if each line is a row, name the file .jsonl")
        self._at += 1
        mark = "" if self._look() != "]" else "]"
        while mark != "]":
            yield self._value()
            mark = self._look()
            if mark not in (",", "]") or not mark:
                raise self._error("expected , or ] after a row")
            self._at += mark == ","
        self._at += 1
        if self._look():
            raise self._error("something follows the array")

    def _look(self) -> str:
        """Return the next character that is not white space; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._read():
                return ""

    def _value(self) -> Any:
        self._look()
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                problem = self._error(error.msg, error.pos)
            except RecursionError as error:
                raise self._error(str(error)) from error
            else:
                # of a number, 1 may be all that is here of 1.5e3
                if self._buffer[end - 1] in '}]"' or self._buffer[end : end + 1] in _AFTER:
                    self._at = end
                    return value
                problem = self._error("the file ends inside the array")
            if not self._read():
                raise problem

    def _read(self) -> bool:
        """Forget what was given out and read on, twice as much for a value that was cut off."""
        rest = self._buffer[self._at :]
        self._line += self._buffer.count("\n", 0, self._at)
        self._buffer, self._at = rest, 0
        data = self._file.read(max(CHUNK, len(rest)))
        try:
            self._buffer += self._text.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise self._error(f"not UTF-8, on this line or later: {error}") from error
        return bool(data)

    def _error(self, what: str, at: int | None = None) -> TableError:
        line = self._line + self._buffer.count("\n", 0, self._at if at is None else at)
        return TableError(f"{self._name}:{line}: {what}")


def _csv(name: str, file: BinaryIO) -> Iterator[Any]:
    csv.field_size_limit(MAX_BYTES)  # the default of 128 KiB is less than many a document
    reader = csv.reader(_lines(name, file), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise TableError(f"{name}:{line}: {error}") from error
        if fields is None:
            return
        if header is None:
            header = _header(name, fields)
        elif len(fields) == len(header):
            yield dict(zip(header, fields, strict=True))
        elif fields:
            raise TableError(
                f"{name}:{line}: {len(fields)} fields, but the header has {len(header)}"
            )


def _header(name: str, fields: list[str]) -> list[str]:
    twice = sorted({field for field in fields if fields.count(field) > 1})
    if twice:
        raise TableError(f"{name}:1: the header names a column twice: {', '.join(twice)}")
    return fields


def _lines(name: str, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise TableError(f"{name}:{number}: not UTF-8: {error}") from error
