"""A part of the rows, by their keys: what one of several machines computes. Knows keys only."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

from ..errors import EncodeError
from .keywords import Shard
from .source import is_async_source


class Sharded:
    """The rows of one shard, from an iterable or an async one, read as it is.

    A row that has no key is in every shard, so that no run passes over it in silence.

    Args:
        shard: which of how many.
        key_of: the key of a row.
    """

    def __init__(self, shard: Shard, key_of: Callable[[Any], bytes]) -> None:
        self._part, self._parts = shard
        self._key_of = key_of

    def has(self, row: Any) -> bool:
        """Tell whether a row is in the shard."""
        try:
            key = self._key_of(row)
        except EncodeError:
            return True
        return int.from_bytes(key[:8], "big") % self._parts == self._part

    def of(self, rows: Any) -> Iterable[Any] | AsyncIterable[Any]:
        """Return those of `rows` that are in the shard, read one by one."""
        return self._of_async(rows) if is_async_source(rows) else filter(self.has, rows)

    async def _of_async(self, rows: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async for row in rows:
            if self.has(row):
                yield row
