"""Threads that call a step. Knows futures; knows nothing of rows."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any


class DaemonPool(Executor):
    """A thread pool that a second Ctrl-C can leave: `ThreadPoolExecutor` joins its threads at exit.

    Threads are started as calls come, up to `size`.
    """

    def __init__(self, size: int) -> None:
        self._size, self._pid = size, os.getpid()
        self._threads: list[threading.Thread] = []
        self._todo: SimpleQueue[Any] = SimpleQueue()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a thread call `fn`."""
        future: Future[Any] = Future()
        self._todo.put((future, fn, args, kwargs))
        if len(self._threads) < self._size:
            name = f"checkpointdb-{len(self._threads)}"
            context = contextvars.copy_context()  # the caller's, as in the sequential loop
            thread = threading.Thread(
                target=context.run, args=(self._work,), name=name, daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Let each thread end after the calls it was given; waits for none of them."""
        for _ in self._threads:
            self._todo.put(None)

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            future, fn, args, kwargs = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                if self._pid != os.getpid():  # a child that the step forked: let it end
                    raise
                future.set_exception(error)
            if self._pid != os.getpid():
                return
            del item, future  # hold no result while waiting for the next call
