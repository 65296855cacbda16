"""A row that failed, as the user gets it and as a record holds it. Knows no run and no store."""

from __future__ import annotations

import traceback
from typing import Any

import msgspec

from ..file.records import decoded_error
from ..values.redact import Redactor

LONGEST = 500  # characters of a row or message in a notebook
_AS_IT_IS = Redactor(())


class Failed(msgspec.Struct, frozen=True):
    """Takes the place of a result when the step failed under `on_error="record"`.

    Attributes:
        row: the input.
        error_type: the exception's class name, or `"invalid"` for a result that `valid=` refused.
        message: the exception's text.
        traceback: where it was raised.
        attempts: how often the row was tried, over all runs.
    """

    row: Any
    error_type: str
    message: str
    traceback: str
    attempts: int

    def _repr_html_(self) -> str:
        from .. import markup

        of = {"row": _short(self.row), "attempts": f"{self.attempts:,}"}
        trace = markup.fold("traceback", self.traceback) if self.traceback else None
        return markup.facts(f"failed: {self.error_type}: {_short(self.message)}", of, trace)


def _short(value: Any) -> str:
    """Return a value in a few lines, whatever its class does when asked for its text."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as problem:  # noqa: BLE001
        return f"<no text: {type(problem).__name__} in {type(value).__qualname__}.__repr__>"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def failure(
    row: Any, attempts: int, error: BaseException, redactor: Redactor = _AS_IT_IS
) -> Failed:
    """Describe what `error` did to a row, at this attempt, cleaned as asked."""
    return Failed(
        row=row,
        error_type=type(error).__qualname__,
        message=redactor.text(text_of(error), row),
        traceback=redactor.text(_traceback(error), row),
        attempts=attempts,
    )


def text_of(error: BaseException) -> str:
    """Return an exception's text, whatever the user's class does when asked for it."""
    try:
        return str(error)
    except Exception as problem:  # noqa: BLE001 - a text is no reason to lose a row
        return f"<no text: {type(problem).__name__} in {type(error).__qualname__}.__str__>"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - see `text_of`
        return "".join(traceback.format_tb(error.__traceback__))


def to_error_text(failed: Failed, result: str | None = None) -> str:
    """Return a failure as the JSON of the `error` column.

    Args:
        failed: the failure.
        result: what the step returned, if that could not be stored, in words.
    """
    fields = {
        "type": failed.error_type,
        "message": failed.message,
        "traceback": failed.traceback,
    }
    if result is not None:
        fields["repr"] = result
    # an exception's text may hold what no file can, such as the lone surrogate it complains about
    clean = {
        name: text.encode("utf-8", "backslashreplace").decode() for name, text in fields.items()
    }
    return msgspec.json.encode(clean).decode()


def from_error_text(row: Any, attempts: int, text: str) -> Failed:
    """Return the failure that an `error` column holds."""
    fields = decoded_error(text) or {}
    return Failed(row, fields["type"], fields["message"], fields.get("traceback", ""), attempts)
