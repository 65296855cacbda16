"""Text for people: rich on a terminal, aligned and plain in a pipe. Knows nothing of stores."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from ..frames.to_json import to_json
from ..wording import ago as ago
from ..wording import counted as counted
from ..wording import duration as duration
from ..wording import moment as moment
from ..wording import money as money
from ..wording import number as number
from ..wording import rate as rate
from ..wording import safe as safe
from ..wording import size as size
from ..wording import tokens as tokens


class Json(str):
    """A cell of a table that is JSON: on a terminal it has colours and stays on one line."""


class Problem(str):
    """A cell that says what went wrong."""


Column = tuple[str, str]  # heading, "left" or "right"


def safe_lines(text: object) -> str:
    """As `safe`, but line breaks and tabs stay."""
    return "\n".join(safe(line.replace("\t", "    ")) for line in str(text).split("\n"))


def safe_json(value: Any, indent: int = 2) -> str:
    """Return JSON for a program that is safe even on a terminal: JSON has escapes anyway."""
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

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading, side in columns:
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=False)
    for row in rows:
        table.add_row(*map(_rich, row))
    return table


def _rich(cell: str) -> Any:
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    if isinstance(cell, Json):
        return JSONHighlighter()(Text(safe(cell), no_wrap=True, overflow="ellipsis"))
    style = "red" if isinstance(cell, Problem) else _STATES.get(safe(cell).split(":")[0], "")
    return Text(safe(cell), style=style)


def note(text: str) -> None:
    """Say something on standard error, apart from the output."""
    click.echo(safe_lines(text), err=True)


def note_warning(message: Warning | str, *_place: Any, **_more: Any) -> None:
    """Show a warning of Python's without the place in our code; stands in for `showwarning`."""
    note(f"Warning: {message}")
