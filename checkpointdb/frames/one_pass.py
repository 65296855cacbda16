"""One pass of a step over the rows of a frame: which rows, and what their results add."""

from __future__ import annotations

import contextlib
import operator
import typing
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Any

from .added import Added

Columns = str | list[str] | tuple[str, ...] | None

VALUE = "value"  # what the column of a series is called meanwhile
_VALUES = (str, int, float, bool, bytes, list, tuple)


class Pass:
    """One pass of a step over the rows of a frame.

    Args:
        run: begins a run over rows: a context manager with their results, in order.
        added: makes `Added` of the names of the frame's own columns.
        columns: of the frame that make a row: all, some as a dict, or one as it is.
        takes: what the step is annotated to take.
    """

    def __init__(
        self,
        run: Callable[[Any], contextlib.AbstractContextManager[Iterable[Any]]],
        added: Callable[[Iterable[Any]], Added],
        columns: Columns = None,
        takes: Any = Any,
    ) -> None:
        self._run, self.added, self.columns, self._takes = run, added, columns, takes
        self._is_several = isinstance(columns, list | tuple)

    def rows(self, added: Added, rows: Iterable[Any]) -> Generator[dict[str, Any]]:
        """Yield what the results of rows, which are dicts of the chosen columns, add to each."""
        with self._run(Picked(rows, self.columns) if self._is_of_values else rows) as run:
            for result in run:
                yield added.of(result)

    def chosen(self, names: Collection[Any]) -> list[Any]:
        """Return the columns that make a row.

        Raises:
            ValueError: the frame does not have one of them.
        """
        if self.columns is None:
            return list(names)
        chosen = list(self.columns) if self._is_several else [self.columns]
        for name in chosen:
            if name not in names:
                known = ", ".join(map(repr, names))
                raise ValueError(f"columns: the frame has no column {name!r}; it has {known}")
        return chosen

    @property
    def _is_of_values(self) -> bool:
        return self.columns is not None and not self._is_several

    def values(self, rows: Iterable[Any]) -> Generator[dict[str, Any]]:
        """Yield the result of each value of a series, whatever it is, as one column."""
        with self._run(rows) as run:
            for result in run:
                yield {VALUE: result}

    def check_frame(self) -> None:
        """Raise if the step takes no rows that are dicts, and would be given such.

        Raises:
            TypeError: so it is.
        """
        kind = typing.get_origin(self._takes) or self._takes
        if kind in _VALUES and not self._is_of_values:
            raise TypeError(
                f"map: the step takes a {kind.__name__}, and the row of a frame is a dict of its "
                "columns: give columns= the name of one, such as columns='text'. No call was made"
            )

    def check_series(self) -> None:
        """Raise if something is asked of a series that only a frame has.

        Raises:
            TypeError: it is.
        """
        if self.columns is not None:
            raise TypeError("map: columns= is of a frame, and this is a series")
        if self.added(()).error is not None:
            raise TypeError(
                "map: a series has no column for failures: map its frame, with columns= the name "
                "of the series, or leave on_error='record' out"
            )


class Picked:
    """One value of each row; it knows how many there are, if the rows do."""

    def __init__(self, rows: Any, name: Any) -> None:
        self._rows, self._pick = rows, operator.itemgetter(name)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return map(self._pick, self._rows)
