"""Find the rows on all pages of a damaged file. Knows what a record begins with; no other table."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import msgspec

from .cells import BrokenError, Cell, Cells, Values, children, types, varint, width
from .pages import INTERIOR_TABLE, LEAF_TABLE, Pages
from .verify import OnProgress

# The types of a record's first values, behind the size of its header: the id, which is the row's
# own and so null; key and identity, 16 bytes each.
_BEGIN = re.compile(rb"\x00\x2c\x2c")


class Row(msgspec.Struct):
    """A row of some table or index; if it is not whole, how many values it has, and `head`.

    Attributes:
        rowid: 0 in an index.
        width: how many values.
        values: None if they are not all there.
        head: the first bytes of a row that is not whole.
    """

    rowid: int
    is_index: bool
    width: int
    values: Values | None
    head: bytes = b""


class Scan:
    """All rows of a file, whatever its header, schema and inner pages say.

    Args:
        pages: of the file.
        width: how many values a record has on disk.

    Attributes:
        spoilt: pages that are not what they were.
    """

    def __init__(self, pages: Pages, width: int) -> None:
        self._pages, self._cells, self._width = pages, Cells(pages), width
        self._leaves = bytearray(len(pages) + 1)  # 1: some page of a tree names it
        self.spoilt = 0

    def rows(self, progress: OnProgress) -> Iterator[Row]:
        """Yield the rows; if a page's newest image is damaged, those of older images too."""
        count = len(self._pages)
        for number in range(1, count + 1):
            page = self._pages.page(number)
            for child in self._named_by(page, number):
                if child <= count:
                    self._leaves[child] = 1
        for number in range(1, count + 1):
            progress("pages", number / count)
            for page in self._pages.images(number):
                yield from self._on_page(page, number)

    def _named_by(self, page: bytes, number: int) -> Iterator[int]:
        """Yield the pages of tables that a page names; if it is the schema's, only the records'."""
        yield from children(page, number, self._cells.places(page, number))
        if number == 1 and self._cells.kind(page, 1) == LEAF_TABLE:
            for row in self._on_page(page, 1):
                match row.values:
                    case ["table", "records", _, int(root), _]:
                        yield root

    def _on_page(self, page: bytes, number: int) -> Iterator[Row]:
        kind, cells = self._cells.kind(page, number), []
        for place in self._cells.places(page, number) if kind else ():
            with contextlib.suppress(BrokenError):
                cells.append(self._cells.cell(page, place, kind))
        if kind != INTERIOR_TABLE:
            yield from (self._row(page, cell, kind) for cell in cells)
        if not self._is_sound(page, number, kind, cells):
            self.spoilt += 1
            rows = [cell for cell in cells if _fits(page, cell)]  # others only seem to be there
            yield from self._unnamed(page, rows)

    def _is_sound(self, page: bytes, number: int, kind: int, cells: list[Cell]) -> bool:
        """Tell whether a page was no leaf of a table, or surely names all that is on it.

        One that may be an overflow page counts as sound, for a user's bytes are on it.
        """
        if kind in (LEAF_TABLE, INTERIOR_TABLE):
            return self._cells.is_sound(page, number, cells)
        if self._leaves[number]:
            return False
        return bool(kind) or number == 1 or int.from_bytes(page[:4], "big") <= len(self._pages)

    def _unnamed(self, page: bytes, taken: list[Cell]) -> Iterator[Row]:
        """Yield the records that are on a page though the page does not name them."""
        for match in _BEGIN.finditer(page):
            at = match.start() - 1
            if at < 2 or any(cell.start <= at < cell.end for cell in taken):
                continue
            try:
                kinds, _, end = types(page, at)
                cell = self._cells.laid(_rowid_before(page, at), at, end - at)
            except BrokenError:  # pragma: no cover - chance: bytes that only look like a head
                continue
            if len(kinds) == self._width:  # pragma: no branch - as above
                taken.append(cell)
                yield self._row(page, cell, LEAF_TABLE)

    def _row(self, page: bytes, cell: Cell, kind: int) -> Row:
        is_index = kind != LEAF_TABLE
        try:
            values = self._cells.values(page, cell)
            return Row(cell.rowid, is_index, len(values), values)
        except BrokenError:
            head = page[cell.start : cell.end]
            return Row(cell.rowid, is_index, width(head), None, head)


def _fits(page: bytes, cell: Cell) -> bool:
    """Tell whether a row is as long as its header says."""
    try:
        return types(page, cell.start)[2] - cell.start == cell.size
    except BrokenError:  # pragma: no cover - chance: damage inside of a head
        return False


def _rowid_before(page: bytes, at: int) -> int:
    """Return the number that ends at a place, which is a row's id; 0 if there is none."""
    begin = at - 1
    while begin > max(at - 9, 0) and page[begin - 1] & 0x80:
        begin -= 1
    rowid, end = varint(page, begin)
    return rowid if end == at else 0
