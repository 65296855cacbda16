"""OpenTelemetry for a run: a span, and counters. The optional extra `otel`; pass `on_event=`.

from checkpointdb.otel import Telemetry
label.run(rows, on_event=Telemetry())
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from .events import CameLate, Committed, RowFailed, RunEnded, RunStarted

try:
    from opentelemetry import metrics, trace
except ImportError as error:  # pragma: no cover - depends on the environment
    raise ImportError(
        "checkpointdb.otel needs OpenTelemetry: pip install 'checkpointdb[otel]'"
    ) from error


class Telemetry:
    """Turn a run's events into a span and metrics of the global, or the given, providers.

    The span `checkpointdb.run` lasts from start to end, with the report as attributes; it is the
    parent of spans that the step opens, in threads and tasks too, not in other processes. Commits
    are histogram `checkpointdb.commit.duration` (seconds) and counter
    `checkpointdb.rows.committed`; failures are counter `checkpointdb.rows.failed` by error type.
    """

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        self._tracer = trace.get_tracer("checkpointdb", tracer_provider=tracer_provider)
        meter = metrics.get_meter("checkpointdb", meter_provider=meter_provider)
        self._committed = meter.create_counter("checkpointdb.rows.committed", "{row}")
        self._failed = meter.create_counter("checkpointdb.rows.failed", "{row}")
        self._late = meter.create_counter("checkpointdb.rows.late", "{row}")
        self._durations = meter.create_histogram("checkpointdb.commit.duration", "s")
        self._spans: dict[tuple[str, int], Any] = {}
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
        if span is None:
            return
        span.set_attribute("checkpointdb.ended", event.ended)
        span.set_attribute("checkpointdb.loss_window", event.loss_window)
        for name in event.report.__struct_fields__:
            span.set_attribute(f"checkpointdb.{name}", getattr(event.report, name))
        if event.ended.startswith("failed"):
            span.set_status(trace.Status(trace.StatusCode.ERROR, event.ended))
        span.end()
