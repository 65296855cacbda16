"""Rows kept on disk until all have come, for formats with columns. Knows bytes; knows no format."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import msgspec

from ..frames.spool import Spool
from ..frames.to_json import to_json
from .shape import Shape

Row = dict[str, Any]


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


def joined(rows: Sequence[Row | msgspec.Raw], between: bytes) -> bytes:
    """Return rows as JSON; one that is JSON already stays as it is."""
    return between.join([row if type(row) is msgspec.Raw else to_json(row) for row in rows])


class Sink:
    """Write rows; this base class writes JSON lines."""

    def __init__(self, target: Target) -> None:
        self.target, self.file = target, target.file

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def write(self, rows: Sequence[Row | msgspec.Raw]) -> None:
        """Write some rows; one that is JSON already is written as it is."""
        self.file.write(joined(rows, b"\n") + b"\n")

    def finish(self) -> None:
        """Write what comes after the last row."""


class Spooled(Sink):
    """Keep the rows in a temporary file: the columns are known only at the end."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._seen: dict[str, None] = {}
        self._spool = Spool(os.path.dirname(os.path.realpath(target.path)))

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._spool.close()

    def write(self, rows: Sequence[Any]) -> None:
        """Keep some rows."""
        for row in rows:
            self.keep(row)

    def keep(self, row: Row) -> None:
        """Keep one row."""
        self._seen.update(dict.fromkeys(row))
        self._spool.write(row)

    def columns(self) -> list[str]:
        """Return the columns of all rows, in the order in which they first came.

        If no row came, they are those of the input and of the result.
        """
        last = () if self._seen or not self.target.declared else self.target.shape.added()
        return list(dict.fromkeys([*self.target.declared, *self._seen, *last]))

    def batches(self) -> Iterator[list[Row]]:
        """Yield all rows, in lists of bounded size."""
        return self._spool.batches()
