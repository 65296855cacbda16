"""Calls that wait for each other: none may wait for itself. Knows rows in flight; calls no step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import StepDeadlockError
from .current import rows_being_called
from .rows import Slot

_lock = threading.Lock()  # for the table alone; no other lock is taken under it
_awaited: dict[int, list[Slot]] = {}  # by the id of a row in flight: the rows its call waits for


@contextmanager
def waiting(first: Slot, step: str) -> Iterator[None]:
    """Say, for the block, that the calls we are inside of wait for the call of `first`.

    Args:
        first: a row in flight.
        step: its step's name.

    Raises:
        StepDeadlockError: that call waits, directly or through others, for one of ours.
    """
    ours = rows_being_called()
    with _lock:
        if ours and _leads_to(first, {id(slot) for slot in ours}):
            raise StepDeadlockError(
                f"step {step!r} waits for itself: row {first.position} ({first.row!r:.200}) is "
                "being computed, and its step, or one that it waits for, asks for the same row "
                "again. Call it for another row, or call the plain function, step.__wrapped__",
                first.key.hex(),
            )
        for slot in ours:
            _awaited.setdefault(id(slot), []).append(first)
    try:
        yield
    finally:
        with _lock:
            for slot in ours:
                rows = _awaited[id(slot)]
                rows.remove(first)
                if not rows:
                    del _awaited[id(slot)]


def _leads_to(first: Slot, ours: set[int]) -> bool:
    seen, todo = set[int](), [first]
    while todo:
        slot = todo.pop()
        if id(slot) in ours:
            return True
        if id(slot) not in seen:
            seen.add(id(slot))
            todo += _awaited.get(id(slot), ())
    return False
