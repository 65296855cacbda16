"""Many calls at once, a busy neighbour thread, several processes on one store."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .harness import LIMIT_SECONDS, Case, Figures, child

QUESTION = "What does saving cost beside many calls at once?"
CALL_SECONDS = 0.005
TASKS, THREADS = 256, 64


def cases(quick: bool) -> list[Case]:
    """Return tasks, threads, a busy neighbour, processes."""
    scale = 1 if quick else 4
    found = [
        Case("256 tasks of 5 ms", in_child, {"what": "tasks", "rows": 5_120 * scale}),
        Case("64 threads, calls of 5 ms", in_child, {"what": "threads", "rows": 1_280 * scale}),
        Case("commits of 1,000 rows", in_child, {"what": "commits", "rows": 20_000}),
    ]
    for count in (1, 2, 4):
        parameters = {"processes": count, "rows": 400 * scale}
        found.append(Case(f"{count} processes, calls of 5 ms", measure_processes, parameters))
    return found


def in_child(folder: str, what: str, rows: int) -> Figures:
    """Measure in a fresh process."""
    return child(f"concurrency:{what}", folder, rows=rows)


def measure_processes(folder: str, processes: int, rows: int) -> Figures:
    """Run several processes over the same rows of one store, shared; count all calls."""
    code = f"from benchmarks.concurrency import worker; worker({rows})"
    child("concurrency:created", folder)
    workers = [
        subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        printed = [worker.communicate(timeout=LIMIT_SECONDS)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    said = [[float(word) for word in line.split()] for line in printed]
    began, ended, calls = zip(*said, strict=True)
    seconds = max(ended) - min(began)
    return {"rows_per_second": rows / seconds, "calls_per_row": sum(calls) / rows}


# --- in the child


async def short_call(row: dict[str, Any]) -> dict[str, Any]:
    """Answer after a while, as a server does."""
    from . import data

    await asyncio.sleep(CALL_SECONDS)
    return data.answer(row)


async def bare_tasks(rows: int) -> None:
    """Make short calls by workers that share an iterator, and keep nothing."""
    from . import data

    source = data.rows(rows)

    async def work() -> None:
        for row in source:
            await short_call(row)

    await asyncio.gather(*(work() for _ in range(TASKS)))


def tasks(rows: int) -> Figures:
    """Compare an async run with workers that share an iterator and keep nothing."""
    from . import data, ours

    step = ours.step(short_call, "adaptive()")

    async def run() -> None:
        async for _ in step.arun(data.rows(rows), concurrency=TASKS):
            pass

    return _compared(lambda: asyncio.run(bare_tasks(rows)), lambda: asyncio.run(run()), rows)


def threads(rows: int) -> Figures:
    """Compare a run in threads with a bare pool."""
    from . import data, ours

    def bench(row: dict[str, Any]) -> dict[str, Any]:
        time.sleep(CALL_SECONDS)
        return data.answer(row)

    def bare() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(bench, data.rows(rows)):
                pass

    step = ours.step(bench, "adaptive()")
    return _compared(bare, lambda: ours.timed_run(step, data.rows(rows), concurrency=THREADS), rows)


def _compared(bare: Any, run: Any, rows: int) -> Figures:
    began = time.perf_counter()
    bare()
    between = time.perf_counter()
    run()
    without, with_ = between - began, time.perf_counter() - between
    return {
        "bare_rows_per_second": rows / without,
        "rows_per_second": rows / with_,
        "overhead_pct": (with_ / without - 1) * 100,
        "overhead_us_per_row": (with_ - without) / rows * 1e6,
    }


def commits(rows: int) -> Figures:
    """Return what a commit takes alone and beside a thread that computes without end."""
    from . import data

    alone = _commit_ms(data.rows(rows), "alone.ckpt")
    stop = threading.Event()
    busy = threading.Thread(target=_compute, args=(stop,))
    busy.start()
    beside = _commit_ms(data.rows(rows), "beside.ckpt")
    stop.set()
    busy.join()
    return {"alone_ms": alone, "beside_ms": beside, "ratio": beside / alone}


def _commit_ms(rows: Any, path: str) -> float:
    import checkpointdb as ckpt

    from . import data

    took: list[float] = []

    def note(event: Any) -> None:
        if type(event).__name__ == "Committed":
            took.append(event.seconds)

    step = ckpt.step(path, version=1, save=ckpt.every(rows=1000))(data.answer)
    for _ in step.run(rows, on_event=note):
        pass
    step.store.close()
    return statistics.median(took) * 1e3


def _compute(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(1000))


def created() -> None:
    """Make the store that the processes share."""
    import checkpointdb as ckpt

    ckpt.Store("bench.ckpt").close()


def worker(rows: int) -> None:
    """Run over all rows beside other processes; print when, and how many were computed here."""
    from . import data, ours

    calls = []

    def bench(row: dict[str, Any]) -> dict[str, Any]:
        time.sleep(CALL_SECONDS)
        calls.append(1)
        return data.answer(row)

    began = time.time()
    ours.timed_run(ours.step(bench, "adaptive()"), data.rows(rows), shared=True)
    print(began, time.time(), len(calls))
