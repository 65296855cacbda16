"""Ask SQLite for rows. Knows one expression, that of an error's type, and nothing else."""

from __future__ import annotations

import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import apsw
import msgspec

T = TypeVar("T", bound=msgspec.Struct)

# Of a record that failed; null where a flipped bit left no JSON.
ERROR_TYPE = "iif(json_valid(error), error ->> 'type', null)"


def rows(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
    """Return all rows at once: an open cursor would keep the log from being checkpointed."""
    return connection.execute(sql, bindings).fetchall()


def ids_array(ids: Iterable[Any]) -> Any:
    """Return ids that the file named, for `carray(?)`.

    Raises:
        apsw.CorruptError: one is no id: a flipped bit may make a number another type, even null.
    """
    try:
        return apsw.carray(array.array("q", ids))
    except (TypeError, OverflowError):
        raise apsw.CorruptError("the key index has an id that is no number") from None


def typed(kind: type[T], *fields: Any) -> T:
    """Return a struct of what the file holds, its values of the types that were written.

    Raises:
        apsw.CorruptError: one is of another type: SQLite keeps whatever is put into a column.
    """
    try:
        return msgspec.convert(dict(zip(kind.__struct_fields__, fields, strict=True)), kind)
    except msgspec.ValidationError as error:
        raise apsw.CorruptError(f"{kind.__name__}: {error}") from None
