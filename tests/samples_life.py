"""A process that draws samples of equal rows when told to, one a line, until its end or a kill.

    python samples_life.py STORE calls|run|async|shared NAME

A line `ask x` is answered with `called token` or `hit token`; `fail x` has the step raise, `hang x`
has it never return; at the end of the input the process ends, and with it its run.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

import checkpointdb as ckpt

path, how, name = sys.argv[1:]
numbers, calls, todo = itertools.count(), [], []


def draw(row: str) -> str:
    calls.append(row)
    if todo == ["hang"]:
        say("hangs")
        time.sleep(600)
    if todo == ["fail"]:
        raise ValueError(row)
    return name if row == name else f"{name}-{next(numbers)}"


async def adraw(row: str) -> str:
    await asyncio.sleep(0)
    return draw(row)


def say(*words: str) -> None:
    print(*words, flush=True)


def commands():
    say("begun")
    for line in sys.stdin:
        todo[:], row = [line.split()[0]], line.split()[1]
        calls.clear()
        yield row


def answer(result: str) -> None:
    say("called" if calls else "hit", result)


def slowly(rows):
    """A run reads ahead of rows that come fast: these come one at a time."""
    for row in rows:
        time.sleep(0.03)
        yield row


fn = adraw if how == "async" else draw
step = ckpt.step(
    path,
    version=1,
    name="draw",
    duplicates="separate",
    save=ckpt.every(rows=1),
    ignore=("todo", "name"),
)(fn)
if how in ("run", "shared"):
    for result in step.run(slowly(commands()), shared=how == "shared"):
        answer(result)
else:
    asyncio.run(step(name)) if how == "async" else step(name)  # a session begins with a call
    for row in commands():
        try:
            answer(asyncio.run(step(row)) if how == "async" else step(row))
        except ValueError:
            say("failed")
