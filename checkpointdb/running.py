"""`ckpt run`: a step over a file, into a file. Knows sources, sinks and runs; no options."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from .codec import decode, encode
from .display import number, rate, safe
from .events import Report
from .handle import Run
from .shape import Shape, plain
from .sinks import OutputClosedError, writing
from .sources import Source
from .step import Step

SHOW_EVERY = 0.1  # seconds
RATE_WINDOW = 10.0  # seconds
Show = Callable[[Report, "float | None"], None]


@dataclasses.dataclass
class Job:
    """One `ckpt run`: what to read, compute and write.

    `run` is the run once it has begun, for whoever has to say what became of it.
    """

    step: Step[..., Any]
    source: Source
    output: str | None
    shape: Shape
    batch_size: int | None = None
    limit: int | None = None
    progress: bool = False
    run: Run[Any] | None = None

    def go(self) -> Report:
        """Pass the step over the source and write each row with its result.

        Promises: whatever happens, what the step returned is saved; the output appears whole or
        not at all; memory is bounded.
        """
        with contextlib.ExitStack() as stack:
            write = stack.enter_context(writing(self.output)) if self.output else None
            show = stack.enter_context(_bar(self.step.name) if self.progress else _no_bar())
            waiting: deque[Any] = deque()
            self.run = self.step.run(self._rows(waiting), batch_size=self.batch_size)
            run = stack.enter_context(self.run)
            try:
                self._loop(run, waiting, write, show)
            except OutputClosedError:
                run.close()  # `| head` is no failure
                raise
            show(self.run.report, 1.0)
        return self.run.report

    def _rows(self, waiting: deque[Any]) -> Iterator[Any]:
        """Give out the source's rows; keep each as it was, for the step may change what it gets."""
        for number_, row in enumerate(itertools.islice(self.source, self.limit)):
            if self.output:
                self.shape.check(row, f"{self.source.name}: row {number_}")
                waiting.append(encode(row))
            yield row

    def _loop(self, run: Run[Any], waiting: deque[Any], write: Any, show: Show) -> None:
        shown = 0.0
        for done, result in enumerate(run):
            if write is not None:
                where = f"{self.source.name}: row {done}"
                write(self.shape.join(decode(waiting.popleft()), plain(result), where))
            if self.progress and (now := perf_counter()) - shown >= SHOW_EVERY:
                shown = now
                show(run.report, self._fraction(done + 1))

    def _fraction(self, done: int) -> float | None:
        fractions = [self.source.fraction(), done / self.limit if self.limit else None]
        return max((part for part in fractions if part is not None), default=None)


@contextlib.contextmanager
def _no_bar() -> Iterator[Show]:
    yield lambda _report, _fraction: None


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Show]:
    """A progress bar on standard error: how far, how fast, hits, computed, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[counts]}", markup=False, style="dim"),
    )
    speed = _Speed()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(safe(name), total=None, counts="")

        def show(report: Report, fraction: float | None) -> None:
            counts = speed.text(report, fraction)
            total = None if fraction is None else 1.0
            progress.update(task, completed=fraction or 0.0, total=total, counts=counts)

        yield show


class _Speed:
    """Rows a second and time left, over the last ten seconds: hits come faster than calls."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, float]] = deque([(perf_counter(), 0, 0.0)])

    def text(self, report: Report, fraction: float | None) -> str:
        now = perf_counter()
        self._seen.append((now, report.rows, fraction or 0.0))
        while now - self._seen[0][0] > RATE_WINDOW and len(self._seen) > 2:
            self._seen.popleft()
        then, rows, before = self._seen[0]
        text = (
            f"{number(report.hits)} hits · {number(report.computed)} computed · "
            f"{rate(report.rows - rows, now - then)}"
        )
        if fraction is not None and fraction > before:
            text += f" · {_clock((1 - fraction) / (fraction - before) * (now - then))} left"
        return text


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
