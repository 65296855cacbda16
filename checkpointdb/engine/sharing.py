"""A run's part in single-flight across processes. Knows claims and slots; knows no loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter

from ..errors import StoreError
from ..file.leases import LEASE_SECONDS, new_worker
from ..file.log import Log
from .rows import Slot

POLL_EVERY = 0.02  # seconds


class Sharing:
    """Claim rows before they are computed, and follow those that other workers have claimed.

    Promise: among live workers on one store a row is computed by one. The rows of a worker that
    died are taken over, and those of one on another host that did not renew its lease for 15 s.
    Claims end with the work: when no call is under way and nobody has come for a row for that long,
    what is pending is committed and all claims are given up.

    Its lock is held while claims are given up or a row is lent, and for a few instructions when a
    row is given out or begun.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.worker = new_worker()
        self.under_way: list[None] = []  # one entry a call that has not returned; `Calls` keeps it
        self._lock = threading.Lock()
        self._used, self._holds, self._released = perf_counter(), True, False
        self._claimed_elsewhere: dict[bytes, Slot] = {}
        self._lent: set[bytes] = set()
        self._polled = 0.0
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="checkpointdb-lease", daemon=True)
        self._renewer.start()

    @property
    def waiting(self) -> bool:
        """Whether rows are being computed by other workers."""
        return bool(self._claimed_elsewhere)

    def claim(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return the rows that are ours to compute; the others are followed."""
        with self._lock:
            self._used = perf_counter()  # from here on claims are kept, for a while
        ours = self._log.claim(self.worker, [slot.key for slot in slots])
        self._lent -= ours
        for slot in slots:
            if slot.key not in ours:
                self._claimed_elsewhere[slot.key] = slot
        return [slot for slot in slots if slot.key in ours]

    def begin(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return the rows whose call may begin; those that were lent are followed."""
        with self._lock:
            mine = [slot for slot in slots if slot.key not in self._lent]
            for slot in mine:
                slot.begun = True
            for slot in slots:
                if not slot.begun:
                    slot.must_compute = False
                    self._lent.discard(slot.key)
                    self._claimed_elsewhere[slot.key] = slot
        return mine

    def lend(self, slot: Slot) -> None:
        """Let a row go that we claimed ahead, unless its call has begun.

        Whoever asks is inside a call that keeps us from beginning this one.
        """
        with self._lock:
            if not slot.begun and slot.key not in self._lent:
                self._lent.add(slot.key)
                self._log.release_claims(self.worker, [slot.key])

    def still_holds(self) -> bool:
        """Tell whether our claims still hold; from here on they do, for a while."""
        with self._lock:
            held, self._holds, self._used = self._holds, True, perf_counter()
        return held

    def followed(self) -> list[Slot]:
        """Return the rows claimed by other workers, if it is time to look them up again."""
        if not self._claimed_elsewhere or perf_counter() - self._polled < POLL_EVERY:
            return []
        self._polled = perf_counter()
        return self.all_followed

    @property
    def all_followed(self) -> list[Slot]:
        """The rows claimed by other workers."""
        return list(self._claimed_elsewhere.values())

    def take_over(self, followed: Sequence[Slot], unsaved: Sequence[Slot]) -> list[Slot]:
        """Claim those rows whose worker is gone, and return them; follow only the others.

        Args:
            followed: rows that other workers had claimed.
            unsaved: those that are not saved yet.
        """
        orphans = [slot for slot in unsaved if self._log.is_unclaimed(slot.key)]
        ours = {slot.key for slot in self.claim(orphans)} if orphans else set[bytes]()
        still = {slot.key for slot in unsaved} - ours
        for slot in followed:
            if slot.key not in still:
                self._claimed_elsewhere.pop(slot.key, None)
        return [slot for slot in unsaved if slot.key in ours]

    def release(self, slots: Sequence[Slot]) -> None:
        """Give up rows of ours that were not computed: another worker may try."""
        self._log.release_claims(self.worker, [slot.key for slot in slots])

    def end(self) -> None:
        """Give up what is still claimed, and stop renewing; can be repeated.

        If the store cannot be written now (a full disk), the thread keeps trying.
        """
        self._ended.set()
        with suppress(StoreError):
            self._release()

    def _release(self) -> None:
        self._log.release_claims(self.worker)
        self._released = True

    def _renew(self) -> None:
        while not self._ended.wait(LEASE_SECONDS / 3):
            if self._log.closed:
                return
            with suppress(StoreError):  # busy or full: two more come before the lease ends
                if self._is_idle:
                    self._log.commit_buffers()  # or others would compute it again
                    self._give_up()
                else:
                    self._log.renew_claims(self.worker)
        while not (self._released or self._log.closed):
            with suppress(StoreError):
                self._release()
            time.sleep(POLL_EVERY)

    @property
    def _is_idle(self) -> bool:
        """Whether nobody computes: the loop over the run may be over, or be paused for hours."""
        return not self.under_way and perf_counter() - self._used > LEASE_SECONDS

    def _give_up(self) -> None:
        with self._lock:
            if self._holds and self._is_idle:
                self._log.release_claims(self.worker)
                self._holds = False
