"""Rows as CSV text. Knows cells, and which columns a result that is a dict becomes."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from decimal import Decimal
from typing import Any, TextIO

from ..frames.to_json import to_json, visible
from .spooled import Row, Spooled, Target

# What a spreadsheet takes for a formula, some of them after they cut off what nobody sees, or in
# the full width of East Asian text. Behind quotes too: so one is taken off to have what was there.
_FORMULA = re.compile(
    "'*([\\s\x00-\x1f\u200b-\u200f\u2060\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])"
)
# a plain number may begin with its sign
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class CsvSink(Spooled):
    """Write CSV. A result that is a dict becomes a column for each of its fields.

    A field has its own name, unless rows have a column of that name with another value: then the
    field's column is `result.NAME`, in all rows.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        shape = target.shape
        self._apart = shape.column if shape.merge is None else None
        self._fields: dict[str, None] = {}  # of results
        self._differing: set[str] = set()  # fields that are not, in each row, the row's own column
        self._is_needed = False  # the result's column itself
        self._guards = 0  # cells with a quote before what may be a formula

    def keep(self, row: Row) -> None:
        """Keep one row."""
        super().keep(row)
        if self._apart not in row:
            return
        result = row[self._apart]
        if not _is_apart(result):
            self._is_needed |= result is not None
            return
        self._fields.update(dict.fromkeys(result))
        self._differing.update(
            name
            for name, value in result.items()
            if name not in row or _cell(row[name]) != _cell(value)
        )

    def finish(self) -> None:
        """Write the header and the rows."""
        own, names = self._named()
        text = io.TextIOWrapper(self.file, encoding="utf-8", newline="")
        writer = csv.writer(_Lines(text), delimiter=self.target.delimiter)
        if header := [*own, *(names[field] for field in names if names[field] not in own)]:
            writer.writerow(map(self._guarded, header))
        for rows in self.batches():
            for row in rows:
                cells = {names[name]: value for name, value in self._parts(row).items()} | {
                    name: row.get(name) for name in own if name in row
                }
                writer.writerow([self._guarded(cells.get(name)) for name in header])
        text.detach()
        if self._guards:
            warnings.warn(
                f"{self.target.path}: {self._guards:,} cells begin like a formula, so each has a "
                "' before it, which programs other than a spreadsheet have to take off",
                stacklevel=2,
            )

    def _guarded(self, value: Any) -> str:
        cell = _cell(value)
        self._guards += cell[:1] == "'" and is_formula(cell)
        return cell

    def _named(self) -> tuple[list[str], dict[str, str]]:
        """Return the rows' own columns, and the column of each field of a result."""
        own = self.columns()
        if self._fields and not self._is_needed:
            own.remove(self._apart or "")
        taken, names = set(own), {}
        for field in self._fields:
            name = field
            while name in taken and (name != field or field in self._differing):
                name = f"{self._apart}.{name}"
            names[field] = name
            taken.add(name)
        return own, names

    def _parts(self, row: Row) -> Row:
        """Take the result out of a row and return its fields, if it is to be taken apart."""
        if self._apart is None or not _is_apart(row.get(self._apart)):
            return {}
        return dict(row.pop(self._apart))


def _is_apart(result: Any) -> bool:
    return isinstance(result, dict) and bool(result) and all(type(name) is str for name in result)


class _Lines:
    """End lines as Unix does. If told to do so, `csv` itself leaves a carriage return unquoted."""

    def __init__(self, text: TextIO) -> None:
        self._text = text

    def write(self, line: str) -> None:
        """Write a line that ends in a carriage return and a line feed."""
        self._text.write(line[:-2] + "\n")


def _cell(value: Any) -> str:
    """Return a CSV cell; text that a spreadsheet would run as a formula gets a quote before it."""
    text = _text(value)
    return "'" + text if not isinstance(value, float | Decimal) and is_formula(text) else text


def is_formula(text: str) -> bool:
    """Tell whether a spreadsheet may run a cell with this text."""
    return bool(_FORMULA.match(text)) and not _NUMBER.fullmatch(text)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float | Decimal):
        return str(value)
    if not isinstance(value, str):
        text = to_json(value).decode()
        if not text.startswith('"'):
            return text
        value = json.loads(text)
    return visible(value)
