"""checkpointdb as a user would use it: what the measurements share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import checkpointdb as ckpt

PATH = "bench.ckpt"
POLICIES: dict[str, Callable[[], Any]] = {
    **{
        f"every(rows={n})": lambda n=n: ckpt.every(rows=n)
        for n in (1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    },
    "every(seconds=0.5)": lambda: ckpt.every(seconds=0.5),
    "adaptive()": ckpt.adaptive,
    "on_exit()": ckpt.on_exit,
}


def step(fn: Callable[..., Any], save: str, durability: str = "power") -> Any:
    """Make a step of `fn`, saved in the current folder."""
    decorate = ckpt.step(
        PATH, version=1, name="bench", save=POLICIES[save](), durability=durability
    )
    return decorate(fn)


def timed_run(made: Any, rows: Iterable[Any], **options: Any) -> tuple[float, Any]:
    """Run a step over rows to the end and close the store; return the seconds and the report."""
    began = time.perf_counter()
    run = made.run(rows, **options)
    for _ in run:
        pass
    report = run.report
    made.store.close()
    return time.perf_counter() - began, report


def bare(fn: Callable[..., Any], rows: Iterable[Any]) -> float:
    """Return the seconds of the loop without us."""
    began = time.perf_counter()
    for row in rows:
        fn(row)
    return time.perf_counter() - began


def stored_bytes() -> int:
    """Return the size of the store in the current folder."""
    return sum(os.path.getsize(PATH + end) for end in ("", "-wal") if os.path.exists(PATH + end))
