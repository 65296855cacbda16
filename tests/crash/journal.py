"""What happened to the files of a store, in order, with the acknowledgements between."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

_LENGTH = struct.Struct("<I")


class Journal:
    """A file of operations that several threads and processes append to, an operation a write.

    An operation is a list, its kind first:

        file name bytes           was there before, and on the disk
        open handle name          created if it is not there; other operations name the handle
        write handle offset bytes; truncate handle size; sync handle
        badsync handle            failed: what was not written is taken for written from here on
        link old new; rename old new; unlink name; dirsync
        ack facts                 whoever uses the store was told this: fact -> value

    A write is noted once it is done, a sync before it begins. So a sync of another thread never
    covers a write, in the journal, that it may have missed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, *operation: Any) -> None:
        """Append an operation."""
        data = msgspec.msgpack.encode(operation)
        os.write(self._file, _LENGTH.pack(len(data)) + data)

    def close(self) -> None:
        """Append no more."""
        os.close(self._file)


def read(path: str, start: int = 0) -> list[list[Any]]:
    """Return all operations of a journal, from byte `start` on."""
    with open(path, "rb") as file:
        file.seek(start)
        return list(_operations(file.read()))


def _operations(data: bytes) -> Iterator[list[Any]]:
    at = 0
    while at + 4 <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        yield msgspec.msgpack.decode(data[at + 4 : at + 4 + length])
        at += 4 + length
