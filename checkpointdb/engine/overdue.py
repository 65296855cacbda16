"""Calls with a time limit, and those that run on after it. Knows threads and rows; keeps nothing.

A call that is not done in time is **overdue**: its rows have failed, and nobody can stop its
thread. It is paid for, so its late result is kept, and its rows are not begun again meanwhile.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import msgspec

from .. import interrupts, system
from ..errors import StepStuckError
from .current import calling
from .rows import Slot
from .waiting import waiting

log = logging.getLogger("checkpointdb.run")

_lock = threading.Lock()  # of who is overdue, here and in each call; no other is taken under it
overdue: dict[tuple[str, bytes], TimedCall] = {}  # by the store's path and the row's key

# Files whose frames are above the step's own.
_NOT_THE_STEP = (str(Path(__file__).parent.parent) + os.sep, threading.__file__)

KeepLate = Callable[[list[Slot], list[Slot], Any, float], None]


def in_time(fn: Callable[..., Any], step: str, seconds: float) -> Callable[[Any], Any]:
    """Return an async step that is cancelled when its time is over."""
    import asyncio  # with it comes ssl, which synchronous code need not have

    async def call(argument: Any) -> Any:
        slots, _ = calling.get()  # type: ignore[misc]
        try:
            async with asyncio.timeout(seconds) as limit:
                return await fn(argument)
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"{_named(step, slots)} took longer than {seconds:g} s and was "
                                   "cancelled") from error  # fmt: skip
            raise

    return call


class TimeLimit:
    """Call a plain function in threads of its own, and wait for each call for so long.

    Promises: whoever calls is answered in time; what an overdue call returns is handed to `keep`,
    in its thread; nobody waits for an overdue call, not even the exit of the process.

    Args:
        fn: the step.
        step: its name.
        path: of the store.
        seconds: that a call may take.
        places: how many calls may run at once, overdue ones too; None without a limit.
        keep: takes the late result of a call: its rows, as they failed and as they were, what it
            returned, and when it began.
    """

    def __init__(
        self, fn: Callable[[Any], Any], step: str, path: str, seconds: float,
        places: int | None, keep: KeepLate,
    ) -> None:  # fmt: skip
        self.fn, self.step, self.path, self.seconds, self.keep = fn, step, path, seconds, keep
        self._places, self._taken, self._overdue = places, 0, 0
        self._freed = threading.Condition()
        self._idle: list[SimpleQueue[TimedCall | None]] = []
        self._ended = False

    def __call__(self, argument: Any) -> Any:
        """Call the step; raise `TimeoutError` if it takes too long."""
        slots, outer = calling.get()  # type: ignore[misc]
        call = TimedCall(self, argument, slots, outer)
        try:
            todo = self._idle.pop()
        except IndexError:
            todo = SimpleQueue()
            threading.Thread(
                target=self._work, args=(todo,), name="checkpointdb-call", daemon=True
            ).start()
        todo.put(call)
        return interrupts.in_the_open(self._await, call)

    def _await(self, call: TimedCall) -> Any:
        try:
            is_done = call.done.wait(self.seconds)
        except BaseException:  # a second Ctrl-C: the call runs on
            call.give_up()
            raise
        if not is_done and call.give_up():
            error = TimeoutError(
                f"{_named(self.step, call.slots)} took longer than {self.seconds:g} s; the call "
                "runs on, and what it returns will be saved"
            )
            error.add_note(f"it was here:\n{call.where()}")
            raise error
        return call.outcome()

    def _work(self, todo: SimpleQueue[TimedCall | None]) -> None:
        """Make calls, one after the other, in a thread that a step may keep for itself."""
        pid = os.getpid()
        while (call := todo.get()) is not None:
            call.run(lambda: self._idle.append(todo))
            if pid != os.getpid() or self._ended:  # a child that the step forked: let it end
                return
            del call  # hold no result while waiting for the next call

    def end(self) -> None:
        """Let the threads end that have no call."""
        self._ended = True
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().put(None)

    # --- places: the calls that a run may have, overdue ones too

    def take_place(self) -> None:
        """Wait until another call may be made.

        Raises:
            StepStuckError: every place has an overdue call, and has had one for a second `timeout`.
        """
        with self._freed:
            while self._places is not None and self._taken >= self._places:
                is_stuck = self._overdue >= self._places
                woken = self._freed.wait(self.seconds if is_stuck else None)
                if not woken and self._overdue >= self._places:
                    raise self._stuck()
            self._taken += 1

    def free_place(self, was_overdue: bool = False) -> None:
        """Say that a call is over."""
        with self._freed:
            self._taken -= 1
            self._overdue -= was_overdue
            self._freed.notify()

    def became_overdue(self) -> None:
        """Say that a call keeps its place though its time is over."""
        with self._freed:
            self._overdue += 1
            self._freed.notify_all()  # who waits looks whether all are

    def _stuck(self) -> StepStuckError:
        with _lock:
            calls = {id(call): call for call in overdue.values() if call.limit is self}.values()
        rows = sorted(slot.position for call in calls for slot in call.slots)
        return StepStuckError(
            f"step {self.step!r}: {self._overdue} calls took longer than timeout={self.seconds:g} "
            f"s and still run (rows {', '.join(map(str, rows))}), and concurrency={self._places} "
            "allows no more next to them. What returned is saved; what they return while this "
            "process lives will be. Have the step itself give up (a timeout of its client), or "
            "give a longer timeout= or a higher concurrency=, and run the same again",
            tuple(rows),
        )


class TimedCall:
    """One call of a step, in a thread, and whether somebody still waits for it."""

    def __init__(self, limit: TimeLimit, argument: Any, slots: Sequence[Slot], outer: Any) -> None:
        self.limit, self._argument, self.slots = limit, argument, list(slots)
        # The rows of the call as long as it runs: those given settle when its time is over.
        self.rows = [msgspec.structs.replace(slot, waiters=()) for slot in slots]
        self._context = contextvars.copy_context()
        self._context.run(calling.set, ([*self.slots, *self.rows], outer))
        self._began, self._thread = perf_counter(), 0
        self._returned: Any = None
        self._error: BaseException | None = None
        self._is_overdue = self._is_done = False
        self.done = threading.Event()  # what it returned is there
        self.over = threading.Event()  # and is kept, if it came late

    def outcome(self) -> Any:
        """Return what the step returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._returned

    def give_up(self) -> bool:
        """Have the call's result kept when it comes; return False if it is there already."""
        with _lock:
            if self._is_done:
                return False
            self._is_overdue = True
            for slot in self.slots:
                overdue[self.limit.path, slot.key] = self
            if self._thread:
                interrupts.forsaken.add(self._thread)
        self.limit.became_overdue()
        return True

    def where(self) -> str:
        """Return the stack of the call: where it waits."""
        frame = sys._current_frames().get(self._thread)
        frames = traceback.extract_stack(frame) if frame is not None else []
        while frames and frames[0].filename.startswith(_NOT_THE_STEP):
            del frames[0]
        return "".join(traceback.format_list(frames)).rstrip() or "not begun"

    def run(self, free: Callable[[], object]) -> None:
        """Make the call; `free` says that its thread has time for another one."""
        pid, me = os.getpid(), threading.get_ident()
        with _lock:
            self._thread = me
            is_late = self._is_overdue
        try:
            self._context.run(self._call, is_late)
        except BaseException as error:
            if pid != os.getpid():  # a child that the step forked: let it end
                raise
            self._error = error
        if pid != os.getpid():
            return
        with _lock:
            self._is_done, is_late = True, self._is_overdue
            interrupts.forsaken.discard(me)
        if is_late:
            self._end_late()
        for row in self.rows:
            row.settled = True
        self.limit.free_place(is_late)
        free()
        self.done.set()

    def _call(self, is_late: bool) -> None:
        if is_late:
            raise TimeoutError("its thread began too late: the call was not made")
        self._returned = self.limit.fn(self._argument)

    @interrupts.computes
    def _end_late(self) -> None:
        """Have a late result kept; then the rows may be begun again."""
        try:
            if self._error is None:
                self.limit.keep(self.slots, self.rows, self._returned, self._began)
        finally:
            with _lock:
                for slot in self.slots:
                    if overdue.get((self.limit.path, slot.key)) is self:
                        del overdue[self.limit.path, slot.key]
            self.over.set()


def is_copied(slots: Sequence[Slot]) -> bool:
    """Tell whether a call with a time limit gets copies of these rows."""
    return all(slot.plain for slot in slots)


def wait_for_overdue(path: str, step: str, slots: Sequence[Slot], seconds: float | None) -> bool:
    """Wait until no overdue call has one of these rows any more; tell whether one had.

    Args:
        path: of the store where they are saved.
        step: its name.
        slots: rows about to be called.
        seconds: to wait at most.

    Raises:
        TimeoutError: one still has.
        StepDeadlockError: we are inside that call.
    """
    calls = [(slot, call) for slot in slots if (call := overdue.get((path, slot.key)))]
    for slot, call in calls:
        first = next(row for row in call.rows if row.key == slot.key)
        with waiting((first,), step):
            if not interrupts.in_the_open(call.over.wait, seconds):
                raise TimeoutError(
                    f"{_named(step, [slot])} is still in an earlier call, begun "
                    f"{perf_counter() - call._began:.1f} s ago, after a wait of {seconds:g} s"
                )
    return bool(calls)


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    overdue.clear()


system.at_fork(_forget_in_child)


def _named(step: str, slots: Sequence[Slot]) -> str:
    first, last = slots[0].position, slots[-1].position
    rows = f"row {first}" if len(slots) == 1 else f"rows {first} to {last}"
    return f"step {step!r}, {rows},"
