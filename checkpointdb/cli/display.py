"""Text for people: rich on a terminal, aligned and plain in a pipe. Knows nothing of stores."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from ..frames.to_json import to_json

# Control characters steer terminals; the invisible ones that turn text round deceive readers.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

Column = tuple[str, str]  # heading, "left" or "right"


def safe(text: object) -> str:
    """Return `text` with everything escaped that could steer a terminal; on one line."""
    return _UNSAFE.sub(lambda found: _escaped(found[0]), str(text))


def safe_lines(text: object) -> str:
    """As `safe`, but line breaks and tabs stay."""
    return "\n".join(safe(line.replace("\t", "    ")) for line in str(text).split("\n"))


def _escaped(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    return short or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")


def safe_json(value: Any, indent: int = 2) -> str:
    """Return JSON for a program, still safe on a terminal: escapes, where JSON has them anyway."""
    data = to_json(value)
    try:
        text = msgspec.json.format(data, indent=indent).decode()
    except msgspec.DecodeError:  # half of a surrogate pair, which only Python's reader takes
        text = json.dumps(json.loads(data), indent=indent if indent > 0 else None)
    unsafe = "".join(map(chr, range(0x7F, 0xA0))) + "\u061c\u200e\u200f"
    return re.sub(
        f"[{unsafe}\u2028-\u202e\u2066-\u2069]", lambda found: f"\\u{ord(found[0]):04x}", text
    )


def safe_line(value: Any) -> str:
    """As `safe_json`, on one line."""
    return safe_json(value, indent=-1)


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
    if seconds < 59.95:
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
    """Return a time of day in the local zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def ago(at: float) -> str:
    """Return how long ago `at` was: `3 min 2 s ago`."""
    passed = time.time() - at
    return "just now" if passed < 1 else f"{duration(round(passed))} ago".replace(".0 s", " s")


def shown(path: str) -> str:
    """Return `path` as a person would type it from here, if that is shorter."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


class Screen:
    """Where a command shows what it found: standard output, a terminal or not."""

    def __init__(self) -> None:
        self._console: Any = None
        if sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False)

    def line(self, text: str = "", style: str = "") -> None:
        """Show one line; `style` counts on a terminal only."""
        if self._console is None:
            click.echo(text)
        else:
            from rich.text import Text

            self._console.print(Text(text, style=style), soft_wrap=True)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Show a table: headings, then aligned columns."""
        if self._console is None:
            cells = [[safe(cell) for cell in row] for row in rows]
            for line in _aligned([[heading for heading, _ in columns], *cells], columns):
                click.echo(line)
        else:
            self._console.print(rich_table(columns, rows))


def _aligned(rows: list[list[str]], columns: Sequence[Column]) -> list[str]:
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            _padded(cell, room, side)
            for cell, room, (_, side) in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in rows
    ]


def _padded(cell: str, room: int, side: str) -> str:
    space = " " * (room - width(cell))
    return space + cell if side == "right" else cell + space


def width(text: str) -> int:
    """Return how many terminal columns `text` takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


_STATES: dict[str, str] = {
    "finished": "green",
    "running": "cyan",
    "killed": "red",
    "failed": "red",
    "interrupted": "yellow",
}


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Any:
    """Return a table for a terminal; states have their colours."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading, side in columns:
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=False)
    for row in rows:
        cells = map(safe, row)
        table.add_row(*(Text(cell, style=_STATES.get(cell.split(":")[0], "")) for cell in cells))
    return table


def note(text: str) -> None:
    """Say something on standard error, apart from the output."""
    click.echo(safe_lines(text), err=True)


def note_warning(message: Warning | str, *_place: Any, **_more: Any) -> None:
    """Say what Python would warn of: what to show warnings by, without the place in our code."""
    note(f"Warning: {message}")
