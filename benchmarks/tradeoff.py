"""How often to save: what each save policy costs, and what a kill at its worst moment loses."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from .harness import Case, Figures, Killed, child

QUESTION = "What does saving often cost, and what does a crash cost?"
ROWS = {0.0: 6_000, 1e-4: 4_000, 1e-3: 600, 1e-2: 60}  # by the step's seconds: half a second
QUICK_ROWS = {0.0: 3_000, 1e-3: 300}
EVERY = (1, 10, 50, 200, 1000, 5000)
OTHERS = ("every(seconds=0.5)", "adaptive()", "on_exit()")
FEW = ("every(rows=1)", "every(rows=50)", "adaptive()")
SIZES = (300, 3_000, 30_000)
MOST_COMMITS = 400  # of every(rows=1): an fsync each


def cases(quick: bool) -> list[Case]:
    """Return every policy at 300 bytes; the main ones for large results."""
    kinds = [(300, "power")]
    if not quick:
        kinds += [(300, "process"), (3_000, "power"), (30_000, "power")]
    return [
        _case(save, durability, size, seconds, rows)
        for seconds, rows in (QUICK_ROWS if quick else ROWS).items()
        for size, durability in kinds
        for save in _policies(quick or size > 300, rows)
    ]


def _policies(few: bool, rows: int) -> list[str]:
    every = [f"every(rows={n})" for n in EVERY if n < rows]
    return [save for save in [*every, *OTHERS] if save in FEW or not few]


def _case(save: str, durability: str, size: int, seconds: float, rows: int) -> Case:
    name = f"{save} {durability} {size} B {seconds * 1e3:g} ms"
    most = MOST_COMMITS if save == "every(rows=1)" else 2_000 if size == 30_000 else rows
    parameters = {
        "save": save, "durability": durability, "size": size, "seconds": seconds,
        "rows": min(rows, most),
    }  # fmt: skip
    return Case(name, measure, parameters)


def measure(folder: str, **parameters: Any) -> Figures:
    """Run, look how much was pending at most, kill another run just then, resume and count."""
    figures = child("tradeoff:whole", folder, **parameters)
    del figures["memory_mb"]
    try:
        child("tradeoff:killed", folder, worst=figures.pop("most_pending"), **parameters)
    except Killed as killed:
        returned, seconds = killed.said.split()
        lost = child("tradeoff:resumed", folder, returned=int(returned), **parameters)
        return figures | {"rows_lost": lost["rows_lost"], "seconds_lost": float(seconds)}
    return figures


class Step:
    """A step that takes its time: waits as a call does, or computes if that is too short a wait."""

    def __init__(self, size: int, seconds: float) -> None:
        self.inside, self.calls, self.seconds = 0.0, 0, seconds
        self._filler = "x" * (size - 50)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        self.calls += 1
        if self.seconds >= 1e-3:
            time.sleep(self.seconds)
        elif self.seconds:
            while time.perf_counter() - began < self.seconds:
                pass
        result = {"label": "mixed", "id": row["id"], "text": self._filler}
        self.inside += time.perf_counter() - began
        return result


class Watch:
    """Know how many rows are pending, from the events and the rows that come out."""

    def __init__(self) -> None:
        self.returned = self.committed = self.most = self.commits = 0
        self.oldest = time.perf_counter()

    def on_event(self, event: Any) -> None:
        if type(event).__name__ == "Committed":
            # a commit in the loop comes before the row that made it due is given out
            self.most = max(self.most, event.rows - 1, self.returned - self.committed)
            self.committed += event.rows
            self.commits += 1
            self.oldest = time.perf_counter()

    def begin(self, run: Any, work: Step) -> float:
        """Take the first row: what begins a run is measured by itself, once for any length."""
        began = time.perf_counter()
        next(iter(run))
        self.returned += 1
        took, work.inside = time.perf_counter() - began - work.inside, 0.0
        return took * 1e3

    @property
    def pending(self) -> int:
        return max(self.returned - self.committed, 0)


def whole(save: str, durability: str, size: int, seconds: float, rows: int) -> Figures:
    """Measure what saving costs beside the step."""
    from . import data, ours

    work, watch = Step(size, seconds), Watch()
    loop = ours.bare(Step(size, 0.0), data.rows(rows))
    run = (step := ours.step(_named(work), save, durability)).run(
        data.rows(rows), on_event=watch.on_event
    )
    start_ms = watch.begin(run, work)
    began = time.perf_counter()
    for _ in run:
        watch.returned += 1
    total = time.perf_counter() - began
    step.store.close()
    report = run.report
    over = max(total - work.inside - (loop if not seconds else 0.0), 0.0)
    figures = {"us_per_row": over / rows * 1e6, "commits": report.commits, "start_ms": start_ms}
    figures["commit_share_pct"] = report.commit_seconds / report.seconds * 100
    figures["most_pending"] = watch.most
    os.remove(ours.PATH)
    return figures | ({"overhead_pct": over / work.inside * 100} if seconds else {})


def _named(work: Step) -> Any:
    def bench(row: dict[str, Any]) -> dict[str, Any]:
        return work(row)

    return bench


def killed(
    save: str, durability: str, size: int, seconds: float, rows: int, worst: int
) -> Figures | None:
    """Kill this process when as much is pending as ever was, after a commit if there is one."""
    from . import data, ours

    watch, by_time = Watch(), save in ("adaptive()", "every(seconds=0.5)")  # never twice the same
    step = ours.step(_named(Step(size, seconds)), save, durability)
    for _ in step.run(data.rows(rows), on_event=watch.on_event):
        watch.returned += 1
        soon = 0.9 if by_time and watch.returned > rows * 0.6 else 1.0
        if watch.pending >= worst * soon or watch.returned == rows:
            age = time.perf_counter() - watch.oldest
            os.write(1, f"said:{watch.returned} {age}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
    return None


def resumed(
    save: str, durability: str, size: int, seconds: float, rows: int, returned: int
) -> Figures:
    """Run again over the rows that had returned; count those computed again."""
    from . import data, ours

    work = Step(size, 0.0)
    ours.timed_run(ours.step(_named(work), save, durability), data.rows(returned))
    return {"rows_lost": work.calls}
