"""One worker of `test_shared.py`: a process that shares a store with others. Imports little."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time

import checkpointdb as ckpt


def note(path: str, text: str) -> None:
    """Append a line to a log, in one write that no kill can tear."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def work(
    path: str, log: str, n: int, name: str, how: str, seconds: float, save: int,
    kill_at: int | None = None,
) -> None:  # fmt: skip
    """Run over the same n rows as the others.

    Args:
        path: the store.
        log: gets "name row" for each call and, at the end, "name done hits computed".
        n: rows.
        name: of this worker.
        how: "threads", "tasks" or "sequential".
        seconds: how long a call takes.
        save: commit every so many rows.
        kill_at: die by SIGKILL in this call of ours, counted from 1.
    """
    logging.disable()
    calls = 0

    def begin(row: int) -> None:
        nonlocal calls
        note(log, f"{name} {row}")
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    as_step = ckpt.step(
        path, version=1, name="label", save=ckpt.every(rows=save), durability="process"
    )
    if how == "tasks":

        @as_step
        async def label(row: int) -> int:
            begin(row)
            await asyncio.sleep(seconds)
            return row * 2
    else:

        @as_step
        def label(row: int) -> int:
            begin(row)
            if seconds:
                time.sleep(seconds)
            return row * 2

    run = label.run(range(n), shared=True, concurrency=1 if how == "sequential" else 8)
    right = all(result == row * 2 for row, result in enumerate(run))
    report = run.report
    assert right
    assert report.rows == n
    note(log, f"{name} done {report.hits} {report.computed}")
