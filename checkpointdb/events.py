"""What happens in a run: frozen values for a log and for a listener. Knows nothing else.

Loggers are `checkpointdb.run` and its children; each record carries the event as `record.event`.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from . import wording

log = logging.getLogger("checkpointdb.run")

# So many failures by one type of error, and late results, are warned of; then every tenfold.
WARNED_OF = 5


PILOT_ENDED = "pilot ended"  # how a run ended that had more calls to make than its pilot


class Report(msgspec.Struct, frozen=True):
    """What a run has done so far: the one list of counts, which the `runs` table has as columns.

    Attributes:
        rows: results given out.
        hits: of these, those saved earlier or shared with an equal row.
        computed: calls of the step whose result is kept.
        failed: rows that failed.
        commits: transactions.
        seconds: run time.
        commit_seconds: seconds in commits, even those made while calls run.
        cost: dollars paid in this run.
        usage: token counts of this run by name, as `usage=` returns them.
    """

    rows: int = 0
    hits: int = 0
    computed: int = 0
    failed: int = 0
    commits: int = 0
    seconds: float = 0.0
    commit_seconds: float = 0.0
    cost: float = 0.0
    usage: dict[str, int] = {}

    def in_words(self, of: str = "") -> dict[str, str]:
        """Return the counts for a person, "" for a count of nothing; `of` follows the rows."""
        each = self.commit_seconds / self.commits if self.commits else 0.0
        return {
            "rows": f"{self.rows:,} {of}".rstrip(),
            "hits": f"{self.hits:,}",
            "computed": f"{self.computed:,}",
            "failed": f"{self.failed:,}" * bool(self.failed),
            "time": wording.duration(self.seconds) * bool(self.seconds),
            "commits": f"{self.commits:,} of {wording.duration(each)}" * bool(self.commits),
            "cost": wording.money(self.cost) * bool(self.cost),
            "usage": wording.tokens(self.usage),
        }

    def _repr_html_(self) -> str:
        from . import markup

        return markup.facts("report of a run", self.in_words())


def added(*usages: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of token counts, name by name, without names whose sum is 0."""
    total = Counter[str]()
    for usage in usages:
        total.update(usage)
    return {name: count for name, count in total.items() if count}


class RunStarted(msgspec.Struct, frozen=True):
    """A run has begun; from now on a crash costs at most `loss_window` and the calls in flight.

    Under `adaptive()` that is its ceiling; `RunEnded` has what the run measured.
    """

    step: str
    version: int | str
    store: str
    run: int
    policy: str
    loss_window: str


class Committed(msgspec.Struct, frozen=True):
    """A commit made `rows` rows durable; it took `seconds`.

    Their records are `first_id` to `last_id`, without a gap and of this commit alone. Both are 0 if
    each of the rows was late, under `shared=True`.
    """

    step: str
    rows: int
    seconds: float
    first_id: int = 0
    last_id: int = 0


class CameLate(msgspec.Struct, frozen=True):
    """A result of this row was saved meanwhile, and stays; this outcome is not saved.

    The saved result is another worker's, under `shared=True`, or anybody's, if this is a failure.
    It is the `nth` such row of its run, counted from 1.
    """

    step: str
    position: int
    key: str
    nth: int = 1


class RowFailed(msgspec.Struct, frozen=True):
    """The step failed for a row; `recorded` tells whether the run goes on.

    It is the `nth` row of its run, counted from 1, that failed with an error of this type.
    """

    step: str
    position: int
    error_type: str
    message: str
    attempts: int
    recorded: bool
    nth: int = 1


class Paused(msgspec.Struct, frozen=True):
    """All calls wait for `seconds`, because a call said so: `pause_on=`. Its row is called again.

    It is the `nth` pause of its run, counted from 1; one that is prolonged counts again.
    """

    step: str
    position: int
    error_type: str
    message: str
    seconds: float
    nth: int = 1


class RunEnded(msgspec.Struct, frozen=True):
    """A run has ended, and how: `finished`, `pilot ended`, `closed`, `failed: ValueError`, ….

    `loss_window` is what a crash would have cost at the worst moment, calls in flight aside.
    `stale` is how many saved results of the step were computed by other code. `failures` are the
    types of errors that rows failed with, each with its count, the most frequent first.
    """

    step: str
    store: str
    run: int
    ended: str
    report: Report
    loss_window: str = ""
    stale: int = 0
    failures: tuple[tuple[str, int], ...] = ()


Event = RunStarted | Committed | CameLate | RowFailed | Paused | RunEnded


def emit(event: Event, listener: Callable[[Any], object] | None) -> None:
    """Log an event and hand it to the listener."""
    level = _level(event)
    if log.isEnabledFor(level):
        with contextlib.suppress(Exception):  # a closed stderr or a full disk must end no run
            log.log(level, "%s", wording.safe(_line(event)), extra={"event": event})
    if listener is not None:
        listener(event)


def _level(event: Event) -> int:
    """Warn only of what the user would not see otherwise; an exception that is raised is seen."""
    match event:
        case Committed():
            return logging.DEBUG
        case RowFailed(recorded=True) | CameLate() | Paused():
            return logging.WARNING if _is_warned_of(event.nth) else logging.DEBUG
        case RowFailed():
            return logging.INFO if _is_warned_of(event.nth) else logging.DEBUG
        case RunEnded(ended="finished" | "pilot ended") if event.report.failed:
            return logging.WARNING
        case _:
            return logging.INFO


def _is_warned_of(nth: int) -> bool:
    """Tell whether the nth of events that may come a million times is worth a line."""
    return nth <= WARNED_OF or nth == 10 ** (len(str(nth)) - 1)


def _more(nth: int, what: str) -> str:
    """Say once that not every further one will have a line, and later how many there are."""
    if nth < WARNED_OF:
        return ""
    if nth == WARNED_OF:
        return f" [further {what} are counted; each is logged at DEBUG]"
    return f" [{what}: {nth:,} so far]"


def _line(event: Event) -> str:
    match event:
        case RunStarted():
            return (
                f"{event.step}: run {event.run} on {event.store} started, {event.policy}; a crash "
                f"costs at most {event.loss_window} and the calls in flight"
            )
        case Committed():
            return f"{event.step}: committed {event.rows:,} rows in {event.seconds * 1e3:.1f} ms"
        case CameLate():
            return (
                f"{event.step}: row {event.position} was computed here too, but another run "
                f"saved its result first, and that one stays (key {event.key})"
                f"{_more(event.nth, 'late results')}"
            )
        case RowFailed():
            return (
                f"{event.step}: row {event.position} failed, attempt {event.attempts}: "
                f"{event.error_type}: {event.message}"
                f"{_more(event.nth, f'failures by {event.error_type}')}"
            )
        case Paused():
            return (
                f"{event.step}: all calls wait for {wording.duration(event.seconds)}, "
                f"because of row {event.position}: {event.error_type}: {event.message}"
                f"{_more(event.nth, 'pauses')}"
            )
        case RunEnded():
            report = event.report
            failed = f", {report.failed:,} FAILED" if report.failed else ""
            if event.failures:
                failed += f" ({', '.join(f'{kind}: {n:,}' for kind, n in event.failures)})"
            stale = f"; {event.stale:,} saved results are from other code" if event.stale else ""
            return (
                f"{event.step}: run {event.run} {event.ended}: {report.rows:,} rows, "
                f"{report.hits:,} hits, {report.computed:,} computed{failed}{stale}"
            )
