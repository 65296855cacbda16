"""Rows into a file that appears whole or not at all. Knows formats; nothing of steps or stores."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ParamSpec, TypeVar, cast

from .columns import Columns
from .csv_sink import CsvSink
from .formats import DELIMITERS, TableError, arrow, format_of
from .shape import Shape, to_json
from .spooled import Row, Sink, Spooled, Target

P = ParamSpec("P")
R = TypeVar("R")
_OPEN_FILES = "/proc/self/fd"


class OutputClosedError(TableError):
    """The reader of our standard output has closed it: `ckpt ... | head`."""


@contextlib.contextmanager
def writing(
    path: str, shape: Shape | None = None, declared: Mapping[str, Any] | None = None
) -> Iterator[Callable[[Row], object]]:
    """Give a function that writes one row to `path`; its ending names the format, `-` is stdout.

    Promises: the rows go to a temporary file next to `path`, which takes its name when the block
    ends well and is deleted otherwise, with `path` as it was; memory is bounded. Columns of CSV and
    Parquet are those of all rows, in the order in which they first came.

    Args:
        path: of the file.
        shape: of the rows.
        declared: columns of the input, see `Target`.

    Raises:
        TableError: at once: an unknown ending, a place that cannot be written; later: a full disk.
    """
    if path == "-":
        yield _to_stdout
        return
    format, is_gzipped = format_of(path)
    with replacing(path) as file:
        # without a name and a time in it: the same rows are the same bytes
        packed = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if is_gzipped else None
        known = {} if declared is None else declared  # an empty one fills later
        stream = cast("BinaryIO", packed or file)
        target = Target(path, stream, shape or Shape(), known, DELIMITERS.get(format, ","))
        try:
            with _SINKS[format](target) as sink:
                yield _naming(path, sink.write)
                _naming(path, sink.finish)()
            if packed:
                _naming(path, packed.close)()
        finally:
            with contextlib.suppress(OSError):  # on a full disk, what is buffered fits no better
                if packed:
                    packed.close()


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Give a file that takes the name `path` when the block ends well, and is gone otherwise.

    Raises:
        TableError: a place that cannot be written, at once; a full disk, later.
    """
    place = os.path.realpath(path)
    file, temporary = _temporary(path, place)
    try:
        yield file
        _naming(path, _publish)(file, temporary, place)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        with contextlib.suppress(OSError):
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


class _Json(Sink):
    before = b"[\n"

    def write(self, row: Row) -> None:
        self.file.write(self.before + to_json(row))
        self.before = b",\n"

    def finish(self) -> None:
        self.file.write(b"[]\n" if self.before == b"[\n" else b"\n]\n")


class _Parquet(Spooled):
    def __init__(self, target: Target) -> None:
        self._parquet = arrow(target.path)[1]
        super().__init__(target)

    def finish(self) -> None:
        columns = Columns(self.target.path, self.columns(), self.target.declared)
        for rows in self.batches():
            columns.learn(rows)
        while not self._written(columns):  # each time with one more column of another type
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


_SINKS: dict[str, type[Sink]] = {
    "jsonl": Sink,
    "json": _Json,
    "csv": CsvSink,
    "tsv": CsvSink,
    "parquet": _Parquet,
}
