"""How often to save: what each save policy costs, and what a kill at its worst moment loses."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from checkpointdb import by_size

from .harness import Case, Figures, Killed, child

QUESTION = "What does saving often cost, and what does a crash cost?"
# By the step's seconds: a second or more of run, so that a window of half a second fits in, and
# what begins and ends a run weighs little.
ROWS = {0.0: 60_000, 1e-4: 8_000, 1e-3: 1_500, 1e-2: 150, 0.3: 12}
QUICK_ROWS = {0.0: 6_000, 1e-3: 600}
EVERY = (1, 10, 50, 200, 1000, 5000)
BY_SIZE = {repr(by_size(n)): n for n in (1_000, 10_000, 100_000)}  # the rule of thumb: N by rows
OTHERS = ("every(seconds=0.5)", "adaptive()", "on_exit()")
FEW = ("every(rows=1)", "every(rows=50)", "every(rows=1000)", "adaptive()")
MAIN_KIND = (300, "power")
KINDS = (MAIN_KIND, (300, "process"), (3_000, "power"), (30_000, "power"))
SLOW = 0.1  # seconds of a step from which on the size of a result makes no difference
MOST_COMMITS = 1_000  # an fsync each
MOST_BYTES = 60_000_000


def cases(quick: bool) -> list[Case]:
    """Return every policy at 300 bytes and `power`; the main ones for the other kinds."""
    return [
        _case(save, durability, size, seconds, rows)
        for seconds, rows in (QUICK_ROWS if quick else ROWS).items()
        for size, durability in ([MAIN_KIND] if quick or seconds >= SLOW else KINDS)
        for save in _policies(quick or (size, durability) != MAIN_KIND, rows)
    ]


def _policies(few: bool, rows: int) -> list[str]:
    every = [f"every(rows={n})" for n in EVERY if n < rows]
    return [save for save in [*every, *OTHERS] if save in FEW or not few]


def _case(save: str, durability: str, size: int, seconds: float, rows: int) -> Case:
    name = f"{save} {durability} {size} B {seconds * 1e3:g} ms"
    most = min(rows, MOST_BYTES // size)
    if save.startswith("every(rows"):
        most = min(most, MOST_COMMITS * int(save[11:-1]))
    parameters = {"save": save, "durability": durability, "size": size, "seconds": seconds}
    return Case(name, measure, parameters | {"rows": most})


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
        self.inside, self.calls, self.seconds, self.first = 0.0, 0, seconds, 0.0
        self._filler = "x" * (size - 50)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        self.first = self.first or began
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
    items = list(data.rows(rows))
    loop = ours.bare(Step(size, 0.0), items)
    run = (step := ours.step(_named(work), save, durability)).run(items, on_event=watch.on_event)
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
    """Kill this process when as much is pending as ever was in a whole run.

    Two runs of a policy that goes by time never have the same most pending: towards the end of
    the run a little less is enough, so that no run gets by without its worst moment.
    """
    from . import data, ours

    watch, work = Watch(), Step(size, seconds)
    by_time = save in ("adaptive()", "every(seconds=0.5)")
    step = ours.step(_named(work), save, durability)
    for _ in step.run(list(data.rows(rows)), on_event=watch.on_event):
        watch.returned += 1
        enough = worst * min(1.0, 1.6 - watch.returned / rows) if by_time else worst
        if watch.pending >= enough or watch.returned == rows:
            age = time.perf_counter() - max(watch.oldest, work.first) if watch.pending else 0.0
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
