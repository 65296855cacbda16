"""One event loop for each process, in a thread, for the async steps that sync code calls.

One for all, so that a client made at module level serves every run. Knows nothing of runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Callable, Coroutine
from time import monotonic
from types import FrameType
from typing import Any

from .. import system
from ..interrupts import in_calls

PATIENCE = 0.25  # seconds without a turn of the loop: something blocks it


class LoopThread:
    """Run coroutines of all runs in one thread; a run ends its own and leaves the others alone."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._turned, self._asked_at = threading.Event(), 0.0
        self._turned.set()
        self._thread = threading.Thread(target=self._run, name="shared-event-loop", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether the caller is on the loop: it must not wait for it."""
        return threading.get_ident() == self._thread.ident

    @in_calls
    def wait(
        self, coroutine: Coroutine[Any, Any, Any], watch: Callable[[], object] | None = None
    ) -> Any:
        """Return what the coroutine returns, or raise what it raises.

        It runs in a copy of the caller's context. If the wait is interrupted, it is cancelled.

        Args:
            coroutine: to run on the loop.
            watch: called every `PATIENCE` while it runs.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            while not concurrent.futures.wait([future], PATIENCE).done:
                if watch is not None:
                    watch()
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def blocked_in(self) -> FrameType | None:
        """Return the frame in which the loop has hung for `PATIENCE`; ask that often."""
        if self._turned.is_set():
            self._turned.clear()
            self._asked_at = monotonic()
            self.loop.call_soon_threadsafe(self._turned.set)
        elif monotonic() - self._asked_at >= PATIENCE:
            return sys._current_frames().get(self._thread.ident or 0)
        return None

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


_lock = threading.Lock()  # for the two names below
_shared: LoopThread | None = None
_left: list[LoopThread] = []  # in a forked child: closing one would take it from the parent


def shared_loop() -> LoopThread:
    """Return the event loop of this process, begun now if there was none."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = LoopThread()
        return _shared


def _leave() -> None:
    """A forked child has none of its parent's threads: it gets a loop of its own, if it asks."""
    global _shared, _lock
    _lock = threading.Lock()
    if _shared is not None:
        _left.append(_shared)
        _shared = None


system.at_fork(_leave)
