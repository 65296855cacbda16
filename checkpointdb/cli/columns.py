"""Parquet's column types, found in the rows themselves. Knows pyarrow; knows nothing of files."""

from __future__ import annotations

from typing import Any

from .formats import arrow
from .shape import to_json

Rows = list[dict[str, Any]]


class Columns:
    """Find one type for each column; a column whose values share none becomes text.

    Text stays as it is there, every other value becomes its JSON: titles among which nine are
    numbers are a column of titles.
    """

    def __init__(self, path: str, names: list[str]) -> None:
        self._arrow, _ = arrow(path)
        self._types: dict[str, Any] = dict.fromkeys(names, self._arrow.null())
        self._failures = (self._arrow.ArrowException, OverflowError, TypeError, ValueError)

    def learn(self, rows: Rows) -> None:
        """Widen the types so that they hold these rows too."""
        for name, known in self._types.items():
            if known != self._arrow.string():
                values = [row.get(name) for row in rows]
                try:
                    self._types[name] = self._wider(known, self._type_of(values))
                except self._failures:
                    self._types[name] = self._arrow.string()

    def _type_of(self, values: list[Any]) -> Any:
        kinds = {type(value) for value in values} - {type(None)}
        if len(kinds) > 1 and kinds != {int, float}:
            raise TypeError("no type in common")  # Arrow would cut a datetime among dates
        return self._solid(self._arrow.array(values).type)

    def _solid(self, type: Any) -> Any:
        """Replace structs without fields, which Parquet lacks: another row may tell the fields."""
        kinds = self._arrow.types
        if kinds.is_list(type):
            return self._arrow.list_(self._solid(type.value_type))
        if not kinds.is_struct(type):
            return type
        fields = [(field.name, self._solid(field.type)) for field in type]
        return self._arrow.struct(fields) if fields else self._arrow.null()

    def _wider(self, known: Any, found: Any) -> Any:
        schemas = [self._arrow.schema([("x", type)]) for type in (known, found)]
        unified = self._arrow.unify_schemas(schemas, promote_options="permissive")
        return unified.field(0).type

    def schema(self) -> Any:
        """Return the Arrow schema."""
        return self._arrow.schema(list(self._types.items()))

    def batch(self, rows: Rows) -> Any:
        """Return an Arrow batch of these rows; None if a column had to become text for it."""
        arrays = [self._array(name, [row.get(name) for row in rows]) for name in self._types]
        if None in arrays:
            return None
        return self._arrow.record_batch(arrays, schema=self.schema())

    def _array(self, name: str, values: list[Any]) -> Any:
        type = self._types[name]
        if type == self._arrow.string():
            return self._arrow.array([_as_text(value) for value in values], type)
        try:
            return self._arrow.array(values, type)
        except self._failures:  # an integer too large for the column's floats, say
            self._types[name] = self._arrow.string()
            return None


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else to_json(value).decode()
