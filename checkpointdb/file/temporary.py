"""A file that takes its name when it is whole. Knows files and names; nothing of what is in them.

A killed process leaves what it had made so far next to that name. Whoever makes a file of the same
name next removes it: its maker holds a lock on it, which ends with the process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from .. import system
from ..errors import StoreError
from .locks import lockers

MINUTE = 60.0  # more than it takes from giving up the lock to the name
_ENDINGS = ("", "-journal", "-wal", "-shm", "-segment")


@contextlib.contextmanager
def half_made(path: str, replace: bool = False) -> Iterator[str]:
    """Give the name of an empty file, mode 0600, which becomes `path` if the block ends well.

    Promise: under its name it appears whole, on the disk, or never; a link of that name is not
    followed. The block has synced what it wrote.

    Args:
        path: where it is to be.
        replace: whether it may take the place of another file.

    Raises:
        OSError: it cannot be made here; FileExistsError: there is something of that name.
    """
    _remove_dead(path)
    temporary = f"{path}.{os.urandom(4).hex()}.tmp"
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        try:
            system.lock(descriptor)
            yield temporary
        finally:  # before it has its name: closing it would drop the locks of who opens it then
            os.close(descriptor)
        _publish(temporary, path, replace)
        system.sync_directory(os.path.dirname(path) or ".")
    finally:
        _remove(temporary)


@contextlib.contextmanager
def beside(temporary: str, data: bytes) -> Iterator[str]:
    """Give the name of a file of these bytes, mode 0600, next to one that nobody else writes to.

    It is removed after the block or, after a kill, by the next one of its name, or together with
    the other file if `half_made` gave that.
    """
    path = f"{temporary}-segment"
    _remove(path)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
        yield path
    finally:
        _remove(path)


def _publish(temporary: str, path: str, replace: bool) -> None:
    if replace:
        _remove(path + "-wal", path + "-shm")  # the log of what was there would be read with it
        system.sync_directory(os.path.dirname(path) or ".")
        os.rename(temporary, path)
        return
    system.give_name(temporary, path)


def _remove_dead(path: str) -> None:
    """Remove what was to become `path` and whose maker was killed."""
    directory, name = os.path.split(path)
    with contextlib.suppress(OSError):
        for found in os.listdir(directory or "."):
            there = os.path.join(directory, found)
            if _may_become(found, name) and _is_dead(there, path):
                _remove(*(there + ending for ending in _ENDINGS))


def _may_become(found: str, name: str) -> bool:
    if not (found.startswith(name + ".") and found.endswith(".tmp")):
        return False
    digits = found[len(name) + 1 : -4]
    return len(digits) == 8 and set(digits) <= set("0123456789abcdef")


def _is_dead(temporary: str, path: str) -> bool:
    with contextlib.suppress(OSError):
        status = os.lstat(temporary)
        if status.st_nlink > 1:  # killed after it got its name: a second one of the same file
            return os.path.samefile(temporary, path)
        if time.time() - status.st_mtime < MINUTE:
            return False
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return system.lock(descriptor)
        finally:
            os.close(descriptor)
    return False


def _remove(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def check_target(source: str, target: str, force: bool | None) -> None:
    """Raise if a new file must not take this name.

    Args:
        source: what it is made of.
        target: the name.
        force: whether it may take the place of another one; None if it never may.

    Raises:
        StoreError: there is something, and no `force`; it is the source, or not a plain file, or
            a store that somebody has open.
    """
    if os.path.lexists(target):
        if not force:
            raise taken(target, has_force=force is not None)
        if os.path.islink(target) or not os.path.isfile(target):
            raise StoreError(f"{target}: not a plain file; it is left as it is", target)
        if os.path.exists(source) and os.path.samefile(source, target):
            raise StoreError(f"{target}: is the store itself; give another path", target)
        if lockers(target) or lockers(target + "-shm"):
            raise StoreError(f"{target}: a store that is open; close it everywhere first", target)
    elif os.path.lexists(target + "-wal"):
        raise StoreError(
            f"{target}-wal: the log of another store is here, and would be read as this one's. "
            "Move it away, or give another path",
            target,
        )


def taken(target: str, has_force: bool = True) -> StoreError:
    """Say that there is something of that name."""
    what_to_do = "Give another path" + ", or force" * has_force
    return StoreError(f"{target}: exists; nothing was written. {what_to_do}", target)
