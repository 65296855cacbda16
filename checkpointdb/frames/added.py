"""Which columns results become, and what they are called. Knows results; knows no frame."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ..values.classes import hints
from ..values.records import field_names, fields_of

_SIMPLE = (str, int, float, bool, bytes)
_SCALARS = (*_SIMPLE, list, tuple, set)
_SAVED = "All that was computed is saved"


class Added:
    """The columns that the results of a step add to a frame.

    A result that is a dict or a record has a column for each of its keys, any other result is in a
    column with the step's name. A row without a key, or whose result is None, has null there.

    Args:
        step: its name.
        annotation: what it is annotated to return.
        taken: names of the frame's own columns.
        prefix: of the names of all added columns.
        error: the column for failures, None if there can be none.
        failed: the class of what takes the place of the result of a row that failed.

    Raises:
        ValueError: an added column would have the name of one that is there.
    """

    def __init__(
        self,
        step: str,
        annotation: Any = Any,
        taken: Iterable[Any] = (),
        prefix: str = "",
        error: str | None = None,
        failed: type | None = None,
    ) -> None:
        self._step, self._prefix, self._failed = step, prefix, failed
        self.error = None if error is None else f"{prefix}{error}"
        self._taken: set[Any] = set(taken)
        self._names: dict[str, None] = {}
        self._is_null = False
        self._kinds = {
            self._named(name): kind for name, kind in known_columns(annotation, step).items()
        }
        known = list(self._kinds)
        for name in filter(None, (self.error, *known)):
            self._check(name, "No call was made", is_result=name in known)
        self._names.update(dict.fromkeys(known))

    def take(self, names: Iterable[Any]) -> None:
        """Note the names of columns of the frame, where they are known from its rows alone.

        Raises:
            ValueError: an added column has one of them.
        """
        self._taken.update(names)
        for name in self._names:
            self._check(name, _SAVED)

    def of(self, result: Any) -> dict[str, Any]:
        """Return the values of the added columns in the row of one result.

        Raises:
            ValueError: one has the name of a column that is there.
        """
        if self._failed is not None and isinstance(result, self._failed):
            failure: Any = result
            return {self.error or "": f"{failure.error_type}: {failure.message}"}
        if result is None:
            self._is_null = True
            return {}
        fields = dict(result) if isinstance(result, Mapping) else fields_of(result)
        if fields is None:
            fields = {self._step: result}
        row = {self._named(name): value for name, value in fields.items()}
        if len(row) < len(fields):
            raise ValueError(
                f"two keys of one result of step {self._step!r} would be columns of one name: "
                f"{', '.join(map(repr, fields))}. {_SAVED}"
            )
        for name in row.keys() - self._names.keys():
            self._check(name, _SAVED)
        self._names.update(dict.fromkeys(row))
        return row

    def names(self) -> list[str]:
        """Return the names of the added columns, when all results have come."""
        names = list(self._names)
        if not names and self._is_null:
            names = [self._named(self._step)]
        return names if self.error is None else [*names, self.error]

    def kinds(self) -> dict[str, type]:
        """Return the types of columns whose values are known to be of one simple type."""
        kinds = {name: kind for name, kind in self._kinds.items() if kind in _SIMPLE}
        return kinds if self.error is None else kinds | {self.error: str}

    def _named(self, name: Any) -> str:
        return f"{self._prefix}{name}"

    def _check(self, name: str, so_far: str, is_result: bool = True) -> None:
        if name in self._taken or (is_result and name == self.error):
            raise ValueError(
                f"the results of step {self._step!r} are to be in a column {name!r}, and there is "
                f"one of that name already: give prefix='new_', or any other. {so_far}"
            )


def known_columns(annotation: Any, step: str) -> dict[str, Any]:
    """Return the columns of results of a type with their types; none if it does not tell."""
    annotation = _present(annotation)
    kind = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type):
        return {}
    if typing.is_typeddict(kind) or field_names(kind) is not None:
        names = list(kind.__annotations__) if typing.is_typeddict(kind) else field_names(kind)
        known = hints(kind)
        return {name: _present(known.get(name, Any)) for name in names or ()}
    return {step: annotation} if issubclass(kind, _SCALARS) else {}


def _present(annotation: Any) -> Any:
    """Return X of `X | None`."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation
    inner = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
    return inner[0] if len(inner) == 1 else annotation
