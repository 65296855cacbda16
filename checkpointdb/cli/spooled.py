"""Rows kept on disk until all have come, for formats with columns. Knows bytes; knows no format."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from ..values.codec import decode, encode
from .shape import Shape, to_json

Row = dict[str, Any]

BATCH_ROWS, BATCH_BYTES = 16_384, 16 << 20
_HEAD = struct.Struct(">?I")


@dataclasses.dataclass(frozen=True)
class Target:
    """What a sink writes to, and what is known of the rows to come.

    Attributes:
        path: as it was given, for errors and for temporary files.
        file: where the bytes go.
        shape: of the rows.
        declared: columns of the input, each with its Arrow type, or None if it has none; it fills
            as the input is read, and need not be full before the last row is written.
        delimiter: of CSV.
    """

    path: str
    file: BinaryIO
    shape: Shape
    declared: Mapping[str, Any]
    delimiter: str = ","


class Sink:
    """Write rows: by itself, as JSON lines."""

    def __init__(self, target: Target) -> None:
        self.target, self.file = target, target.file

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def write(self, row: Row) -> None:
        """Write one row."""
        self.file.write(to_json(row) + b"\n")

    def finish(self) -> None:
        """Write what comes after the last row."""


class Spooled(Sink):
    """Keep the rows in a nameless temporary file: the columns are known only at the end."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._seen: dict[str, None] = {}
        folder = os.path.dirname(os.path.realpath(target.path))
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._spool.close()

    def write(self, row: Row) -> None:
        """Keep one row."""
        self._seen.update(dict.fromkeys(row))
        data = encode(row)
        raw = data.encode() if isinstance(data, str) else data
        self._spool.write(_HEAD.pack(isinstance(data, str), len(raw)) + raw)

    def columns(self) -> list[str]:
        """Return the columns of all rows, in the order in which they first came.

        Where no row came they are those of the input, with the result's.
        """
        last = () if self._seen or not self.target.declared else self.target.shape.added()
        return list(dict.fromkeys([*self.target.declared, *self._seen, *last]))

    def batches(self) -> Iterator[list[Row]]:
        """Yield all rows, in lists of bounded size."""
        self._spool.seek(0)
        rows: list[Row] = []
        size = 0
        while head := self._spool.read(_HEAD.size):
            is_text, length = _HEAD.unpack(head)
            raw = self._spool.read(length)
            rows.append(decode(raw.decode() if is_text else raw))
            size += length
            if len(rows) == BATCH_ROWS or size >= BATCH_BYTES:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows
