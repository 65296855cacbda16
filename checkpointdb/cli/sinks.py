"""Rows into a file that appears whole or not at all. Knows formats; nothing of steps or stores."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, ParamSpec, TypeVar, cast

from .. import system
from ..file.new_file import check_new, take_name
from ..frames.columns import Columns
from ..frames.packages import TableError, arrow
from .csv_sink import CsvSink
from .formats import DELIMITERS, format_of
from .shape import Shape
from .spooled import Sink, Spooled, Target, joined

P = ParamSpec("P")
R = TypeVar("R")


class OutputClosedError(TableError):
    """The reader of our standard output has closed it: `ckpt ... | head`."""


@contextlib.contextmanager
def writing(
    path: str,
    shape: Shape | None = None,
    declared: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Iterator[Callable[[Sequence[Any]], object]]:
    """Give a function that writes rows to `path`; its ending names the format, `-` is stdout.

    Promises: the rows go to a temporary file next to `path`. If the block ends well, that file
    takes the name `path`; otherwise it is deleted, and `path` stays as it was. Memory is bounded.
    Columns of CSV and Parquet are those of all rows, in the order in which they first came.

    Args:
        path: of the file.
        shape: of the rows.
        declared: columns of the input, see `Target`.
        force: whether a file of that name is replaced.

    Raises:
        TableError: at once: an unknown ending, a place that cannot be written, a link, a file that
            is there; later: a full disk.
    """
    if path == "-":
        yield _to_stdout
        return
    format, is_gzipped = format_of(path)
    with replacing(path, force) as file:
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
def replacing(path: str, force: bool = False) -> Iterator[BinaryIO]:
    """Give a file that takes the name `path` when the block ends well, and is gone otherwise.

    Args:
        path: of the file.
        force: whether a file of that name is replaced.

    Raises:
        TableError: at once: a place that cannot be written, a link, a file that is there; later: a
            full disk.
    """
    file, temporary = _temporary(path, force)
    try:
        yield file
        _naming(path, _publish)(file, temporary, path, force)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        with contextlib.suppress(OSError):
            file.close()


def is_same(one: str, other: str) -> bool:
    """Tell whether two paths are one file, through whichever link or name; `-` is none."""
    if "-" in (one, other):
        return False
    if os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other):
        return True
    return os.path.realpath(one) == os.path.realpath(other)


def check_apart(output: str, store: str) -> None:
    """Raise if a file of rows would take the place of a store, or of its log: all is gone then.

    Raises:
        TableError: it would, through whichever link or name.
    """
    if output == "-":
        return
    for ending in ("", "-wal", "-shm"):
        if is_same(output, os.path.realpath(store) + ending):
            raise TableError(
                f"{output}: the store {store} is there, and a file of rows would replace it with "
                "all that is saved. Give OUTPUT another name"
            )


def _to_stdout(rows: Sequence[Any]) -> None:
    try:
        sys.stdout.buffer.write(joined(rows, b"\n") + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosedError("standard output was closed") from error


def _temporary(path: str, force: bool) -> tuple[BinaryIO, str]:
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(4).hex()}.tmp")
    _naming(path, check_new)(path, force)
    try:
        return system.nameless(directory or ".") or open(temporary, "xb"), temporary
    except OSError as error:
        raise TableError(f"{path}: cannot be written here: {error.strerror}") from error


def _publish(file: BinaryIO, temporary: str, path: str, force: bool) -> None:
    file.flush()
    system.full_sync(file.fileno())
    if os.path.exists(temporary):
        take_name(temporary, path, force)
    elif force:
        system.name(file, temporary)
        take_name(temporary, path, force)
    else:  # no other name that a kill could leave behind
        check_new(path)
        system.name(file, path)
        system.sync_directory(os.path.dirname(path) or ".")


def _naming(path: str, act: Callable[P, R]) -> Callable[P, R]:
    """Make the errors of `act`, and of nothing else, name the file: above all a full disk."""

    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return act(*args, **kwargs)
        except OSError as error:
            raise TableError(f"{path}: {error.strerror or error}") from error

    return named


class _Json(Sink):
    before = b"[\n"

    def write(self, rows: Sequence[Any]) -> None:
        self.file.write(self.before + joined(rows, b",\n"))
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
