"""One answer on its way to all who wait for it, in threads and tasks. Knows no store."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator

from .answers import Headers


class Live:
    """An answer that one call brings and any number of clients read, each from its beginning.

    Its lock is held for its own few fields; wakers are called outside of it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wakers = set[Callable[[], object]]()
        self.status, self.headers = 0, Headers()
        self.how = "hit"  # until a call is made
        self.is_stream = self.is_over = False
        self.is_saved = False  # the last event comes after that
        self.chunks: list[bytes] = []
        self.error: BaseException | None = None

    def open(self, status: int, headers: Headers, is_stream: bool) -> None:
        """Say how the answer begins."""
        self.status, self.headers, self.is_stream = status, headers, is_stream
        self._tell()

    def add(self, chunk: bytes) -> None:
        """Pass a part on."""
        self.chunks.append(chunk)
        self._tell()

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, or that it broke off."""
        self.error, self.is_over = error, True
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    @property
    def can_begin(self) -> bool:
        """Whether it is known what the answer's head is: a stream may be read from then on."""
        return self.is_over or self.is_stream

    def wait(self) -> None:
        """Wait until the answer can be given out, or begun to be."""
        with self._changed:
            self._changed.wait_for(lambda: self.can_begin)

    def follow(self) -> Iterator[bytes]:
        """Yield the parts as they come; raise what broke it off."""
        seen, is_over = 0, False
        while not is_over:
            with self._changed:
                while not (self.is_over or len(self.chunks) > seen):
                    self._changed.wait()
                is_over = self.is_over  # before the parts are looked at: none comes after it
            coming = self.chunks[seen:]
            seen += len(coming)
            yield from coming
        if self.error is not None:
            raise self.error

    async def await_(self) -> None:
        """Do as `wait`, in a task."""
        with self._wakes() as woken:
            while not self.can_begin:
                await woken.wait()
                woken.clear()

    async def afollow(self) -> AsyncIterator[bytes]:
        """Do as `follow`, in a task."""
        seen = 0
        with self._wakes() as woken:
            while True:
                is_over = self.is_over
                while seen < len(self.chunks):
                    seen += 1
                    yield self.chunks[seen - 1]
                if is_over:
                    break
                await woken.wait()
                woken.clear()
        if self.error is not None:
            raise self.error

    @contextlib.contextmanager
    def _wakes(self) -> Iterator[asyncio.Event]:
        """Give an event of this task's loop that each change sets."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # that loop was closed: nobody waits there
                loop.call_soon_threadsafe(event.set)

        with self._changed:
            self._wakers.add(wake)
        try:
            yield event
        finally:
            with self._changed:
                self._wakers.discard(wake)
