"""Several processes on one store: a row is computed by one of them; the dead are replaced."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import apsw
import msgspec
import pytest
import worker_life
from drivers import TASKS, THREADS
from paid import context

import checkpointdb as ckpt
from checkpointdb import Store, every, on_exit, system
from checkpointdb.engine import sharing
from checkpointdb.events import CameLate
from checkpointdb.file import append, leases, log, processes
from checkpointdb.file.log import Log

pytestmark = pytest.mark.loops

CLAIM_AHEAD = 64  # a worker claims so many rows ahead, and those in its window


class Workers:
    """Processes over one store, and their log."""

    def __init__(self, directory, path):
        self.path, self.log = path, str(directory / "calls.log")
        open(self.log, "w").close()
        self.processes = {}

    def start(self, name, n, how="threads", seconds=0.0, save=50, kill_at=None):
        process = context.Process(
            target=worker_life.work,
            args=(self.path, self.log, n, name, how, seconds, save, kill_at),
        )
        process.start()
        self.processes[name] = process

    def wait(self, *names):
        for name in names or list(self.processes):
            process = self.processes.pop(name)
            process.join(60)
            status = process.exitcode
            process.close()
            yield name, status

    @property
    def lines(self):
        with open(self.log) as file:
            return [line.split() for line in file]

    @property
    def calls(self):
        return Counter(int(line[1]) for line in self.lines if line[1] != "done")


@pytest.fixture
def workers(tmp_path, store_path):
    workers = Workers(tmp_path, store_path)
    yield workers
    for process in workers.processes.values():
        process.kill()
        process.join()


def stored(path):
    with Store(path, create=False) as store:
        return [record.result for record in store.records()]


def claimed(path):
    with contextlib.closing(apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)) as connection:
        return connection.execute("select count(*) from system_claims").get


# --- processes


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_four_processes_compute_each_row_once(workers, store_path, how):
    """Four processes over the same 10,000 rows: 0 computed twice, each gives out all of them."""
    for name in "abcd":
        workers.start(name, 10_000, how)
    assert dict(workers.wait()) == dict.fromkeys("abcd", 0)
    assert workers.calls == Counter(range(10_000))
    assert stored(store_path) == [row * 2 for row in range(10_000)]
    computed = [int(line[3]) for line in workers.lines if line[1] == "done"]
    assert len(computed) == 4
    assert sum(computed) == 10_000
    assert claimed(store_path) == 0


def test_six_kills_cost_at_most_what_the_dead_had_claimed(workers, store_path):
    """With six SIGKILLs among four workers every row is still computed, and none twice but what
    the dead had called and not committed."""
    n, save = 10_000, 20
    for i in range(6):
        workers.start(
            f"victim{i}", n, ("threads", "tasks")[i % 2], 0.0005, save, kill_at=100 + 40 * i
        )
        if i % 2:
            assert {status for _, status in workers.wait()} == {-9}
    for name in "ab":
        workers.start(name, n, "threads", 0.0, save)
    assert dict(workers.wait()) == {"a": 0, "b": 0}
    calls = workers.calls
    assert calls.keys() == set(range(n))
    again = sum(calls.values()) - n
    print(f"computed again: {again}")
    assert again <= 6 * (save - 1 + 8)
    assert sorted(stored(store_path)) == [row * 2 for row in range(n)]
    assert claimed(store_path) == 0


def test_a_live_worker_takes_over_from_one_that_dies_beside_it(workers, store_path):
    """Rows claimed by a process that is gone are taken over at once, not after the lease."""
    workers.start("dead", 1_500, "threads", 0.002, 10, kill_at=20)
    workers.start("alive", 1_500, "threads", 0.002, 10)
    began = time.monotonic()
    assert dict(workers.wait()) == {"dead": -9, "alive": 0}
    assert time.monotonic() - began < leases.LEASE_SECONDS / 2
    assert stored(store_path) == [row * 2 for row in range(1_500)]
    assert sum(workers.calls.values()) - 1_500 <= 9 + 8


def ticks(pid):
    """Return when a process was started, in clock ticks since the boot; 0 if it has ended."""
    return int((system.process_status(pid) or [0] * 20)[19])


def test_a_process_that_ends_while_it_is_looked_at_is_dead():
    """It may be gone between the opening and the reading of what tells of it."""
    here = processes.this_process()
    for _ in range(150):
        process = subprocess.Popen(["true"])
        reaper = threading.Thread(target=process.wait)
        reaper.start()
        seen = msgspec.structs.replace(here, pid=process.pid, ticks=ticks(process.pid))
        while processes.alive(seen):
            pass
        reaper.join()
        assert processes.alive(seen) is False


def test_a_worker_that_hangs_keeps_its_rows(workers, store_path, monkeypatch):
    """A lease is renewed while its worker lives, so a call slower than the lease is not made
    twice."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(sharing, "LEASE_SECONDS", 0.3)
    calls = []
    first = slow_step(store_path, calls, 1.2)
    other = slow_step(store_path, calls, 0)
    thread = threading.Thread(target=lambda: list(first.run([1], shared=True)))
    thread.start()
    while not calls:
        time.sleep(0.01)
    assert list(other.run([1], shared=True)) == [1]
    thread.join()
    assert len(calls) == 1


def slow_step(path, calls, seconds):
    """A step with a handle of its own, as another process has it."""
    pauses = itertools.repeat(seconds)  # no plain value: what it gives tells no code from another

    def label(row):
        calls.append(row)
        time.sleep(next(pauses))
        return row

    return ckpt.step(Store(path), version=1, name="label", save=on_exit())(label)


# --- leases and late results


def test_a_lease_that_is_not_renewed_is_taken_over_and_the_late_result_reported(
    store_path, monkeypatch
):
    """The rows of a worker on another host that is stopped for longer than its lease go to another
    one; when it wakes up, its result comes late: it is reported, the first one stays, and later
    runs give that out."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(sharing, "new_worker", lambda: leases.new_worker(elsewhere()))
    monkeypatch.setattr(sharing.Sharing, "_renew", lambda self: None)  # as if it were stopped
    in_call, go_on, events = threading.Event(), threading.Event(), []

    def label(row):
        if in_call.is_set():
            return "first"
        in_call.set()
        assert go_on.wait(10)
        return "late"

    late, first = (ckpt.step(Store(store_path), version=1, save=every(rows=1))(label) for _ in "ab")
    results = []

    def run_late():
        run = late.run([1], shared=True, on_event=events.append)
        results.extend(run)

    thread = threading.Thread(target=run_late)
    thread.start()
    assert in_call.wait(10)
    assert list(first.run([1], shared=True)) == ["first"]
    go_on.set()
    thread.join()
    assert stored(store_path) == ["first"]
    (event,) = [event for event in events if isinstance(event, CameLate)]
    assert (event.step, event.position) == ("label", 0)
    assert event.key == ckpt.key_of("label", 1, 1)
    assert results == ["late"]  # it was computed here, and nothing here has read the other
    assert list(late.run([1], shared=True)) == ["first"]


def test_results_that_came_late_are_counted(store_path, monkeypatch):
    """`CameLate.nth` is the number of the event in its run, in whichever commit it comes."""
    late, events = ckpt.step(store_path, version=1, name="s", save=every(rows=2))(abs), []
    with Store(store_path) as first:
        other = ckpt.step(first, version=1, name="s", save=every(rows=1))(abs)
        monkeypatch.setattr(sharing.Sharing, "claim", lambda self, slots: list(slots))

        def paid_there(row):
            other(row)
            return row

        step = ckpt.step(late.store, version=1, name="s", save=every(rows=2))(paid_there)
        list(step.run([1, 2, 3, 4, 5], shared=True, on_event=events.append))
    nths = [event.nth for event in events if isinstance(event, CameLate)]
    assert nths == [1, 2, 3, 4, 5]


def first_result(row):
    return "first"


def test_a_live_process_keeps_a_claim_whose_lease_has_run_out(store_path, monkeypatch):
    """A step may hold the GIL for half a minute, and nothing renews the lease meanwhile."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.05)
    with Store(store_path) as store:
        key = bytes.fromhex(ckpt.key_of("label", 1, 1))
        assert store.log.claim(leases.new_worker(), [key]) == {key}
        time.sleep(0.1)
        assert not store.log.is_unclaimed(key)
        assert store.log.claim(leases.new_worker(), [key]) == set()


def in_time(step, n):
    """Return what a shared run over `n` rows gives in five seconds."""
    results = []
    thread = threading.Thread(target=lambda: results.extend(step.run(range(n), shared=True)))
    thread.start()
    thread.join(5)
    return results


def test_a_run_that_is_paused_gives_its_claims_up_and_takes_them_again(store_path, monkeypatch):
    """Its user looks at the first rows for a while: another worker does the rest, and each row is
    paid for once."""
    for module in (leases, sharing):
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.3)
    calls = []
    paused, other = (slow_step(store_path, calls, 0.001) for _ in range(2))
    run = paused.run(range(200), shared=True)
    first = [next(run) for _ in range(20)]
    assert claimed(store_path) > 0
    assert in_time(other, 150) == list(range(150))
    assert first + list(run) == list(range(200))
    assert sorted(calls) == list(range(200))


@pytest.mark.parametrize("lasting", [False, True], ids=["commits", "releases"])
def test_a_run_that_cannot_be_saved_keeps_no_row_from_others(store_path, monkeypatch, lasting):
    """It ends by a full disk, in a process that lives on; even if the disk is so full that the
    claims cannot be given up at once."""
    monkeypatch.setattr(sharing, "LEASE_SECONDS", 0.3)
    insert, release, full = log.insert, leases.release, [True]

    def no_room(*args):
        if full[0] and args[0] is writer:
            raise apsw.FullError("disk is full")
        return insert(*args)

    def no_room_either(*args):
        if full[0] and lasting:
            raise apsw.FullError("disk is full")
        return release(*args)

    monkeypatch.setattr(append, "insert", no_room)
    monkeypatch.setattr(log, "insert", no_room)
    monkeypatch.setattr(leases, "release", no_room_either)
    calls = []
    failing = slow_step(store_path, calls, 0).replace(save=every(rows=5))
    writer = failing.store.log._writer
    with pytest.raises(ckpt.StoreFullError):
        list(failing.run(range(50), shared=True))
    assert (claimed(store_path) > 0) == lasting
    full[0] = False
    assert in_time(slow_step(store_path, calls, 0), 50) == list(range(50))


def test_a_lease_of_another_boot_is_void(store_path):
    """Claims that a power cut left behind hold nobody up."""
    with Store(store_path) as store:
        key = bytes.fromhex(ckpt.key_of("label", 1, 1))
        here = processes.this_process()
        earlier = msgspec.structs.replace(here, boot=here.boot[::-1])
        assert store.log.claim(leases.new_worker(earlier), [key]) == {key}
        assert store.log.claim(leases.new_worker(), [key]) == {key}


def elsewhere():
    """Return a process like this one, on a machine that cannot be looked into."""
    return msgspec.structs.replace(processes.this_process(), host="elsewhere")


def test_a_claim_on_another_host_holds_until_its_lease_ends(store_path, monkeypatch):
    """Whether a process of another host lives cannot be told: its lease decides."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.15)
    with Store(store_path) as store:
        key = bytes.fromhex(ckpt.key_of("label", 1, 1))
        assert store.log.claim(leases.new_worker(elsewhere()), [key]) == {key}
        assert store.log.claim(leases.new_worker(), [key]) == set()
        time.sleep(0.2)
        assert store.log.claim(leases.new_worker(), [key]) == {key}


def test_the_heart_goes_on_after_a_failure(store_path, monkeypatch):
    """A renewal that fails, for the store was locked, is tried again and ends no thread."""
    monkeypatch.setattr(sharing, "LEASE_SECONDS", 0.06)
    beats = []

    def renew(self, worker):
        beats.append(worker)
        if len(beats) == 1:
            raise ckpt.StoreLockedError("busy")

    monkeypatch.setattr(Log, "renew_claims", renew)
    step = slow_step(store_path, [], 0.3)
    assert list(step.run([1], shared=True)) == [1]
    assert len(beats) > 2


# --- what others do is seen


@pytest.mark.parametrize("driver", [THREADS, TASKS], ids=str)
def test_committed_rows_of_others_are_hits_while_both_run(store_path, driver):
    """Two runs side by side, each with its own handle: what one commits is a hit of the other."""
    calls = []

    def label(row):
        calls.append(row)
        time.sleep(0.001)
        return row

    runs = [
        driver.start(
            driver.step(label, Store(store_path), name="label", save=every(rows=5)),
            range(200), shared=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    threads = [threading.Thread(target=driver.consume, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == list(range(200))
    reports = [run.report for run in runs]
    assert [report.rows for report in reports] == [200, 200]
    assert sum(report.computed for report in reports) == 200
    assert sum(report.hits for report in reports) == 200


def test_a_failure_of_another_worker_is_not_tried_twice(store_path):
    """Under "record" a row that another worker has just failed is its failure here too."""
    calls, in_call = [], threading.Event()

    def label(row):
        calls.append(row)
        in_call.set()
        time.sleep(0.2)
        raise ValueError("no luck")

    steps = [
        ckpt.step(Store(store_path), version=1, name="label", save=every(rows=1))(label)
        for _ in range(2)
    ]
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(steps[0].run([1], shared=True, on_error="record"))
    )
    thread.start()
    assert in_call.wait(5)
    found.extend(steps[1].run([1], shared=True, on_error="record"))
    thread.join()
    assert [f.attempts for f in found] == [1, 1]
    assert calls == [1]


def test_a_worker_that_ends_early_gives_its_claims_back(store_path):
    """A run that is closed releases what it had claimed and not computed."""
    step = ckpt.step(store_path, version=1, name="label")(first_result)
    run = step.run(range(1000), shared=True)
    next(run)
    run.close()
    assert claimed(store_path) == 0
    assert len(list(step.run(range(1000), shared=True))) == 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_leaves_nothing_to_wait_for(workers, store_path, number):
    """A worker stopped by a signal saves its calls and gives up its claims at once."""
    workers.start("stopped", 5000, "threads", 0.002, 1000)
    while len(workers.lines) < 50:
        time.sleep(0.005)
    os.kill(workers.processes["stopped"].pid, number)
    ((_, status),) = workers.wait("stopped")
    assert status != 0
    assert claimed(store_path) == 0
    assert sorted(stored(store_path)) == sorted(2 * row for row in workers.calls)


def test_sharing_is_off_unless_asked_for(store_path):
    """Without shared=True nothing is claimed: it costs a transaction for each few rows."""
    step = ckpt.step(store_path, version=1, name="label")(first_result)
    run = step.run(range(10))
    next(run)
    assert claimed(store_path) == 0
    run.close()


TWICE = """
import sys, time, warnings, checkpointdb as ckpt
warnings.simplefilter("always")
path, shared, how = sys.argv[1], sys.argv[2] == "shared", sys.argv[3]
f = ckpt.step(path, version=1, name="f")(lambda x: time.sleep(0.002) or x)
if how == "call":
    f(0)
else:
    list(f.run(range(5 if how == "short" else 0), shared=shared))
"""


@pytest.mark.parametrize("how", ["short", "call", "shared"])
def test_the_same_job_started_twice_is_said_at_the_start(store_path, how):
    """By a warning that names the process that is running, and shared=True. Those who share, and
    single calls, which any process may make, are silent; so is a job whose twin was killed."""

    def started_again():
        arguments = [store_path, "shared" if how == "shared" else "alone", how]
        done = subprocess.run(
            [sys.executable, "-c", TWICE, *arguments], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    step = ckpt.step(store_path, version=1, name="f")(first_result)
    with step.run(range(100)) as run:
        next(run)
        said = started_again()
    assert (f"process {os.getpid()} computes it now" in said) == (how == "short")
    assert ("shared=True" in said) == (how == "short")
    assert "computes it now" not in started_again()
