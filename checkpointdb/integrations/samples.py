"""Which sample of a prompt a request is, in an attempt of a named run. Knows no HTTP.

An attempt numbers equal requests from one. A number is owed from when it was taken to when its
answer was given out; owed numbers that no client waits for go first to whoever asks again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from ..engine.follow import ITS_CODE
from ..policy import every
from ..step import Step
from ..store import Store

AWAY = 60.0  # seconds without a request, after which a run without a named attempt begins another
_NOTE_EVERY = 5.0  # seconds after which it is noted again that an attempt is active


class Ticket:
    """A sample that a client waits for."""

    def __init__(self, counted: _Counted, name: str, n: int) -> None:
        self.counted, self.name, self.n = counted, name, n


class _Counted:
    """What is known of one request in one attempt."""

    def __init__(self, row: Any, saved: Any) -> None:
        self.row = row
        self.next: int = saved["next"]
        self.owed = set[int](saved["owed"])
        self.held = Counter[int]()  # clients that wait, by number
        self.last_given: int | None = None  # by this process
        self.changes = self.written = 0

    def take(self, is_retry: bool) -> int:
        free = [n for n in self.owed if not self.held[n]]
        if free:
            n = min(free)
        elif is_retry and self.owed:
            n = min(self.owed)
        elif is_retry and self.last_given is not None:
            n, self.last_given = self.last_given, None
        else:
            n, self.next = self.next, self.next + 1
            self.owed.add(n)
            self.changes += 1
        self.held[n] += 1
        return n

    def give(self, n: int) -> None:
        self.last_given = n
        if n in self.owed:
            self.owed.discard(n)
            self.changes += 1


class Samples:
    """Number equal requests of named runs. For the tasks of one event loop.

    Promise: what was given out in an attempt is durable before its client has it, so that a proxy
    that is started again goes on counting; a number whose answer nobody got is not lost.

    Args:
        store: where the counts are.
        is_replay: True to count from one each time, in memory alone.
    """

    def __init__(self, store: Store, is_replay: bool = False) -> None:
        self._is_replay = is_replay
        self._step = Step(
            _counts, store, version=1, name="/run", save=every(rows=1), on_change="reuse",
            ignore=(ITS_CODE,),
        )  # fmt: skip
        self._counted = dict[tuple[str, Any, str], _Counted]()
        self._attempts = dict[str, tuple[int, float, float]]()  # number, active at, noted at
        self._waiting = Counter[str]()  # clients, by run
        self._lock = asyncio.Lock()  # held while counts are read or written, in a thread

    async def take(self, name: str, attempt: str | None, key: str, is_retry: bool) -> Ticket:
        """Return which sample a request is, durably taken.

        Args:
            name: of the run.
            attempt: its name; None for the one that goes on, or a new one after a minute's rest.
            key: of the request.
            is_retry: whether it repeats one whose answer did not arrive.
        """
        which: Any = attempt if attempt is not None else await self._attempt_of(name)
        async with self._lock:
            counted = self._counted.get((name, which, key))
            if counted is None:
                row = {"run": name, "attempt": which, "request": key}
                saved = await asyncio.to_thread(self._saved, row) or {"next": 1, "owed": []}
                counted = self._counted[name, which, key] = _Counted(row, saved)
        n = counted.take(is_retry)
        self._waiting[name] += 1
        await self._note(counted)
        return Ticket(counted, name, n)

    async def give(self, ticket: Ticket) -> None:
        """Note durably that a client gets its sample now."""
        ticket.counted.give(ticket.n)
        await self._note(ticket.counted)

    def leave(self, ticket: Ticket) -> None:
        """Have a client wait no more: it got its sample or an error, or it left."""
        ticket.counted.held[ticket.n] -= 1
        self._waiting[ticket.name] -= 1
        if ticket.name in self._attempts:
            number, _, noted = self._attempts[ticket.name]
            self._attempts[ticket.name] = number, time.time(), noted

    async def _attempt_of(self, name: str) -> int:
        async with self._lock:
            now, row = time.time(), {"run": name}
            if name not in self._attempts:
                saved = await asyncio.to_thread(self._saved, row) or {"attempt": 0, "at": 0.0}
                self._attempts[name] = saved["attempt"], saved["at"], saved["at"]
            number, active, noted = self._attempts[name]
            is_new = now - active > AWAY and not self._waiting[name]
            if is_new or not number:
                number, noted = number + 1, 0.0
            if now - noted > _NOTE_EVERY:
                await asyncio.to_thread(self._save, row, {"attempt": number, "at": now})
                noted = now
            self._attempts[name] = number, now, noted
            return number

    async def _note(self, counted: _Counted) -> None:
        """Make a count durable; one commit is for all changes that wait for it."""
        change = counted.changes
        async with self._lock:
            if counted.written < change:
                counted.written = counted.changes
                saved = {"next": counted.next, "owed": sorted(counted.owed)}
                await asyncio.to_thread(self._save, counted.row, saved)

    def _saved(self, row: Any) -> Any:
        return None if self._is_replay else self._step.get(row)

    def _save(self, row: Any, value: Any) -> None:
        if not self._is_replay:
            self._step.put(row, value, replace=True)


def _counts(row: Any) -> dict[str, Any]:
    """Stand for the step that counts: its results are put, and it is never called."""
    raise NotImplementedError(row)
