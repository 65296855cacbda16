"""Numbers, times and texts as a person reads them. Knows nothing of rows, stores or screens."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping

# Control characters steer terminals; the invisible ones that turn text round deceive readers.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def safe(text: object) -> str:
    """Return `text` with everything escaped that could steer a terminal; on one line."""
    return _UNSAFE.sub(lambda found: _escaped(found[0]), str(text))


def _escaped(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    return short or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")


def number(value: float | None, digits: int = 0) -> str:
    """Return 12345 as `12,345`."""
    return "–" if value is None else f"{value:,.{digits}f}"


def counted(count: int, what: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def money(dollars: float | None) -> str:
    """Return dollars: `$12.30`, and `$0.00042` where cents are too coarse."""
    if dollars is None:
        return "–"
    return f"${dollars:,.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.2g}"


def tokens(usage: Mapping[str, float]) -> str:
    """Return token counts: `12,345 input tokens, 40 output tokens`; parts of a count are left out.

    A part has a dot in its name: `prompt_tokens_details.cached_tokens`.
    """
    whole = {name: count for name, count in usage.items() if "." not in name} or usage
    return ", ".join(f"{count:,.0f} {name.replace('_', ' ')}" for name, count in whole.items())


def size(count: int) -> str:
    """Return 1234567 as `1.2 MB`."""
    if count < 1000:
        return f"{count} B"
    value, unit = count / 1000, "kB"
    for bigger in ("MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, bigger
    return f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return seconds in the unit that reads best: `85 µs`, `12.1 ms`, `3.2 s`, `4 min 10 s`."""
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 59.95 or not math.isfinite(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def rate(rows: int, seconds: float) -> str:
    """Return rows per second, or per minute or hour where that is below one."""
    if rows <= 0 or seconds <= 0:
        return "–"
    for unit, factor in (("s", 1), ("min", 60), ("h", 3600)):
        if rows / seconds * factor >= 1 or unit == "h":
            value = rows / seconds * factor
            return f"{value:,.{0 if value >= 10 else 1}f}/{unit}"
    raise AssertionError


def moment(at: float) -> str:
    """Return a time of day in the local zone; the seconds if no calendar has it."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return f"{at:.3g} s"


def ago(at: float) -> str:
    """Return how long ago `at` was: `3 min 2 s ago`."""
    passed = time.time() - at
    if not math.isfinite(passed):
        return "never"
    return "just now" if passed < 1 else f"{duration(round(passed))} ago".replace(".0 s", " s")
