"""A run's part in single-flight across processes. Knows claims and slots; knows no loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter

from ..errors import StoreError
from ..file.leases import LEASE_SECONDS, new_worker
from ..file.log import Log
from .rows import Slot

LOOK_EVERY = 0.02  # seconds


class Sharing:
    """Claim rows before they are computed, and follow those that other workers have claimed.

    Promise: among live workers on one store a row is computed by one. The rows of a worker that
    died, or did not renew its lease for 15 s, are taken over.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.worker = new_worker()
        self._abroad: dict[bytes, Slot] = {}
        self._looked = 0.0
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="checkpointdb-lease", daemon=True)
        self._heart.start()

    @property
    def waiting(self) -> bool:
        """Whether rows are being computed by other workers."""
        return bool(self._abroad)

    def claim(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return the rows that are ours to compute; the others are followed."""
        mine = self._log.claim(self.worker, [slot.key for slot in slots])
        for slot in slots:
            if slot.key not in mine:
                self._abroad[slot.key] = slot
        return [slot for slot in slots if slot.key in mine]

    def look(self, found: Callable[[list[Slot]], list[Slot]]) -> list[Slot]:
        """See what has become of the rows of others; return those that have fallen to us.

        Args:
            found: settles the rows that are saved by now; returns the others.
        """
        if not self._abroad or perf_counter() - self._looked < LOOK_EVERY:
            return []
        self._looked = perf_counter()
        unsettled = found(list(self._abroad.values()))
        self._abroad = {slot.key: slot for slot in unsettled}
        orphans = [slot for slot in unsettled if self._log.is_unclaimed(slot.key)]
        if not orphans:
            return []
        mine = self.claim(orphans)
        for slot in mine:
            del self._abroad[slot.key]
        return found(mine)  # one may have been saved and released since we looked

    def end(self) -> None:
        """Give up what is still claimed, and stop renewing."""
        self._ended.set()
        self._log.release_claims(self.worker)

    def _beat(self) -> None:
        while not self._ended.wait(LEASE_SECONDS / 3):
            if self._log.closed:
                return
            with suppress(StoreError):  # busy or full: two more beats come before the lease ends
                self._log.renew_claims(self.worker)
