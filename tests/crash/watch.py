"""Await processes, and say so if one hangs: bounded by what it gets done, not by the clock.

A machine may be so loaded that a life of a second takes a minute. A life hangs if it neither ran
nor waited for a processor for `IDLE` seconds more than it ran, or if it ran for `BUSY` seconds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

# In seconds. No life of the laboratory takes a tenth of it; and an idle one must not be saved by
# claims that are given up after `LEASE_SECONDS`.
IDLE, BUSY = 8.0, 120.0
LOOK_EVERY = 0.5
STACKS = signal.SIGUSR1  # has a process write down its stacks


class Hangs(Exception):
    """A process does not come to its end; the text is its stacks."""


def all_ended(pids: Sequence[int], stacks: str | None = None) -> list[int]:
    """Await child processes; return their exit statuses.

    Args:
        pids: of children of this process.
        stacks: a file to which they write their stacks, if asked: see `shows_stacks`.

    Raises:
        Hangs: one made no progress. All of them are killed then.
    """
    left, statuses, watched = list(pids), dict[int, int](), _Watched(pids)
    try:
        while left:
            ready, _, _ = select.select(list(watched.of), [], [], LOOK_EVERY)
            for descriptor in ready:
                pid = watched.of.pop(descriptor)
                os.close(descriptor)
                statuses[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                left.remove(pid)
            if left and not ready and watched.hang(left):
                raise Hangs(_stacks(left, stacks))
    finally:
        watched.close()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return [statuses[pid] for pid in pids]


def until(is_so: Callable[[], bool], pids: Sequence[int], stacks: str | None = None) -> None:
    """Wait until something is so, which processes bring about.

    Raises:
        Hangs: they made no progress, or one of them has ended.
    """
    watched = _Watched(pids)
    try:
        looked = time.monotonic()
        while not is_so():
            if time.monotonic() - looked > LOOK_EVERY:
                looked = time.monotonic()
                if watched.hang(pids):
                    raise Hangs(_stacks(pids, stacks))
            ended, _, _ = select.select(list(watched.of), [], [], 0.0002)
            if ended and not is_so():
                raise Hangs(f"process {watched.of[ended[0]]} has ended")
    finally:
        watched.close()


def joined(processes: Sequence[Any], stacks: str | None = None) -> list[int]:
    """Await processes of `multiprocessing`; return their exit statuses.

    Raises:
        Hangs: they made no progress. They are killed then.
    """
    left = list(processes)
    watched = _Watched([it.pid for it in left])
    try:
        while left:
            connection.wait([it.sentinel for it in left], LOOK_EVERY)
            left = [it for it in left if it.exitcode is None]
            if left and watched.hang(pids := [it.pid for it in left]):
                raise Hangs(_stacks(pids, stacks))
    finally:
        watched.close()
        for process in left:
            process.kill()
    return [it.exitcode for it in processes]


def children() -> list[int]:
    """Return the child processes of this one."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with (
            contextlib.suppress(FileNotFoundError),
            open(f"/proc/self/task/{thread}/children") as file,
        ):
            found += map(int, file.read().split())
    return found


class _Watched:
    """What some processes got done so far."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.of = {os.pidfd_open(pid): pid for pid in pids}
        self._idle = self._ran = 0.0
        self._at, self._done = time.monotonic(), dict.fromkeys(pids, 0.0)

    def close(self) -> None:
        for descriptor in self.of:
            os.close(descriptor)

    def hang(self, pids: Sequence[int]) -> bool:
        """Tell whether they have done too little for too long, or too much."""
        now, done = time.monotonic(), 0.0
        for pid in pids:
            ran, waited = progress(pid)
            self._ran = max(self._ran, ran)
            done += max(0.0, ran + waited - self._done[pid])
            self._done[pid] = ran + waited
        self._idle += max(0.0, now - self._at - done)
        self._at = now
        return self._idle > IDLE + self._ran or self._ran > BUSY


def progress(pid: int) -> tuple[float, float]:
    """Return for how many seconds a process ran, and how many it waited for a processor."""
    ran = waited = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/{pid}/task/{thread}/schedstat") as file,
            ):
                on, off, _ = map(int, file.read().split())
                ran, waited = ran + on, waited + off
    return ran / 1e9, waited / 1e9


def shows_stacks(path: str) -> None:
    """Have this process write its stacks into a file when `all_ended` finds that it hangs."""
    file = open(path, "ab")  # noqa: SIM115 - for as long as the process lives
    faulthandler.register(STACKS, file, all_threads=True)


def _stacks(pids: Sequence[int], path: str | None) -> str:
    if path is None:
        return f"processes {list(pids)} make no progress"
    for pid in pids:
        os.kill(pid, STACKS)
    time.sleep(LOOK_EVERY)
    with open(path) as file:
        return f"makes no progress:\n{file.read()}"


@contextlib.contextmanager
def ends() -> Iterator[Callable[[], None]]:
    """End this whole process, with all stacks, if a part of a block hangs: nobody else can tell.

    The block calls what it is given after each part.
    """
    armed = 0.0

    def done() -> None:
        nonlocal armed
        if time.monotonic() - armed > BUSY / 20:  # it costs a thread each time
            faulthandler.dump_traceback_later(BUSY * 5, exit=True, file=sys.__stderr__)
            armed = time.monotonic()

    done()
    try:
        yield done
    finally:
        faulthandler.cancel_dump_traceback_later()
