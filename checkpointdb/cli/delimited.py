"""Rows out of CSV text. Knows delimiters, quotes and encodings; knows nothing of files' names."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..frames.packages import TableError
from ..values.codec import MAX_BYTES

Numbered = Iterator[tuple[int, Any]]

COMMON = ",;\t|"
_ESCAPED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are no text


def csv_rows(
    name: str,
    file: BinaryIO,
    delimiter: str,
    encoding: str | None,
    columns: dict[str, Any],
    is_asked: bool,
) -> Numbered:
    """Yield each row with the number of the line it begins on.

    Args:
        name: of the file, for errors.
        file: the bytes.
        delimiter: between fields.
        encoding: of the text; None for UTF-8.
        columns: gets the names of the header as soon as it is read.
        is_asked: a person named the delimiter, so it is right whatever the header has.

    Raises:
        TableError: a line that cannot be read, with its number.
    """
    csv.field_size_limit(MAX_BYTES)  # the default of 128 KiB is less than many a document
    lines = text_lines(name, file, encoding, newline="")
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    records = _records(name, reader)
    for line, fields in records:
        if fields:
            _check_header(name, line, fields, delimiter, is_asked)
            columns.update(dict.fromkeys(fields))
            break
    header = list(columns)
    for line, fields in records:
        if not fields and len(header) == 1:
            fields = [""]  # what a line with one empty value looks like
        if len(fields) == len(header):
            yield line, dict(zip(header, fields, strict=True))
        elif fields:
            much = f"quote a field that holds {_shown(delimiter)}"
            advice = much if len(fields) > len(header) else "write empty fields too"
            raise TableError(
                f"{name}:{line}: {len(fields)} fields, but the header has {len(header)}: {advice}"
            )


def _records(name: str, reader: Any) -> Iterator[tuple[int, list[str]]]:
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise TableError(f"{name}:{line}: {_in_words(str(error))}") from error
        if fields is None:
            return
        yield line, fields


def _in_words(problem: str) -> str:
    if "expected after" in problem:
        return "text follows a closing quote: write a quote that is part of a field twice"
    if "unexpected end" in problem:
        return "a quote is opened on this line or after it, and never closed"
    return problem


def _check_header(name: str, line: int, fields: list[str], delimiter: str, is_asked: bool) -> None:
    twice = sorted({field for field in fields if fields.count(field) > 1})
    if twice:
        raise TableError(
            f"{name}:{line}: the header names a column twice, and a row has one value a name: "
            f"{', '.join(map(repr, twice))}: rename one of them in the file"
        )
    # what holds a line break was in quotes, and means what is in it
    text = delimiter.join(field for field in fields if "\n" not in field and "\r" not in field)
    other = max(COMMON.replace(delimiter, ""), key=text.count)
    if not is_asked and text.count(other) >= len(fields):
        raise TableError(
            f"{name}:{line}: the header has more of {_shown(other)} than of {_shown(delimiter)}: "
            f"give --delimiter {_written(other)}, or --delimiter {_written(delimiter)} if it is "
            "right as it is"
        )


def _shown(delimiter: str) -> str:
    return "a tab" if delimiter == "\t" else repr(delimiter)


def _written(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else f"'{delimiter}'"


def text_lines(name: str, file: BinaryIO, encoding: str | None, newline: str) -> Iterator[str]:
    """Yield the lines of text, ends and all, without a byte order mark.

    Raises:
        TableError: bytes that are no text in this encoding, with the line that they are on.
    """
    wanted = encoding or "utf-8"
    text = io.TextIOWrapper(file, wanted, "surrogateescape", newline)
    number = 0
    try:
        for number, line in enumerate(text, 1):
            if not line.isascii() and (bad := _ESCAPED.search(line)):
                raise not_text(name, number, encoding, f"byte {ord(bad[0]) - 0xDC00:#x}")
            yield line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeError as error:
        raise not_text(name, number + 1, encoding, f"{error}, here or later") from error
    finally:
        with contextlib.suppress(ValueError):  # closed meanwhile
            text.detach()  # the file is not ours to close


def not_text(name: str, line: int, encoding: str | None, why: str) -> TableError:
    """Return the error that says which encoding was tried, and how to name another."""
    if encoding is None:
        said = "not UTF-8"
        advice = "give the file's --encoding, such as utf-16, cp1252 or latin-1"
    else:
        said, advice = f"not {encoding}", "is that the --encoding of this file?"
    return TableError(f"{name}:{line}: {said}: {why}: {advice}")
