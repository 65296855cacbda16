"""Wake a child of multiprocessing that would sleep through a signal. Knows no run, no handler.

Python runs a signal's handler in the main thread, between two bytecodes. A signal that comes after
the last of them and before a call begins to wait is not seen until that call returns. In a worker
of a terminated pool the call never returns: it waits for a lock whose owner is gone. The default
action would have ended the worker at once. So Python also writes each signal to a pipe, and a
thread interrupts whatever the main thread waits in, until the handler has run.
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
    """Make a child of multiprocessing see these signals; can be repeated. Main thread only.

    It does nothing in other processes, nor while an event loop has a pipe of its own for signals.

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
    """Do nothing: the interruption is enough."""


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
    """Forget the parent's signals and pipe in a forked child."""
    if _state.pid:
        if signal.getsignal(NUDGE) is _wake:
            signal.signal(NUDGE, signal.SIG_DFL)
        before = signal.set_wakeup_fd(-1)
        if before not in (-1, _state.ends[1]):
            signal.set_wakeup_fd(before)
        for end in _state.ends:
            os.close(end)
        _state.pid, _state.ends = 0, (-1, -1)
