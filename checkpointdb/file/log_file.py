"""The -wal under an open store: is it still there, is it on the disk. Knows SQLite; no table."""

from __future__ import annotations

import logging
import os

import apsw

from ..errors import StoreError
from . import connection as files
from . import pragmas
from .locks import lockers

log = logging.getLogger("checkpointdb")


class LogFile:
    """Watch over the file to which a writing connection writes first.

    After a failed sync the kernel treats unwritten data as written: the next sync succeeds and says
    nothing of it. So what is in the log by then is not trusted to be on the disk until all of it
    was copied into the main file, and that file was synced.

    All but `check` is called under `Log.lock`.
    """

    def __init__(self, path: str, writer: apsw.Connection) -> None:
        self._path, self._writer = path, writer
        self._main, self._log = files.identity(path), files.identity(path + "-wal")
        self.is_doubtful = False  # a sync has failed since it was begun anew
        self._is_long = False  # it grows, and that was said
        writer.set_wal_hook(self._committed)

    def _committed(self, writer: apsw.Connection, _name: str, pages: int) -> int:
        """Move a long log into the main file, as SQLite's own hook does, but see its failures.

        One large commit makes a log long, too; if all of it could be moved, nobody keeps it so.
        """
        moved = 0
        if pages >= pragmas.WAL_PAGES:
            try:
                _, moved = writer.wal_checkpoint()
            except apsw.IOError:
                self.is_doubtful = True
            except apsw.Error:  # a full disk, say: the next commit tries again
                pass
        if pages * pragmas.PAGE_SIZE > pragmas.WAL_BYTES and moved < pages and not self._is_long:
            self._is_long = True
            log.warning("%s", _grows(self._path, pages * pragmas.PAGE_SIZE))
        return apsw.SQLITE_OK

    def begin_anew(self) -> None:
        """Bring all that is in the log into the main file and begin the log again.

        Raises:
            apsw.BusyError: somebody else reads from it.
        """
        self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self.is_doubtful = False

    def save_if_gone(self) -> None:
        """Bring what was committed into the main file, if the log has lost its name."""
        if not os.path.lexists(self._path + "-wal"):
            self._writer.wal_checkpoint()

    def check_name(self) -> None:
        """Raise if the path names another file by now, or none."""
        if files.identity(self._path) != self._main:
            raise self._replaced()

    def check_replaced(self) -> bool:
        """Raise if writing would go to a file that nobody can find, or against another one.

        Returns:
            whether the log is there.
        """
        self.check_name()
        log = files.identity(self._path + "-wal")
        if log not in (self._log, None):
            raise self._replaced()
        return log is not None

    def _replaced(self) -> StoreError:
        return StoreError(
            f"{self._path}: the file was deleted or replaced while it was open, or its -wal was "
            "replaced; what is pending is kept in memory. Put the file back to go on",
            self._path,
        )

    def check(self) -> None:
        """Raise if the file or its log is not what was opened."""
        if not self.check_replaced():
            raise StoreError(
                f"{self._path}-wal was deleted while the store was open. What was committed has "
                "been brought into the main file, and what is pending still is. Find out what "
                "deletes it, close the store in every process, and run the same again",
                self._path,
            )


def _grows(path: str, size: int) -> str:
    """Say what keeps a log from being moved into the main file."""
    others = sorted((lockers(path) or set()) - {os.getpid()})
    who = f"process {others[0]}" if len(others) == 1 else "this process or another"
    return (
        f"{path}-wal: {size >> 20} MiB and growing, because {who} has been reading the store in "
        "one piece (an open SELECT, say), and SQLite cannot move the log into the store meanwhile. "
        "Nothing is lost; end that reader, and the log shrinks"
    )
