"""OpenTelemetry for a run: a span, and counters. The optional extra `otel`; pass `on_event=`.

from checkpointdb.otel import Telemetry
label.run(rows, on_event=Telemetry())
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from .events import CameLate, Committed, Paused, Report, RowFailed, RunEnded, RunStarted, added

try:
    from opentelemetry import metrics, trace
except ImportError as error:  # pragma: no cover - depends on the environment
    raise ImportError(
        "checkpointdb.otel needs OpenTelemetry: pip install 'checkpointdb[otel]'"
    ) from error


_COUNTS = {  # a field of the report, and its unit
    "checkpointdb.rows": ("rows", "{row}"),
    "checkpointdb.rows.hits": ("hits", "{row}"),
    "checkpointdb.rows.computed": ("computed", "{row}"),
    "checkpointdb.cost": ("cost", "USD"),
}
_FIELDS = [field for field, _ in _COUNTS.values()]
# what OpenTelemetry's conventions for generative AI call the kinds of tokens that providers count
_TOKEN_TYPES = {
    "prompt_tokens": "input", "input_tokens": "input",
    "completion_tokens": "output", "output_tokens": "output",
}  # fmt: skip


class Telemetry:
    """Turn a run's events into a span and metrics of the global, or the given, providers.

    The span `checkpointdb.run` lasts from start to end, with the report as attributes; it is the
    parent of spans that the step opens, in threads and tasks too, not in other processes. Commits
    are histogram `checkpointdb.commit.duration` (seconds) and counter
    `checkpointdb.rows.committed`; failures are counter `checkpointdb.rows.failed` by error type,
    pauses are counter `checkpointdb.pauses`.

    While runs go on, a reader of the metrics gets, for each step and over all runs of this object:
    `checkpointdb.rows`, `checkpointdb.rows.hits`, `checkpointdb.rows.computed`, `checkpointdb.cost`
    (dollars), `checkpointdb.usage` (tokens), and the gauge `checkpointdb.rows.pending`: what a
    crash would lose, calls in flight aside. Tokens have the attribute `gen_ai.token.type`: `input`
    or `output`, and for other counts of `usage=` their own name. The histogram
    `gen_ai.client.token.usage` is left to the instrumentation of a client.

    Its lock protects only its own tables.
    """

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        self._tracer = trace.get_tracer("checkpointdb", tracer_provider=tracer_provider)
        meter = metrics.get_meter("checkpointdb", meter_provider=meter_provider)
        self._committed = meter.create_counter("checkpointdb.rows.committed", "{row}")
        self._failed = meter.create_counter("checkpointdb.rows.failed", "{row}")
        self._late = meter.create_counter("checkpointdb.rows.late", "{row}")
        self._durations = meter.create_histogram("checkpointdb.commit.duration", "s")
        self._pauses = meter.create_counter("checkpointdb.pauses", "{pause}")
        for name, (field, unit) in _COUNTS.items():
            meter.create_observable_counter(name, [self._observing(field)], unit)
        meter.create_observable_counter("checkpointdb.usage", [self._used], "{token}")
        meter.create_observable_gauge("checkpointdb.rows.pending", [self._pending], "{row}")
        self._spans: dict[tuple[str, int], Any] = {}
        self._watched: dict[tuple[str, int], tuple[str, Callable[[], Any]]] = {}
        self._ended: dict[str, dict[str, float]] = {}  # what ended runs add to a step's counts
        self._ended_usage: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Any) -> None:
        """Take one event; safe from any thread."""
        attributes = {"checkpointdb.step": event.step}
        match event:
            case RunStarted():
                self._start(event, attributes)
            case Committed():
                self._committed.add(event.rows, attributes)
                self._durations.record(event.seconds, attributes)
            case RowFailed():
                self._failed.add(1, {**attributes, "error.type": event.error_type})
            case CameLate():
                self._late.add(1, attributes)
            case Paused():
                self._pauses.add(1, attributes)
            case RunEnded():
                self._end(event)

    @contextlib.contextmanager
    def around_call(self, store: str, run: int) -> Iterator[None]:
        """Make the run's span the current one while its step is called."""
        span = self._spans.get((store, run))
        if span is None:
            yield
            return
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield

    def watch_run(self, step: str, store: str, run: int, counts: Callable[[], Any]) -> None:
        """Let the metrics of a run be read while it goes on.

        Args:
            step: its name.
            store: path of the store.
            run: its id.
            counts: a weak reference to a function that returns its report and what is pending.
        """
        with self._lock:
            self._watched[store, run] = step, counts

    def _now(self) -> Iterator[tuple[str, Report, int]]:
        """Yield the step, the report and the pending rows of each run that goes on."""
        with self._lock:
            watched = list(self._watched.values())
        for step, reference in watched:
            if (counts := reference()) is not None:
                yield step, *counts()

    def _observing(self, field: str) -> Callable[[Any], list[metrics.Observation]]:
        def observe(_: Any) -> list[metrics.Observation]:
            with self._lock:
                sums = defaultdict(float, {it: ended[field] for it, ended in self._ended.items()})
            for step, report, _pending in self._now():
                sums[step] += getattr(report, field)
            return [metrics.Observation(n, {"checkpointdb.step": it}) for it, n in sums.items()]

        return observe

    def _pending(self, _: Any) -> list[metrics.Observation]:
        sums = dict.fromkeys(self._ended, 0)
        for step, _report, pending in self._now():
            sums[step] = sums.get(step, 0) + pending
        return [metrics.Observation(n, {"checkpointdb.step": it}) for it, n in sums.items()]

    def _used(self, _: Any) -> list[metrics.Observation]:
        with self._lock:
            sums = dict(self._ended_usage)
        for step, report, _pending in self._now():
            sums[step] = added(sums.get(step, {}), report.usage)
        return [
            metrics.Observation(count, {"checkpointdb.step": step, "gen_ai.token.type": kind})
            for step, usage in sums.items()
            for kind, count in _by_type(usage).items()
        ]

    def _start(self, event: RunStarted, attributes: dict[str, Any]) -> None:
        span = self._tracer.start_span(
            "checkpointdb.run",
            attributes={
                **attributes,
                "checkpointdb.version": event.version,
                "checkpointdb.store": event.store,
                "checkpointdb.loss_window": event.loss_window,
            },
        )
        with self._lock:
            self._spans[event.store, event.run] = span

    def _end(self, event: RunEnded) -> None:
        with self._lock:
            span = self._spans.pop((event.store, event.run), None)
            self._watched.pop((event.store, event.run), None)
            ended = self._ended.setdefault(event.step, dict.fromkeys(_FIELDS, 0.0))
            for field in _FIELDS:
                ended[field] += getattr(event.report, field)
            used = self._ended_usage.get(event.step, {})
            self._ended_usage[event.step] = added(used, event.report.usage)
        if span is None:
            return
        span.set_attribute("checkpointdb.ended", event.ended)
        span.set_attribute("checkpointdb.loss_window", event.loss_window)
        counts = msgspec.structs.asdict(event.report)
        counts |= {f"usage.{name}": count for name, count in counts.pop("usage").items()}
        for name, count in counts.items():
            span.set_attribute(f"checkpointdb.{name}", count)
        if event.ended.startswith("failed"):
            span.set_status(trace.Status(trace.StatusCode.ERROR, event.ended))
        span.end()


def _by_type(usage: Mapping[str, int]) -> dict[str, int]:
    """Return token counts under OpenTelemetry's names if it has them, else under their own."""
    return added(*({_TOKEN_TYPES.get(name, name): count} for name, count in usage.items()))
