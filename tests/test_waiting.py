"""Calls that wait for each other end; whatever is raised settles its row; wait_for is in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time

import pytest
from drivers import each_driver

import checkpointdb as ckpt
from checkpointdb import StepDeadlockError, Store, on_exit

pytestmark = pytest.mark.loops


def within(seconds, fn):
    """Call `fn` in a thread and return what it returned or raised; fail if it does not end."""
    outcome = []

    def work():
        try:
            outcome.append(fn())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, "it waits for ever"
    return outcome[0]


def test_a_row_that_waits_for_itself_is_an_error_that_names_it(store_path):
    """Directly, or through another step."""

    @ckpt.step(store_path, version=1)
    def label(row):
        return label(row)

    @ckpt.step(store_path, version=1)
    def first(row):
        return second(row)

    @ckpt.step(store_path, version=1)
    def second(row):
        return first(row)

    for step, name in ((label, "label"), (first, "first")):
        error = within(5, lambda step=step: step(41))
        assert isinstance(error, StepDeadlockError)
        assert repr(name) in str(error)
        assert "41" in str(error)


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_two_rows_that_wait_for_each_other(store_path, kind):
    """Crosswise, in two threads or two tasks."""
    if kind == "threads":

        @ckpt.step(store_path, version=1)
        def label(row):
            time.sleep(0.1)
            return label(1 - row)

        outcomes = []
        threads = [
            threading.Thread(target=lambda row=row: outcomes.append(within(5, lambda: label(row))))
            for row in (0, 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:

        @ckpt.step(store_path, version=1)
        async def alabel(row):
            await asyncio.sleep(0.1)
            return await alabel(1 - row)

        async def both():
            return await asyncio.gather(alabel(0), alabel(1), return_exceptions=True)

        outcomes = within(5, lambda: asyncio.run(both()))
    assert [type(outcome) for outcome in outcomes] == [StepDeadlockError] * 2


# who begins, by whom the step asks, and whether through another handle
SHARED = {
    "a direct call": ("call", "call", False),
    "a run in a run": ("run", "run", False),
    "a direct call in a run": ("run", "call", False),
    "a run in a direct call": ("call", "run", False),
    "another handle": ("call", "call", True),
    "a run of another handle": ("run", "run", True),
}


def ask(step, how, row):
    return step(row) if how == "call" else list(step.run([row, row]))


async def aask(step, how, row):
    return await step(row) if how == "call" else [it async for it in step.arun([row, row])]


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(("begins", "asks", "elsewhere"), SHARED.values(), ids=SHARED)
def test_a_shared_row_that_waits_for_itself_is_an_error_that_names_it(
    store_path, begins, asks, elsewhere, is_async
):
    """Its claim is this process's own: whichever run has it, and whichever handle asks."""
    asked = []

    def label(row):
        asked.append(row)
        return ask(other, asks, row)

    async def alabel(row):
        asked.append(row)
        return await aask(other, asks, row)

    with Store(store_path) as first, Store(store_path) as second:
        step, other = (
            ckpt.step(store, version=1, name="label", shared=True)(alabel if is_async else label)
            for store in (first, second if elsewhere else first)
        )
        if is_async:
            error = within(10, lambda: asyncio.run(aask(step, begins, 41)))
        else:
            error = within(10, lambda: ask(step, begins, 41))
        assert isinstance(error, StepDeadlockError)
        assert "'label'" in str(error)
        assert "41" in str(error)
        assert 1 <= len(asked) <= 2
        assert claims(first) == 0


def claims(store):
    return store.log._writer.execute("select count(*) from system_claims").get


@pytest.mark.parametrize("elsewhere", [False, True], ids=["one handle", "two"])
@pytest.mark.parametrize("how", ["call", "run"])
def test_two_shared_rows_that_wait_for_each_other(store_path, how, elsewhere):
    """Crosswise, in two threads: neither waits for ever."""
    met = threading.Barrier(2)

    def label(row):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.wait(5)
        return ask(steps[1 - row], how, 1 - row)

    def go(row):
        outcomes[row] = within(20, lambda: ask(steps[row], how, row))
        met.abort()

    with Store(store_path) as first, Store(store_path) as second:
        stores, outcomes = (first, second if elsewhere else first), [None, None]
        steps = [ckpt.step(it, version=1, name="label", shared=True)(label) for it in stores]
        threads = [threading.Thread(target=go, args=(row,)) for row in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [type(outcome) for outcome in outcomes] == [StepDeadlockError] * 2
        assert claims(first) == 0


@pytest.mark.parametrize("how", ["call", "run"])
def test_two_shared_rows_that_wait_for_each_other_in_tasks(store_path, how):
    """On one event loop."""

    async def both():
        met = asyncio.Event()

        @ckpt.step(store_path, version=1, shared=True)
        async def label(row):
            if row:
                met.set()
            await met.wait()
            return await aask(label, how, 1 - row)

        return await asyncio.gather(
            aask(label, how, 0), aask(label, how, 1), return_exceptions=True
        )

    outcomes = within(20, lambda: asyncio.run(both()))
    assert [type(outcome) for outcome in outcomes] == [StepDeadlockError] * 2


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("handles", [1, 2])
def test_a_shared_step_may_ask_for_rows_that_its_run_has_claimed_ahead(store_path, kind, handles):
    """A claim whose call has not begun goes to the call that is waited for: each row once."""
    called = []

    def total(n):
        called.append(n)
        return n + (asked(n - 1) if n else 0)

    async def atotal(n):
        called.append(n)
        return n + (await asked(n - 1) if n else 0)

    rows = list(range(12, -1, -1))
    with Store(store_path) as first, Store(store_path) as second:
        make = ckpt.step(first, version=1, name="total", shared=True)
        again = ckpt.step(second, version=1, name="total", shared=True)
        step = make(total if kind == "plain" else atotal)
        asked = again(step.__wrapped__) if handles == 2 else step
        got = within(20, lambda: list(step.run(rows, concurrency=2)))
        assert got == [n * (n + 1) // 2 for n in rows], got
        assert sorted(called) == sorted(rows)
        step.flush(), asked.flush()  # what direct calls have pending is claimed until then
        assert claims(first) == 0


def test_what_a_worker_here_has_computed_and_not_saved_is_no_reason_to_wait(store_path):
    """The run that has it pending is inside a call that waits for it; so it commits."""
    with Store(store_path) as first, Store(store_path) as second:
        options = {"version": 1, "name": "total", "shared": True, "save": on_exit()}
        other = ckpt.step(second, **options)(lambda n: 1 / 0)
        step = ckpt.step(first, **options)(lambda n: other(n - 1) + 1 if n else 0)
        assert within(20, lambda: list(step.run([0, 1]))) == [0, 1]


def test_recursion_over_other_rows_is_fine(store_path):
    """Each row is another one."""

    @ckpt.step(store_path, version=1)
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert factorial(20) == 2432902008176640000
    assert list(factorial.run([21])) == [51090942171709440000]


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@each_driver
def test_an_exception_without_a_text_is_a_failure_like_any_other(driver, store_path):
    """Its class may do what it likes when asked for a text."""

    def act(row):
        if row == 1:
            raise Mute
        return row

    step = driver.step(act, store_path, name="s")
    results = driver.run(step, range(3), on_error="record")
    assert [getattr(result, "error_type", result) for result in results] == [0, "Mute", 2]


def test_what_valid_raises_settles_its_row_whatever_it_is(store_path):
    """Even sys.exit: the result is kept, and nobody waits for the row."""

    def leave(result):
        raise SystemExit(3)

    step = ckpt.step(store_path, version=1, name="s")(lambda row: row)
    with pytest.raises(SystemExit):
        list(step.run([1], valid=leave, on_error="record"))
    with Store(store_path) as store:
        assert [record.result for record in store.records()] == [1]


def test_wait_for_returns_in_time_and_the_call_is_saved(store_path):
    """The call that is paid for goes on in the background; the end of the loop waits for it."""

    @ckpt.step(store_path, version=1, save=on_exit())
    async def label(row):
        await asyncio.sleep(0.5)
        return row

    async def main():
        began = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(label(1), 0.05)
        return time.monotonic() - began

    assert asyncio.run(main()) < 0.4
    label.flush()
    with Store(store_path) as store:
        assert [record.result for record in store.records()] == [1]


@pytest.mark.parametrize("options", [{"progress": True}, {"on_error": "record"}], ids=repr)
@pytest.mark.parametrize("gone", ["closed", "full"])
def test_a_stderr_that_is_gone_ends_no_run(store_path, monkeypatch, options, gone):
    """Messages that cannot be written are no reason to lose a job."""
    file = open("/dev/full" if gone == "full" else os.devnull, "w", buffering=1)  # noqa: SIM115
    if gone == "closed":
        file.close()
    monkeypatch.setattr("sys.stderr", file)
    handler = logging.StreamHandler(file)
    logging.getLogger("checkpointdb").addHandler(handler)
    try:
        step = ckpt.step(store_path, version=1, name="s")(lambda row: 1 // row)
        options = {"on_error": "record"} | options
        assert len(list(step.run(range(3), **options))) == 3
    finally:
        logging.getLogger("checkpointdb").removeHandler(handler)
        with contextlib.suppress(OSError):
            file.close()


def test_a_shared_batch_that_asks_for_a_row_of_its_own(store_path):
    """Whichever of its rows it is."""

    @ckpt.step(store_path, version=1, shared=True)
    def label(rows):
        return [list(label.run([row], batch_size=1)) for row in reversed(rows)]

    error = within(20, lambda: list(label.run([1, 2], batch_size=2)))
    assert isinstance(error, StepDeadlockError)


def test_three_shared_rows_that_wait_in_a_circle(store_path):
    """In three threads: each of them ends."""
    met, outcomes = threading.Barrier(3), []

    @ckpt.step(store_path, version=1, shared=True)
    def label(row):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.wait(10)
        return label((row + 1) % 3)

    def go(row):
        outcomes.append(within(20, lambda: label(row)))
        met.abort()

    threads = [threading.Thread(target=go, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(outcome) for outcome in outcomes] == [StepDeadlockError] * 3


@pytest.mark.parametrize("shared", [False, True])
def test_a_row_that_waits_for_itself_through_another_thread_or_loop(store_path, shared):
    """`asyncio.to_thread` and a loop of its own carry on what call they are in."""
    options = {"version": 1, "shared": shared}
    plain = ckpt.step(store_path, name="plain", **options)(lambda row: asyncio.run(label(row)))

    @ckpt.step(store_path, name="label", **options)
    async def label(row):
        return await asyncio.to_thread(plain, row)

    assert isinstance(within(20, lambda: asyncio.run(label(1))), StepDeadlockError)


def test_equal_keys_of_two_stores_are_two_rows(store_path, tmp_path):
    """A shared step may ask for its row in another store."""
    options = {"version": 1, "name": "label", "shared": True}
    other = ckpt.step(str(tmp_path / "other.ckpt"), **options)(lambda row: row)
    step = ckpt.step(store_path, **options)(lambda row: other(row))
    assert within(20, lambda: list(step.run([1, 2], concurrency=2))) == [1, 2]
