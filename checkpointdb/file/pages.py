"""The pages of a damaged store, its log included, read without SQLite. Knows bytes; no table.

They are read through SQLite's VFS all the same: to close another descriptor of a file would drop
the locks that this process may have on it.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import apsw

from . import wal
from .pragmas import PAGE_SIZE

INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE = 2, 5, 10, 13
TREES = (INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE)
MAGIC = b"SQLite format 3\0"
SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
CHECKSUMMED = 8  # bytes of a page that SQLite's cksumvfs reserves; nobody else does any
SAMPLE = 500  # pages to tell the page size by
LIKELY = 0.3  # of them, in a file of SQLite's; results of a megabyte each have fewer
HEAD = struct.Struct(">BHHHB")  # kind, first free block, cells, where they begin, free bytes


class Pages:
    """The pages of a file as the last commit left them.

    Attributes:
        size: of a page.
        usable: bytes of it that SQLite uses.
        missing: how many fewer pages the file has than it says; 0 if it does not say.
    """

    def __init__(self, path: str, vfs: str | None = None) -> None:
        self._main = _opened(path, apsw.SQLITE_OPEN_MAIN_DB, vfs)
        self._log = None
        try:
            with contextlib.suppress(apsw.CantOpenError):
                self._log = _opened(path + "-wal", apsw.SQLITE_OPEN_WAL, vfs)
            self._bytes = self._main.xFileSize()
            head = _read(self._main, 100, 0)
            self.size = _page_size(self._main)
            self.usable = self.size - (CHECKSUMMED if head[20] == CHECKSUMMED else 0)
            self._in_main = -(-self._bytes // self.size)
            self._frames = {} if self._log is None else wal.images(self._log, self.size)
            told = int.from_bytes(head[28:32], "big") if head.startswith(MAGIC) else 0
            self.missing = max(0, told - len(self)) if told < 1 << 31 else 0
        except BaseException:  # pragma: no cover - the disk fails
            self.close()
            raise

    def close(self) -> None:
        """Close both files."""
        for file in (self._main, self._log):
            if file is not None:
                file.xClose()

    def __len__(self) -> int:
        count: int = max((self._in_main, *self._frames))
        return count

    def images(self, number: int) -> Iterator[bytes]:
        """Yield a page as the last commit left it; where that is damaged, older images too."""
        frames = self._frames.get(number, ())
        for at, _ in frames:
            yield _read(self._log, self.size, at)
        if not (frames and frames[-1][1]) and 0 < number <= self._in_main:
            yield _read(self._main, self.size, (number - 1) * self.size)

    def page(self, number: int) -> bytes:
        """Return a page as the last commit left it, zeros if there is none."""
        return next(self.images(number), b"\0" * self.size)


def looks_like_pages(path: str, vfs: str | None = None) -> bool:
    """Tell whether most of a file is made of SQLite's pages, whatever its first one says."""
    file = _opened(path, apsw.SQLITE_OPEN_MAIN_DB, vfs)
    try:
        return max(_share(file, size) for size in SIZES) > LIKELY
    finally:
        file.xClose()


def _page_size(file: Any) -> int:
    """Return the size that the pages have, whatever the header says.

    If half of it is tried, every other page is not a page; if twice of it, all that are seen are.
    """
    shares = {size: _share(file, size) for size in SIZES}
    best = max(shares.values())
    if not best:
        return PAGE_SIZE
    return next(size for size, share in shares.items() if share > 0.8 * best)


def _share(file: Any, size: int) -> float:
    """Return which share of the pages looks like one of a tree, if they have this size."""
    places = range(size, file.xFileSize(), size)
    places = places[:: max(len(places) // SAMPLE, 1)]
    heads = (_read(file, HEAD.size, at) for at in places)
    return sum(_is_tree(head, size) for head in heads) / max(len(places), 1)


def _is_tree(head: bytes, size: int) -> bool:
    """Tell whether a page begins as one of a tree does, and is filled as one of this size."""
    kind, _, cells, begin, _ = HEAD.unpack_from(head)
    begin = begin or 65536
    room = HEAD.size + 4 * (kind in (INTERIOR_INDEX, INTERIOR_TABLE)) + 2 * cells
    return kind in TREES and room <= begin <= size and (cells > 0 or begin > size - 256)


def _opened(path: str, kind: int, vfs: str | None) -> Any:
    return apsw.VFSFile(vfs or "unix", path, [kind | apsw.SQLITE_OPEN_READONLY, 0])


def _read(file: Any, amount: int, at: int) -> bytes:
    """Return bytes of a file, zeros where it has ended."""
    data: bytes = file.xRead(amount, at)
    return data.ljust(amount, b"\0")
