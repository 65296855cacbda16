"""Seeing it run: log records, events, progress on a pipe and on a terminal, OpenTelemetry."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading

import msgspec
import pytest
from drivers import SEQUENTIAL, THREADS, each_driver
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from paid import Paid, every_driver, label

import checkpointdb as ckpt
from checkpointdb import Store, every
from checkpointdb.events import Committed, RowFailed, RunEnded, RunStarted
from checkpointdb.otel import Telemetry


@pytest.fixture
def paid(tmp_path):
    return Paid(str(tmp_path / "paid.log"))


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


# --- events


@pytest.mark.slow
@every_driver
def test_a_run_tells_what_happens(store_path, paid, driver):
    """on_event= gets the start with its loss window, each commit, each failure, and the end with
    the report: frozen values whose numbers agree with the run's."""
    events = []
    step = driver.step(label, store_path, save=every(rows=5))
    run = driver.start(
        step, paid.rows(20, {7: "boom"}), on_error="record", on_event=events.append
    )  # fmt: skip
    driver.results(run)
    assert events[0] == RunStarted("label", 1, store_path, 1, "every(rows=5)", "4 rows")
    commits = of_kind(events, Committed)
    if driver.concurrency > 1:  # a row may come during a commit: it goes with the next
        assert sum(commit.rows for commit in commits) == 20
        assert all(commit.rows > 0 for commit in commits)
        assert len(commits) <= 8
    else:
        assert [commit.rows for commit in commits] == [5, 5, 5, 5]
    assert all(commit.seconds > 0 for commit in commits)
    (failed,) = of_kind(events, RowFailed)
    assert failed == RowFailed("label", 7, "ValueError", "no luck with row 7", 1, True)
    assert isinstance(events[-1], RunEnded)
    assert (events[-1].ended, events[-1].report) == ("finished", run.report)
    assert run.report.commits == len(commits)
    with pytest.raises(AttributeError):
        events[0].step = "other"


@every_driver
def test_a_run_that_is_ended_by_an_error_says_so(store_path, paid, driver):
    """The failure that ends a run is told as such, and the end names it."""
    events = []
    step = driver.step(label, store_path)
    with pytest.raises(ValueError):
        driver.run(step, paid.rows(3, {1: "boom"}), on_event=events.append)
    (failed,) = of_kind(events, RowFailed)
    assert failed.recorded is False
    assert events[-1].ended == "failed: ValueError"


def test_log_records_carry_the_event(store_path, paid, caplog):
    """Loggers under checkpointdb: start and end at INFO, commits at DEBUG, recorded failures and a
    run that is not complete at WARNING; each record has the event."""
    step = ckpt.step(store_path, version=1, save=every(rows=2))(label)
    with caplog.at_level(logging.DEBUG, "checkpointdb"):
        list(step.run(paid.rows(4, {1: "boom"}), on_error="record"))
    records = [r for r in caplog.records if r.name.startswith("checkpointdb")]
    assert [(r.levelname, type(r.event)) for r in records] == [
        ("INFO", RunStarted),
        ("WARNING", RowFailed),
        ("DEBUG", Committed),
        ("DEBUG", Committed),
        ("WARNING", RunEnded),
    ]
    texts = [r.getMessage() for r in records]
    assert texts[0].endswith("a crash costs at most 1 row and the calls in flight")
    assert "row 1 failed, attempt 1: ValueError: no luck with row 1" in texts[1]
    assert texts[-1].endswith("4 rows, 0 hits, 3 computed, 1 FAILED (ValueError: 1)")
    assert msgspec.json.encode(records[-1].event)


@each_driver
def test_a_million_failures_do_not_fill_the_log(driver, store_path, caplog):
    """Five lines for each type of error, then one for each tenfold; the last line has the sums.

    Each number is told once; threads tell theirs in any order.
    """

    def shaky(row):
        if row % 2:
            raise (ValueError if row % 3 else LookupError)(f"no luck with {row}")
        return row

    step = driver.step(shaky, store_path, name="shaky")
    run = driver.start(step, range(360), on_error="record", on_event=(events := []).append)
    with caplog.at_level(logging.WARNING, "checkpointdb"):
        driver.results(run)
    told = [r.event for r in caplog.records]
    for kind, n in (("ValueError", 120), ("LookupError", 60)):
        nths = [1, 2, 3, 4, 5, 10, 100] if n > 100 else [1, 2, 3, 4, 5, 10]
        assert sorted(e.nth for e in told[:-1] if e.error_type == kind) == nths
        every = sorted(e.nth for e in of_kind(events, RowFailed) if e.error_type == kind)
        assert every == [*range(1, n + 1)]
    texts = [r.getMessage() for r in caplog.records]
    assert sum("further failures by" in text for text in texts) == 2
    assert sum("failures by ValueError: 100 so far" in text for text in texts) == 1
    assert texts[-1].endswith("180 FAILED (ValueError: 120, LookupError: 60)")


def test_nothing_is_logged_above_info_when_all_is_well(store_path, paid, caplog):
    """A run without failures warns of nothing."""
    list(ckpt.step(store_path, version=1)(label).run(paid.rows(3)))
    assert caplog.records == []


@pytest.mark.parametrize("driver", [SEQUENTIAL, THREADS], ids=str)
@pytest.mark.parametrize("kind", [RunStarted, Committed, RowFailed, RunEnded])
def test_a_listener_that_raises_ends_the_run_and_loses_nothing(store_path, paid, driver, kind):
    """What on_event= raises is the user's to see; what returned is saved all the same."""

    def listener(event):
        if isinstance(event, kind):
            raise LookupError("listener")

    step = driver.step(label, store_path, save=every(rows=3))
    run = driver.start(step, paid.rows(9, {1: "boom"}), on_error="record", on_event=listener)
    with pytest.raises(LookupError):
        driver.results(run)
    step.store.close()
    with Store(store_path) as store:
        stored = {r.input["n"] for r in store.records()}
    assert stored >= set(paid.calls) - {1}


def test_a_listener_may_use_the_store(store_path, paid):
    """on_event= runs where the event happens, and may flush and read there: no deadlock."""
    step = ckpt.step(store_path, version=1, save=every(rows=2))(label)
    seen = []

    def listener(event):
        if isinstance(event, Committed):
            seen.append(step.store.steps()[0].results)

    done = threading.Event()

    def run():
        list(step.run(paid.rows(20), concurrency=4, on_event=listener))
        done.set()

    threading.Thread(target=run, daemon=True).start()
    assert done.wait(20)
    assert seen == sorted(seen)
    assert seen[-1] == 20


# --- progress

PROGRAM = """
import time, checkpointdb as ckpt
from checkpointdb.loops import progress
progress.LINE_EVERY = 0.1

@ckpt.step({path!r}, version=1)
def label(row):
    time.sleep(0.01)
    if row == 3:
        raise ValueError("no luck")
    return row

for _ in label.run(list(range(40)), on_error="record", progress=True, cost=lambda r: 0.5):
    pass
print("done")
"""


def program(path):
    return [sys.executable, "-c", textwrap.dedent(PROGRAM.format(path=path))]


def quiet_environment(**more):
    return {**os.environ, "PYTHONWARNINGS": "ignore", **more}


def test_progress_in_a_log_file_is_a_line_now_and_then(store_path):
    """On a pipe: whole lines on stderr, no control characters, the last with the final counts;
    stdout is the user's."""
    ended = subprocess.run(
        program(store_path), capture_output=True, text=True, env=quiet_environment(), timeout=30
    )
    assert ended.stdout == "done\n"
    lines = [
        line for line in ended.stderr.splitlines() if line.startswith("label: ") and "·" in line
    ]
    assert 3 <= len(lines) <= 12
    assert re.fullmatch(
        r"label: 40 of 40 rows · 0 hits · 39 computed · 1 failed · \$19.50 · [\d,.]+ calls/s",
        lines[-1],
    )
    assert re.search(r"calls/s · 0:0\d left$", lines[0])
    assert "\x1b" not in ended.stderr
    assert "\r" not in ended.stderr


def test_progress_on_a_terminal_is_a_bar(store_path):
    """On a terminal: a bar that ends at 100 % with the counts, and never hides the cursor."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        program(store_path), stdout=subprocess.PIPE, stderr=slave, text=True,
        env=quiet_environment(TERM="xterm-256color", COLUMNS="120"),
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:  # the terminal's end
        pass
    finally:
        os.close(master)
    assert child.communicate(timeout=20)[0] == "done\n"
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "100%" in text
    assert "39 computed" in text and "1 failed" in text
    assert b"\x1b[?25l" not in shown  # after a SIGKILL nobody would show it again


def test_no_progress_unless_asked_for(store_path, paid, capsys):
    """A library does not write to stderr on its own account."""
    list(ckpt.step(store_path, version=1)(label).run(paid.rows(5)))
    assert capsys.readouterr() == ("", "")


@every_driver
def test_progress_with_every_driver(store_path, paid, driver, capsys):
    """progress=True with any driver ends with the counts, also when the run is closed early."""
    step = driver.step(label, store_path)
    driver.run(step, paid.rows(12), progress=True)
    assert "label: 12 of 12 rows · 0 hits · 12 computed" in capsys.readouterr().err
    driver.run(step, iter(paid.rows(12)), progress=True, until=3)
    assert re.search(r"label: \d+ rows · ", capsys.readouterr().err)


# --- OpenTelemetry


@pytest.fixture
def exported():
    """Providers with the SDK's in-memory exporters."""

    class Exported:
        def __init__(self):
            self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
            self.traces = TracerProvider()
            self.traces.add_span_processor(SimpleSpanProcessor(self._spans))
            self.meters = MeterProvider([self._metrics])
            self.telemetry = Telemetry(self.traces, self.meters)

        @property
        def spans(self):
            return self._spans.get_finished_spans()

        @property
        def metrics(self):
            (resource,) = self._metrics.get_metrics_data().resource_metrics
            return {
                metric.name: metric.data.data_points
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }

        def close(self):
            self.traces.shutdown()
            self.meters.shutdown()

    exported = Exported()
    yield exported
    exported.close()


def test_a_run_is_a_span_with_its_report(store_path, paid, exported):
    """One span a run, from start to end, with the loss window and the report as attributes."""
    step = ckpt.step(store_path, version=1, save=every(rows=5))(label)
    run = step.run(
        paid.rows(20, {7: "boom"}), on_error="record", on_event=exported.telemetry,
        usage=lambda _: {"input_tokens": 2},
    )  # fmt: skip
    list(run)
    (span,) = exported.spans
    counts = msgspec.structs.asdict(run.report)
    assert counts.pop("usage") == {"input_tokens": 38}
    assert span.name == "checkpointdb.run"
    assert dict(span.attributes) == {
        "checkpointdb.step": "label",
        "checkpointdb.version": 1,
        "checkpointdb.store": store_path,
        "checkpointdb.loss_window": "4 rows",
        "checkpointdb.ended": "finished",
        "checkpointdb.usage.input_tokens": 38,
        **{f"checkpointdb.{k}": v for k, v in counts.items()},
    }
    assert span.status.status_code is StatusCode.UNSET
    # the span is opened after the run has begun, and closed after it has ended
    assert abs(span.end_time - span.start_time - run.report.seconds * 1e9) < 5e9


def test_counters_are_what_the_store_holds(store_path, paid, exported):
    """Rows committed, failures by error type, and the time of each commit."""
    step = ckpt.step(store_path, version=1, save=every(rows=5))(label)
    options = {"on_error": "record", "on_event": exported.telemetry, "concurrency": 4}
    list(step.run(paid.rows(20, {7: "boom", 9: "boom"}), **options))
    metrics = exported.metrics
    (committed,) = metrics["checkpointdb.rows.committed"]
    assert committed.value == 20
    (failed,) = metrics["checkpointdb.rows.failed"]
    assert failed.value == 2
    assert failed.attributes == {"checkpointdb.step": "label", "error.type": "ValueError"}
    (durations,) = metrics["checkpointdb.commit.duration"]
    assert durations.count == 4
    assert 0 < durations.sum < 5


def test_counters_are_up_to_date_while_runs_go_on(store_path, paid, exported):
    """Rows, hits, computed, cost and pending are those of the moment; runs that ended count on."""
    step = ckpt.step(store_path, version=1, save=every(rows=4), cost=lambda _: 0.5)(label)

    def now():
        return [
            exported.metrics[f"checkpointdb.{name}"][0].value
            for name in ("rows", "rows.hits", "rows.computed", "cost", "rows.pending")
        ]

    options = {"on_event": exported.telemetry}
    with step.run(paid.rows(10), **options) as run:
        seen = [now() for _ in zip(range(6), run, strict=False)]
    assert seen[0] == [1, 0, 1, 0.5, 1]
    assert seen[4] == [5, 0, 5, 2.5, 1]
    after = now()
    assert after[4] == 0
    again = step.run(paid.rows(10), **options)
    next(again)
    assert now() == [after[0] + 1, after[1] + 1, after[2], after[3], 0]
    list(again)
    assert now()[:2] == [after[0] + 10, after[1] + after[2]]
    assert now()[2] == 10
    (point,) = exported.metrics["checkpointdb.rows"]
    assert point.attributes == {"checkpointdb.step": "label"}


def test_failures_that_are_raised_do_not_fill_the_log(store_path, caplog):
    """Direct calls that raise: five lines at INFO, then one for each tenfold."""

    def label(row):
        raise ValueError("no luck")

    step = ckpt.step(store_path, version=1)(label)
    with caplog.at_level(logging.INFO, "checkpointdb"):
        for row in range(30):
            with pytest.raises(ValueError):
                step(row)
    failed = [r.event.nth for r in caplog.records if isinstance(r.event, RowFailed)]
    assert failed == [1, 2, 3, 4, 5, 10]


def test_a_failed_run_is_an_error_span(store_path, paid, exported):
    """A run that is ended by an exception is a span with status ERROR; two runs are two spans."""
    step = ckpt.step(store_path, version=1)(label)
    with pytest.raises(ValueError):
        list(step.run(paid.rows(3, {1: "boom"}), on_event=exported.telemetry))
    with step.run(paid.rows(3), on_event=exported.telemetry) as run:
        next(run)
    first, second = exported.spans
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "failed: ValueError"
    assert (second.attributes["checkpointdb.ended"], second.status.status_code) == (
        "closed",
        StatusCode.UNSET,
    )
