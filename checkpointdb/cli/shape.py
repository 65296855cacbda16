"""What a row of output looks like. Knows values; knows nothing of files."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from ..engine.failures import Failed
from ..frames.packages import TableError
from ..frames.to_json import plain, to_json, visible


class Shape:
    """How a row and its result become one row of output.

    By default the result is one more column, so that it can never overwrite a column of the input;
    CSV splits a result that is a dict into columns. Under `merge` such a result adds its own
    columns in every format, and a clash of names is an error. A row that is not a dict goes under
    the column `input`. A row that failed has, where its result would be, an object in the column
    `error`.

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
            TableError: the row has one.
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

    def splice(self, row: Any, result: Any) -> msgspec.Raw | None:
        """Return what `join` returns, as JSON, of a row and a result that are JSON text.

        Decoding and encoding them again would take five times as long. Return None if they are
        something else, or if the row may have a column of the result's name.
        """
        if type(row) is not str or type(result) is not str or self.merge:
            return None
        column = self._as_json
        if row[:2] != '{"' or column in row:
            return None
        return msgspec.Raw(f"{row[:-1]},{column}{result}}}")

    @functools.cached_property
    def _as_json(self) -> str:
        return to_json(self.column).decode() + ":"

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
