"""What must not hold up an event loop: a thread next to it, and the commits made there."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from .committer import Committer
from .in_flight import InFlight
from .rows import Slot


class Beside:
    """Commit what calls on an event loop returned, in a thread next to the loop.

    Promise: a row whose commit is due leaves `in_flight` after that commit, or once it failed.

    Args:
        committer: has what returned.
        in_flight: has the rows.
    """

    def __init__(self, committer: Committer, in_flight: InFlight) -> None:
        self._committer, self._in_flight = committer, in_flight
        # rows that leave once a commit is done, and what `commit_due` takes
        self.due: list[tuple[Slot, int]] = []
        self._is_committing = False
        self._lock = threading.Lock()  # of these two; no other is taken under it
        self._executor: Executor | None = None

    def leave_later(self, slots: Sequence[Slot], due: int) -> None:
        """Have rows leave once their commit, which `Committer.put` found due, is done."""
        with self._lock:
            self.due += [(slot, due) for slot in slots]

    async def commit_due(self, slots: list[Slot]) -> None:
        """Commit what is due in a thread next to the event loop; nobody gets it before that.

        One call commits for all that return meanwhile, and the others wait for it.
        """
        with self._lock:
            is_first, self._is_committing = not self._is_committing, True
        if not is_first:
            await self._all_settled(slots)
            return
        due = self._next_due()
        try:
            while due:
                await self.call(self._committer.commit_due, min(at for _, at in due))
                self._in_flight.leave(slot for slot, _ in due)
                due = self._next_due()
        finally:  # it failed, or we are cancelled: what returned is pending still
            while due:
                self._in_flight.leave(slot for slot, _ in due)
                due = self._next_due()

    def _next_due(self) -> list[tuple[Slot, int]]:
        with self._lock:
            due, self.due = self.due, []
            self._is_committing = bool(due)
        return due

    async def _all_settled(self, slots: list[Slot]) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        for slot in slots:
            if not slot.settled:
                settled = asyncio.Event()
                wake = functools.partial(loop.call_soon_threadsafe, settled.set)
                self._in_flight.when_settled(slot, wake)
                await settled.wait()

    async def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call `fn` in a thread of the run; it runs to its end even if we are cancelled."""
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "checkpointdb-keep")
        context = contextvars.copy_context()
        called = self._executor.submit(context.run, fn, *args)
        return await asyncio.shield(asyncio.wrap_future(called))

    def close(self) -> None:
        """Let the thread end; a later call gets another one."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    def forked(self) -> None:
        """In a forked child: the thread stayed with the parent."""
        self._executor, self._is_committing = None, False
        self._lock = threading.Lock()
