"""A pause of all calls of a run, when one of them was told to come later. Knows no loop, no file.

A provider's rate limit holds for all calls: those that go on meanwhile are refused too, and may
prolong it. So all wait until the time that it named, and the row is called again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from .. import interrupts, system
from .retry_after import retry_after
from .rows import Slot
from .tally import Tally

MOST_PAUSES = 10  # of one call; then it is a failure like others
MOST_SAID = 3600.0  # seconds; a day's quota that is spent is a failure, too
FIRST, LONGEST = 1.0, 60.0  # seconds, where no time is said: doubled from pause to pause
LOOK_EVERY = 0.1  # seconds; the main thread alone looks for signals

tasks: set[Any] = set()  # that wait in a pause: who cancels one loses no call


class PutBack(BaseException):
    """Why a paused call was not made: its run stops. Its rows are as if they had not begun."""


class Pause:
    """Have all calls of a run wait when one of them was told to come later.

    The lock is held for the times alone. Waiters are woken after it.

    Args:
        pause_on: exception types; or a function from an exception to seconds, to True where only
            the exception says how long, or to None.
        stop_on: exceptions that are no reason to wait.
        tally: of the run; it tells of each pause.
    """

    def __init__(self, pause_on: Any, stop_on: tuple[type, ...], tally: Tally) -> None:
        self._pause_on, self._stop_on, self._tally = pause_on, stop_on, tally
        self._lock = threading.Lock()
        self._until = 0.0
        self._unsaid = 0  # pauses of no said length since a call returned
        self._wakers: set[Callable[[], object]] = set()
        self._is_stopping = False
        self.look: Callable[[], object] = int  # called now and then while the main thread waits

    @property
    def left(self) -> float:
        """Seconds until calls go on; 0 if they are not paused."""
        return max(self._until - monotonic(), 0.0) if self._until else 0.0

    # --- wait

    def wait(self, slots: Sequence[Slot]) -> None:
        """Return when the call of these rows may be made.

        Raises:
            PutBack: the run stops.
        """
        if self.left:
            interrupts.in_the_open(self._wait, slots)

    @interrupts.idles
    def _wait(self, slots: Sequence[Slot]) -> None:
        woken = threading.Event()
        in_main = threading.get_ident() == interrupts.state.main
        with self._waking(woken.set):
            while left := self._left(slots):
                woken.wait(min(left, LOOK_EVERY) if in_main else left)
                woken.clear()
                if in_main:
                    self.look()
                    if interrupts.is_noted():  # the signal is delivered as we leave
                        raise PutBack

    async def await_end(self, slots: Sequence[Slot]) -> None:
        """Do as `wait`, and do not hold up the event loop."""
        import asyncio

        woken, task = asyncio.Event(), asyncio.current_task()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(woken.set)

        tasks.add(task)
        try:
            with self._waking(wake):
                while left := self._left(slots):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), left)
                    woken.clear()
        finally:
            tasks.discard(task)

    @contextmanager
    def _waking(self, wake: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._wakers.add(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.discard(wake)

    def _left(self, slots: Sequence[Slot]) -> float:
        left = self.left
        if left:
            self.check(slots)
        return left

    def check(self, slots: Sequence[Slot]) -> None:
        """Raise `PutBack` if these rows are not waited for."""
        if self._is_stopping or slots[0].is_given_up:
            raise PutBack

    # --- begin

    def takes(self, slots: Sequence[Slot], error: BaseException, nth: int) -> bool:
        """Pause all calls if this error says so; tell whether to make its call again.

        Args:
            slots: the rows of the call.
            error: that it raised.
            nth: how often this call was made.
        """
        if nth > MOST_PAUSES or not isinstance(error, Exception):
            return False
        if isinstance(error, self._stop_on) or (asked := self._asked(error)) is None:
            return False
        if asked is True and (asked := retry_after(error)) is not None and asked > MOST_SAID:
            return False
        if seconds := self._begin(asked):
            self._wake()
            self._tally.paused(slots[0], error, seconds)
        return True

    def _asked(self, error: Exception) -> Any:
        """Return the seconds that the user's function says, True for a kind of error, or None."""
        if isinstance(self._pause_on, tuple):
            return True if isinstance(error, self._pause_on) else None
        said = self._pause_on(error)
        if said is None or said is True or said is False:
            return said or None
        if isinstance(said, int | float) and 0 <= said <= threading.TIMEOUT_MAX:
            return float(said)
        raise ValueError(
            f"pause_on= returned {said!r}: it must be seconds, 0 or more, True for as long as the "
            "error itself says, or None"
        ) from error

    def _begin(self, said: float | None) -> float:
        """Begin or prolong a pause; return its seconds if that is worth telling."""
        with self._lock:
            now = monotonic()
            is_on = self._until > now
            if said is None and is_on:  # this call began before the pause did
                return 0.0
            if said is None:
                said = min(FIRST * 2.0**self._unsaid, LONGEST) * random.uniform(0.5, 1.0)  # noqa: S311
                self._unsaid += 1
            before, self._until = self._until, max(self._until, now + said)
            is_news = self._until > before + is_on  # a second more, at least
            return said if is_news else 0.0

    def passed(self) -> None:
        """Say that a call returned: the next pause whose length nobody says is short again."""
        self._unsaid = 0

    # --- stop

    def stop(self) -> None:
        """Have calls that wait, and those that come later, raise `PutBack` at once."""
        self._is_stopping = True
        self._wake()

    def go_on(self) -> None:
        """Let calls wait again: the run goes on after all."""
        self._is_stopping = False

    def give_up(self, slots: Sequence[Slot]) -> None:
        """Have the calls of some rows raise `PutBack` where they wait."""
        for slot in slots:
            slot.is_given_up = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    def forked(self) -> None:
        """In a forked child: whoever held the lock is not there to give it back."""
        self._lock, self._wakers = threading.Lock(), set()


system.at_fork(tasks.clear)
