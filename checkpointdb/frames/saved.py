"""Saved records as rows of a table: the columns of the input, then those of the result."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from .added import Added
from .gathered import gathered
from .of_pandas import column_of


class Saved:
    """The rows of one step's records.

    An input that is no dict is in a column `input`; a result is as `Step.map` adds it to a frame.

    Args:
        pairs: of input and result.
        step: its name.
        prefix: of the names of the columns of results.
    """

    def __init__(self, pairs: Iterable[tuple[Any, Any]], step: str, prefix: str) -> None:
        self._pairs, self._added = pairs, Added(step, prefix=prefix)
        self._inputs: dict[Any, None] = {}

    def rows(self) -> Generator[dict[str, Any]]:
        """Yield a dict for each record, with what it has.

        Raises:
            ValueError: input and result have a column of one name.
        """
        for input, result in self._pairs:
            row = input if isinstance(input, dict) else {"input": input}
            self._inputs.update(dict.fromkeys(row))
            self._added.take(row)
            yield row | self._added.of(result)

    def names(self) -> list[Any]:
        """Return the names of the columns of all rows, when they have been read."""
        return [*self._inputs, *self._added.names()]

    def kinds(self) -> dict[str, type]:
        """Return nothing: a store does not know the types of its steps."""
        return {}

    def to_arrow(self) -> Any:
        """Return a `pyarrow.Table`; a column whose values share no type has their JSON."""
        (table,) = gathered(self, [self.rows()])
        return table

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`; values stay as they are."""
        import pandas

        rows = list(self.rows())
        return pandas.DataFrame(
            {name: column_of(pandas, [row.get(name) for row in rows]) for name in self.names()}
        )
