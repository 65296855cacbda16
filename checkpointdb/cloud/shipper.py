"""Ship a store while its runs go on, in a thread beside them. Knows clocks; no SQL.

**Who holds which lock.** `Shipper._shipping` is held through a shipment, requests and all, by the
thread or by whoever pushes. Under it the log's own locks are taken for a look at the store's small
tables and for each note, and never while a request is under way. Nobody takes `_shipping` under
another lock. So a commit, a look-up or a run waits for no bucket; only the end of the store does,
and not for long.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any

from .. import interrupts
from ..errors import BucketError, CheckpointError
from ..file.log import Log
from ..policy import AnyOf, Every, OnExit, Pending, SavePolicy, next_look
from ..wording import duration, moment
from . import note as notes
from .bucket import Bucket
from .note import Note
from .shipment import Pushed, Shipment

log = logging.getLogger("checkpointdb.ship")

WAIT_SECONDS = 20.0  # for the last shipment, when the store is closed
SOONEST = 1.0  # between two looks, and two shipments that the ends of runs ask for
LONGEST = 60.0  # between two attempts while the bucket cannot be reached


class Shipper:
    """Ships what a store has committed, whenever a policy says so, and what is left at its end.

    Args:
        store: the log of it.
        bucket: where to.
        note: what the store knows of the bucket.
        policy: of what is committed and not shipped.
    """

    def __init__(self, store: Log, bucket: Bucket, note: Note, policy: SavePolicy) -> None:
        self._log, self._bucket, self._policy = store, bucket, policy
        self._id = note.bucket
        self._shipment = Shipment(store, bucket, note)
        self.worker = self._shipment.worker
        self._shipping = threading.Lock()
        self._asked, self._ending = threading.Event(), False
        self._run_ended = False
        self.only_by_policy = False  # ends of runs are no reason to ship: each batch is one, say
        self._known = self._last = time.monotonic()  # all was shipped; a shipment was tried
        self._took = 0.0  # the last shipment
        self._failing: float | None = None  # since when nothing is shipped, on the wall clock
        self._backoff = SOONEST
        self._thread = threading.Thread(target=self._run, name="checkpointdb-ship", daemon=True)

    def start(self) -> None:
        """Begin to ship; the store ends it."""
        self._log.companion = self
        self._thread.start()

    def wake(self) -> None:
        """Ship soon: a run has ended."""
        if not self.only_by_policy:
            self._run_ended = True
            self._asked.set()

    def push(self) -> Pushed:
        """Ship all that is committed, in this thread."""
        with self._shipping:
            done = self._shipment.ship(last=True)
        if done is None:
            raise BucketError(f"{self._bucket.url}: another process ships {self._log.path} there")
        return done

    def finish(self) -> None:
        """Ship what is left, for as long as a person waits; all that is committed stays here."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            return
        self._ending = True
        self._asked.set()
        until = time.monotonic() + WAIT_SECONDS
        while self._thread.is_alive() and time.monotonic() < until:
            if interrupts.state.urgent:  # a second Ctrl-C
                break
            self._thread.join(0.05)
        if self._thread.is_alive():
            log.warning("%s", self._left("it was not shipped in time"))
            self._release()  # the next one may ship it again

    # --- in the thread

    def _run(self) -> None:
        wait = self._look()
        while not self._ending:
            self._asked.wait(wait)
            self._asked.clear()
            if self._ending:
                break
            wait = self._look()
        self._end()

    def _look(self) -> float:
        """Ship if that is due; return in how many seconds to look again."""
        try:
            pending = self._pending()
            if self._policy.due(pending) or self._ended_a_run():
                self._ship(last=self._run_ended)
                self._run_ended = False
                pending = self._pending()
            wait = next_look(self._policy, pending)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            return self._failed(error)
        if self._run_ended or _counts(self._policy):
            wait = min(wait, SOONEST)
        return min(max(wait, 0.01), threading.TIMEOUT_MAX)

    def _ended_a_run(self) -> bool:
        return self._run_ended and time.monotonic() - self._last >= SOONEST

    def _ship(self, last: bool) -> None:
        begun = self._last = time.monotonic()
        with self._shipping:
            done = self._shipment.ship(last)
        if done is not None:
            self._known, self._took = begun, time.monotonic() - begun
        if self._failing is not None:
            gone = duration(time.time() - self._failing)
            log.info("%s: ships again, after %s", self._bucket.url, gone)
            self._failing = None

    def _failed(self, error: Exception) -> float:
        """Say once since when nothing is shipped; return in how many seconds to try again."""
        self._last = time.monotonic()
        if self._log.closed:
            return LONGEST
        if self._failing is None:
            self._failing, self._backoff = time.time(), SOONEST
            log.warning(
                "%s: nothing of %s is shipped since %s: %s. The run goes on and loses nothing "
                "here; shipping catches up",
                self._bucket.url, self._log.path, moment(self._failing), error,
                exc_info=not isinstance(error, CheckpointError),
            )  # fmt: skip
        self._backoff = min(2 * self._backoff, LONGEST)
        return self._backoff

    def _pending(self) -> Pending:
        """Return what a lost machine would cost, as a policy sees it."""
        now = time.monotonic()
        note = next(it for it in notes.all_of(self._log) if it.bucket == self._id)
        rows, size, work, cost = self._log.newer(note.mark.to, note.mark.generation)
        if not rows:
            self._known = now
        return Pending(
            rows, size, now - self._known, cost, now - self._last, self._took, work,
            background=True, mean_processor_seconds=self._took,
        )  # fmt: skip

    def _end(self) -> None:
        try:
            if self._pending().rows or self._shipment.has_shipped:
                self._ship(last=True)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("%s", self._left(str(error)))
        finally:
            self._release()

    def _release(self) -> None:
        with contextlib.suppress(CheckpointError):  # it was closed, and gave up its claims
            self._shipment.close()

    def _left(self, why: str) -> str:
        return (
            f"{self._bucket.url}: what was committed last in {self._log.path} is not there: {why}. "
            f"The next run ships it, or `ckpt push {self._log.path} {self._bucket.url}`"
        )


def _counts(policy: Any) -> bool:
    """Tell whether a policy must be asked while rows come, and not only at its time."""
    if isinstance(policy, AnyOf):
        return any(map(_counts, policy.policies))
    if isinstance(policy, Every):
        return not policy.rows is policy.bytes is policy.cost is None
    return not isinstance(policy, OnExit)
