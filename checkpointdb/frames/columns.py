"""Parquet's columns: one type each, found in the rows themselves or declared by the input.

Knows pyarrow; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..values.canonical import ordered
from .arrow_types import ArrowTypes
from .from_arrow import FromArrow
from .packages import arrow
from .to_arrow import is_writable, nullable, to_arrow
from .to_json import to_json, visible

Rows = list[dict[str, Any]]


class Columns:
    """Find one type for each column; a column whose values share none becomes text.

    Text stays as it is there, every other value becomes its JSON: titles among which nine are
    numbers are a column of titles. A column of the input keeps the type it has there for as long as
    that type gives back each value as it was, in type and content.

    Args:
        path: of the file, for errors.
        names: of the columns.
        declared: types of columns of the input, where it has types.
    """

    def __init__(self, path: str, names: list[str], declared: Mapping[str, Any]) -> None:
        self._arrow, _ = arrow(path)
        self._found = ArrowTypes(self._arrow)
        self._back = FromArrow(self._arrow, path)
        self._types: dict[str, Any] = dict.fromkeys(names, self._arrow.null())
        self._declared = {
            name: kind for name, kind in declared.items() if kind and is_writable(kind)
        }
        self._failures = (self._arrow.ArrowException, OverflowError, TypeError, ValueError)

    def learn(self, rows: Rows) -> None:
        """Widen the types so that they hold these rows too."""
        for name, known in self._types.items():
            if known != self._arrow.string():
                values = [row.get(name) for row in rows]
                try:
                    self._types[name] = self._found.wider(known, self._found.of(values))
                except self._failures:
                    self._types[name] = self._arrow.string()

    def expect(self, kinds: Mapping[str, type]) -> None:
        """Give columns in which no value has come the type of such values."""
        for name, kind in kinds.items():
            if self._types.get(name) == self._arrow.null():
                self._types[name] = self._found.of([kind()])

    def schema(self) -> Any:
        """Return the Arrow schema."""
        return self._arrow.schema(list((self._types | self._declared).items()))

    def batch(self, rows: Rows) -> Any:
        """Return an Arrow batch of these rows; None if a column had to change its type for it."""
        arrays = [self._array(name, [row.get(name) for row in rows]) for name in self._types]
        if None in arrays:
            return None
        return self._arrow.record_batch(arrays, schema=self.schema())

    def _array(self, name: str, values: list[Any]) -> Any:
        if name in self._declared:
            return self._as_declared(name, values)
        type = self._types[name]
        if type == self._arrow.string():
            return self._arrow.array([_as_text(value) for value in values], type)
        try:
            return self._arrow.array(values, type)
        except self._failures:  # an integer too large for the column's floats, say
            self._types[name] = self._arrow.string()
            return None

    def _as_declared(self, name: str, values: list[Any]) -> Any:
        try:
            array = to_arrow(self._arrow, values, self._declared[name])
            if ordered(self._back.values(array)) == ordered(values):
                return array
        except self._failures:
            pass
        self._declare_wider(name)
        return None

    def _declare_wider(self, name: str) -> None:
        """Let a column's declared type go; first for one whose fields may all be null."""
        kind = self._declared.pop(name)
        wider = nullable(self._arrow, kind)
        if wider != kind:
            self._declared[name] = wider


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    return visible(value) if isinstance(value, str) else to_json(value).decode()
