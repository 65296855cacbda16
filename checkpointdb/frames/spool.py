"""Values kept on disk until all have come, for what has columns. Knows bytes; knows no format."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from typing import Any

from ..values.codec import decode, encode

BATCH_ROWS, BATCH_BYTES = 16_384, 16 << 20
_HEAD = struct.Struct(">?I")


class Spool:
    """Values of any type in a nameless temporary file, which no kill leaves behind.

    Args:
        folder: where the file is; the system's folder of temporary files unless given.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - see `close`

    def write(self, value: Any) -> None:
        """Keep one value."""
        data = encode(value)
        raw = data.encode() if isinstance(data, str) else data
        self._file.write(_HEAD.pack(isinstance(data, str), len(raw)) + raw)

    def batches(self) -> Iterator[list[Any]]:
        """Yield all values, in lists of bounded size."""
        self._file.seek(0)
        values: list[Any] = []
        size = 0
        while head := self._file.read(_HEAD.size):
            is_text, length = _HEAD.unpack(head)
            raw = self._file.read(length)
            values.append(decode(raw.decode() if is_text else raw))
            size += length
            if len(values) == BATCH_ROWS or size >= BATCH_BYTES:
                yield values
                values, size = [], 0
        if values:
            yield values

    def close(self) -> None:
        """Give back the file's room."""
        self._file.close()
