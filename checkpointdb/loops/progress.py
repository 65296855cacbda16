"""A run's progress for a person: a bar on a terminal or in a notebook, else a line now and then."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any, Self

from ..events import Report
from .bars import Bar, bar
from .pace import Look, Pace, clock

BAR_EVERY = 0.2  # seconds
LINE_EVERY = 10.0


class Progress:
    """Show a run's report while it runs, from a thread of its own: it costs no row any time.

    Args:
        name: of the step.
        report: returns the counts so far.
        total: number of rows, None if unknown.
        fraction: tells from a report how much is done, where that is known better than by `total`.
        transient: whether the bar goes when the run has ended.
        paused: returns for how many seconds all calls wait.
    """

    def __init__(
        self,
        name: str,
        report: Callable[[], Report],
        total: int | None = None,
        *,
        fraction: Callable[[Report], float | None] | None = None,
        transient: bool = False,
        paused: Callable[[], float] = float,
    ) -> None:
        self._name, self._report, self._total = name, report, total
        self._fraction = fraction or self._of_total
        self._transient, self._paused = transient, paused
        self._ended = threading.Event()
        self._pace = Pace(Look(perf_counter(), Report()))
        self._bar: Bar | None = None
        self._thread = threading.Thread(target=self._watch, name="checkpointdb-bar", daemon=True)

    def __enter__(self) -> Self:
        with suppress(Exception):
            self._bar = bar(self._name, self._transient)
        if self._bar is not None:
            self._show()
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
        self._pace.add(Look(perf_counter(), report, fraction))
        of = f" of {self._total:,}" if self._total is not None else ""
        left = self._paused()
        paused = [f"paused {clock(left)}"] if left else []
        line = f"{report.rows:,}{of} rows · {' · '.join(paused + in_words(report, self._pace))}"
        if self._bar is not None:
            words = paused + in_words(report, self._pace, urgent_first=True)
            self._bar.show(fraction, words, line)
        else:
            print(f"{self._name}: {line}", file=sys.stderr)  # noqa: T201

    def _of_total(self, report: Report) -> float | None:
        return report.rows / self._total if self._total else None


def in_words(report: Report, pace: Pace, urgent_first: bool = False) -> list[str]:
    """Return the counts, the speed and the time left.

    Args:
        report: the counts.
        pace: the speed.
        urgent_first: begin with what should be seen where there is little room.
    """
    counts = [f"{report.hits:,} hits", f"{report.computed:,} computed"]
    failed = [f"{report.failed:,} failed"] if report.failed else []
    cost = [f"${report.cost:,.2f}"] if report.cost else []
    left: list[Any] = []
    if pace.seconds_left is not None:
        left = [f"{clock(pace.seconds_left)} left"]
    if urgent_first:
        return [*left, *failed, pace.speed, *reversed(counts[not report.hits :]), *cost]
    return [*counts, *failed, *cost, pace.speed, *left]
