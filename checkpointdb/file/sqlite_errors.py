"""Turn what SQLite and apsw raise into our errors, which name the file and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import apsw

from ..errors import StoreCorruptError, StoreError, StoreFullError, StoreLockedError
from ..wording import safe
from . import pragmas


@contextlib.contextmanager
def mapped(path: str) -> Iterator[None]:
    """Turn what apsw raises into our errors, naming the file and what to do."""
    try:
        yield
    except apsw.Error as error:
        raise mapped_error(error, path) from error
    except UnicodeDecodeError as error:
        raise mapped_error(apsw.CorruptError(f"a text is not UTF-8: {error}"), path) from error


def mapped_error(error: apsw.Error, path: str) -> StoreError:
    """Return the error of ours that says the same of this file."""
    said = safe(error)  # it may name what stands in the file
    match error:
        case apsw.FullError():
            return StoreFullError(
                f"{path}: the disk is full; nothing pending is lost. Make room: the next commit "
                "tries again",
                path,
            )
        case apsw.BusyError() | apsw.LockedError():
            return StoreLockedError(
                f"{path}: another process has held the write lock for "
                f"{pragmas.BUSY_MILLISECONDS // 1000} s; nothing pending is lost",
                path,
            )
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreCorruptError(
                f"{path}: the file is damaged ({said}). Keep it as it is, with its -wal and -shm. "
                "`ckpt verify STORE` says what is damaged, and `ckpt salvage STORE -o NEW` brings "
                "all that is whole into a new store",
                path,
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.CantOpenError():
            return StoreError(
                f"{path}: cannot be opened ({said}). Check the permissions of the file and, for "
                "writing, of its directory, where SQLite puts two files next to it",
                path,
            )
        case _:
            return StoreError(f"{path}: {type(error).__name__}: {said}", path)


def not_sqlite(path: str, why: str) -> StoreError:
    """Say that a file is not one of SQLite's."""
    return StoreError(
        f"{path}: not a checkpointdb store, nor any SQLite file ({why}); nothing was written. "
        "Give another path, or move the file away",
        path,
    )
