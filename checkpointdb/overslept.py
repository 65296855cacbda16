"""In a child of multiprocessing, see to it that no signal is overslept. Knows no run, no handler.

Python runs a signal's handler in the main thread, between two bytecodes. A signal that comes after
the last of them and before a call begins to wait is not seen until that call returns. In the worker
of a pool that is terminated it never does: it waits for a lock whose owner is gone, and the default
action would have ended it at once. So Python writes each signal to a pipe, too, and a thread
interrupts whatever the main thread waits in, until the handler has run.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

# Sent to interrupt: nobody is harmed by one too many, and nearly nobody has a handler for it.
NUDGE = signal.SIGURG
# Seconds between nudges: the first is enough, unless the main thread has no processor for so long.
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)


class _State:
    """Ends of the pipe in this process, and the process that made it; the main thread writes it."""

    pid = 0
    ends = (-1, -1)


_state = _State()


def see_to(numbers: tuple[int, ...], is_noted: Callable[[], bool]) -> None:
    """Have these signals seen, in a child of multiprocessing; can be repeated. Main thread only.

    Elsewhere, and while an event loop has them written to a pipe of its own, it does nothing.

    Args:
        numbers: signals that have a handler.
        is_noted: tells whether the handler has run.
    """
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None or multiprocessing.current_process().name == "MainProcess":
        return
    if _state.pid != os.getpid():
        _begin(numbers, is_noted)
    before = signal.set_wakeup_fd(_state.ends[1], warn_on_full_buffer=False)
    if before not in (-1, _state.ends[1]):  # an event loop's
        signal.set_wakeup_fd(before)


def _begin(numbers: tuple[int, ...], is_noted: Callable[[], bool]) -> None:
    _state.pid, _state.ends = os.getpid(), os.pipe()
    os.set_blocking(_state.ends[1], False)
    if signal.getsignal(NUDGE) == signal.SIG_DFL:
        signal.signal(NUDGE, _wake)
    main = threading.get_ident()
    threading.Thread(
        target=_nudge, args=(_state.ends[0], main, numbers, is_noted),
        name="checkpointdb-signals", daemon=True,
    ).start()  # fmt: skip


def _wake(number: int, frame: FrameType | None) -> None:
    """Do nothing: that it came is enough."""


def _nudge(pipe: int, main: int, numbers: tuple[int, ...], is_noted: Callable[[], bool]) -> None:
    while came := os.read(pipe, 64):
        if set(came).isdisjoint(numbers):
            continue
        for pause in PAUSES:
            time.sleep(pause)
            if is_noted() or signal.getsignal(NUDGE) is not _wake:
                break
            signal.pthread_kill(main, NUDGE)


def forget() -> None:
    """In a forked child: its signals are not its parent's, nor is the pipe."""
    if _state.pid:
        if signal.getsignal(NUDGE) is _wake:
            signal.signal(NUDGE, signal.SIG_DFL)
        before = signal.set_wakeup_fd(-1)
        if before not in (-1, _state.ends[1]):
            signal.set_wakeup_fd(before)
        for end in _state.ends:
            os.close(end)
        _state.pid, _state.ends = 0, (-1, -1)
