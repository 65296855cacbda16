"""Executors: the step travels to other processes, the store stays here."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from paid import Paid, context, label, pool, result_of

import checkpointdb as ckpt
from checkpointdb import Failed, Store, every

pytestmark = pytest.mark.loops


@pytest.fixture
def paid(tmp_path):
    return Paid(str(tmp_path / "paid.log"))


def where(row):
    """Row, the process it was computed in, and its key there."""
    return [row, os.getpid(), ckpt.current_key()]


def where_batch(rows):
    return [[row, os.getpid(), len(rows)] for row in rows]


def short_batch(rows):
    return rows[1:]


@ckpt.step("never-opened.ckpt", version=1, name="decorated")
def decorated(row):
    return [row, os.getpid()]


class Stubborn(Exception):
    """Pickles, and cannot be made again from that; as the exceptions of the openai SDK."""

    def __init__(self, message, *, code):
        super().__init__(message)
        self.code = code


def stubborn(row):
    if row == 3:
        raise Stubborn("insufficient_quota", code=429)
    return row


def dying(row):
    if row == 5:
        os._exit(1)
    return row


def returns_a_lock(row):
    return threading.Lock() if row == 1 else row


def test_the_step_travels_and_the_store_stays(store_path):
    """Rows are computed in the workers, written by this process alone, and hits are not sent."""
    step = ckpt.step(store_path, version=1)(where)
    results = list(step.run(range(40), executor=pool()))
    assert [row for row, _, _ in results] == list(range(40))
    assert os.getpid() not in {pid for _, pid, _ in results}
    assert [key for _, _, key in results] == [ckpt.key_of("where", 1, n) for n in range(40)]
    run = step.run(range(40), executor=pool())
    assert list(run) == results
    assert run.report.computed == 0
    with Store(store_path) as store:
        assert {run.pid for run in store.runs()} == {os.getpid()}


@pytest.mark.parametrize("ordered", [True, False])
def test_batches_travel_too(store_path, ordered):
    """With batch_size a worker gets a list of misses and returns as many results."""
    step = ckpt.step(store_path, version=1)(where_batch)
    list(step.run([0, 7], executor=pool(), batch_size=2))
    results = list(step.run(range(50), executor=pool(), batch_size=16, ordered=ordered))
    assert sorted(row for row, _, _ in results) == list(range(50))
    assert sorted(size for _, _, size in results) == [2] * 2 + [16] * 48


def test_a_batch_of_the_wrong_length_says_both(store_path):
    """A batch step that returns fewer results than rows is an error that says both numbers."""
    step = ckpt.step(store_path, version=1)(short_batch)
    with pytest.raises(ValueError, match=r"a list of 4 rows and returned 3 results") as caught:
        list(step.run(range(4), executor=pool(), batch_size=4))
    assert caught.value.result == [1, 2, 3]


def test_a_decorated_step_travels_by_its_name(store_path):
    """A step at the top level of a module, though its function hides behind it, can travel."""
    step = decorated.replace(store=store_path)
    assert [row for row, _ in step.run(range(5), executor=pool())] == list(range(5))


def test_a_step_that_cannot_travel_says_which_object(store_path):
    """A closure or lambda with a process pool is a TypeError at the call, that names it."""
    lock = threading.Lock()

    def closure(row):
        with lock:
            return row

    step = ckpt.step(store_path, version=1)(closure)
    with pytest.raises(TypeError, match=r"closure.* cannot be sent .*top level of a module"):
        step.run([1], executor=pool())
    with pytest.raises(TypeError, match=r"lambda.* cannot be sent"):
        ckpt.run(lambda row: row, [1], store=store_path, version=1, name="x", executor=pool())
    with ThreadPoolExecutor(2) as threads:  # which needs no pickle
        assert list(step.run(range(5), executor=threads)) == list(range(5))


def test_a_thread_pool_of_the_users_own(store_path, paid):
    """Any Executor will do; ours to use, not to shut down."""
    step = ckpt.step(store_path, version=1)(label)
    with ThreadPoolExecutor(3) as threads:
        rows = paid.rows(20, {0: "slow"})
        assert list(step.run(rows, executor=threads)) == [result_of(n) for n in range(20)]
        assert threads.submit(int, "5").result() == 5
    assert sorted(paid.calls) == list(range(20))


@pytest.mark.parametrize("on_error", ["raise", "record"])
def test_an_exception_that_cannot_be_unpickled_costs_no_other_row(store_path, on_error):
    """An exception with keyword-only arguments, as the openai SDK's have, must not break the pool:
    it is that row's failure, with its type and message."""
    pickle.dumps(Stubborn("x", code=1))
    step = ckpt.step(store_path, version=1, save=every(rows=1))(stubborn)
    with ProcessPoolExecutor(2, mp_context=context) as own:
        run = step.run(range(20), executor=own, on_error=on_error)
        if on_error == "raise":
            with pytest.raises(Exception, match="insufficient_quota") as caught:
                list(run)
            assert type(caught.value).__name__ == "Stubborn"
        else:
            results = list(run)
            assert (results[3].error_type, results[3].message) == ("Stubborn", "insufficient_quota")
            assert "in stubborn" in results[3].traceback
            assert [n for n, r in enumerate(results) if isinstance(r, Failed)] == [3]
        assert own.submit(int, "5").result() == 5


def test_a_result_that_cannot_be_pickled_is_that_rows_failure(store_path):
    """What a worker cannot send back is a failure of its row and of no other."""
    step = ckpt.step(store_path, version=1)(returns_a_lock)
    with ProcessPoolExecutor(1, mp_context=context) as own:
        results = list(step.run(range(4), executor=own, on_error="record"))
    assert [r if not isinstance(r, Failed) else "failed" for r in results] == [0, "failed", 2, 3]
    assert "pickle" in results[1].message


# A broken pool's own thread may meet a future that was cancelled meanwhile, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_ends_the_run_and_loses_nothing_saved(store_path):
    """A worker killed in the middle is the pool's own error; what returned is saved, and a new
    pool goes on from there."""
    step = ckpt.step(store_path, version=1)(dying)
    with ProcessPoolExecutor(2, mp_context=context) as own, pytest.raises(Exception) as caught:
        list(step.run(range(20), executor=own))
    assert type(caught.value).__name__ == "BrokenProcessPool"
    with Store(store_path) as store:
        kept = [record.result for record in store.records()]
        assert 5 not in kept
    rows = [n for n in range(20) if n != 5]
    run = step.run(rows, executor=pool())
    assert list(run) == rows
    assert run.report.hits == len(kept)


@pytest.mark.parametrize("on_error", ["raise", "record"])
def test_a_call_that_was_not_made_is_no_failure(store_path, paid, on_error):
    """Rows that wait in the pool when the run is closed are taken back, not recorded as failed."""
    step = ckpt.step(store_path, version=1)(label)
    with ProcessPoolExecutor(1, mp_context=context) as own:
        rows = paid.rows(40, dict.fromkeys(range(1, 40), "slow"))
        with step.run(rows, executor=own, concurrency=4, on_error=on_error) as run:
            assert next(run) == result_of(0)
    with Store(store_path) as store:
        assert sorted(r.input["n"] for r in store.records(status="ok")) == sorted(paid.calls)
        assert list(store.records(status="failed")) == []
        assert len(paid.calls) < 8


def test_the_ledger_knows_calls_in_other_processes(store_path, paid):
    """ledger=True and cost= work with an executor as they do without."""
    step = ckpt.step(store_path, version=1)(label)
    run = step.run(paid.rows(20), executor=pool(), ledger=True, cost=lambda r: r["usd"], max_cost=1)
    assert list(run) == [result_of(n) for n in range(20)]
    assert run.report.cost == pytest.approx(0.2)
    with Store(store_path) as store:
        assert store.runs()[-1].report.cost == pytest.approx(0.2)


class Watched(ThreadPoolExecutor):
    """Knows which of the futures that it gave somebody still holds."""

    def __init__(self):
        super().__init__(2)
        self.given = weakref.WeakSet()

    def submit(self, *args):
        future = super().submit(*args)
        self.given.add(future)
        return future


@pytest.mark.parametrize("ordered", [True, False])
def test_what_a_call_returned_is_let_go_of(store_path, ordered):
    """Without a word from the garbage collector: a cluster computes again what it lost and somebody
    still holds, and keeps it in memory until then."""
    executor, step = Watched(), ckpt.step(store_path, version=1)(where)
    gc.disable()
    try:
        with step.run(range(100), executor=executor, concurrency=4, ordered=ordered) as run:
            held = [len(executor.given) for _ in run]
    finally:
        gc.enable()
        executor.shutdown()
    assert max(held) <= 8, held


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:distributed")
@pytest.mark.filterwarnings("ignore::Warning:tornado")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_dask_cluster(store_path, monkeypatch):
    """Dask's Client.get_executor() on a cluster of two worker processes: each row once, in order,
    also in batches, failures recorded."""
    dask = pytest.importorskip("dask", reason="uv sync --group dask")
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    dask.config.set({"distributed.worker.daemon": True, "distributed.admin.tick.limit": "10s"})
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
        client.get_executor() as executor,
    ):  # fmt: skip
        step = ckpt.step(store_path, version=1)(where)
        results = list(step.run(range(60), executor=executor, concurrency=8))
        assert [row for row, _, _ in results] == list(range(60))
        pids = {pid for _, pid, _ in results}
        assert len(pids) == 2
        assert os.getpid() not in pids
        assert results[7][2] == ckpt.key_of("where", 1, 7)
        run = step.run(range(70), executor=executor)
        assert list(run)[:60] == results
        assert run.report.computed == 10

        batched = ckpt.step(store_path, version=1)(where_batch)
        sizes = [n for _, _, n in batched.run(range(30), executor=executor, batch_size=10)]
        assert sizes == [10] * 30

        failing = ckpt.step(store_path, version=1)(stubborn)
        results = list(failing.run(range(6), executor=executor, on_error="record"))
        assert [r if not isinstance(r, Failed) else "failed" for r in results] == [
            0, 1, 2, "failed", 4, 5,
        ]  # fmt: skip


KILLED = """
import multiprocessing, os, signal, sys
from concurrent.futures import ProcessPoolExecutor
import checkpointdb as ckpt

def label(row):
    os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)

if __name__ == "__main__":
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as pool:
        list(ckpt.step(sys.argv[1], version=1)(label).run([0], executor=pool))
"""


def test_no_worker_outlives_a_killed_driver(tmp_path, store_path):
    """Not even one that never had a call: a pool's own workers would wait for it for ever."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    driver = subprocess.Popen(
        [sys.executable, script, store_path], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        driver.communicate(timeout=30)  # until the last worker has closed it, too
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    assert driver.returncode == -signal.SIGKILL
