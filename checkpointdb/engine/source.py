"""Rows as the user hands them over: a list, an iterable or an async one. Knows rows, no keys."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from time import perf_counter
from typing import Any

END: Any = object()


def is_async_source(rows: Any) -> bool:
    """Tell whether rows are to be awaited; a run looks like both, and says which it is."""
    return isinstance(rows, AsyncIterable) and not getattr(rows, "is_synchronous", False)


def count_of(rows: Any) -> int | None:
    """Return how many rows there are, None if they cannot say: a run of unknown length, say."""
    with contextlib.suppress(Exception):
        return len(rows)
    return None


class Source:
    """Read rows, some at a time; remember what the user's iterator raised.

    A list is read by its index, up to the end that it has then: a loop over a run may add rows.
    """

    def __init__(self, rows: Any) -> None:
        self.is_calls = rows is None  # each direct call brings a row of its own
        rows = () if rows is None else rows
        self.is_list = type(rows) in (list, tuple)
        self.is_async = is_async_source(rows)
        self.reading = False  # inside the user's iterator: no paid result is at risk there
        self.error: Exception | None = None  # raised when the rows before it are done
        self.rows = rows
        self.at = 0  # of a list: the next row to read; rows before it may be read again
        self._iterator: Iterator[Any] | None = None
        self._arriving: AsyncIterator[Any] | None = None

    def read(self, size: int, seconds: float) -> Iterable[Any]:
        """Return up to `size` rows; of an iterator, fewer if they take longer than `seconds`."""
        if not self.is_list:
            return self._next(size, seconds)
        rows = self.rows[self.at : self.at + size]
        self.at += len(rows)
        return rows  # type: ignore[no-any-return]

    def _next(self, size: int, seconds: float) -> Iterator[Any]:
        until = perf_counter() + seconds
        if self._iterator is None:
            assert isinstance(self.rows, Iterable)
            self._iterator = iter(self.rows)
        for _ in range(size):
            self.reading = True
            try:
                row = next(self._iterator, END)
            finally:
                self.reading = False
            if row is END:
                return
            yield row
            if perf_counter() > until:
                return

    async def arrival(self) -> Any:
        """Return the next row of an async iterable, `END` after the last."""
        if self._arriving is None:
            self._arriving = aiter(self.rows)
        return await anext(self._arriving, END)

    async def aclose(self) -> None:
        """End an async generator, or run, that was not read to its end."""
        close = getattr(self._arriving, "aclose", None)
        if close is not None:
            await close()

    def raise_error(self) -> None:
        """Raise what the user's iterator raised, once the rows before it are done."""
        if self.error is not None:
            raise self.error
