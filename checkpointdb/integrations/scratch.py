"""A directory on this machine for the segments of one process, and what killed ones left in theirs.

Each process locks its own: the lock ends with it, so that who comes next knows what is left behind.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator

from .. import system
from ..errors import StoreError

_TRIES = 10


class Scratch:
    """A directory of this process's own, for as long as it lives.

    Args:
        where: a directory of a local disk; among the system's temporary files unless given.
        folder: the one that segments are shipped to: those for other folders are left alone.

    Raises:
        StoreError: others can write there, and put results of theirs in; or it has no locks.
    """

    def __init__(self, where: str | None, folder: str) -> None:
        where = where or os.path.join(tempfile.gettempdir(), f"checkpointdb-{os.geteuid()}")
        _make_ours(where)
        name = hashlib.blake2b(os.fsencode(folder), digest_size=8).hexdigest()
        self._all = os.path.join(where, name)
        _make_ours(self._all)
        self._path, self._descriptor = self._mine()

    def _mine(self) -> tuple[str, int]:
        for _ in range(_TRIES):
            path = tempfile.mkdtemp(dir=self._all)
            # Until it is locked, another process may take it for one that was left, and delete it.
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                if system.lock(descriptor) and os.path.isdir(path):
                    return path, descriptor
                os.close(descriptor)
        raise StoreError(f"{self._all}: has no locks; give a directory of a local disk", self._all)

    def new(self) -> str:
        """Return the path for another store."""
        return os.path.join(self._path, f"{os.urandom(8).hex()}.ckpt")

    def shared(self) -> str:
        """Return a directory next to it for all processes of this user that ship to one place."""
        path = f"{self._all}.shared"
        _make_ours(path)
        return path

    def empty_others(self, take: Callable[[str], bool]) -> None:
        """Have `take` each store that a killed process left; what it takes is deleted."""
        for path in glob.glob(os.path.join(glob.escape(self._all), "*")):
            with contextlib.suppress(FileNotFoundError), _opened(path) as descriptor:
                if path != self._path and system.lock(descriptor):
                    stores = glob.glob(os.path.join(glob.escape(path), "*.ckpt"))
                    taken = [take(store) for store in stores]
                    if all(taken):
                        shutil.rmtree(path)

    def remove(self) -> None:
        """Delete it. Can be repeated."""
        if self._descriptor >= 0:
            shutil.rmtree(self._path, ignore_errors=True)
            self.release()

    def release(self) -> None:
        """Leave it, and what is in it, to whoever comes next."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make_ours(path: str) -> None:
    os.makedirs(path, 0o700, exist_ok=True)
    status = os.lstat(path)
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or others:
        raise StoreError(
            f"{path}: is not a directory that only you can write to, and what lies there is taken "
            "for results: give another scratch=",
            path,
        )
