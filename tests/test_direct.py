"""What `step` says of direct calls: failures, judgement, cost, and one call among processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import apsw
import pytest
from drivers import ASYNC, SEQUENTIAL

import checkpointdb as ckpt
from checkpointdb import Store
from checkpointdb.engine.intake import Intake
from checkpointdb.file.append import transaction
from checkpointdb.file.key_index import extend
from checkpointdb.loops import direct

pytestmark = pytest.mark.loops
both = pytest.mark.parametrize("driver", [SEQUENTIAL, ASYNC], ids=str)


@both
def test_a_recorded_failure_is_raised_and_the_next_call_tries_again(driver, store_path):
    """It is saved with its attempts; who calls once more, in one session, wants it tried."""
    calls = []

    def flaky(row):
        calls.append(row)
        if len(calls) < 3:
            raise ValueError(f"no luck {len(calls)}")
        return row * 2

    step = driver.step(flaky, store_path, on_error="record", save=ckpt.every(rows=1))
    for attempt in (1, 2):
        with pytest.raises(ValueError, match=f"no luck {attempt}"):
            driver.call(step, 21)
        with Store(store_path) as store:
            (record,) = store.records(status="failed")
            assert (record.attempts, record.error["type"]) == (attempt, "ValueError")
    assert driver.call(step, 21) == driver.call(step, 21) == 42 and len(calls) == 3
    with Store(store_path) as store:
        assert [record.attempts for record in store.records()] == [3]


@both
def test_a_pending_failure_is_tried_again_too(driver, store_path):
    """Though it is not committed yet."""
    calls = []

    def flaky(row):
        calls.append(row)
        if len(calls) == 1:
            raise ValueError
        return row

    step = driver.step(flaky, store_path, on_error="record", save=ckpt.on_exit())
    with pytest.raises(ValueError):
        driver.call(step, 1)
    assert driver.call(step, 1) == 1


@both
@pytest.mark.parametrize("on_error", ["raise", "record"])
def test_a_refused_result_is_raised_and_kept_in_the_failure(driver, store_path, on_error):
    """`valid=` of the step judges direct calls; the result was paid for, and is attached."""
    step = driver.step(
        lambda row: {"text": row}, store_path, valid=lambda it: bool(it["text"]),
        name="s",
        cost=lambda it: 0.5, on_error=on_error, save=ckpt.every(rows=1),
    )  # fmt: skip
    assert driver.call(step, "a") == {"text": "a"}
    with pytest.raises(ValueError, match="valid= refused the result") as caught:
        driver.call(step, "")
    assert caught.value.result == {"text": ""}
    with Store(store_path) as store:
        good, refused = store.records()
        assert (good.cost, good.error) == (0.5, None)
        assert (refused.cost, refused.result) == (0.5, {"text": ""})
        assert refused.error["type"] == "invalid"


def test_a_run_goes_by_the_step_unless_it_is_told_otherwise(store_path):
    """Its own keyword wins, even None."""
    step = ckpt.step(
        store_path, version=1, on_error="record", cost=lambda it: 1.0, valid=lambda it: it > 1
    )(abs)
    run = step.run([-1, -2, "x"])
    assert [getattr(it, "error_type", it) for it in run] == ["invalid", 2, "TypeError"]
    assert run.report.cost == 2.0
    run = step.run([-1, -2], valid=None, cost=None)
    assert list(run) == [1, 2] and run.report.cost == 0
    with pytest.raises(TypeError):
        list(step.run(["y"], on_error="raise"))
    assert list(step.run([-3], max_cost=10)) == [3]  # the step has a cost
    for wrong in ({"on_error": "drop"}, {"valid": 1}, {"cost": "usd"}):
        with pytest.raises((TypeError, ValueError)):
            ckpt.step(store_path, version=1, **wrong)


LIFE = """
import os, sys, time
import checkpointdb as ckpt

@ckpt.step(sys.argv[1], version=1, name="f", shared=True, save=ckpt.every(rows=1))
def f(row):
    print("called", flush=True)
    if sys.argv[2] == "fail":
        time.sleep(0.5)
        raise ValueError
    time.sleep(600 if sys.argv[2] == "hang" else float(sys.argv[2]))
    return os.getpid()

try:
    print(f("x"), flush=True)
except ValueError:
    print("failed", flush=True)
    time.sleep(600)
"""


def life(path, what):
    process = subprocess.Popen(
        [sys.executable, "-c", LIFE, path, what], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "called\n"
    return process


def end(process, kill=False):
    if kill:
        process.send_signal(signal.SIGKILL)
    said = process.communicate()[0]
    return said.split()


@pytest.fixture
def shared(store_path):
    calls = []
    step = ckpt.step(store_path, version=1, name="f", shared=True)(
        lambda row: calls.append(row) or "mine"
    )
    yield step, calls


@pytest.mark.parametrize("threads", [1, 4])
def test_a_direct_call_waits_while_another_process_computes_its_row(store_path, shared, threads):
    """Under shared=True a row is computed by one, and both have its result."""
    other = life(store_path, "1.0")
    step, calls = shared
    got = []
    workers = [threading.Thread(target=lambda: got.append(step("x"))) for _ in range(threads)]
    for worker in workers:
        worker.start()
    assert end(other) == [str(other.pid)]
    for worker in workers:
        worker.join(30)
    assert got == [other.pid] * threads and calls == []


@pytest.mark.parametrize("what", ["hang", "fail"])
def test_a_direct_call_takes_over_from_one_that_was_killed_or_failed(store_path, shared, what):
    """A dead process holds nothing, and a call that raised leaves its row to the others."""
    other = life(store_path, what)
    if what == "fail":
        assert other.stdout.readline() == "failed\n"
    step, calls = shared
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(step, "x")
        if what == "hang":
            until_it_follows(step)
            other.kill()
        assert called.result(30) == "mine" and calls == ["x"]
    end(other, kill=True)


def until_it_follows(step):
    """Wait until a direct call waits for another process."""
    deadline = time.monotonic() + 30
    while step._direct._run is None or not step._direct._run.sharing.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_async_direct_call_waits_too_and_leaves_in_time(store_path):
    """asyncio.wait_for ends the wait for another process; the call after it has the result."""
    other = life(store_path, "1.5")

    async def f(row):
        raise AssertionError("computed elsewhere")

    step = ckpt.step(store_path, version=1, name="f", shared=True)(f)

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(step("x"), 0.2)
        return await asyncio.wait_for(step("x"), 30)

    assert asyncio.run(main()) == other.pid
    end(other)


def test_ckpt_run_goes_by_the_step(tmp_path):
    """Without options `ckpt run` records, shares and counts dollars as the step says."""
    (tmp_path / "m.py").write_text(
        "import subprocess, sys, checkpointdb as ckpt\n"
        # another process: in this one, another SQLite would drop our locks as it closes the file
        "LOOK = '''import sqlite3\n"
        "claims = sqlite3.connect('r.ckpt').execute('select * from system_claims')\n"
        "print(len(claims.fetchall()))'''\n"
        "@ckpt.step('r.ckpt', version=1, on_error='record', cost=lambda it: 0.25, shared=True)\n"
        "def f(row):\n"
        "    claims = subprocess.check_output([sys.executable, '-c', LOOK])\n"
        "    return int(claims) / row['n']\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"n": 0}\n{"n": 1}\n')
    told = [sys.executable, "-m", "checkpointdb", "run", "m.py:f", "rows.jsonl"]
    done = subprocess.run(
        [*told, "--max-cost", "5"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(ckpt.__file__))},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    with Store(tmp_path / "r.ckpt") as store:
        assert store.runs()[-1].report.cost == 0.25
        assert [record.result > 0 for record in store.records(status="ok")] == [True]


def test_idle_direct_calls_give_their_store_back_but_not_one_that_somebody_has(tmp_path):
    """The oldest idle one is closed and opened again by the next call; nothing pending is lost."""
    steps = [
        ckpt.step(str(tmp_path / f"{n}.ckpt"), version=1, save=ckpt.on_exit())(abs)
        for n in range(direct.MOST_OPEN + 3)
    ]
    named = steps[0].store
    for n, step in enumerate(steps):
        assert step(-n) == n
    assert not named.closed and steps[1]._where._store.closed and not steps[-1]._where._store.closed
    assert [step(-n) for n, step in enumerate(steps)] == list(range(len(steps)))
    steps[1].store.flush()
    assert len(list(steps[1].store.records())) == 1


@pytest.fixture
def echo(store_path):
    """A step of which five rows are saved and found by the index on disk or the tail."""

    @ckpt.step(store_path, version=1, name="echo")
    def echo(row, more=0):
        calls.append(row)
        return {"row": row, "more": more}

    calls = echo.calls = []
    for n in range(5):
        echo(n)
    echo.flush()
    assert echo(0) == echo(0)  # from now on a hit is expected
    calls.clear()
    return echo


def found_at_once(step, monkeypatch, *args, **kwargs):
    """Return the result of a call that must be a hit in one step."""
    with monkeypatch.context() as patched:
        patched.setattr(Intake, "place_of", None)
        return step(*args, **kwargs)


@pytest.mark.parametrize("is_indexed", [False, True], ids=["tail", "index"])
def test_a_hit_is_found_in_one_step_and_every_caller_has_a_value_of_its_own(
    echo, monkeypatch, is_indexed
):
    """With several arguments, too; what a caller does to its result, no other caller sees."""
    echo(7, more=1)
    echo.flush()
    if is_indexed:
        with echo.store.log._writing() as writer, transaction(writer):
            extend(writer)
        echo.store.log._finder.index.forget_indexed()
    before = echo._direct.running().report()
    echo(0)
    one = found_at_once(echo, monkeypatch, 3)
    one["row"] = "spoilt"
    assert found_at_once(echo, monkeypatch, 3) == {"row": 3, "more": 0}
    assert found_at_once(echo, monkeypatch, 7, more=1) == {"row": 7, "more": 1}
    report = echo._direct.running().report()
    assert (report.rows - before.rows, report.hits - before.hits) == (4, 4)
    assert echo.calls == [7]


def test_a_hit_in_one_step_sees_what_others_did_to_its_row(echo, store_path, monkeypatch):
    """Replaced here and not committed, or committed; or replaced by another handle."""
    echo.put(1, "pending", replace=True)
    assert echo(1) == "pending"
    echo.flush()
    assert echo(1) == found_at_once(echo, monkeypatch, 1) == "pending"
    with Store(store_path) as store:
        other = ckpt.step(store, version=1, name="echo")(echo.__wrapped__)
        other.put(2, "theirs", replace=True)
        other.flush()
        assert echo(2) == "theirs"
    assert echo.calls == []


def test_a_row_of_another_content_and_results_of_other_code_are_no_hits(echo, monkeypatch):
    """They are looked up in full, which refuses the one and computes the other again."""
    intake = echo._direct.running().intake
    key = intake._key
    monkeypatch.setattr(intake, "_key", lambda row: (key(3)[0], *key(row)[1:]))
    with pytest.raises(ckpt.KeyCollisionError):
        echo("another")
    monkeypatch.undo()
    assert echo(0) == echo(0)
    intake._saved._stale_runs = frozenset([1])
    assert echo(3) == {"row": 3, "more": 0} and echo.calls == [3]


@pytest.mark.damages_store
def test_a_rotten_hit_is_named_however_it_is_found(echo, store_path):
    """One flipped bit of a result, and text that is none."""
    for n, rotten in ((2, 'cast(\'{"row":8,"more":0}\' as text)'), (3, "cast(x'ff' as text)")):
        echo.store.close()
        with contextlib.closing(apsw.Connection(store_path)) as db:
            db.execute(f"update records set result = {rotten} where position = ?", (n,))
        assert echo(0) == echo(0)
        with pytest.raises(ckpt.StoreCorruptError, match=f"record {n + 1} .* bits have rotted"):
            echo(n)


@pytest.mark.damages_store
def test_a_rotten_hit_of_a_run_in_order_is_named(store_path):
    """One that the scan of the log finds, which goes by the rows before it."""
    step = ckpt.step(store_path, version=1, name="echo")(lambda row: {"row": row})
    list(step.run(range(600)))
    step.store.close()
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.execute("update records set result = '{\"row\":8}' where position = 500")
    with pytest.raises(ckpt.StoreCorruptError, match=r"record 501 .* bits have rotted"):
        list(step.run(range(600)))


@pytest.mark.damages_store
def test_no_hit_comes_from_a_file_that_lost_its_name(echo, store_path, monkeypatch):
    """Deleted or replaced, it is not the store any more; without its log it still is."""
    os.rename(store_path + "-wal", store_path + "-away")
    assert found_at_once(echo, monkeypatch, 3) == {"row": 3, "more": 0}
    os.rename(store_path + "-away", store_path + "-wal")
    os.rename(store_path, store_path + "-away")
    for put in (lambda: None, lambda: open(store_path, "xb").close()):
        put()
        with pytest.raises(ckpt.StoreError, match="was deleted or replaced while it was open"):
            echo(3)
    os.rename(store_path + "-away", store_path)
    assert echo(3) == {"row": 3, "more": 0} and echo.calls == []


def test_the_first_calls_of_two_threads_share_one_session(store_path, monkeypatch):
    """Else one row is paid for twice: `cached_property` has no lock from Python 3.12 on."""
    both, calls = threading.Barrier(2), []

    class Slow(direct.Direct):
        def __init__(self, *args):
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.5)
            super().__init__(*args)

    monkeypatch.setattr(sys.modules["checkpointdb.step"], "Direct", Slow)

    @ckpt.step(store_path, version=1)
    def label(row):
        calls.append(row)
        time.sleep(0.2)
        return row * 2

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(label, [1, 1])) == [2, 2]
    assert calls == [1]
