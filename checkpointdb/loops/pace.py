"""How fast a run goes and how long it will take. Knows counts and times; reads no clock."""

from __future__ import annotations

from collections import deque

import msgspec

from ..events import Report

WINDOW = 10.0  # seconds


class Look(msgspec.Struct, frozen=True):
    """A run's counts at one moment, and which part of its rows is done, if that is known."""

    at: float
    report: Report
    fraction: float | None = None

    @property
    def calls(self) -> int:
        """Calls that have ended, well or not."""
        return self.report.computed + self.report.failed


class Pace:
    """The speed of the last ten seconds: of calls, or of hits where there were no calls.

    Hits come a thousand times as fast as calls, so a stretch of hits before the first call says
    nothing about the rows that are left.

    Args:
        first: the run as it began.
    """

    def __init__(self, first: Look) -> None:
        self._looks = deque([first])

    def add(self, look: Look) -> None:
        """Take one more look into account; it replaces the last one if both are of one moment."""
        looks = self._looks
        if len(looks) > 1 and looks[-1].at == look.at:
            looks.pop()
        looks.append(look)
        while len(looks) > 2 and (look.at - looks[0].at > WINDOW or self._begins_with_hits()):
            looks.popleft()

    def _begins_with_hits(self) -> bool:
        first, second, last = self._looks[0], self._looks[1], self._looks[-1]
        only_hits = first.calls == second.calls and first.report.hits < second.report.hits
        return only_hits and second.calls < last.calls

    @property
    def _seconds(self) -> float:
        return max(self._looks[-1].at - self._looks[0].at, 1e-9)

    @property
    def calls(self) -> float:
        """Calls a second."""
        return (self._looks[-1].calls - self._looks[0].calls) / self._seconds

    @property
    def hits(self) -> float:
        """Hits a second."""
        return (self._looks[-1].report.hits - self._looks[0].report.hits) / self._seconds

    @property
    def rows(self) -> float:
        """Rows a second."""
        return (self._looks[-1].report.rows - self._looks[0].report.rows) / self._seconds

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this pace; None if nobody knows, or nothing is left."""
        done, before = self._looks[-1].fraction, self._looks[0].fraction or 0.0
        if done is None or not before < done < 1:
            return None
        return (1 - done) / (done - before) * self._seconds

    @property
    def speed(self) -> str:
        """The speed in words: `41.5 calls/s`, `12,000 hits/s`, `20 calls/min`."""
        if self.calls or not self.hits:
            return f"{_per(self.calls, 'calls')}"
        return _per(self.hits, "hits")


def _per(rate: float, what: str) -> str:
    for unit, factor in (("s", 1), ("min", 60), ("h", 3600)):
        if rate * factor >= 1 or unit == "h" or not rate:
            value = rate * factor
            return f"{value:,.{0 if value >= 10 or not value else 1}f} {what}/{unit}"
    raise AssertionError


def clock(seconds: float) -> str:
    """Return a time as `2:05` or `1:02:05`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
