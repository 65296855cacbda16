"""Rows that are to be computed or are being computed, by key. Knows who waits; calls no step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from .rows import EqualRow, Place, Slot, first_of

Collided = list[tuple[int, Slot, Slot]]


class InFlight:
    """Let each key be computed once at a time; the only place where a row is settled.

    A result is pending before its row leaves, so that an equal row that comes at any moment finds
    it here or there. The lock is held for the table alone: who waits is woken after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[bytes, Slot] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, key: bytes) -> Slot | None:
        """Return the row of a key that is in flight, None if there is none."""
        return self._rows.get(key)

    def enter(self, slots: Sequence[Slot]) -> tuple[list[Place], list[Slot], Collided]:
        """Let rows in that are not settled, each key once.

        Returns:
            Each row's place: itself, or the row in flight that it is equal to; the rows that
            entered; and those that could not, with their index and the row of another content
            that has their key.
        """
        places: list[Place] = list(slots)
        entered, collided = list[Slot](), Collided()
        with self._lock:
            rows = self._rows
            for i, slot in enumerate(slots):
                if not slot.settled:
                    first = rows.setdefault(slot.key, slot)
                    if first is slot:
                        entered.append(slot)
                    elif first.identity == slot.identity:
                        places[i] = EqualRow(first, slot.given)
                    else:
                        collided.append((i, slot, first))
        return places, entered, collided

    def leave(self, slots: Iterable[Slot]) -> None:
        """Settle rows whose outcome is there, and wake those who wait for it."""
        for slot in slots:
            if self._rows.get(slot.key) is slot:
                del self._rows[slot.key]
            slot.settled = True
            if slot.waiters:
                self._wake(slot)

    def give_up(self, slots: Sequence[Slot], error: BaseException) -> None:
        """Settle rows with an error that the run will raise."""
        for slot in slots:
            slot.error = error
        self.leave(slots)

    def withdraw(self, places: Iterable[Place]) -> None:
        """Forget rows that nobody has seen yet: they will be read again."""
        with self._lock:
            for place in places:
                if place.must_compute:
                    assert isinstance(place, Slot)
                    self._rows.pop(place.key, None)

    def when_settled(self, place: Place, wake: Callable[[], object]) -> None:
        """Call `wake` once, when the row's outcome is there; at once if it is."""
        slot = first_of(place)
        with self._lock:
            slot.waiters += (wake,)
        if slot.settled:  # by now, and perhaps before `leave` could see who waits
            self._wake(slot)

    def forked(self) -> None:
        """In a forked child: whoever held the lock is not there to give it back."""
        self._lock = threading.Lock()

    def _wake(self, slot: Slot) -> None:
        with self._lock:
            waiters, slot.waiters = slot.waiters, ()
        for wake in waiters:
            wake()
