"""`timeout=`: a call that takes too long fails its row, in time; what it returns late is kept."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from drivers import each_driver
from test_interrupts import end, results, start

import checkpointdb as ckpt
from checkpointdb import Failed, StepDeadlockError, StepStuckError, Store
from checkpointdb.engine.overdue import overdue
from checkpointdb.file.read import Reader

pytestmark = pytest.mark.loops


@dataclasses.dataclass
class Provider:
    """A slow provider: it answers `slow` rows once it is released, and knows who called."""

    slow: tuple = (1,)

    def __post_init__(self):
        self.released, self.calls = threading.Event(), []

    def __call__(self, row):
        self.calls.append(row)
        if row in self.slow:
            assert self.released.wait(20)
        return row * 10


@pytest.fixture
def provider():
    provider = Provider()
    yield provider
    provider.released.set()
    until(lambda: not overdue)


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def saved(path):
    with Store(path, create=False) as store:
        return {record.input: record.result for record in store.records(status="ok")}


# --- in time


@each_driver
def test_a_call_that_takes_too_long_fails_its_row(driver, store_path):
    """The error names the step, the row's position and the seconds; the other rows go on."""

    async def aslow(row):
        if row == 2:
            await asyncio.sleep(20)
        return row

    release = threading.Event()

    def slow(row):
        if row == 2:
            release.wait(20)
        return row

    fn = aslow if driver.is_async else slow
    label = ckpt.step(store_path, version=1, name="label")(fn)
    began = time.monotonic()
    got = driver.run(label, [0, 1, 2], timeout=0.2, on_error="record")
    assert time.monotonic() - began < 10
    assert got[:2] == [0, 1]
    assert got[2].error_type == "TimeoutError"
    for part in ("'label'", "row 2", "0.2 s"):
        assert part in got[2].message
    assert ("await asyncio.sleep(20)" if driver.is_async else "release.wait(20)") in got[
        2
    ].traceback
    release.set()
    until(lambda: not overdue)


@each_driver
def test_a_timeout_ends_the_run_unless_failures_are_recorded(driver, store_path, provider):
    """It is the step's own exception, as any other; what returned before is saved."""
    if driver.is_async:

        async def slow(row):
            await asyncio.sleep(20 * (row == 1))
            return row * 10
    else:
        slow = provider
    label = ckpt.step(store_path, version=1, name="label")(slow)
    with pytest.raises(TimeoutError, match=r"'label', row 1, .*0\.2 s"):
        driver.run(label, [0, 1], timeout=0.2)
    assert saved(store_path)[0] == 0


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_a_direct_call_raises_in_time(store_path, provider, is_async):
    """`timeout=` of the step holds for its direct calls; an async one is cancelled."""
    ended = []

    async def alabel(row):
        try:
            await asyncio.sleep(20)
        finally:
            ended.append(row)

    fn = alabel if is_async else provider
    label = ckpt.step(store_path, version=1, name="label", timeout=0.2)(fn)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"'label', row 0, .*0\.2 s"):
        asyncio.run(label(1)) if is_async else label(1)
    assert time.monotonic() - began < 10
    assert ended == [1] * is_async


def test_a_step_s_timeout_is_that_of_its_runs_unless_they_say_otherwise(store_path):
    """`timeout=None` of a run takes the step's away; a number replaces it."""

    @ckpt.step(store_path, version=1, timeout=0.05)
    def label(row):
        time.sleep(0.3)
        return row

    with pytest.raises(TimeoutError):
        list(label.run([1]))
    assert list(label.run([2], timeout=None)) == [2]
    assert list(label.run([3], timeout=20)) == [3]
    assert list(ckpt.run(label.__wrapped__, [4], store=store_path, version=1, timeout=9)) == [4]
    until(lambda: not overdue)


def test_a_batch_is_one_call(store_path, provider):
    """All its rows fail, and all its late results are kept."""
    label = ckpt.step(store_path, version=1, name="label")(
        lambda rows: [provider(row) for row in rows]
    )
    got = list(label.run([0, 1, 2, 3], batch_size=2, concurrency=2, timeout=0.3, on_error="record"))
    assert [isinstance(it, Failed) for it in got] == [True, True, False, False]
    assert "rows 0 to 1" in got[0].message
    provider.released.set()
    until(lambda: not overdue)
    assert saved(store_path) == {0: 0, 1: 10, 2: 20, 3: 30}
    assert list(label.run([0, 1, 2, 3], batch_size=2)) == [0, 10, 20, 30]
    assert sorted(provider.calls) == [0, 1, 2, 3]


def test_what_cannot_be_meant_is_refused(store_path):
    """Of the step and of its runs; an executor's workers cannot be left."""
    for bad in (0, -1, "5", True, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
            ckpt.step(store_path, version=1, timeout=bad)
    label = ckpt.step(store_path, version=1, timeout=1, name="label")(lambda row: row)
    with pytest.raises(ValueError, match="timeout"):
        label.run([], timeout=0)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(TypeError, match="timeout= cannot be enforced in an executor's workers"):
            label.run([1], executor=executor)
        assert list(label.run([1], executor=executor, timeout=None)) == [1]


# --- late results


@pytest.mark.parametrize("when", ["in the run", "after it", "after its store was closed"])
@pytest.mark.parametrize("on_error", ["raise", "record"])
def test_a_late_result_is_saved_over_the_failure(store_path, provider, monkeypatch, when, on_error):
    """Whether the run goes on, has ended, or its store is closed; committed if the run is over."""
    monkeypatch.setattr("checkpointdb.engine.committer.COUNTS_EVERY", 0.0)  # not even its counts
    label = ckpt.step(store_path, version=1, name="label", save=ckpt.on_exit())(provider)
    options = {"timeout": 0.2, "on_error": on_error, "concurrency": 2}
    with contextlib.suppress(TimeoutError):
        for _ in label.run([1, 2, 3], **options):
            if when == "in the run":
                provider.released.set()
                until(lambda: not overdue)
    if when == "after its store was closed":
        label.store.close()
    provider.released.set()
    until(lambda: not overdue)
    assert saved(store_path)[1] == 10  # read by another connection: committed
    with Store(store_path) as store:
        assert [run.ended is None for run in store.runs()] == [False]
        (record,) = [it for it in store.records() if it.input == 1]
        assert (record.error, record.attempts) == (None, 1)
    assert list(label.run([1, 2, 3])) == [10, 20, 30]
    assert sorted(provider.calls) == [1, 2, 3]


def test_a_late_result_of_a_direct_call_is_pending_like_any_other(store_path, provider):
    """It is found by the next call, and committed with the store's flush."""
    label = ckpt.step(store_path, version=1, name="label", timeout=0.2, save=ckpt.on_exit())(
        provider
    )
    with pytest.raises(TimeoutError):
        label(1)
    provider.released.set()
    until(lambda: not overdue)
    assert label(1) == 10
    assert saved(store_path) == {}
    label.flush()
    assert saved(store_path) == {1: 10}
    assert provider.calls == [1]


def test_a_late_result_is_judged_and_counted_as_any(store_path, provider):
    """`cost=` and `valid=` are asked; the budget knows what was paid."""
    label = ckpt.step(store_path, version=1, name="label")(provider)
    run = label.run(
        [1, 2], timeout=0.2, on_error="record", concurrency=2,
        cost=lambda result: 0.5, max_cost=10, valid=lambda result: result != 10,
    )  # fmt: skip
    assert [type(it) for it in run] == [Failed, int]
    provider.released.set()
    until(lambda: not overdue)
    with Store(store_path) as store:
        (record,) = [it for it in store.records() if it.input == 1]
        assert record.error["type"] == "invalid"
        assert (record.cost, record.result) == (0.5, 10)


@dataclasses.dataclass
class Review:
    text: str


def test_a_late_result_is_never_that_of_another_row(store_path):
    """A row is the caller's again once it failed: changed in place, it gets no late result."""
    entered, release = threading.Event(), threading.Event()

    @ckpt.step(store_path, version=1, timeout=0.1)
    def label(row):
        entered.set()
        assert release.wait(20)
        return row["text"] if isinstance(row, dict) else row.text

    for row, change in (
        (Review("first"), lambda row: setattr(row, "text", "changed")),
        ({"text": "first"}, lambda row: row.update(text="changed")),
    ):
        release.clear()
        with pytest.raises(TimeoutError):
            label(row)
        change(row)
        release.set()
        until(lambda: not overdue)
    # a plain row is the step's own copy, so that its result could be kept
    assert [record.result for record in label.store.records()] == ["first"]


def test_a_late_exception_changes_nothing(store_path):
    """The failure stays the time-out; the row is tried again."""
    release, calls = threading.Event(), []

    @ckpt.step(store_path, version=1)
    def label(row):
        calls.append(row)
        assert release.wait(20)
        if len(calls) == 1:
            raise OSError("too late anyway")
        return row

    (failed,) = label.run([1], timeout=0.1, on_error="record")
    release.set()
    until(lambda: not overdue)
    with Store(store_path) as store:
        assert [record.error["type"] for record in store.records()] == ["TimeoutError"]
    assert failed.error_type == "TimeoutError"
    assert list(label.run([1])) == [1]


# --- nobody starts its row again


@pytest.mark.parametrize("how", ["direct call", "run", "threads", "shared", "batch", "timed run"])
def test_a_row_is_not_begun_again_while_its_call_runs(store_path, provider, how):
    """Whoever wants it waits for the late result, and gets it."""
    label = ckpt.step(store_path, version=1, name="label")(provider)
    with pytest.raises(TimeoutError):
        list(label.run([1], timeout=0.1))
    got = []

    def again():
        match how:
            case "direct call":
                got.append(label(1))
            case "batch":
                as_batch = label.replace()
                as_batch.__wrapped__ = lambda rows: [provider(row) for row in rows]
                got.extend(as_batch.run([1], batch_size=2))
            case _:
                options = {
                    "run": {}, "threads": {"concurrency": 3}, "shared": {"shared": True},
                    "timed run": {"timeout": 20},
                }[how]  # fmt: skip
                got.extend(label.run([1], **options))

    thread = threading.Thread(target=again)
    thread.start()
    time.sleep(0.2)
    assert provider.calls == [1] and not got
    provider.released.set()
    thread.join(20)
    assert got == [10] and provider.calls == [1]


def test_who_waits_for_an_overdue_call_waits_no_longer_than_its_own_timeout(store_path, provider):
    """A retry of a direct call is a TimeoutError again, in time, and pays nothing."""
    label = ckpt.step(store_path, version=1, name="label", timeout=0.1)(provider)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            label(1)
    assert provider.calls == [1]
    provider.released.set()
    until(lambda: not overdue)
    assert label(1) == 10


def test_a_forked_child_does_not_wait_for_its_parent_s_calls(store_path, provider):
    """The overdue call stayed with the parent: a child that wants the row calls for itself."""
    label = ckpt.step(store_path, version=1, name="label", timeout=0.1)(provider)
    with pytest.raises(TimeoutError):
        label(1)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: os._exit(7 if _child_gets(store_path) == 10 else 1)
    )
    child.start()
    child.join(20)
    assert child.exitcode == 7


def _child_gets(path):
    label = ckpt.step(path, version=1, name="label", timeout=9)(lambda row: row * 10)
    result = label(1)
    label.store.close()
    return result


# --- places


def test_calls_that_are_overdue_keep_their_places_until_none_is_left(store_path):
    """Then the run ends, says how many and which, and saves what it has."""
    provider = Provider(slow=(1, 3))
    label = ckpt.step(store_path, version=1, name="label")(provider)
    began, run = (
        time.monotonic(),
        label.run(range(100), concurrency=2, timeout=0.2, on_error="record"),
    )
    with pytest.raises(
        StepStuckError, match=r"2 calls took longer .*rows 1, 3.*concurrency=2"
    ) as e:
        list(run)
    assert time.monotonic() - began < 10
    assert e.value.rows == (1, 3)
    assert len(provider.calls) == len(saved(store_path)) + 2 < 100
    provider.released.set()
    until(lambda: not overdue)
    assert list(label.run(range(100))) == [row * 10 for row in range(100)]


def test_an_overdue_call_that_returns_gives_its_place_back(store_path):
    """One call at a time: a slow row fails, and the run goes on when its call is over."""

    @ckpt.step(store_path, version=1)
    def label(row):
        time.sleep(0.6 if row == 1 else 0)
        return row

    got = list(label.run(range(4), timeout=0.4, on_error="record"))
    assert [isinstance(it, Failed) for it in got] == [False, True, False, False]


def test_calls_in_flight_count_with_those_that_are_overdue(store_path):
    """Never more than `concurrency` threads are in the step."""
    inside, most, lock = 0, 0, threading.Lock()

    @ckpt.step(store_path, version=1)
    def label(row):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.35 if row % 5 == 0 else 0.02)
        with lock:
            inside -= 1
        return row

    got = list(label.run(range(30), concurrency=3, timeout=0.25, on_error="record"))
    assert sum(isinstance(it, Failed) for it in got) == 6
    assert most <= 3
    until(lambda: not overdue)


# --- inside of an overdue call


def test_an_overdue_call_is_still_a_call(store_path):
    """It knows its key and its context, and calls other steps; its own row it cannot wait for."""
    name = contextvars.ContextVar("name")
    release, seen, calls = threading.Event(), [], []

    @ckpt.step(store_path, version=1)
    def other(row):
        seen.append(ckpt.current_key())
        return row

    @ckpt.step(store_path, version=1, timeout=0.1)
    def label(row):
        calls.append(row)
        before = ckpt.current_key()
        assert release.wait(20)
        assert ckpt.current_key() == before
        seen.append(name.get())
        other(5)
        assert ckpt.current_key() == before
        try:
            label(row)
        except StepDeadlockError as error:
            seen.append(error.key == before)
        return "late"

    name.set("of the caller")
    with pytest.raises(TimeoutError):
        label(1)
    release.set()
    until(lambda: not overdue)
    assert label(1) == "late"
    assert seen == ["of the caller", ckpt.key_of("other", 1, 5), True]  # of one call
    assert calls == [1]


def test_thread_locals_of_a_step_last(store_path):
    """Calls share threads: a client kept in a thread-local is made once, not for each call."""
    local, made = threading.local(), []

    @ckpt.step(store_path, version=1)
    def label(row):
        if not hasattr(local, "client"):
            local.client = object()
            made.append(threading.current_thread())
        return row

    assert list(label.run(range(50), timeout=20)) == list(range(50))
    assert len(made) == 1 and made[0].daemon
    made[0].join(5)
    assert not made[0].is_alive(), "the run has ended, and so should its thread"


def test_separate_rows_time_out_for_themselves(store_path):
    """Under duplicates="separate" each of equal rows has a call, a failure and a late result."""
    release, calls = threading.Event(), []

    @ckpt.step(store_path, version=1, duplicates="separate")
    def label(row):
        calls.append(row)
        assert release.wait(20)
        return len(calls)

    got = list(label.run([1, 1], concurrency=3, timeout=0.2, on_error="record"))
    assert [type(it) for it in got] == [Failed, Failed]
    release.set()
    until(lambda: not overdue)
    assert list(label.run([1, 1])) == [2, 2] and len(calls) == 2


# --- the end of the process

PROGRAM = """
    import os, signal, sys, threading, time, checkpointdb as ckpt

    directory, how = sys.argv[1:3]
    is_deep = threading.Event()

    @ckpt.step(directory + "/deeper.ckpt", version=1)
    def deeper(row):  # a call inside the overdue one is nobody's to wait for either
        is_deep.set()
        time.sleep(600)

    @ckpt.step(directory + "/rows.ckpt", version=1, save=ckpt.on_exit(), timeout=0.3)
    def label(row):
        if row == 1:
            deeper(row)
        return row

    def run():
        for result in label.run([0, 1, 2, 3], on_error="record", concurrency=2):
            print(result if isinstance(result, int) else result.error_type, flush=True)
            if how == "run" and result == 3:
                time.sleep(600)

    if how == "exit":
        run()
    elif how == "exit after a late result":
        try:
            label(1)
        except TimeoutError:
            print("too late", flush=True)
    elif how == "run":
        run()
    else:
        label(0)
        thread = threading.Thread(target=lambda: label(1))
        thread.start()
        thread.join()
        is_deep.wait()
        print("too late", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("how", ["exit", "exit after a late result"])
def test_the_exit_does_not_wait_for_an_overdue_call(tmp_path, how):
    """What returned is saved."""
    status, out, _ = end(start(tmp_path, PROGRAM, how))
    assert status == 0
    if how == "exit":
        assert out.split() == ["0", "TimeoutError", "2", "3"]
        assert [it for it in results(tmp_path / "rows.ckpt") if it is not None] == [0, 2, 3]


@pytest.mark.parametrize("how", ["run", "direct calls"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_does_not_wait_for_an_overdue_call(tmp_path, how, number):
    """SIGTERM and Ctrl-C await calls in flight, but not one whose time is over."""
    process = start(tmp_path, PROGRAM, how)
    for _ in range(4 if how == "run" else 1):
        process.stdout.readline()
    process.send_signal(number)
    status, _, _ = end(process)
    assert status == (143 if (how, number) == ("run", signal.SIGTERM) else -number)
    kept = [it for it in results(tmp_path / "rows.ckpt") if it is not None]
    assert kept == ([0, 2, 3] if how == "run" else [0])


LATE = """
    import sys, threading, time, checkpointdb as ckpt

    told = threading.Event()

    def slowly(result):
        print("judging", flush=True)
        time.sleep(0.3)
        return True

    @ckpt.step(
        sys.argv[1] + "/rows.ckpt", version=1, save=ckpt.on_exit(), timeout=0.05, valid=slowly,
        ignore=("told",),
    )
    def label(row):
        told.wait()
        return row

    try:
        label(1)
    except TimeoutError:
        told.set()
    time.sleep(600)
"""


def test_a_signal_waits_while_a_late_result_is_kept(tmp_path):
    """It was paid for, and it is there."""
    process = start(tmp_path, LATE)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    status, _, _ = end(process)
    assert status == -signal.SIGTERM
    assert results(tmp_path / "rows.ckpt") == [1]


OTHERS = ["executor", "async call", "async run", "arun"]


@pytest.mark.parametrize("how", OTHERS)
@pytest.mark.parametrize("batch", [False, True], ids=["row", "batch"])
def test_others_wait_for_an_overdue_call_of_their_row(store_path, provider, how, batch):
    """An executor's run, and an async step of the same name: nobody calls the row meanwhile."""
    options = {"version": 1, "name": "label"}
    plain = ckpt.step(store_path, timeout=0.05, **options)(provider)
    with pytest.raises(TimeoutError):
        plain(1)

    async def alabel(row):
        return [provider(it) for it in row] if batch else provider(row)

    def of_batch(rows):
        return [provider(it) for it in rows]

    fn = of_batch if batch else provider
    step = ckpt.step(store_path, on_change="reuse", **options)(fn if how == "executor" else alabel)
    size = {"batch_size": 2} if batch else {}

    async def arun():
        return [it async for it in step.arun([1, 2], concurrency=2, **size)]

    async def calls():
        return list(await asyncio.gather(step(1), step(2)))

    def act():
        if how == "executor":
            with ThreadPoolExecutor(2) as pool:
                return list(step.run([1, 2], executor=pool, **size))
        if how == "async run":
            return list(step.run([1, 2], **size))
        return asyncio.run(arun() if how == "arun" else calls())

    if batch and how == "async call":
        pytest.skip("a direct call has no batch")
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(act)
        time.sleep(0.3)
        assert provider.calls.count(1) == 1
        provider.released.set()
        assert got.result(20) == [10, 20]
    assert provider.calls.count(1) == 1
    assert saved(store_path) == {1: 10, 2: 20}


def test_an_async_call_that_waits_for_an_overdue_one_can_be_cancelled(store_path, provider):
    """Whoever else waits for the row is not left waiting; the late result is saved."""
    plain = ckpt.step(store_path, version=1, name="label", timeout=0.05)(provider)
    with pytest.raises(TimeoutError):
        plain(1)

    async def alabel(row):
        return provider(row)

    step = ckpt.step(store_path, version=1, name="label", on_change="reuse")(alabel)

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(step(1), 0.1)
        provider.released.set()
        return await step(1)

    assert asyncio.run(main()) == 10
    assert provider.calls == [1]


# --- beside other options


def test_a_time_out_that_stop_on_names_ends_the_run(store_path, provider):
    """Though failures are recorded; the call's late result is saved."""
    label = ckpt.step(store_path, version=1, name="label")(provider)
    run = label.run([0, 1, 2], timeout=0.05, on_error="record", stop_on=(TimeoutError,))
    with pytest.raises(TimeoutError):
        list(run)
    assert provider.calls == [0, 1]
    provider.released.set()
    until(lambda: saved(store_path) == {0: 0, 1: 10})


def test_a_late_result_answers_its_call_in_the_ledger(store_path, provider):
    """An overdue call failed its row, and was answered by that; nothing is left as sent."""
    label = ckpt.step(store_path, version=1, name="label", save=ckpt.every(rows=1))(provider)
    during = []

    def look(failed):
        with Reader(store_path) as reader:
            during.extend(call.input for call in reader.calls())

    run = label.run([0, 1], timeout=0.05, on_error="record", ledger=True)
    for result in run:
        if isinstance(result, Failed):
            look(result)
    assert during == []
    provider.released.set()
    until(lambda: saved(store_path).get(1) == 10)
    with Reader(store_path) as reader:
        assert reader.calls() == []
