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
