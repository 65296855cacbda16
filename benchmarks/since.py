"""What changed since an older commit: the same work with the code of then and of now, in turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from .concurrency import TASKS, bare_tasks, short_call
from .harness import Case, Figures, child
from .markdown import NOT_SAID, markdown, number
from .results import best, figure

QUESTION = "What changed since an older commit?"
COMMIT = "821e75e"  # where the targets were set
THEN, NOW = f"at {COMMIT}", "now"
PAIRS = 5
BATCH = 256
EMBEDDING = "embedding of 1,536 floats"
ROWS = {
    "small rows": 100_000, "embeddings": 2_000, "async calls": 10_240, "direct hits": 20_000,
    "batches": 102_400,
}  # fmt: skip


def cases(quick: bool) -> list[Case]:
    """Return each kind of work with both codes, one after the other."""
    return [
        Case(f"{what}, {which}", measure, asked | {"at": at}, repeats=PAIRS)
        for what, rows in ROWS.items()
        for asked in [{"what": what, "rows": rows // 4 if quick else rows}]
        for which, at in ((THEN, COMMIT), (NOW, ""))
    ]


def measure(folder: str, what: str, rows: int, at: str) -> Figures:
    """Measure with the code of a commit, or with this one."""
    first, again = WORK[what]
    figures = child(f"since:{first}", folder, at=at, rows=rows)
    if again:
        figures |= child(f"since:{again}", folder, at=at, rows=rows)
        figures["resume_memory_mb"] = figures.pop("memory_mb")
    return figures


WORK = {
    "small rows": ("small_first", "small_again"),
    "embeddings": ("embeddings_first", "embeddings_again"),
    "async calls": ("async_calls", ""),
    "direct hits": ("direct_hits", ""),
    "batches": ("batches", ""),
}


# --- in the child


def _timed(rows: int, what: str, function: Callable[[], Any]) -> Figures:
    began, cpu = time.perf_counter(), time.process_time()
    function()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {f"{what}us": wall / rows * 1e6, f"{what}cpu_us": cpu / rows * 1e6}


def _beyond(figures: Figures, bare: Figures) -> Figures:
    return {name: value - bare[name] for name, value in figures.items()}


def _begun(step: Any, row: Any) -> Figures:
    """Run over one row: what the first run in a process takes, however long it is."""
    from . import ours

    return {"start_cpu_ms": _timed(1, "", lambda: ours.timed_run(step, [row]))["cpu_us"] / 1e3}


def small_first(rows: int) -> Figures:
    """Run over new small rows, 1,000 a commit; the time is that beyond the bare loop."""
    from . import data, ours

    start = _begun(ours.step(data.answer, "every(rows=1000)"), data.row(-1))
    bare = _timed(rows, "", lambda: ours.bare(data.answer, data.rows(rows)))
    step = ours.step(data.answer, "every(rows=1000)")
    took = _timed(rows, "", lambda: ours.timed_run(step, data.rows(rows)))
    return _beyond(took, bare) | start | {"bytes_per_row": ours.stored_bytes() / rows}


def small_again(rows: int) -> Figures:
    """Run again, in order and shuffled; the time is that beyond making the rows."""
    from . import data, ours

    _begun(ours.step(data.answer, "every(rows=1000)"), data.row(0))
    figures: Figures = {}
    for what, source in (("resume_", data.rows), ("shuffled_", data.shuffled)):
        bare = _timed(rows, what, lambda source=source: list(map(id, source(rows))))
        step = ours.step(data.answer, "every(rows=1000)")
        took = _timed(rows, what, lambda s=step, f=source: ours.timed_run(s, f(rows)))
        figures |= _beyond(took, bare)
    return figures


def embeddings_first(rows: int) -> Figures:
    """Save lists of 1,536 floats, ten a commit; the time is that beyond making them."""
    from . import large, ours

    make, _ = large.values(EMBEDDING)
    _begun(_embeddings(), -1)
    bare = _timed(rows, "", lambda: ours.bare(make, range(rows)))
    took = _timed(rows, "", lambda: ours.timed_run(_embeddings(), range(rows)))
    return _beyond(took, bare) | {"bytes_per_row": ours.stored_bytes() / rows}


def embeddings_again(rows: int) -> Figures:
    """Read them back."""
    from . import ours

    _begun(_embeddings(), 0)
    return _timed(rows, "resume_", lambda: ours.timed_run(_embeddings(), range(rows)))


def _embeddings() -> Any:
    from . import large, ours

    make, _ = large.values(EMBEDDING)

    def bench(i: int) -> list[float]:
        return make(i)

    return ours.step(bench, "every(rows=10)")


def async_calls(rows: int) -> Figures:
    """Make short calls, 256 in flight; the time is that beyond bare tasks on one iterator."""
    from . import data, ours

    step = ours.step(short_call, "adaptive()")

    async def run() -> None:
        async for _ in step.arun(data.rows(rows), concurrency=TASKS):
            pass

    _begun(step, data.row(-1))
    without = _timed(rows, "", lambda: asyncio.run(bare_tasks(rows)))
    return _beyond(_timed(rows, "", lambda: asyncio.run(run())), without)


def direct_hits(rows: int) -> Figures:
    """Call for rows that are saved, directly; and through diskcache's `memoize`."""
    import diskcache

    from . import data, ours

    items = list(data.rows(rows))
    step = ours.step(data.answer, "every(rows=1000)")
    ours.timed_run(step, items)
    step = ours.step(data.answer, "every(rows=1000)")
    step(items[0])  # opens the store
    figures = _timed(rows, "", lambda: [step(row) for row in items])
    with diskcache.Cache("cache") as cache:
        cached = cache.memoize()(data.answer)
        with cache.transact():
            for row in items:
                cached(row)
        return figures | _timed(rows, "memoize_", lambda: [cached(row) for row in items])


def batches(rows: int) -> Figures:
    """Run a step over batches of 256 rows, and one over single rows, to stores of their own."""
    import checkpointdb as ckpt

    from . import data

    def many(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [data.answer(row) for row in rows]

    def one(row: dict[str, Any]) -> dict[str, Any]:
        return data.answer(row)

    figures: Figures = {}
    for what, fn, options in (("", many, {"batch_size": BATCH}), ("single_", one, {})):
        step = ckpt.step(f"{fn.__name__}.ckpt", version=1, save=ckpt.every(rows=1000))(fn)
        list(step.run([data.row(-1)], **options))
        run = step.run(data.rows(rows), **options)
        figures |= _timed(rows, what, lambda run=run: [None for _ in run])
        step.store.close()
    return figures


# --- the table


SHOWN = {
    ("small rows", "first run"): "cpu_us", ("small rows", "resume in order"): "resume_cpu_us",
    ("small rows", "resume shuffled"): "shuffled_cpu_us",
    ("embeddings", "first run, every(rows=10)"): "cpu_us",
    ("embeddings", "resume"): "resume_cpu_us",
    ("async calls", "256 in flight, beyond bare tasks"): "cpu_us",
    ("direct hits", "a call each"): "cpu_us", ("batches", "of 256"): "cpu_us",
    ("batches", "single calls"): "single_cpu_us",
}  # fmt: skip


def since_table() -> str:
    """Return what a row took with both codes, in processor time and by the clock."""
    result = best("since")
    lines = []
    for (what, how), name in SHOWN.items():
        clock = name.replace("cpu_", "")
        lines.append([f"{what}: {how}", *_pair(result, what, name), *_pair(result, what, clock)])
    start = "ms of processor time before the first row, in a new process"
    lines.append([start, *_pair(result, "small rows", "start_cpu_ms"), *[NOT_SAID] * 3])
    lines += [
        [f"{what}: bytes on disk a row", *_pair(result, what, "bytes_per_row"), *[NOT_SAID] * 3]
        for what in ("small rows", "embeddings")
    ]
    heads = [f"µs of processor time a row, {THEN}", NOW, "ratio", f"µs by the clock, {THEN}", NOW]
    return markdown(["what", *heads, "ratio"], lines)


def _pair(result: Any, what: str, name: str) -> list[str]:
    then, now = (figure(result, f"{what}, {which}", name) for which in (THEN, NOW))
    ratio = now / then if now is not None and then else None
    return [number(then), number(now), number(ratio)]
