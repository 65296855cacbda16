"""Many calls at once: the window, order, memory, wrong use, and signals with calls in flight."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import in_flight_life
import pytest
from drivers import BRIDGED_TASKS, TASKS, THREADS
from paid import (
    PROCESSES,
    Paid,
    context,
    every_driver,
    label,
    lines,
    result_of,
    saved,
)  # fmt: skip

import checkpointdb as ckpt
from checkpointdb import Store, every, on_exit
from checkpointdb.engine.in_flight import InFlight
from checkpointdb.engine.saved import Saved
from checkpointdb.loops import asynchronous

pytestmark = pytest.mark.loops

READ_AHEAD = 1024  # what the docstring of Run promises

several = pytest.mark.parametrize("driver", [THREADS, TASKS, BRIDGED_TASKS, PROCESSES], ids=str)


@pytest.fixture
def paid(tmp_path):
    return Paid(str(tmp_path / "paid.log"))


class Source:
    """Rows that are counted as they are read."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __iter__(self):
        for row in self.rows:
            self.read += 1
            yield row


# --- order and the window


@pytest.mark.slow
@every_driver
def test_results_come_in_input_order(store_path, paid, driver):
    """Whatever call ends first, results are given out in the order of the rows."""
    step = driver.step(label, store_path)
    rows = paid.rows(24, {0: "slow", 9: "slow", 10: "slow"})
    assert driver.run(step, rows) == [result_of(n) for n in range(24)]


@pytest.mark.parametrize("driver", [THREADS, PROCESSES], ids=str)
def test_unordered_results_come_as_they_complete(store_path, paid, driver):
    """ordered=False: a slow first row does not hold back the others; none is lost."""
    step = driver.step(label, store_path)
    results = driver.run(step, paid.rows(40, {0: "slow"}), ordered=False)
    assert sorted(r["n"] for r in results) == list(range(40))
    assert results[0]["n"] != 0
    assert [r["n"] for r in results].index(0) > 5


@pytest.mark.parametrize("driver", [TASKS, BRIDGED_TASKS], ids=str)
def test_unordered_results_of_tasks_come_as_they_complete(store_path, driver):
    """The same for tasks."""

    @ckpt.step(store_path, version=1)
    async def step(row):
        await asyncio.sleep(0.2 if row == 0 else 0)
        return row

    results = driver.run(step, range(40), ordered=False)
    assert sorted(results) == list(range(40))
    assert results[-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("driver", [THREADS, TASKS, BRIDGED_TASKS], ids=str)
def test_a_slow_first_row_holds_back_a_bounded_window(store_path, driver, ordered):
    """While the first row is slow the others are computed and saved, up to the window: memory and
    what is read ahead stay bounded. Unordered, nothing is held back."""
    release, source = threading.Event(), Source(range(4 * READ_AHEAD))
    seen = []

    def watch():
        seen.append(_steady(lambda: source.read))
        with Store(store_path, create=False) as store:
            seen.append(store.steps()[0].results)
        release.set()

    if driver.is_async:

        @ckpt.step(store_path, version=1, save=every(rows=1), durability="process")
        async def step(row):
            while row == 0 and not release.is_set():
                await asyncio.sleep(0.005)
            return row
    else:

        @ckpt.step(store_path, version=1, save=every(rows=1), durability="process")
        def step(row):
            if row == 0:
                assert release.wait(20)
            return row

    watcher = threading.Thread(target=watch)
    watcher.start()
    results = driver.run(step, source, ordered=ordered)
    watcher.join()
    read, stored = seen
    assert sorted(results) == list(range(4 * READ_AHEAD))
    if ordered:
        assert results == sorted(results)
        assert READ_AHEAD <= read <= 3 * READ_AHEAD
        assert stored >= READ_AHEAD - 2 * driver.concurrency
    else:
        assert read == 4 * READ_AHEAD
        assert stored == read - 1


def _steady(value):
    """Wait until a value has not changed for 0.3 s; return it."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < 0.3:
        time.sleep(0.01)
        if value() != last:
            last, since = value(), time.monotonic()
    return last


@pytest.mark.parametrize("driver", [THREADS, TASKS, BRIDGED_TASKS], ids=str)
def test_concurrency_is_what_was_asked_for(store_path, driver):
    """Never more calls at once than concurrency=, and that many when there is work."""
    lock, now, most = threading.Lock(), 0, 0

    def enter(by):
        nonlocal now, most
        with lock:
            now += by
            most = max(most, now)

    if driver.is_async:

        @ckpt.step(store_path, version=1)
        async def step(row):
            enter(1)
            await asyncio.sleep(0.002)
            enter(-1)
            return row
    else:

        @ckpt.step(store_path, version=1)
        def step(row):
            enter(1)
            time.sleep(0.002)
            enter(-1)
            return row

    driver.run(step, range(200), concurrency=16)
    assert most == 16


@pytest.mark.parametrize("driver", [THREADS, TASKS], ids=str)
def test_a_slow_consumer_does_not_hold_up_saving(store_path, driver):
    """Calls that return while the body of the loop is busy are saved meanwhile."""
    stored = []

    def look():
        with Store(store_path, create=False) as store:
            stored.append(store.steps()[0].results)

    if driver is TASKS:

        @ckpt.step(store_path, version=1, save=every(rows=1))
        async def step(row):
            await asyncio.sleep(0.1 if row else 0)
            return row

        async def consume():
            async for _ in step.arun(range(4), concurrency=4):
                await asyncio.sleep(0.3)
                look()

        asyncio.run(consume())
    else:
        together = threading.Barrier(4)

        @ckpt.step(store_path, version=1, save=every(rows=1))
        def step(row):
            together.wait(5)
            time.sleep(0.1 if row else 0)
            return row

        def body(result):
            time.sleep(0.3)
            look()

        driver.consume(driver.start(step, range(4)), each=body)
    assert stored[0] == 4


# --- memory


def peak_of(n, path, ordered=True):
    """Peak of Python's memory over an async run of n rows that return at once, in MB."""

    @ckpt.step(path, version=1, name=f"of{n}", save=every(rows=500), durability="process")
    async def step(row):
        return row

    async def consume():
        got = 0
        async for _ in step.arun(iter(range(n)), concurrency=64, ordered=ordered):
            got += 1
        assert got == n

    tracemalloc.start()
    try:
        asyncio.run(consume())
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def peaks(directory, sizes):
    """Peak resident memory of a process each, in MB."""
    found = []
    for n in sizes:
        queue = context.Queue()
        process = context.Process(
            target=in_flight_life.peak, args=(n, str(directory / f"{n}.ckpt"), queue)
        )
        process.start()
        found.append(queue.get(timeout=300))
        process.join()
        queue.close()
    print(f"peak MB at {sizes} rows: {found}")
    return found


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_task_waits_for_its_next_row(store_path, concurrency):
    """Rows that come one by one start no task each; the tasks end with the run, however it ends."""
    tasks = []

    @ckpt.step(store_path, version=1, name="s")
    async def step(row):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        return row

    async def slowly(rows):
        for row in rows:
            await asyncio.sleep(0.002)
            yield row

    async def passes():
        results = [it async for it in step.arun(slowly(range(20)), concurrency=concurrency)]
        assert results == list(range(20)) and len(set(tasks)) <= concurrency
        assert all(task.done() for task in tasks) and not asynchronous._in_flight
        run = step.arun(slowly(range(20, 40)), concurrency=concurrency)
        async for result in run:
            if result == 30:
                break
        await run.aclose()
        assert all(task.done() for task in tasks) and not asynchronous._in_flight

    asyncio.run(passes())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """100,000 async rows that return at once peak within 50 MB of 10,000."""
    small, large = peaks(tmp_path, [10_000, 100_000])
    assert large - small < 50


@pytest.mark.soak
def test_memory_does_not_grow_with_a_million_rows(tmp_path):
    """1,000,000 async rows that return at once peak within 50 MB of 10,000."""
    small, large = peaks(tmp_path, [10_000, 1_000_000])
    assert large - small < 50


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
def test_objects_do_not_pile_up(tmp_path, ordered):
    """Python's own peak at 12,000 rows is that at 4,000, but for the keys of the tail (16 bytes
    each and their place): ordered or not."""
    peak_of(1000, str(tmp_path / "warm.ckpt"), ordered)
    small = peak_of(4_000, str(tmp_path / "a.ckpt"), ordered)
    large = peak_of(12_000, str(tmp_path / "b.ckpt"), ordered)
    assert large < small + 3


# --- wrong use is answered at the call


async def an_async_step(row):
    return row


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"concurrency": 0}, ValueError, "concurrency must be a whole number of at least 1, got 0"),
        ({"concurrency": -1}, ValueError, "of at least 1, got -1"),
        ({"concurrency": 1.5}, ValueError, "concurrency must be a whole number of at least 1, got"),
        ({"concurrency": True}, ValueError, "of at least 1, got True"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1, got 0"),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'raise' or 'record', got 'ignore'"),
        ({"executor": 4}, TypeError, "executor must be a concurrent.futures.Executor, got 4"),
        ({"valid": True}, TypeError, "valid must be a function, got True"),
        ({"cost": 0.01}, TypeError, "cost must be a function, got 0.01"),
        ({"on_event": "print"}, TypeError, "on_event must be a function, got 'print'"),
        ({"max_cost": 5}, ValueError, "max_cost= needs cost="),
        ({"max_cost": -1, "cost": float}, ValueError, "max_cost must be a number of dollars of at"),
        ({"max_cost": float("nan"), "cost": float}, ValueError, "dollars of at least 0, got nan"),
        ({"max_cost": "5", "cost": float}, ValueError, "dollars of at least 0, got '5'"),
        ({"stop_on": "QuotaError"}, TypeError, "stop_on must be an exception class or a tuple of"),
        ({"stop_on": ValueError("x")}, TypeError, "got ValueError('x')"),
        ({"stop_on": (ValueError, 3)}, TypeError, "stop_on must be an exception class or a tuple"),
        ({"concurency": 3}, TypeError, "keyword 'concurency': did you mean concurrency"),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", ["run", "arun", "ckpt.run", "ckpt.arun"])
def test_wrong_use_is_answered_at_the_call(store_path, how, options, error, words):
    """What cannot be meant is a TypeError or ValueError before a row is read or a file made."""
    step = ckpt.step(store_path, version=1)(an_async_step)
    start = {
        "run": step.run,
        "arun": step.arun,
        "ckpt.run": functools.partial(ckpt.run, an_async_step, store=store_path, version=1),
        "ckpt.arun": functools.partial(ckpt.arun, an_async_step, store=store_path, version=1),
    }[how]
    with pytest.raises(error) as caught:
        start(never(), **options)
    assert words in str(caught.value)
    assert not os.path.exists(store_path)


def never():
    raise AssertionError("a row was read")
    yield


@pytest.mark.parametrize("how", ["run", "arun"])
def test_an_async_step_has_no_executor(store_path, how):
    """An executor with an async step is an error at the call."""
    step = ckpt.step(store_path, version=1)(an_async_step)
    with ThreadPoolExecutor(1) as executor, pytest.raises(TypeError, match="drop it"):
        getattr(step, how)(never(), executor=executor)


# --- stops with calls in flight


@several
def test_closing_the_iterator_awaits_and_saves_calls_in_flight(store_path, paid, driver):
    """A run that is closed early takes no new rows and saves every call it has made."""
    step = driver.step(label, store_path, save=on_exit())
    rows = paid.rows(500, dict.fromkeys(range(4, 9), "slow"))
    driver.run(step, rows, until=3)
    assert saved(store_path).keys() == set(paid.calls)
    assert 3 <= len(paid.calls) < 60


@pytest.mark.parametrize("concurrency", [1, 16])
def test_a_cancelled_task_saves_the_calls_in_flight(store_path, concurrency):
    """Cancelling the task that iterates awaits the calls in flight and saves them, then raises
    CancelledError."""
    answered = []

    @ckpt.step(store_path, version=1, save=on_exit())
    async def step(row):
        await asyncio.sleep(0.02)
        answered.append(row)
        return row

    async def consume():
        async for _ in step.arun(range(10_000), concurrency=concurrency):
            pass

    async def main():
        task = asyncio.create_task(consume())
        await asyncio.sleep(0.07)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value

    asyncio.run(main())
    with Store(store_path) as store:
        assert sorted(r.result for r in store.records()) == sorted(answered)
        assert store.runs()[-1].ended == "interrupted"
    assert len(answered) >= concurrency


# --- signals with calls in flight

STOPS = {"SIGINT": -signal.SIGINT, "SIGTERM": 128 + signal.SIGTERM}


def stop_at_random(directory, kind, name, seed, instants):
    """Signal so many lives over one store, each at a random instant."""
    path, log = str(directory / "rows.ckpt"), str(directory / "log")
    chance = random.Random(seed)
    print(f"seed={seed}")
    open(log, "w").close()
    open(log + ".answered", "w").close()
    for _ in range(instants):
        size = os.path.getsize(log + ".answered")
        process = context.Process(target=in_flight_life.live, args=(kind, path, log))
        process.start()
        while os.path.getsize(log + ".answered") == size:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.015))
        os.kill(process.pid, signal.Signals[name])
        process.join(20)
        # multiprocessing turns a KeyboardInterrupt into status 1
        assert process.exitcode == {"SIGINT": 1, "SIGTERM": STOPS["SIGTERM"]}[name]
        process.close()
        answered = lines(log + ".answered")
        assert sorted(lines(log)) == sorted(answered), "a call in flight was not awaited"
        with Store(path, create=False) as store:
            stored = [record.result for record in store.records()]
        assert sorted(stored) == sorted(answered), "an answered call was lost, or paid twice"


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("kind", ["threads", "tasks", "bridged tasks"])
def test_a_signal_with_calls_in_flight_loses_none_of_them(tmp_path, kind, name):
    """SIGINT and SIGTERM at 102 random instants with 8 threads or 16 tasks in flight: 0 answered
    calls unsaved, and none of them made twice."""
    stop_at_random(tmp_path, kind, name, 17, 17)


@pytest.mark.soak
@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("kind", ["threads", "tasks", "bridged tasks"])
def test_hundreds_of_signals_with_calls_in_flight_lose_nothing(tmp_path, kind, name):
    """The same at 200 instants each with a new seed."""
    stop_at_random(tmp_path, kind, name, random.SystemRandom().randrange(10**6), 200)


def test_hits_do_not_enter_and_rows_that_do_are_looked_up_first(store_path, monkeypatch):
    """Where nothing is in flight; equal rows among those that are computed still share a call."""
    entered, calls = [], []
    enter = InFlight.enter

    def spy(self, slots):
        entered.extend(slot.row for slot in slots if not slot.settled)
        return enter(self, slots)

    monkeypatch.setattr(InFlight, "enter", spy)
    step = ckpt.step(store_path, version=1, name="s")(lambda row: calls.append(row) or row)
    list(step.run(range(50)))
    entered.clear(), calls.clear()
    assert list(step.run([*range(60), 55, 5, 55])) == [*range(60), 55, 5, 55]
    assert calls == list(range(50, 60)) and set(entered) == set(range(50, 60))


def test_a_row_that_settles_while_its_equal_is_looked_up_is_not_paid_again(store_path, monkeypatch):
    """While a call is in flight rows enter first: what leaves in between is found either way."""
    calls, release, settle = [], threading.Event(), Saved.settle

    def step(row):
        calls.append(row)
        assert release.wait(10) if row == "slow" else not release.set()
        return row

    def late(self, slots, *more):
        misses = settle(self, slots, *more)
        if calls and any(slot.row == "slow" for slot in slots):
            release.set()
            while len(self._in_flight):
                time.sleep(0.001)
        return misses

    monkeypatch.setattr(Saved, "settle", late)
    rows = ["slow", "slow", "fast", "other"]
    assert list(ckpt.step(store_path, version=1)(step).run(rows, concurrency=2)) == rows
    assert sorted(calls) == ["fast", "other", "slow"]
