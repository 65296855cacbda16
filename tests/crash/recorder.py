"""Keep the journal: an SQLite VFS over the system's, and Python's own calls that name files."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable
from typing import Any

import apsw

from .journal import Journal

_numbers = itertools.count()
_JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
_RECORDED = _JOURNALS | apsw.SQLITE_OPEN_MAIN_DB


class Recorder(apsw.VFS):
    """The system's VFS, which notes what changes a file.

    Args:
        journal: to note it in.
        sector: SQLite is told that the disk may damage the rest of a sector of this size while it
            writes to it (`psow=0`); None: that it does not, which is SQLite's assumption.
    """

    def __init__(self, journal: Journal, sector: int | None = None) -> None:
        self.journal, self.sector = journal, sector
        self.name = f"crash-{os.getpid()}-{next(_numbers)}"
        super().__init__(self.name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        if name is None or not flags[0] & _RECORDED:
            return super().xOpen(name, flags)
        self.check("open")
        return RecordedFile(self, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:
        self.check("delete")
        super().xDelete(name, sync)
        self.journal.add("unlink", os.path.basename(name))
        if sync:
            self.journal.add("dirsync")

    def sync(self, handle: str) -> None:
        """Note a sync; another disk may ignore it, or fail."""
        self.journal.add("sync", handle)

    def check(self, kind: str) -> None:
        """Do nothing before an operation; a broken disk raises."""

    def heal(self) -> None:
        """End whatever is wrong with the disk."""


class RecordedFile(apsw.VFSFile):
    """A file of a store, which notes what changes it."""

    def __init__(self, vfs: Recorder, name: Any, flags: list[int]) -> None:
        self._vfs, self._journal = vfs, vfs.journal
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        writes = flags[0] & apsw.SQLITE_OPEN_READWRITE
        # os_unix.c syncs the directory of a log or journal at its first sync: UNIXFILE_DIRSYNC
        self._dirsync = bool(flags[0] & _JOURNALS and flags[0] & apsw.SQLITE_OPEN_CREATE)
        self.handle = f"{os.getpid()}.{next(_numbers)}"
        super().__init__("unix", name, flags)
        if writes:
            self._journal.add("open", self.handle, os.path.basename(path))

    def xRead(self, amount: int, offset: int) -> bytes:
        self._vfs.check("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._vfs.check("write")
        super().xWrite(data, offset)
        self._journal.add("write", self.handle, offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        self._vfs.check("truncate")
        super().xTruncate(size)
        self._journal.add("truncate", self.handle, size)

    def xSync(self, flags: int) -> None:
        self._vfs.sync(self.handle)
        super().xSync(flags)
        if self._dirsync:
            self._dirsync = False
            self._journal.add("dirsync")

    def xDeviceCharacteristics(self) -> int:
        told = super().xDeviceCharacteristics()
        return told if self._vfs.sector is None else told & ~apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE

    def xSectorSize(self) -> int:
        return super().xSectorSize() if self._vfs.sector is None else self._vfs.sector


@contextlib.contextmanager
def file_calls(  # noqa: C901 - a function a call
    journal: Journal, directory: str, check: Callable[[str], object] = id
) -> Any:
    """Note what Python itself does to the names in a directory, and its sync.

    Args:
        journal: to note it in.
        directory: of the store.
        check: asked before each; a broken disk raises, and the caller sees an `OSError`.
    """
    was = {name: getattr(os, name) for name in ("open", "link", "rename", "replace", "fsync")}
    was |= {name: getattr(os, name) for name in ("unlink", "remove")}

    def inside(path: Any) -> str | None:
        path = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes)) else ""
        return os.path.basename(path) if os.path.dirname(path) == directory else None

    def allowed(kind: str) -> None:
        try:
            check(kind)
        except apsw.FullError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        except (apsw.IOError, apsw.CantOpenError) as error:
            code = errno.ENOSPC if "no room" in str(error) else errno.EIO
            raise OSError(code, os.strerror(code)) from error

    def open_(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & os.O_CREAT and inside(path) is not None:
            allowed("open")
        descriptor: int = was["open"](path, flags, *args, **more)
        if flags & os.O_CREAT and (name := inside(path)) is not None:
            journal.add("open", f"fd of {name}", name)
        return descriptor

    def two(kind: str, call: Any) -> Any:
        def named(old: Any, new: Any, **more: Any) -> None:
            if inside(old) is not None:
                allowed("link")
            call(old, new, **more)
            if inside(old) is not None:
                journal.add(kind, inside(old), inside(new))

        return named

    def unlink(path: Any, **more: Any) -> None:
        was["unlink"](path, **more)
        if inside(path) is not None:
            journal.add("unlink", inside(path))

    def fsync(descriptor: int) -> None:
        where = os.readlink(f"/proc/self/fd/{descriptor}")
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and where == directory:
            allowed("sync")
            journal.add("dirsync")
        elif (name := inside(where)) is not None:
            allowed("sync")
            journal.add("open", f"fd of {name}", name)
            journal.add("sync", f"fd of {name}")
        was["fsync"](descriptor)

    os.open, os.fsync, os.unlink, os.remove = open_, fsync, unlink, unlink
    os.link, os.rename = two("link", was["link"]), two("rename", was["rename"])
    os.replace = two("rename", was["replace"])
    try:
        yield
    finally:
        for name, call in was.items():
            setattr(os, name, call)
