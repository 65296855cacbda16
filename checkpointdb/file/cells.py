"""How SQLite lays out rows on pages: cells, overflow pages, values. Knows bytes; no table.

A page of a tree is known by its first byte. An overflow page cannot be taken for one: it begins
with the number of the next, whose first byte is 0 in a file of less than 128 GB. So bytes that a
user saved are never taken for a row of the store, whatever is damaged around them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from .pages import HEAD, INTERIOR_INDEX, INTERIOR_TABLE, LEAF_TABLE, TREES, Pages
from .pragmas import ROW_BYTES

Values = list[Any]
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # of the types of numbers


class BrokenError(Exception):
    """Bytes that are not a row of SQLite's, or not a whole one."""


class Cell(msgspec.Struct):
    """A row as it lies on a page.

    `begin` is the first byte of its cell, `start` the first byte of the row, and `end` is behind
    the last byte of it there. `rowid` is 0 in an index; `local` is how much of the row's `size` is
    on this page.
    """

    rowid: int
    begin: int
    start: int
    size: int
    end: int
    local: int


class Cells:
    """Rows of a file's pages."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        # each overflow page belongs to one row: a file that was made to waste time has more
        self._overflow_left = 4 * len(pages) + 1000

    def places(self, page: bytes, number: int) -> Iterator[int]:
        """Yield where cells begin, as the page says."""
        first = 100 if number == 1 else 0
        kind, _, cells, _, _ = HEAD.unpack_from(page, first)
        table = first + HEAD.size + 4 * (kind in (INTERIOR_INDEX, INTERIOR_TABLE))
        for at in range(table, min(table + 2 * cells, len(page) - 1), 2):
            place = int.from_bytes(page[at : at + 2], "big")
            if table < place < self._pages.usable:
                yield place

    def is_sound(self, page: bytes, number: int, cells: list[Cell]) -> bool:
        """Tell whether a page accounts for all of its bytes: then nothing else is on it.

        What is in its gap is old: rows that were moved to another page, or deleted.
        """
        first = 100 if number == 1 else 0
        _, free, count, begin, fragments = HEAD.unpack_from(page, first)
        taken = sum(max(cell.end - cell.begin, 4) for cell in cells) + fragments
        for _ in range(len(page) // 4):  # pragma: no branch - a list that goes round
            if not first + HEAD.size <= free <= len(page) - 4:
                break
            taken += int.from_bytes(page[free + 2 : free + 4], "big")
            free = int.from_bytes(page[free : free + 2], "big")
        right: bool = taken == self._pages.usable - (begin or 65536)
        return right and count == len(cells)

    def kind(self, page: bytes, number: int) -> int:
        """Return what a page is, 0 if it is of no tree."""
        kind = page[100 if number == 1 else 0]
        return kind if kind in TREES else 0

    def cell(self, page: bytes, at: int, kind: int) -> Cell:
        """Return the cell at a place of a page.

        Raises:
            BrokenError: there is none.
        """
        if kind == INTERIOR_TABLE:  # a page and the last row id that is on it
            rowid, end = varint(page, at + 4)
            return Cell(rowid, at, at, 0, end, 0)
        size, start = varint(page, at + 4 * (kind == INTERIOR_INDEX))
        rowid = 0
        if kind == LEAF_TABLE:
            rowid, start = varint(page, start)
        return self.laid(rowid, start, size, kind, at)

    def laid(
        self, rowid: int, start: int, size: int, kind: int = LEAF_TABLE, begin: int = 0
    ) -> Cell:
        """Return a cell whose row of `size` bytes begins at `start`.

        Raises:
            BrokenError: it would not fit.
        """
        local, usable = self._local(size, kind), self._pages.usable
        end = start + local + 4 * (local < size)
        if not 0 < size <= ROW_BYTES or end > usable:
            raise BrokenError
        return Cell(rowid, begin or start, start, size, end, local)

    def _local(self, size: int, kind: int) -> int:
        """Return how many bytes of a row are on its own page."""
        usable = self._pages.usable
        most = usable - 35 if kind == LEAF_TABLE else (usable - 12) * 64 // 255 - 23
        if size <= most:
            return size
        least = (usable - 12) * 32 // 255 - 23
        kept = least + (size - least) % (usable - 4)
        return kept if kept <= most else least

    def values(self, page: bytes, cell: Cell) -> Values:
        """Return the values of a row.

        Raises:
            BrokenError: they are not all there.
        """
        data = page[cell.start : cell.start + cell.local]
        if cell.local < cell.size:
            data += self._overflow(page, cell)
        return decoded(data)

    def _overflow(self, page: bytes, cell: Cell) -> bytes:
        parts, left = [], cell.size - cell.local
        following = int.from_bytes(page[cell.end - 4 : cell.end], "big")
        while left > 0:
            self._overflow_left -= 1
            if not 1 < following <= len(self._pages) or self._overflow_left < 0:
                raise BrokenError
            data = self._pages.page(following)
            parts.append(data[4 : min(4 + left, self._pages.usable)])
            following, left = int.from_bytes(data[:4], "big"), left - len(parts[-1])
        return b"".join(parts)


def children(page: bytes, number: int, places: Iterator[int]) -> Iterator[int]:
    """Yield the pages that an interior page of a table names."""
    first = 100 if number == 1 else 0
    if page[first] == INTERIOR_TABLE:
        yield int.from_bytes(page[first + 8 : first + 12], "big")
        for at in places:
            yield int.from_bytes(page[at : at + 4], "big")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of one to nine bytes, and where it ends.

    Raises:
        BrokenError: it does not.
    """
    value = 0
    for n in range(at, min(at + 8, len(data))):
        byte = data[n]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, n + 1
    if at + 8 >= len(data):
        raise BrokenError
    value = value << 8 | data[at + 8]
    return value - (1 << 64 if value >> 63 else 0), at + 9


def types(data: bytes, at: int = 0) -> tuple[list[int], int, int]:
    """Return the types of a row's values, where these begin, and where they end.

    Raises:
        BrokenError: no row begins here.
    """
    size, here = varint(data, at)
    begin, found = at + size, []
    while here < begin:
        kind, here = varint(data, here)
        found.append(kind)
    if here != begin or not found or min(found) < 0:
        raise BrokenError
    return found, begin, begin + sum(map(_size, found))


def width(data: bytes) -> int:
    """Return how many values a row has, 0 if none begins here."""
    try:
        return len(types(data)[0])
    except BrokenError:
        return 0


def _size(kind: int) -> int:
    return _SIZES[kind] if kind < 10 else max(kind - 12, 0) // 2


def decoded(data: bytes) -> Values:
    """Return the values of a row.

    Raises:
        BrokenError: it is none, or a text is no UTF-8.
    """
    kinds, at, end = types(data)
    if end > len(data):
        raise BrokenError
    row = []
    for kind in kinds:
        size = _size(kind)
        row.append(_value(kind, data[at : at + size]))
        at += size
    return row


def _value(kind: int, data: bytes) -> Any:
    if kind >= 12:
        try:
            return data.decode() if kind & 1 else data
        except UnicodeDecodeError:
            raise BrokenError from None
    if kind == 7:
        return struct.unpack(">d", data)[0]
    if kind == 0 or kind > 9:
        return None
    return kind - 8 if kind > 7 else int.from_bytes(data, "big", signed=True)
