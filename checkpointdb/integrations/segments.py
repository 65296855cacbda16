"""A step of many processes: each computes into a segment of its own and ships it to a folder.

A segment is a small store on the machine of its process. Its copy in the folder takes its name when
it is whole, and is replaced but never written to: nobody needs SQLite's locks there, so the folder
may be on a network file system. What two of them have of one row is one record after a merge.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from ..decorator import Step
from ..errors import StoreCorruptError, StoreError
from ..events import Report
from ..policy import POLL_SECONDS, Pending, SavePolicy, check_policy
from .divided import Divided
from .folder import Folder, put, size_of
from .scratch import Scratch

RETRY_SECONDS = 10.0  # after a copy that failed


class Segment:
    """A store that one process computes into, and what of it is in the folder."""

    def __init__(self, step: Step[Any, Any], path: str) -> None:
        self.step = step.replace(store=path)
        self.store, self.path = self.step.store, path
        self.run: Any = None
        self.is_shipped = False
        self._done = self._sent = (0, 0.0, 0.0)  # rows, cost, seconds: of runs that ended; shipped
        self._sent_bytes, self._sent_at, self._took = 0, time.monotonic(), 0.0
        self._oldest: float | None = None

    def _counts(self) -> tuple[int, float, float]:
        report, (rows, cost, seconds) = self.run.report if self.run else Report(), self._done
        rows += report.computed + report.failed
        return rows, cost + report.cost, seconds + report.seconds

    def end_run(self) -> None:
        """Count what a run computed that has ended."""
        self._done, self.run = self._counts(), None

    def pending(self) -> Pending:
        """Return what is not shipped; its age is known to half a second."""
        now, rows = time.monotonic(), self._counts()[0] - self._sent[0]
        self._oldest = (self._oldest or now) if rows else None
        return Pending(
            rows=rows,
            bytes=max(size_of(self.path) - self._sent_bytes, 0),
            seconds=now - (self._oldest or now),
            cost=self._counts()[1] - self._sent[1],
            elapsed=now - self._sent_at,
            mean_commit_seconds=self._took,
            work=self._counts()[2] - self._sent[2],
        )

    def ship(self, target: str) -> None:
        """Copy it to `target`, with all that was computed so far."""
        start, counts = time.monotonic(), self._counts()
        put(self.store, target)
        self._sent, self._oldest, self.is_shipped = counts, None, True
        self._sent_bytes, self._sent_at = size_of(self.path), time.monotonic()
        self._took = self._sent_at - start


class Segmented(Divided):
    """A step that takes what is in the folder, and computes the rest into a segment of its own.

    Promise: what was computed is in the folder when the policy is due, plus a second and the time
    of the copy; if the machine lives on, what a killed process had committed is shipped by the
    next one that begins there. `_lock` is held while a segment is begun, shipped or ended, by the
    loop or by the timer.

    Args:
        step: of whatever store, which plays no part here.
        folder: where all processes ship to; made if it is not there.
        ship: when; asked after each result and twice a second. An exhausted segment is shipped too.
        scratch: a directory on this machine for segments; among the system's temporary files
            unless given.
        is_restarted: in the middle of a job.

    Raises:
        StoreError: the folder or `scratch` cannot be used; a file in the folder is not a store.
    """

    def __init__(
        self,
        step: Step[Any, Any],
        folder: str,
        ship: SavePolicy,
        scratch: str | None = None,
        is_restarted: bool = False,
    ) -> None:
        super().__init__(step)
        self._policy, self._lock = check_policy(ship), threading.Lock()
        self._folder = Folder(folder, step, is_restarted)
        self._scratch = Scratch(scratch, self._folder.path)
        self._scratch.empty_others(self._take)
        self._segment: Segment | None = None
        self._failed_at: float | None = None
        self._ended = threading.Event()
        timer = threading.Thread(
            target=_keep_time, args=(weakref.ref(self), self._ended), name="checkpointdb-ship",
            daemon=True,
        )  # fmt: skip
        timer.start()

    def _found(self, rows: list[Any]) -> list[Any]:
        return self._folder.results(rows)

    @contextlib.contextmanager
    def _computing(self, rows: list[Any], options: dict[str, Any]) -> Iterator[Any]:
        with self._lock:
            if self._segment is None:
                self._segment = Segment(self._step, self._scratch.new())
            segment = self._segment
        try:
            with segment.step.run(rows, **options) as segment.run:
                yield segment.run
        finally:
            segment.end_run()
            if segment.is_shipped:
                self._end()

    def ship_if_due(self) -> None:
        """Ship what was computed, if the policy says so."""
        with self._lock:
            if (segment := self._segment) is not None:
                pending = segment.pending()
                if pending.rows and self._policy.due(pending):
                    self._ship(segment)

    def _ship(self, segment: Segment) -> bool:
        """Ship a segment and return whether that was done; if not, say so once, and try again."""
        if self._failed_at is not None and time.monotonic() - self._failed_at < RETRY_SECONDS:
            return False
        try:
            segment.ship(self._folder.target(segment.path))
        except (OSError, StoreError) as error:
            if self._failed_at is None:
                warnings.warn(
                    f"{self._folder.path}: nothing is shipped from now on, until it can be again "
                    f"({error}). Nothing is lost: it is in {segment.path}",
                    stacklevel=2,
                )
            self._failed_at = time.monotonic()
            return False
        self._failed_at = None
        return True

    def _end(self) -> None:
        """Ship the rest of the segment; the next result goes into another one."""
        with self._lock:
            segment = self._segment
            if segment is None or (segment.pending().rows and not self._ship(segment)):
                return
            self._segment = None
            segment.store.close()
            os.unlink(segment.path)
            if segment.is_shipped:
                self._folder.add_own(self._folder.target(segment.path), self._scratch)

    def _take(self, path: str) -> bool:
        """Ship what a process left here that was killed; return whether that was done."""
        try:
            self._folder.take(path)
        except StoreCorruptError as error:
            warnings.warn(f"{path} was left by a process that was killed: {error}", stacklevel=2)
            return False
        return True

    def close(self) -> None:
        """Ship what is left, and give back the room on this machine. Can be repeated."""
        self._ended.set()
        self._failed_at = None
        self._end()
        self._folder.close()
        if self._segment is None:
            self._scratch.remove()


def _keep_time(reference: weakref.ref[Segmented], ended: threading.Event) -> None:
    while not ended.wait(POLL_SECONDS):
        if (segmented := reference()) is None:
            return
        segmented.ship_if_due()
        del segmented
