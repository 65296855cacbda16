"""The ledger of calls sent, and the key that a step can ask for."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from paid import Paid, every_driver, label, result_of

import checkpointdb as ckpt
from checkpointdb import every, on_exit
from checkpointdb.engine.ledger import Ledger
from checkpointdb.file.log import Log
from checkpointdb.file.read import Reader


@pytest.fixture
def paid(tmp_path):
    return Paid(str(tmp_path / "paid.log"))


def open_calls(path):
    with Reader(path) as reader:
        return reader.calls()


@every_driver
def test_answered_calls_leave_the_ledger(store_path, paid, driver):
    """With each commit the calls it answers, failures too, leave the ledger."""
    step = driver.step(label, store_path, save=every(rows=3))
    results = driver.run(step, paid.rows(10, {4: "boom"}), ledger=True, on_error="record")
    assert results[9] == result_of(9)
    assert open_calls(store_path) == []


def test_a_call_is_in_the_ledger_while_it_is_made(store_path):
    """Inside the step its own call is on disk, under the key that current_key() gives."""
    seen = []

    @ckpt.step(store_path, version=1, save=on_exit())
    def step(row):
        seen.append((ckpt.current_key(), [(c.key, c.input) for c in open_calls(store_path)]))
        return row

    list(step.run([{"a": 1}], ledger=True))
    ((key, calls),) = seen
    assert calls == [(key, {"a": 1})]
    assert key == ckpt.key_of("step", 1, {"a": 1})


def test_a_call_whose_exception_ends_the_run_stays_listed(store_path):
    """It was sent, and nothing is recorded of it: it may have been billed. The next run's answer
    takes it off."""
    ok = threading.Event()  # no captured value: that it is set is no other binding

    @ckpt.step(store_path, version=1)
    def step(row):
        if row == 2 and not ok.is_set():
            raise TimeoutError
        return row

    with pytest.raises(TimeoutError):
        list(step.run(range(5), ledger=True))
    assert [(c.position, c.input, c.step) for c in open_calls(store_path)] == [(2, 2, "step")]
    ok.set()
    list(step.run(range(5), ledger=True))
    assert open_calls(store_path) == []


def test_a_result_that_is_put_answers_the_call_that_was_sent(store_path):
    """Somebody has found it in the provider's list, say."""

    @ckpt.step(store_path, version=1)
    def step(row):
        raise OSError("the connection broke")

    with pytest.raises(OSError):
        list(step.run([1], ledger=True))
    assert [call.input for call in open_calls(store_path)] == [1]
    step.put(1, "found")
    step.store.flush()
    assert open_calls(store_path) == []


def test_calls_at_once_share_a_write():
    """Calls that come while a write is under way are written together by the next."""
    writes, first = [], threading.Event()

    def write(calls):
        writes.append(sorted(calls))
        if len(writes) == 1:
            first.set()
            time.sleep(0.2)

    ledger = Ledger(write)
    threads = [threading.Thread(target=ledger.send, args=([n],)) for n in range(8)]
    threads[0].start()
    assert first.wait(5)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert writes == [[0], [1, 2, 3, 4, 5, 6, 7]]


def test_a_write_that_fails_is_heard_by_each_call_in_it():
    """No call of a group that could not be written is made as if it were."""
    begun, raised = threading.Event(), []

    def write(calls):
        if not begun.is_set():
            begun.set()
            time.sleep(0.2)
            return
        raise OSError("disk")

    def send(n):
        try:
            ledger.send([n])
        except OSError:
            raised.append(n)

    ledger = Ledger(write)
    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    threads[0].start()
    assert begun.wait(5)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(raised) == [1, 2, 3]


def test_a_ledger_that_cannot_be_written_makes_no_call(store_path, paid, monkeypatch):
    """If the note of a call fails, the call is not made, and the error is the run's."""
    monkeypatch.setattr(Log, "send", lambda *_: (_ for _ in ()).throw(ckpt.StoreFullError("full")))
    step = ckpt.step(store_path, version=1)(label)
    with pytest.raises(ckpt.StoreFullError):
        list(step.run(paid.rows(20), ledger=True, concurrency=8))
    assert paid.calls == []


# --- current_key


@pytest.mark.parametrize("concurrency", [1, 8])
def test_each_call_has_its_own_key(store_path, concurrency):
    """current_key() in tasks, across awaits, is the key of the row of that call."""

    @ckpt.step(store_path, version=1)
    async def step(row):
        before = ckpt.current_key()
        await asyncio.sleep(0.001 * (row % 5))
        return [before, ckpt.current_key()]

    results = list(step.run(range(40), concurrency=concurrency))
    assert results == [[ckpt.key_of("step", 1, n)] * 2 for n in range(40)]


def test_a_key_outside_a_call_is_wrong_use(store_path):
    """Outside a step, and after it, there is no key."""

    @ckpt.step(store_path, version=1)
    def step(row):
        return ckpt.current_key()

    with pytest.raises(RuntimeError, match="inside a step"):
        ckpt.current_key()
    assert step(1) == ckpt.key_of("step", 1, 1)
    with pytest.raises(RuntimeError):
        ckpt.current_key()
    with pytest.raises(RuntimeError):
        step.__wrapped__(1)


@pytest.mark.parametrize(
    "is_async",
    [
        False,
        True,
    ],
)
def test_a_step_that_calls_a_step_keeps_its_key(store_path, is_async):
    """After an inner step's call the outer one's key is current again."""
    if is_async:

        @ckpt.step(store_path, version=1)
        async def inner(row):
            return ckpt.current_key()

        @ckpt.step(store_path, version=1)
        async def outer(row):
            return [await inner(row), ckpt.current_key()]
    else:

        @ckpt.step(store_path, version=1)
        def inner(row):
            return ckpt.current_key()

        @ckpt.step(store_path, version=1)
        def outer(row):
            return [inner(row), ckpt.current_key()]

    keys = [ckpt.key_of(name, 1, 7) for name in ("inner", "outer")]
    assert list(outer.run([7])) == [keys]
