"""A run's progress for a person: a bar on a terminal or in a notebook, else a line now and then."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any, Self

from ..events import Report

BAR_EVERY = 0.2  # seconds
LINE_EVERY = 10.0
RATE_WINDOW = 10.0


class Progress:
    """Show a run's report while it runs, from a thread of its own: it costs the run nothing a row.

    Args:
        name: of the step.
        report: returns the counts so far.
        total: number of rows, None if unknown.
        fraction: tells from a report how much is done, where that is known better than by `total`.
        transient: whether the bar goes when the run has ended.
    """

    def __init__(
        self,
        name: str,
        report: Callable[[], Report],
        total: int | None = None,
        *,
        fraction: Callable[[Report], float | None] | None = None,
        transient: bool = False,
    ) -> None:
        self._name, self._report, self._total = name, report, total
        self._fraction = fraction or self._of_total
        self._transient = transient
        self._ended = threading.Event()
        self._speed = Speed()
        self._thread = threading.Thread(target=self._watch, name="checkpointdb-bar", daemon=True)

    def __enter__(self) -> Self:
        from rich.console import Console

        self._console = Console(file=None, stderr=True)
        self._bar = _bar(self._console, self._transient) if _is_live(self._console) else None
        if self._bar is not None:
            with suppress(Exception):
                self._bar.start()
            self._task = self._bar.add_task(self._name, total=None, counts="")
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()
        self._show()
        if self._bar is not None:
            with suppress(Exception):
                self._bar.stop()

    def _watch(self) -> None:
        while not self._ended.wait(BAR_EVERY if self._bar is not None else LINE_EVERY):
            self._show()

    def _show(self) -> None:
        with suppress(Exception):  # a closed stderr or a full disk must end no run
            self._draw()

    def _draw(self) -> None:
        report = self._report()
        fraction = self._fraction(report)
        counts = self._speed.text(report, fraction)
        if self._bar is not None:
            total = None if fraction is None else 1.0
            self._bar.update(self._task, completed=fraction or 0.0, total=total, counts=counts)
        else:
            of = f" of {self._total:,}" if self._total is not None else ""
            print(f"{self._name}: {report.rows:,}{of} rows · {counts}", file=sys.stderr)  # noqa: T201

    def _of_total(self, report: Report) -> float | None:
        return report.rows / self._total if self._total else None


class Speed:
    """Rows a second and time left, over the last ten seconds: hits come faster than calls."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, float]] = deque([(perf_counter(), 0, 0.0)])

    def text(self, report: Report, fraction: float | None) -> str:
        """Return the counts, the rate and the time left in words."""
        now = perf_counter()
        self._seen.append((now, report.rows, fraction or 0.0))
        while now - self._seen[0][0] > RATE_WINDOW and len(self._seen) > 2:
            self._seen.popleft()
        then, rows, before = self._seen[0]
        rate = (report.rows - rows) / max(now - then, 1e-9)
        parts = [f"{report.hits:,} hits", f"{report.computed:,} computed"]
        if report.failed:
            parts.append(f"{report.failed:,} failed")
        if report.cost:
            parts.append(f"${report.cost:,.2f}")
        parts.append(f"{rate:,.{0 if rate >= 10 else 1}f} rows/s")
        if fraction is not None and before < fraction < 1:
            parts.append(f"{_clock((1 - fraction) / (fraction - before) * (now - then))} left")
        return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _is_live(console: Any) -> bool:
    if console.is_jupyter:  # where rich shows nothing but a warning without ipywidgets
        return importlib.util.find_spec("ipywidgets") is not None
    return bool(console.is_terminal)


def _bar(console: Any, transient: bool) -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[counts]}", markup=False, style="dim"),
        console=console,
        transient=transient,
    )
