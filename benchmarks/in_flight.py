"""What a kill loses and what saving costs with many calls in flight, on two disks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import threading
import time
from typing import Any

from .harness import Case, Figures, Killed, child, fresh_folder
from .markdown import NOT_SAID, markdown, number
from .results import best, figure

QUESTION = "What does a kill lose, and what does saving cost, by calls in flight?"
CALL_SECONDS = 0.3
IN_FLIGHT = (1, 16, 64, 256)
POLICIES = {"adaptive()": 1, "every(rows=1)": 1, "every(rows=50)": 50}  # rows to kill within
DISKS = {"this disk": 0.0, "a slow disk": 0.02}  # seconds that a commit takes in addition
KILLS = 6  # at moments spread evenly over a call, or over those that fill a policy's rows
SECONDS = 1.2  # of a whole run
TARGET = "adaptive() 64 in flight, calls of 100 ms"
PAID = "paid"  # the file that each call notes itself in as it returns


def cases(quick: bool) -> list[Case]:
    """Return each policy at each number of calls in flight, on both disks."""
    kills = 2 if quick else KILLS
    found = [
        Case(
            f"{save} {n} in flight, {disk}",
            measure,
            {"save": save, "in_flight": n, "disk": disk, "kills": kills},
            repeats=1,
        )
        for disk in DISKS
        for n in ((1, 64) if quick else IN_FLIGHT)
        for save in POLICIES
    ]
    target = {"save": "adaptive()", "in_flight": 64, "disk": "this disk", "kills": kills}
    long = {"call_seconds": 0.1, "run_seconds": 1 if quick else 6}
    return [*found, Case(TARGET, measure, target | long)]


def measure(
    folder: str,
    save: str,
    in_flight: int,
    disk: str,
    kills: int,
    call_seconds: float = CALL_SECONDS,
    run_seconds: float = SECONDS,
) -> Figures:
    """Measure a whole run; kill others, resume each over what had returned, and count."""
    asked = {"save": save, "in_flight": in_flight, "slow": DISKS[disk], "seconds": call_seconds}
    figures = child("in_flight:whole", folder, run_seconds=run_seconds, **asked)
    del figures["memory_mb"]
    lost = [_lost(asked, (kill + 0.5) / kills) for kill in range(kills)]
    return figures | {"rows_lost": statistics.mean(lost), "rows_lost_worst": max(lost)}


def _lost(asked: dict[str, Any], phase: float) -> int:
    with fresh_folder() as folder:
        with contextlib.suppress(Killed):
            child("in_flight:killed", folder, phase=phase, **asked)
            raise RuntimeError("the run ended before it was killed")
        return child("in_flight:resumed", folder)["rows_lost"]


# --- in the child


def whole(save: str, in_flight: int, slow: float, seconds: float, run_seconds: float) -> Figures:
    """Compare a run with as many tasks that keep nothing."""
    rows = max(round(run_seconds / seconds), 1) * in_flight
    call = _call(seconds)
    _slow_down(slow)

    async def bare() -> None:
        source = iter(range(rows))

        async def work() -> None:
            for row in source:
                await call(row)

        await asyncio.gather(*(work() for _ in range(in_flight)))

    began = time.perf_counter()
    asyncio.run(bare())
    without = time.perf_counter() - began
    step, worst = _step(save, call), []
    began = time.perf_counter()
    report = asyncio.run(_run(step, rows, in_flight, worst))
    took = time.perf_counter() - began
    step.store.close()
    return {
        "overhead_pct": (took / without - 1) * 100,
        "commits": report.commits,
        "commit_ms": report.commit_seconds / report.commits * 1e3,
        "loop_held_ms": max(worst) * 1e3,
    }


def killed(save: str, in_flight: int, slow: float, seconds: float, phase: float) -> None:
    """Run, and kill this process in the midst of it."""
    call = _call(seconds)
    _slow_down(slow)
    paid, returned = os.open(PAID, os.O_CREAT | os.O_WRONLY | os.O_APPEND), []

    async def bench(row: int) -> int:
        await call(row)
        os.write(paid, b"%d\n" % row)
        returned.append(row)
        return row

    def kill() -> None:
        while len(returned) < 2 * in_flight:
            time.sleep(0.001)
        time.sleep(phase * seconds * max(1, POLICIES[save] / in_flight))
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    asyncio.run(_run(_step(save, bench), 10**6, in_flight, []))


def resumed() -> Figures:
    """Run again over the rows that had returned; count those computed again."""
    calls = []

    async def bench(row: int) -> int:
        calls.append(row)
        return row

    with open(PAID) as file:
        rows = [int(line) for line in file]
    for _ in _step("every(rows=50)", bench).run(rows):
        pass
    return {"rows_lost": len(calls)}


def _step(save: str, fn: Any) -> Any:
    from . import ours

    return ours.step(fn, save)


def _call(seconds: float) -> Any:
    async def bench(row: int) -> int:
        await asyncio.sleep(seconds)
        return row

    return bench


async def _run(step: Any, rows: int, in_flight: int, held: list[float]) -> Any:
    async def beat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            held.append(time.perf_counter() - before - 0.002)

    beating, run = asyncio.create_task(beat()), step.arun(range(rows), concurrency=in_flight)
    async for _ in run:
        pass
    beating.cancel()
    return run.report


def _slow_down(seconds: float) -> None:
    """Make this process's commits take longer, as those of another disk do."""
    from checkpointdb.file import log

    insert = log.insert

    def slowly(*arguments: Any) -> None:
        time.sleep(seconds)
        insert(*arguments)

    if seconds:
        log.insert = slowly


# --- the table


def loss_table() -> str:
    """Return, by disk, policy and calls in flight, what saving costs and what a kill loses."""
    result = best("in_flight")
    asked = [case["parameters"] for case in result["cases"].values()] if result else []
    heads = sorted({parameters["in_flight"] for parameters in asked})
    lines = [
        [disk, f"`{save}`", *(_cell(result, f"{save} {n} in flight, {disk}") for n in heads)]
        for disk in DISKS
        for save in POLICIES
    ]
    return markdown(["disk", "save", *(f"{n} in flight" for n in heads)], lines)


def _cell(result: Any, case: str) -> str:
    lost = figure(result, case, "rows_lost")
    if lost is None:
        return NOT_SAID
    rows = f"{number(lost)} rows, at worst {number(figure(result, case, 'rows_lost_worst'))}"
    return f"{number(figure(result, case, 'overhead_pct'))} %, {rows if lost else 'nothing'}"
