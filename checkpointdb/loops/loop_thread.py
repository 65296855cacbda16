"""An event loop in a thread, for sync code that waits for async code. Knows nothing of runs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

from ..interrupts import in_calls


class LoopThread:
    """Run coroutines in a thread of their own and wait for them.

    If a wait is interrupted (the second Ctrl-C), the loop is abandoned: its tasks are cancelled, no
    further wait does anything, and nobody waits for the thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._abandoned, self._pid = False, os.getpid()
        self._thread = threading.Thread(target=self._run, name="checkpointdb-loop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._pid != os.getpid():  # a forked child: the thread stayed with the parent
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        if not self._abandoned:
            self._thread.join()

    @in_calls
    def wait(self, fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """Return what `await fn(*args)` returns, or raise what it raises."""
        if self._abandoned or self._pid != os.getpid():
            return None
        future = asyncio.run_coroutine_threadsafe(fn(*args), self._loop)
        try:
            return future.result()
        except BaseException:
            self._abandoned = not future.done()
            raise

    def _run(self) -> None:
        self._loop.run_forever()
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=0.1))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
