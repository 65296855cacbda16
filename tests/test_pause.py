"""pause_on=: a rate limit that one call hits is waited for by all calls of its run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import email.utils
import logging
import os
import signal
import threading
import time
from collections import Counter

import httpx
import pytest
from drivers import SEQUENTIAL, THREADS, each_driver, several_at_a_time
from openai_life import consume
from paid_server import PaidServer, answer

import checkpointdb as ckpt
from checkpointdb import every
from checkpointdb.engine import pause
from checkpointdb.engine.retry_after import retry_after

pytestmark = pytest.mark.loops

FOR_EVER = 40.0  # seconds; who waits for it makes a call too many


class Limit(Exception):
    """A rate limit that says how long, as some clients' exceptions do."""

    def __init__(self, retry_after=None):
        super().__init__("come later")
        self.retry_after = retry_after


class Limited:
    """A step that says so many times, for some rows, that it is called too often."""

    def __init__(self, times, seconds=0.01):
        self.times, self.seconds = Counter(times), seconds
        self.calls, self.lock = [], threading.Lock()

    def __call__(self, row):
        with self.lock:
            self.calls.append((row, time.monotonic()))
            self.times[row] -= 1
            refused = self.times[row] >= 0
        time.sleep(0.001)
        if refused:
            raise Limit(self.seconds)
        return row * 10

    def count(self, row):
        return sum(called == row for called, _ in self.calls)


def step_of(driver, limited, store, **options):
    return driver.step(lambda row: limited(row), store, name="label", **options)


# --- it waits, and calls again


@each_driver
def test_a_limited_row_is_called_again_and_is_no_failure(store_path, driver):
    """Rows that hit a limit are called until they pass: results in order, one attempt, no failure;
    each pause is told."""
    limited, events = Limited({2: 1, 5: 3}), []
    step = step_of(driver, limited, store_path)
    run = driver.start(step, range(9), pause_on=Limit, on_event=events.append)
    assert driver.results(run) == [row * 10 for row in range(9)]
    assert (limited.count(2), limited.count(5), len(limited.calls)) == (2, 4, 13)
    assert run.report.failed == 0
    paused = [event for event in events if isinstance(event, ckpt.Paused)]
    positions = {event.position for event in paused}  # of two at a time, the pause may be one
    assert positions == {2, 5} or (driver.concurrency > 1 and positions == {5})
    assert [event.nth for event in paused] == list(range(1, len(paused) + 1))
    assert {record.attempts for record in step.store.records()} == {1}


@several_at_a_time
def test_no_call_of_the_run_begins_during_a_pause(store_path, driver):
    """When one call is told to wait, the others wait too: but for those that had begun."""
    limited, paused = Limited({5: 1}, seconds=0.4), []

    def listener(event):
        if isinstance(event, ckpt.Paused):
            paused.append((time.monotonic(), event.seconds))

    step = step_of(driver, limited, store_path)
    driver.run(step, range(60), pause_on=Limit, on_event=listener)
    ((begun, seconds),) = paused
    until = begun + seconds - 0.02
    early = [row for row, at in limited.calls if begun < at < until]
    assert len(early) < driver.concurrency
    assert any(at >= until for _, at in limited.calls)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_in_executors_and_batches(store_path, batch_size):
    """Calls that an executor makes wait and are made again, a batch whole."""
    limited = Limited({4: 2})

    def label(rows):
        return [limited(row) for row in rows] if batch_size else limited(rows)

    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        step = ckpt.step(store_path, version=1)(label)
        run = step.run(range(9), executor=executor, batch_size=batch_size, pause_on=Limit)
        assert list(run) == [row * 10 for row in range(9)]
    assert limited.count(4) == 3
    assert run.report.failed == 0


@pytest.mark.parametrize("driver", [SEQUENTIAL, THREADS], ids=str)
def test_pauses_of_a_row_are_bounded(store_path, driver):
    """A row that is refused again and again fails in the end, like others."""
    limited = Limited({1: 1000}, seconds=0.0)
    step = step_of(driver, limited, store_path)
    results = driver.run(step, range(3), pause_on=Limit, on_error="record")
    assert results[1].error_type == "Limit"
    assert limited.count(1) == pause.MOST_PAUSES + 1
    with pytest.raises(Limit):
        driver.run(step, range(3), pause_on=Limit)


def test_direct_calls_wait(store_path):
    """Direct calls of threads and tasks wait for each other's limits."""
    limited = Limited({1: 2, 3: 1})
    step = ckpt.step(store_path, version=1, name="label", pause_on=Limit)(lambda row: limited(row))
    assert step(1) == 10
    assert step.many(range(5), concurrency=3) == [0, 10, 20, 30, 40]
    assert (limited.count(1), limited.count(3)) == (3, 2)

    async def label(row):
        return limited(row)

    limited.times.update({11: 2})
    astep = ckpt.step(store_path, version=1, name="async", pause_on=Limit)(label)

    async def main():
        return await asyncio.gather(*(astep(row) for row in (10, 11, 12)))

    assert asyncio.run(main()) == [100, 110, 120]
    assert limited.count(11) == 3


def test_stop_on_goes_before(store_path):
    """A spent quota that is a rate limit to the client ends the run at once."""

    class Spent(Limit):
        pass

    def label(row):
        raise Spent(FOR_EVER)

    step = ckpt.step(store_path, version=1)(label)
    with pytest.raises(Spent):
        list(step.run([1], pause_on=Limit, stop_on=Spent, on_error="record"))


def test_a_function_says_how_long(store_path):
    """pause_on= may be a function: seconds, True for what the error says, None for a failure."""
    limited, asked = Limited({1: 1, 2: 1, 3: 1}), []

    def pause_on(error):
        asked.append(type(error))
        return [0.001, True, None][len(asked) - 1]

    step = ckpt.step(store_path, version=1, name="label")(lambda row: limited(row))
    results = list(step.run([1, 2, 3], pause_on=pause_on, on_error="record"))
    assert results[:2] == [10, 20]
    assert results[2].error_type == "Limit"
    assert asked == [Limit] * 3


@each_driver
def test_what_the_function_raises_ends_the_run(store_path, driver):
    """A fault in the user's own function is raised, and no row waits for ever."""

    def pause_on(error):
        raise LookupError("a fault of mine")

    step = step_of(driver, Limited({1: 1}), store_path)
    with pytest.raises(LookupError, match="a fault of mine"):
        driver.run(step, range(6), pause_on=pause_on, on_error="record")
    with pytest.raises(ValueError, match=r"pause_on= returned -1: it must be seconds"):
        driver.run(step_of(driver, Limited({1: 1}), store_path), range(6), pause_on=lambda e: -1)


@pytest.mark.parametrize("wrong", [5, "Limit", [int], KeyboardInterrupt])
def test_what_cannot_be_meant_is_refused(store_path, wrong):
    with pytest.raises(TypeError, match="pause_on must be an exception class, a tuple"):
        ckpt.step(store_path, version=1, pause_on=wrong)(len)


# --- how long


def response(**headers):
    request = httpx.Request("POST", "http://x")
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.Response(429, headers=named, request=request)


def in_seconds(seconds):
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "20"}, 20),
        ({"Retry_After": "1.5"}, 1.5),
        ({"retry_after_ms": "250", "retry_after": "1"}, 0.25),
        ({"retry_after": email.utils.format_datetime(in_seconds(3000), usegmt=True)}, 3000),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"x_ratelimit_reset_tokens": "6m0s"}, 360),
        ({"x_ratelimit_reset_requests": "120ms"}, 0.12),
        ({"x_ratelimit_reset_tokens": "1h", "x_ratelimit_remaining_tokens": "5"}, None),
        (
            {
                "x_ratelimit_reset_tokens": "6m0s", "x_ratelimit_remaining_tokens": "17",
                "x_ratelimit_reset_requests": "8.64s", "x_ratelimit_remaining_requests": "0",
            },
            8.64,
        ),
        ({"anthropic_ratelimit_tokens_reset": in_seconds(3000).isoformat()}, 3000),
        ({"x_ratelimit_reset": str(int(in_seconds(3000).timestamp()))}, 3000),
        ({"ratelimit_reset": "7"}, 7),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-5"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": ""}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_headers_say_how_long(headers, seconds):
    """retry-after and the headers of rate limits, as providers write them."""
    answered = response(**headers)
    error = httpx.HTTPStatusError("429", request=answered.request, response=answered)
    said = retry_after(error)
    assert said == (
        seconds if seconds is None else pytest.approx(seconds, abs=900 if seconds == 3000 else 0)
    )
    wrapped = RuntimeError("mine")
    wrapped.__cause__ = error
    assert (retry_after(wrapped) is None) == (said is None)


def test_a_limit_of_a_day_is_a_failure(store_path):
    """What says more than an hour is no pause: nobody would want to sit through it."""
    limited = Limited({1: 1}, seconds=86_400)
    step = ckpt.step(store_path, version=1, name="label")(lambda row: limited(row))
    with pytest.raises(Limit):
        list(step.run([1], pause_on=Limit))


def test_without_a_time_pauses_grow(store_path, monkeypatch):
    """Where nobody says how long, pauses double, and begin short again once a call returned."""
    monkeypatch.setattr(pause, "FIRST", 0.004)
    monkeypatch.setattr(pause, "LONGEST", 0.02)
    events, limited = [], Limited({1: 4, 3: 1}, seconds=None)
    step = ckpt.step(store_path, version=1, name="label")(lambda row: limited(row))
    list(step.run([1, 2, 3], pause_on=Limit, on_event=events.append))
    *rising, last = [event.seconds for event in events if isinstance(event, ckpt.Paused)]
    for seconds, most in zip(rising, (0.004, 0.008, 0.016, 0.02), strict=True):
        assert most / 2 <= seconds <= most
    assert last <= 0.004


# --- ended while it waits


def saved(path):
    with ckpt.Store(path) as store:
        return sorted(record.result for record in store.records())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@each_driver
def test_a_signal_ends_a_pause_at_once(store_path, driver, number):
    """Ctrl-C or SIGTERM while all calls wait ends the run, with what returned saved; the next run
    goes on from there."""
    if driver.consumer == "arun" and number == signal.SIGTERM and driver.concurrency == 1:
        pytest.skip("as with several tasks")
    limited = Limited({6: 1}, seconds=FOR_EVER)

    def listener(event):
        if isinstance(event, ckpt.Paused):
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    step = step_of(driver, limited, store_path, save=every(rows=100))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        driver.run(step, range(20), pause_on=Limit, on_event=listener)
    step.store.close()
    assert limited.count(6) == 1, "it waited until the pause was over"
    returned = {row * 10 for row, _ in limited.calls} - {60}
    assert set(saved(store_path)) == returned
    limited.times.clear()
    again = step_of(driver, limited, store_path)
    assert driver.run(again, range(20)) == [row * 10 for row in range(20)]
    assert all(limited.count(row) == 1 for row in range(20) if row != 6)


@each_driver
def test_ones_own_handler_lets_the_run_go_on(store_path, driver):
    """A handler of the program's own that returns ends no pause for good: the run goes on."""
    if driver.consumer == "arun":
        pytest.skip("asyncio has the signal")
    limited, handled = Limited({6: 1}, seconds=0.3), []
    before = signal.signal(signal.SIGINT, lambda *_: handled.append(1))
    try:

        def listener(event):
            if isinstance(event, ckpt.Paused):
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

        step = step_of(driver, limited, store_path)
        run = driver.start(step, range(12), pause_on=Limit, on_event=listener)
        assert driver.results(run) == [row * 10 for row in range(12)]
    finally:
        signal.signal(signal.SIGINT, before)
    assert handled == [1]
    assert limited.count(6) == 2


@several_at_a_time
def test_another_rows_error_ends_a_pause(store_path, driver):
    """A row that ends the run waits for no pause of the others."""
    began, both, calls = threading.Event(), threading.Barrier(2), []

    def label(row):
        calls.append(row)
        if len(calls) <= 2:
            both.wait(30)
        if row == 0:
            raise Limit(FOR_EVER)
        if row == 1:
            began.wait(30)
            time.sleep(0.02)
            raise ValueError("no luck")
        return row

    def listener(event):
        if isinstance(event, ckpt.Paused):
            began.set()

    if driver.is_async:

        async def alabel(row):
            return await asyncio.to_thread(label, row)

        step = ckpt.step(store_path, version=1, name="label")(alabel)
    else:
        step = ckpt.step(store_path, version=1)(label)
    with pytest.raises(ValueError, match="no luck"):
        driver.run(step, range(2), pause_on=Limit, on_event=listener)
    assert sorted(calls) == [0, 1]


def test_executors_end_at_once(store_path):
    """Ctrl-C ends a pause of calls that an executor makes."""
    limited = Limited({3: 1}, seconds=FOR_EVER)

    def listener(event):
        if isinstance(event, ckpt.Paused):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        step = ckpt.step(store_path, version=1, name="label")(lambda row: limited(row))
        with pytest.raises(KeyboardInterrupt):
            list(step.run(range(9), executor=executor, pause_on=Limit, on_event=listener))
    assert limited.count(3) == 1


def test_a_cancelled_direct_call_does_not_wait(store_path):
    """asyncio.wait_for around a call that is paused returns in time, and so does the loop's end."""
    limited = Limited({1: 1}, seconds=FOR_EVER)

    async def label(row):
        return limited(row)

    step = ckpt.step(store_path, version=1, pause_on=Limit)(label)

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(step(1), 0.2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(step.amany([2, 3]), 0.2)

    began = time.monotonic()
    asyncio.run(main())
    assert limited.count(1) == 1
    assert time.monotonic() - began < FOR_EVER, "the loop's end waited for the pause"


def test_ctrl_c_in_a_direct_call(store_path):
    """Ctrl-C ends a direct call that waits, and `many`."""
    limited = Limited({1: 1}, seconds=FOR_EVER)
    step = ckpt.step(store_path, version=1, name="label", pause_on=Limit)(lambda row: limited(row))
    for call in (lambda: step(1), lambda: step.many([1, 2, 3], concurrency=2)):
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call()
    assert limited.count(1) == 1


# --- what else it meets


def test_a_pause_is_not_the_time_of_a_call(store_path):
    """timeout= is of each call: a pause is longer than it may be, and is not recorded as work."""
    limited = Limited({1: 1}, seconds=0.6)
    step = ckpt.step(store_path, version=1, name="label", timeout=0.3)(lambda row: limited(row))
    assert list(step.run([1, 2], pause_on=Limit, concurrency=2)) == [10, 20]
    assert all(record.seconds < 0.3 for record in step.store.records())


def test_a_pause_is_logged_and_shown(store_path, caplog, capsys):
    """A pause is a WARNING, bounded in number, and the progress shows how long it takes."""
    limited = Limited(dict.fromkeys(range(8), 1), seconds=0.0001)
    step = ckpt.step(store_path, version=1, name="label")(lambda row: limited(row))
    with caplog.at_level(logging.WARNING, "checkpointdb"):
        list(step.run(range(8), pause_on=Limit))
    assert 1 <= len(caplog.records) <= 5
    assert "all calls wait for 100 µs, because of row 0: Limit: come later" in caplog.text
    limited, left = Limited({10: 1}, seconds=0.05), []
    step = ckpt.step(store_path, version=2, name="label")(lambda row: limited(row))
    run = step.run([10], pause_on=Limit, on_event=lambda _: left.append(run.paused))
    list(run)
    assert max(left) > 0
    assert run.paused == 0


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_real_sdk_against_a_server(store_path, kind):
    """The OpenAI SDK's RateLimitError, with the headers of a server: the server bills each row
    once, and is not asked while it said to wait."""
    import openai

    with PaidServer() as server:
        server.said = {"retry-after-ms": "60"}
        server.faults[3] = ["limit", "limit"]
        results, events = [], []
        rows = [{"n": n} for n in range(10)]
        consume(
            kind, server.url, store_path, rows, {}, {}, results.append, concurrency=4,
            pause_on=openai.RateLimitError, on_event=events.append,
        )  # fmt: skip
        assert [result["text"] for result in results] == [answer(n) for n in range(10)]
        assert sorted(server.paid) == list(range(10))
        assert [row for row, _ in server.calls].count(3) == 3
    seconds = [event.seconds for event in events if isinstance(event, ckpt.Paused)]
    assert seconds == [0.06, 0.06]
