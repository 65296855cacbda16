"""Rows out of JSON text. Knows JSON, by lines and as one array; knows nothing of files' names."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from ..frames.packages import TableError
from .delimited import Numbered, not_text, text_lines

CHUNK = 32 << 10
_AFTER = frozenset(" \t\r\n,]")
_SPACE = re.compile(r"[ \t\r\n]*")


def json_lines(name: str, file: BinaryIO, encoding: str | None) -> Numbered:
    """Yield each value with the number of its line; empty lines are skipped.

    Raises:
        TableError: a line that is not JSON, with its number.
    """
    for number, line in enumerate(_lines(name, file, encoding), 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line and not line.isspace():
            yield number, parsed(f"{name}:{number}: not a line of JSON", line)


def _lines(name: str, file: BinaryIO, encoding: str | None) -> Iterator[bytes]:
    if encoding is None:
        return iter(file)
    return (line.encode() for line in text_lines(name, file, encoding, newline="\n"))


def parsed(problem: str, line: bytes) -> Any:
    """Return the value of some JSON.

    Raises:
        TableError: it is not JSON; `problem` begins the message.
    """
    try:
        return msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:  # what Python takes, and writes: NaN, 1e999, half of a surrogate pair
            return json.loads(line.decode())
        except (ValueError, RecursionError):
            pass
        is_text = not isinstance(error, UnicodeDecodeError) and b"\0" not in line
        advice = "" if is_text else ": it is not UTF-8: give the --encoding, such as utf-16"
        raise TableError(f"{problem}: {error}{advice}") from error


class JsonArray:
    """The values of a JSON array, one by one; the standard library reads only whole documents."""

    def __init__(self, name: str, file: BinaryIO, encoding: str | None = None) -> None:
        self._name, self._encoding = name, encoding
        self._file, self._text = file, codecs.getincrementaldecoder(encoding or "utf-8-sig")()
        self._buffer, self._at, self._line = "", 0, 1
        self._decode = json.JSONDecoder().raw_decode

    def values(self) -> Numbered:
        """Yield each value with the number of the line it begins on."""
        if self._look() != "[":
            raise self._error(
                "not a JSON array; if each line is a row, name the file .jsonl or give "
                "--format jsonl"
            )
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

    def _value(self) -> tuple[int, Any]:
        self._look()
        line = self._line_of(self._at)
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
                    return line, value
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
        except UnicodeError as error:
            raise not_text(
                self._name, self._line, self._encoding, f"{error}, on this line or later"
            ) from error
        return bool(data)

    def _line_of(self, at: int) -> int:
        return self._line + self._buffer.count("\n", 0, at)

    def _error(self, what: str, at: int | None = None) -> TableError:
        return TableError(f"{self._name}:{self._line_of(self._at if at is None else at)}: {what}")
