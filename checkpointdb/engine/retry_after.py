"""How long an exception of an HTTP client says to wait. Knows headers; imports no client."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[dhms]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_EPOCH = 1e9  # a larger number is a date, not a duration

# OpenAI: x-ratelimit-reset-tokens: 6m0s; Anthropic: anthropic-ratelimit-tokens-reset: a date
_RESET = re.compile(r"(?:[a-z]+-)?ratelimit-(?:reset(?:-.+)?|.+-reset)")


def retry_after(error: BaseException) -> float | None:
    """Return how many seconds an error, or one that it came from, says to wait; None if none does.

    It may have a number `retry_after`, or headers: `error.response.headers`, as of httpx, requests,
    openai and anthropic, or `error.headers`, as of urllib and aiohttp.
    """
    for one in _chain(error):
        said = _number(getattr(one, "retry_after", None))
        if said is None:
            said = _of_headers(one)
        if said is not None:
            return said
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen = set[int]()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _of_headers(error: BaseException) -> float | None:
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        headers = getattr(error, "headers", None)
    if not hasattr(headers, "items"):
        return None
    try:
        found = {str(name).lower(): str(value).strip() for name, value in headers.items()}
    except Exception:  # noqa: BLE001 - a class of somebody's: it says nothing
        return None
    milliseconds = _number(found.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = _seconds(found.get("retry-after", ""))
    return _of_resets(found) if said is None else said


def _of_resets(headers: dict[str, str]) -> float | None:
    """Return when the last of the limits that are used up is renewed."""
    times = []
    for name, value in headers.items():
        if _RESET.fullmatch(name) and headers.get(name.replace("reset", "remaining"), "0") == "0":
            times.append(_seconds(value))
    return max((time for time in times if time is not None), default=None)


def _seconds(text: str) -> float | None:
    """Return the seconds of a number, of a duration like 6m0s, or until a date; at least 0."""
    number = _number(text)
    if number is not None:
        return _until(datetime.fromtimestamp(number, UTC)) if number > _EPOCH else number
    if _DURATION.fullmatch(text):
        return sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text))
    from email.utils import parsedate_to_datetime

    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            return _until(parse(text))
        except (ValueError, TypeError, OverflowError):
            continue
    return None


def _until(date: datetime) -> float:
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None
