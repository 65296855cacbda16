"""Ctrl-C, SIGTERM and SIGHUP wait while something must be whole. Knows no run and no file.

A signal's handler runs in the main thread, between any two bytecodes, even just before a `try` or a
`with` takes effect. So the handler looks at the stack. Under a function that is `whole` it only
takes a note; the wrapper of that function, which is not `whole` itself, delivers the signal. Other
threads are never interrupted, and take no part in this.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import functools
import itertools
import logging
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, ParamSpec, TypeVar

from . import overslept, system
from .system import ALARMS, STOPS

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("checkpointdb.run")

_HELD = tuple(map(int, (*STOPS, *ALARMS)))
# not those of `signal`, which make enums of numbers: that costs ten times what the work costs
_set: Callable[[int, Any], Any] = _signal.signal
_get: Callable[[int], Any] = _signal.getsignal

_NOTHING: Any = object()


class Deferring:
    """A handler that defers by itself while something is whole: that of a run."""

    def living(self, number: int) -> Any:
        """Return the handler before this one."""
        raise NotImplementedError


class _State:
    """What is known of signals in this process; the main thread alone writes it."""

    main = threading.main_thread().ident
    deferred: int | BaseException | None = None  # an exception: what a handler had raised
    urgent = False  # a second signal came: nobody waits for another process's lock any more
    ending = False  # the process is about to die by a signal: no further call begins
    taken: Any = ()  # handlers replaced while something is whole
    deferring: Any = (_NOTHING,) * len(_HELD)  # handlers seen last of which none need be replaced


state = _State()
_whole: set[CodeType] = set()
_calls: set[CodeType] = set()
_callers: set[CodeType] = set()
_computing: set[CodeType] = set()
_idling: set[CodeType] = set()
# What is to be saved before a signal ends the process: filled by who has it.
savers: list[Callable[[], None]] = []
last_acts: list[Callable[[], None]] = []  # after that, and as bounded: what may wait for others


def whole(fn: Callable[P, R]) -> Callable[P, R]:
    """Let no signal interrupt `fn`, a commit for example, nor begin it again inside itself.

    A signal is delivered when the outermost such function has returned. A second one makes whoever
    waits for another process's lock give up.
    """
    return _guarded(fn, _whole)


def one_call(fn: Callable[P, R]) -> Callable[P, R]:
    """Let no signal come between a step's return and the keeping of its result: `fn` does both.

    In the step itself Ctrl-C does what the program's own handler does; SIGTERM and SIGHUP save
    what is pending and wait for the step, unless a second one comes.
    """
    return _guarded(fn, _calls)


def _guarded(fn: Callable[P, R], codes: set[CodeType]) -> Callable[P, R]:
    codes.add(fn.__code__)
    me = threading.get_ident

    @functools.wraps(fn)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if me() != state.main or state.taken:  # within another one: that delivers
            return fn(*args, **kwargs)
        try:
            _take()
            return fn(*args, **kwargs)
        finally:
            if state.taken:
                _give_back(state.taken)
            if state.deferred is not None:
                _deliver_if_open(sys._getframe())

    return guarded


def in_the_open(fn: Callable[[Any], R], row: Any) -> R:
    """Call the user's own function inside `one_call`: there, Ctrl-C is the program's business."""
    if threading.get_ident() != state.main or not state.taken:
        return fn(row)
    taken, result = state.taken, _NOTHING
    try:
        _give_back(taken)
        if state.deferred is not None:
            _deliver_if_open(sys._getframe())
        result = fn(row)
        _take()
    except BaseException as error:
        _take()
        if result is _NOTHING:
            raise
        defer(error)  # a handler raised it right after the return: keep the result first
    return result  # type: ignore[no-any-return]


_callers.add(in_the_open.__code__)


def _take() -> None:
    """Replace the program's handlers by ours."""
    handlers = (*map(_get, _HELD),)
    if all(map(operator.is_, handlers, state.deferring)):  # in a run nearly always, for each row
        return
    taken = {
        number: handler
        for number, handler in zip(_HELD, handlers, strict=True)
        if callable(handler) and handler is not handle and not isinstance(handler, Deferring)
    }
    if taken:
        state.taken = taken
        for number in taken:
            _set(number, handle)
    else:
        state.deferring = handlers


def _give_back(taken: Any) -> None:
    state.taken = ()
    for number, handler in dict(taken).items():
        if _get(number) is handle:
            _set(number, handler)


_whole.update((_take.__code__, _give_back.__code__))


def is_whole(frame: FrameType | None) -> bool:
    """Tell whether something is on this stack that must not be interrupted or begun again."""
    while frame is not None:
        if frame.f_code in _whole:
            return True
        frame = frame.f_back
    return False


def in_step(frame: FrameType | None) -> bool | None:
    """Tell whether a call is on this stack and its step is running; None without a call."""
    while frame is not None:
        if frame.f_code in _callers:
            return True
        if frame.f_code in _calls:
            return False
        frame = frame.f_back
    return None


def in_calls(fn: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that calls a step, or waits for calls, and holds no lock meanwhile."""
    _callers.add(fn.__code__)
    return fn


def computes(fn: Callable[P, R]) -> Callable[P, R]:
    """Mark the function in which a call is in flight as long as it is on a thread's stack."""
    _computing.add(fn.__code__)
    return in_calls(fn)


def idles(fn: Callable[P, R]) -> Callable[P, R]:
    """Mark a function in which a call waits to be made: nobody need wait for it."""
    _idling.add(fn.__code__)
    return fn


def watch() -> None:
    """Have SIGTERM and SIGHUP save what is pending, where they would just end the process.

    This works only in the main thread, because Python lets no other thread install a handler. It
    replaces only the default action: an ignored signal stays ignored, and a program keeps its own
    handler.
    """
    if threading.get_ident() != state.main:
        return
    for number in STOPS[1:]:
        if _get(number) == signal.SIG_DFL:
            signal.signal(number, handle)
    overslept.see_to(STOPS[1:], is_noted)


def is_noted() -> bool:
    """Tell whether the handler of a signal has run."""
    return state.ending or state.deferred is not None


def is_stopping() -> bool:
    """Tell whether no further call begins here: a signal ends the process after those in flight.

    The signal waits for the main thread's async calls; new calls would keep it waiting for ever.
    """
    deferred = state.deferred
    return state.ending or (
        type(deferred) is int
        and threading.get_ident() == state.main
        and deferred not in state.taken
        and _get(deferred) is handle
    )


def handle(number: int, frame: FrameType | None) -> None:
    """Take a note of a signal, or do what it would have done, with everything saved."""
    if is_whole(frame):
        defer(number)
        return
    running = in_step(frame)
    second = state.deferred is not None
    if running is False or state.ending:
        defer(number)
    elif (running or _is_awaited()) and not second:
        defer(number)
        _save()
    else:
        _act(number, frame)


def defer(signal_or_error: int | BaseException) -> None:
    """Note a signal that came while something must be whole."""
    if state.deferred is not None or state.ending:
        state.urgent = True
    if state.deferred is None:
        state.deferred = signal_or_error


def _deliver_if_open(frame: FrameType) -> None:
    """Deliver what was deferred, unless something is still whole further out."""
    deferred = state.deferred
    if deferred is None or is_whole(frame):
        return
    if isinstance(deferred, BaseException):
        state.deferred, state.urgent = None, False
        raise deferred
    handler = _get(deferred)
    waits = in_step(frame) is not None or _is_awaited()
    if handler is handle and waits and not state.urgent:
        return
    state.deferred, state.urgent = None, False
    if handler is handle:
        _act(deferred, frame)
    elif callable(handler):
        handler(deferred, frame)


def _act(number: int, frame: FrameType | None) -> None:
    """Do what the signal would have done without us."""
    taken = state.taken
    handler = dict(taken).get(number)
    _give_back(taken)
    state.deferred, state.urgent = None, False
    if handler is not None:
        handler(number, frame)
    else:
        _end_process(number)


def _end_process(number: int) -> None:
    """Await calls of other threads, save all, then let the signal end the process."""
    state.ending = True
    _save()
    for call in list(sent):
        call.cancel()  # unless it is being made
    while _others_are_calling() and state.deferred is None:
        time.sleep(0.002)
    _save()
    for act in last_acts:
        act()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _save() -> None:
    for save in savers:
        save()


# --- calls of other threads and tasks

_awaited: set[tuple[int, int]] = set()  # async calls in flight: their thread, and a number
_numbers = itertools.count()
sent: set[Any] = set()  # futures of calls that an executor's workers make, until they are kept
forsaken: set[int] = set()  # threads whose call took too long: nobody waits for them


def halt() -> None:
    """Begin no further call: the process is about to die by a signal."""
    while True:
        time.sleep(60)


async def ahalt() -> None:
    """Begin no further call in this task."""
    import asyncio

    await asyncio.get_running_loop().create_future()


def depart() -> tuple[int, int]:
    """Note that an async call is in flight in this thread; return what `land` takes."""
    call = threading.get_ident(), next(_numbers)
    _awaited.add(call)
    return call


def land(call: tuple[int, int]) -> None:
    """Forget an async call; the main thread's last one lets a deferred signal go on."""
    _awaited.discard(call)
    if state.deferred is not None and call[0] == state.main:
        _deliver_if_open(sys._getframe())


def _is_awaited() -> bool:
    return any(thread == state.main for thread, _ in list(_awaited))


def _others_are_calling() -> bool:
    """Tell whether a call is in flight in another thread, or awaited there, or sent elsewhere."""
    if sent or any(thread != state.main for thread, _ in list(_awaited)):
        return True
    for thread, frame in sys._current_frames().items():
        if thread != state.main and thread not in forsaken and _is_calling(frame):
            return True
    return False


def _is_calling(frame: FrameType | None) -> bool:
    if frame is not None and frame.f_code is halt.__code__:
        return False
    idles = False
    while frame is not None:
        if frame.f_code in _computing:
            if not idles:
                return True
            idles = False  # that was the call that waits; it may be inside of another one
        idles = idles or frame.f_code in _idling
        frame = frame.f_back
    return False


# --- fork


def before(number: int, handler: Any) -> Any:
    """Return the program's own handler, under those of ours."""
    while True:
        if handler is handle:
            handler = dict(state.taken).get(number, signal.SIG_DFL)
        elif isinstance(handler, Deferring):
            handler = handler.living(number)
        else:
            return handler


def _reset_in_child() -> None:
    """Forget the parent's signals in a forked process, which has nothing to save yet."""
    state.main = threading.get_ident()
    for number in _HELD:
        handler = _get(number)
        if handler is handle or isinstance(handler, Deferring):
            signal.signal(number, before(number, handler))
    state.deferred, state.urgent, state.ending, state.taken = None, False, False, ()
    _awaited.clear()
    forsaken.clear()
    sent.clear()
    overslept.forget()


# A signal that comes to a child before its handlers are reset would be lost, and with it the
# child's end: it waits, blocked, until they are. By thread, for any thread may fork.
_mask = threading.local()


def _block() -> None:
    _mask.before = system.block_stops()


def _unblock() -> None:
    system.unblock(_mask.before)


def _begin_child() -> None:
    try:
        _reset_in_child()
    finally:
        _unblock()


system.at_fork(_begin_child, before=_block, after_in_parent=_unblock)
