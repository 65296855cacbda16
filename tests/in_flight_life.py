"""Processes of `test_concurrency.py`: to be stopped with calls in flight, to be measured.

Imports little: each life of a test starts here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import resource
import signal
import sys
import time

import checkpointdb as ckpt


def note(path: str, row: int) -> None:
    """Append a line to a log, in one write that no kill can tear."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{row}\n".encode())
    os.close(descriptor)


def live(kind: str, path: str, log: str) -> None:
    """Have 8 calls in threads, or 16 in tasks, in flight, until a signal comes."""
    logging.disable()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    as_step = ckpt.step(path, version=1, name="label", save=ckpt.on_exit(), durability="process")
    if kind == "threads":

        def by_thread(row: int) -> int:
            note(log, row)
            time.sleep(random.random() * 0.004)
            note(log + ".answered", row)
            return row

        for _ in as_step(by_thread).run(itertools.count(), concurrency=8):
            pass
        return

    @as_step
    async def by_task(row: int) -> int:
        note(log, row)
        await asyncio.sleep(random.random() * 0.004)
        note(log + ".answered", row)
        return row

    async def consume() -> None:
        async for _ in by_task.arun(itertools.count(), concurrency=16):
            pass

    if kind == "tasks":
        asyncio.run(consume())
    else:
        for _ in by_task.run(itertools.count(), concurrency=16):
            pass


def peak(n: int, path: str, queue) -> None:
    """Put the peak memory of a process over an async run of n rows that return at once, in MB."""

    @ckpt.step(path, version=1, durability="process")
    async def step(row: int) -> int:
        return row

    async def consume() -> None:
        async for _ in step.arun(iter(range(n)), concurrency=64):
            pass

    asyncio.run(consume())
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
