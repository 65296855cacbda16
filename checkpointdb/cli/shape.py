"""What a row of output looks like. Knows values; knows nothing of files."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

import msgspec

from ..engine.failures import Failed
from ..values.plain import is_plain
from .formats import TableError

_KEPT = (bytes, date, datetime, time, timedelta, Decimal, UUID)


def plain(value: Any) -> Any:
    """Return `value` made of builtin types: objects of user classes are dicts, arrays lists.

    Dates and the like stay. What has more digits than they have is the text that `ticks` makes.
    """
    if is_plain(value) or type(value) in _KEPT:
        return value
    if type(value) is dict:
        return {name: plain(child) for name, child in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if isinstance(value, set | frozenset):
        return [plain(child) for child in value]
    return msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=_fields)


def to_json(value: Any) -> bytes:
    """Return any value as JSON, for people and programs. What JSON lacks becomes text.

    Half of a surrogate pair is written as its escape, which JSON allows: `json` reads it back.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_fields)
    except (TypeError, UnicodeEncodeError):  # keys that are no strings; lone surrogates
        # inside of JSON's quotes a backslash escape is the character itself
        text = json.dumps(_spelled(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """Return `text` with its lone surrogates, which no file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _spelled(value: Any) -> Any:
    """Return a value of types that the standard library writes as JSON, and only those."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        pairs = [(_name(name), _spelled(child)) for name, child in value.items()]
        named = dict(pairs)
        return named if len(named) == len(pairs) else pairs
    if isinstance(value, list | tuple | set | frozenset):
        return [_spelled(child) for child in value]
    return _spelled(msgspec.to_builtins(value, enc_hook=_fields))


def _name(name: Any) -> str:
    """Return the key of a dict as text, the same that msgspec makes of it."""
    if isinstance(name, str):
        return name
    try:
        (text,) = msgspec.json.decode(msgspec.json.encode({name: None}, enc_hook=_fields))
    except UnicodeEncodeError:
        text = str(name)
    return str(text)


def _fields(value: Any) -> Any:
    """Return what a value that is no builtin is made of, or else its text."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if hasattr(value, "to_pydatetime") and not value.nanosecond:  # of pandas
        return value.to_pydatetime()
    if hasattr(value, "dtype") and hasattr(value, "tolist") and value.dtype.kind not in "mM":
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


class Shape:
    """How a row and its result become one row of output.

    By default the result is one more column, so that it can never overwrite a column of the input;
    CSV takes one that is a dict apart. Under `merge` a result that is a dict adds its own columns
    everywhere, and a clash of names is an error.
    A row that is not a dict goes under the column `input`. A row that failed has, where its result
    would be, an object in the column `error`.

    Args:
        column: of the result.
        merge: whether results are merged into their rows; None: in CSV only, without clashes.
        error: column of failures, None where there can be none.
    """

    def __init__(
        self, column: str = "result", merge: bool | None = None, error: str | None = None
    ) -> None:
        self.column, self.merge, self.error = column, merge, error

    def added(self) -> tuple[str, ...]:
        """Return the columns that results add whatever they are."""
        return () if self.merge else (self.column,)

    def check(self, row: Any, where: str) -> None:
        """Refuse a row that has a column with one of our names, before the step is paid for it.

        Raises:
            TableError: it has.
        """
        names = row if isinstance(row, dict) else ("input",)
        if not self.merge and self.column in names:
            raise TableError(
                f"{where} has a column {self.column!r} of its own: name the result's column with "
                "--column NAME, or use --merge"
            )
        if self.error in names:
            raise TableError(
                f"{where} has a column {self.error!r} of its own: name the column of failures with "
                "--error-column NAME"
            )

    def join(self, row: Any, result: Any, where: str) -> dict[str, Any]:
        """Return the row of output.

        Raises:
            TableError: under `merge`, the result is no dict, or would overwrite another value.
        """
        joined, result = _columns(row), plain(result)
        if not self.merge:
            joined[self.column] = result
            return joined
        if not isinstance(result, dict):
            raise TableError(
                f"{where}: --merge needs results that are dicts, not a {type(result).__name__}"
            )
        for name, value in result.items():
            if name == self.error or (name in joined and to_json(joined[name]) != to_json(value)):
                raise TableError(
                    f"{where}: --merge would overwrite column {name!r} with another value: leave "
                    "out --merge, or have the step return it under another name"
                )
            joined[name] = value
        return joined

    def join_failure(self, row: Any, failed: Failed) -> dict[str, Any]:
        """Return the row of output for a row that failed."""
        return self.join_error(row, failed.error_type, failed.message, failed.attempts)

    def join_error(self, row: Any, type: str, message: str, attempts: int) -> dict[str, Any]:
        """Return the row of output for a row that failed, by what is known of its last attempt."""
        error = {"type": type, "message": visible(message), "attempts": attempts}
        return _columns(row) | {self.error or "error": error}


def _columns(row: Any) -> dict[str, Any]:
    row = plain(row)
    return dict(row) if isinstance(row, dict) else {"input": row}
