"""Rows into a file that appears whole or not at all. Knows formats; nothing of steps or stores."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, BinaryIO, ParamSpec, TextIO, TypeVar

from ..values.codec import decode, encode
from .columns import Columns
from .formats import TableError, arrow, format_of
from .shape import to_json

P = ParamSpec("P")
R = TypeVar("R")
Row = dict[str, Any]

BATCH_ROWS, BATCH_BYTES = 16_384, 16 << 20
# What a spreadsheet takes for a formula; a plain number may begin with its sign.
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_OPEN_FILES = "/proc/self/fd"
_HEAD = struct.Struct(">?I")


class OutputClosedError(TableError):
    """The reader of our standard output has closed it: `ckpt ... | head`."""


@contextlib.contextmanager
def writing(path: str) -> Iterator[Callable[[Row], object]]:
    """Give a function that writes one row to `path`: `.jsonl`, `.json`, `.csv`, `.parquet` or `-`.

    Promises: the rows go to a temporary file next to `path`, which takes its name when the block
    ends well and is deleted otherwise, with `path` as it was; memory is bounded. Columns of CSV and
    Parquet are those of all rows, in the order in which they first came.

    Raises:
        TableError: at once: an unknown ending, a place that cannot be written; later: a full disk.
    """
    if path == "-":
        yield _to_stdout
        return
    sink_of = _SINKS[format_of(path)]
    target = os.path.realpath(path)
    file, temporary = _temporary(path, target)
    try:
        with sink_of(path, file) as sink:
            yield _naming(path, sink.write)
            _naming(path, sink.finish)()
            _naming(path, _publish)(file, temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        with contextlib.suppress(OSError):  # on a full disk, what is buffered does not fit either
            file.close()


def check_apart(output: str, store: str) -> None:
    """Raise if a file of rows would take the place of a store, or of its log: all is gone then.

    Raises:
        TableError: it would, through whichever link or name.
    """
    if output == "-":
        return
    for ending in ("", "-wal", "-shm"):
        place = os.path.realpath(store) + ending
        same = os.path.exists(output) and os.path.exists(place) and os.path.samefile(output, place)
        if same or os.path.realpath(output) == place:
            raise TableError(
                f"{output}: the store {store} is there, and a file of rows would replace it with "
                "all that is saved. Give OUTPUT another name"
            )


def _to_stdout(row: Row) -> None:
    try:
        sys.stdout.buffer.write(to_json(row) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosedError("standard output was closed") from error


def _temporary(path: str, target: str) -> tuple[BinaryIO, str]:
    directory, name = os.path.split(target)
    temporary = os.path.join(directory, f".{name}.{os.urandom(4).hex()}.tmp")
    if os.path.isdir(target):
        raise TableError(f"{path}: a directory; give the path of a file")
    try:
        return _nameless(directory) or open(temporary, "xb"), temporary
    except OSError as error:
        raise TableError(f"{path}: cannot be written here: {error.strerror}") from error


def _nameless(directory: str) -> BinaryIO | None:
    """Open a file without a name, where that can be: a kill then leaves nothing behind."""
    if not os.path.isdir(_OPEN_FILES):
        return None
    try:
        return open(os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    except (AttributeError, OSError):  # not Linux; or a file system that cannot
        return None


def _publish(file: BinaryIO, temporary: str, target: str) -> None:
    file.flush()
    os.fsync(file.fileno())
    if not os.path.exists(temporary):
        # src_dir_fd counts for nothing with an absolute path, but without one Python does not
        # ask for symlinks to be followed, and this is one
        os.link(f"{_OPEN_FILES}/{file.fileno()}", temporary, src_dir_fd=file.fileno())
    os.rename(temporary, target)


def _naming(path: str, act: Callable[P, R]) -> Callable[P, R]:
    """Have the errors of `act`, and of nothing else, name the file: a full disk, most of all."""

    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return act(*args, **kwargs)
        except OSError as error:
            raise TableError(f"{path}: {error.strerror or error}") from error

    return named


class _Sink:
    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path, self.file = path, file

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def write(self, row: Row) -> None:
        """Write one row."""
        self.file.write(to_json(row) + b"\n")

    def finish(self) -> None:
        """Write what comes after the last row."""


class _Json(_Sink):
    before = b"[\n"

    def write(self, row: Row) -> None:
        self.file.write(self.before + to_json(row))
        self.before = b",\n"

    def finish(self) -> None:
        self.file.write(b"[]\n" if self.before == b"[\n" else b"\n]\n")


class _Spooled(_Sink):
    """Keep the rows in a nameless temporary file: the columns are known only at the end."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        super().__init__(path, file)
        self.columns: dict[str, None] = {}
        self._spool = tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path)))  # noqa: SIM115 - closed by __exit__

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._spool.close()

    def write(self, row: Row) -> None:
        self.columns.update(dict.fromkeys(row))
        data = encode(row)
        raw = data.encode() if isinstance(data, str) else data
        self._spool.write(_HEAD.pack(isinstance(data, str), len(raw)) + raw)

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


class _Lines:
    """End lines as Unix does. Told to do so, `csv` itself leaves a carriage return unquoted."""

    def __init__(self, text: TextIO) -> None:
        self._text = text

    def write(self, line: str) -> None:
        """Write a line that ends in a carriage return and a line feed."""
        self._text.write(line[:-2] + "\n")


class _Csv(_Spooled):
    def finish(self) -> None:
        text = io.TextIOWrapper(self.file, encoding="utf-8", newline="")
        writer = csv.writer(_Lines(text))
        if self.columns:
            writer.writerow(map(_cell, self.columns))
        for rows in self.batches():
            writer.writerows([_cell(row.get(name)) for name in self.columns] for row in rows)
        text.detach()


def _cell(value: Any) -> str:
    """Return a CSV cell; text that a spreadsheet would run as a formula gets a quote before it."""
    if isinstance(value, str):
        is_formula = _FORMULA.match(value) and not _NUMBER.fullmatch(value)
        return "'" + value if is_formula else value
    if value is None:
        return ""
    if isinstance(value, float | Decimal):
        return str(value)
    return to_json(value).decode().strip('"')


class _Parquet(_Spooled):
    def __init__(self, path: str, file: BinaryIO) -> None:
        self._parquet = arrow(path)[1]
        super().__init__(path, file)

    def finish(self) -> None:
        columns = Columns(self.path, list(self.columns))
        for rows in self.batches():
            columns.learn(rows)
        while not self._written(columns):  # each time with one more column as text
            self.file.seek(0)
            self.file.truncate()

    def _written(self, columns: Columns) -> bool:
        with self._parquet.ParquetWriter(self.file, columns.schema()) as writer:
            for rows in self.batches():
                batch = columns.batch(rows)
                if batch is None:
                    return False
                writer.write_batch(batch)
        return True


_SINKS: dict[str, type[_Sink]] = {
    "jsonl": _Sink,
    "json": _Json,
    "csv": _Csv,
    "parquet": _Parquet,
}
