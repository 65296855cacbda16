"""Calls that wait for each other: none may wait for itself. Knows rows in flight; calls no step."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from .. import system
from ..errors import StepDeadlockError
from .current import rows_being_called
from .in_flight import InFlight
from .rows import Slot

_lock = threading.Lock()  # for the table alone; no other lock is taken under it
_awaited: dict[int, list[Slot]] = {}  # by the id of a row in flight: the rows its call waits for


class Worker(Protocol):
    """A run that claims rows."""

    in_flight: InFlight

    def commit(self) -> None:
        """Commit what is pending."""

    def lend(self, slot: Slot) -> None:
        """Let a row go whose call has not begun."""


# The workers of this process, by the names that their claims bear.
workers: weakref.WeakValueDictionary[str, Worker] = weakref.WeakValueDictionary()


def claimed_here(holders: Mapping[bytes, str]) -> list[Slot]:
    """Return the claimed rows that are in flight in this process.

    If a worker of this process has computed one and not saved it, that worker commits. If it has
    not begun with it, it lets it go to those who are inside a call: it may be waiting for us.

    Args:
        holders: who has claimed which key.
    """
    rows = []
    for key, name in holders.items():
        worker = workers.get(name)
        if worker is None:
            continue
        if (row := worker.in_flight.row(key)) is None:
            worker.commit()
        elif row.begun or not rows_being_called():
            rows.append(row)
        else:
            worker.lend(row)
    return rows


@contextmanager
def waiting(firsts: Sequence[Slot], step: str) -> Iterator[None]:
    """Say, for the block, that the calls we are inside of wait for one of those of `firsts`.

    Args:
        firsts: rows in flight.
        step: their step's name.

    Raises:
        StepDeadlockError: each of those calls waits, directly or through others, for one of ours.
    """
    ours = rows_being_called() if firsts else []
    with _lock:
        if ours and all(_leads_to(first, {id(slot) for slot in ours}) for first in firsts):
            raise _deadlock(firsts[0], step)
        for slot in ours:
            _awaited.setdefault(id(slot), []).extend(firsts)
    try:
        yield
    finally:
        with _lock:
            for slot in ours:
                rows = _awaited[id(slot)]
                for first in firsts:
                    rows.remove(first)
                if not rows:
                    del _awaited[id(slot)]


def _deadlock(first: Slot, step: str) -> StepDeadlockError:
    return StepDeadlockError(
        f"step {step!r} waits for itself: row {first.position} ({first.row!r:.200}) is "
        "being computed, and its step, or one that it waits for, asks for the same row "
        "again. Call it for another row, or call the plain function, step.__wrapped__",
        first.key.hex(),
    )


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


def _forget_in_child() -> None:
    """In a forked child: its parent's calls are not its own."""
    global _lock
    _lock = threading.Lock()
    _awaited.clear()
    workers.clear()


system.at_fork(_forget_in_child)
