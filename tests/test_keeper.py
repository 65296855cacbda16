"""Pending and its timer: seconds are kept while nothing returns, and no failure is swallowed."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import threading
import time

import apsw
import pytest
from drivers import BRIDGED, SEQUENTIAL

import checkpointdb as ckpt
from checkpointdb import Store, StoreError, StoreFullError, every
from checkpointdb.file.log import Log

pytestmark = [pytest.mark.loops, pytest.mark.on_disk]  # commits cost what they cost there

# How late a timer's commit may be on a busy machine: thread switch, fsync.
LATE = 0.5


@contextlib.contextmanager
def disk(path):
    """A look at the store from outside: a connection of its own that only reads."""
    with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        connection.set_busy_timeout(1000)  # the store is locked for a moment while it is opened
        yield lambda: connection.execute("select count(*) from records").get


def when(condition, timeout=10.0):
    """Return when `condition` came true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)
    return time.monotonic()


class Blocked:
    """A step that answers rows 0 and 1 at once and then blocks in row 2 until released."""

    def __init__(self):
        self.release, self.answered = threading.Event(), None

    def __call__(self, row):
        if row == 2:
            self.answered = time.monotonic()
            assert self.release.wait(20)
        return row


@pytest.mark.parametrize("driver", [SEQUENTIAL, BRIDGED], ids=str)
@pytest.mark.parametrize(
    ("save", "seconds"),
    [
        (every(seconds=0.2), 0.2),
        (every(rows=100, seconds=0.2), 0.2),
        (every(rows=100) | every(seconds=0.2), 0.2),
        (ckpt.adaptive(1e-9, seconds=0.2), 0.2),
    ],
    ids=str,
)
def test_seconds_are_kept_while_a_call_blocks(driver, store_path, save, seconds):
    """A returned row is committed within T though the next call does not return."""
    step = Blocked()
    Store(store_path).close()
    label = driver.step(lambda row: step(row), store_path, save=save, name="s")
    thread = threading.Thread(target=lambda: driver.run(label, range(3)))
    with disk(store_path) as rows:
        thread.start()
        try:
            done = when(lambda: rows() >= 2 and step.answered)
            assert done - step.answered <= seconds + LATE
            assert rows() == 2
        finally:
            step.release.set()
            thread.join(20)
        assert rows() == 3


def test_the_timer_is_not_early(store_path):
    """Under every(seconds=T) nothing is committed before a row is T old: commits are not wasted."""
    label = SEQUENTIAL.step(
        lambda row: time.sleep(0.01) or row, store_path, save=every(seconds=0.2), name="s"
    )
    run = label.run(range(60))
    assert SEQUENTIAL.results(run) == list(range(60))
    assert 2 <= run.report.commits <= run.report.seconds / 0.2 + 1


def test_a_policy_of_ones_own_is_asked_by_the_timer_too(store_path):
    """A user's policy without `seconds` is asked twice a second while nothing returns."""

    @dataclasses.dataclass(frozen=True)
    class Old:
        def due(self, pending):
            return pending.seconds > 0.1

    step = Blocked()
    label = SEQUENTIAL.step(lambda row: step(row), store_path, save=Old(), name="s")
    Store(store_path).close()
    thread = threading.Thread(target=lambda: SEQUENTIAL.run(label, range(3)))
    with disk(store_path) as rows:
        thread.start()
        try:
            assert when(lambda: rows() >= 2) - step.answered < 0.6 + LATE
        finally:
            step.release.set()
            thread.join(20)


def test_what_a_policy_is_told(store_path):
    """due() sees rows, bytes, age and elapsed time of what is pending, and it starts anew."""
    seen = []

    class Watch:
        seconds = None

        def due(self, pending):
            seen.append(copy.copy(pending))
            return pending.rows == 3

    label = SEQUENTIAL.step(lambda row: "x" * 100, store_path, save=Watch(), name="s")
    SEQUENTIAL.run(label, range(7))
    assert [pending.rows for pending in seen] == [1, 2, 3, 1, 2, 3, 1]
    assert all(100 * p.rows < p.bytes < 250 * p.rows for p in seen)
    assert all(0 <= p.seconds <= p.elapsed < 5 for p in seen)
    assert seen[0].mean_commit_seconds == 0 < seen[3].mean_commit_seconds


@pytest.mark.parametrize(
    ("save", "n", "commits"),
    [
        (every(rows=1), 30, 30),
        (every(rows=7), 30, 5),
        (every(rows=1000), 30, 1),
        (every(bytes=1), 30, 30),
        (every(bytes=10**9), 30, 1),
        (ckpt.by_size(30), 101, 3),
        (ckpt.on_exit(), 30, 1),
        (ckpt.on_exit() | every(rows=10), 30, 3),
    ],
    ids=repr,
)
def test_commits_are_as_many_as_the_policy_says(store_path, save, n, commits):
    """A run commits when its policy is due, and once at its end for what is left."""
    run = SEQUENTIAL.start(SEQUENTIAL.step(lambda r: r, store_path, save=save, name="s"), range(n))
    SEQUENTIAL.consume(run)
    assert run.report.commits == commits


def test_adaptive_commits_slow_calls_at_once_and_fast_calls_in_bulk(store_path):
    """adaptive() keeps commits few: one for a call of 0.2 s, far less than one for calls of µs.

    What share of the time they take is measured in benchmarks/, where nothing else runs.
    """
    slow = SEQUENTIAL.step(
        lambda r: time.sleep(0.2) or r, store_path, save=ckpt.adaptive(0.5), name="s"
    )
    run = slow.run(range(5))
    SEQUENTIAL.consume(run)
    assert run.report.commits >= 4
    fast = SEQUENTIAL.step(lambda r: r, store_path, name="fast")
    run = fast.run(range(20_000))
    SEQUENTIAL.consume(run)
    assert run.report.commits < 100


# --- a commit that fails


class Failing:
    """A store's `append` that fails as told, and knows in which thread."""

    def __init__(self, monkeypatch, times):
        self.times, self.threads, append = times, [], Log.append

        def failing(store, *args, **options):
            if self.times > 0:
                self.times -= 1
                self.threads.append(threading.current_thread().name)
                raise StoreFullError(f"{store.path}: the disk is full", store.path)
            return append(store, *args, **options)

        monkeypatch.setattr(Log, "append", failing)


@pytest.mark.parametrize("how", ["next row", "end of the run", "flush"])
def test_a_commit_that_fails_in_the_timer_surfaces_in_the_users_thread(
    store_path, monkeypatch, how
):
    """The timer's failed commit is raised where the user is, pending is kept, and saved later."""
    store = Store(store_path)
    failing = Failing(monkeypatch, 10**9)

    def step(row):
        if row == 2:
            when(lambda: "checkpointdb-timer" in failing.threads)
        return row

    label = SEQUENTIAL.step(step, store, save=every(seconds=0.05), name="s")
    with pytest.raises(StoreFullError):
        if how == "flush":
            run = label.run(itertools.count())
            assert [next(run), next(run)] == [0, 1]
            when(lambda: "checkpointdb-timer" in failing.threads)
            label.flush()
        else:
            SEQUENTIAL.run(label, range(3 if how == "end of the run" else 9))
    with disk(store_path) as rows:
        assert rows() == 0
        failing.times = 0
        store.close()
        assert rows() >= 2


def test_a_commit_that_fails_once_in_the_timer_is_tried_again(store_path, monkeypatch):
    """A failure that has passed by the next row costs nothing: the commit is simply repeated."""
    store = Store(store_path)
    failing = Failing(monkeypatch, 1)

    def step(row):
        if row == 2:
            when(lambda: failing.times == 0)
        return row

    label = SEQUENTIAL.step(step, store, save=every(seconds=0.05), name="s")
    assert SEQUENTIAL.run(label, range(9)) == list(range(9))
    assert failing.threads == ["checkpointdb-timer"]
    with disk(store_path) as rows:
        assert rows() == 9


@pytest.mark.parametrize("save", [every(rows=1), every(rows=4), ckpt.on_exit()], ids=repr)
def test_a_commit_that_fails_in_a_run_keeps_what_is_pending(store_path, monkeypatch, save):
    """A full disk stops the run with StoreFullError; once there is room, flush() saves it all."""
    store = Store(store_path)
    failing, called = Failing(monkeypatch, 10**9), []
    label = SEQUENTIAL.step(lambda r: called.append(r) or r, store, save=save, name="s")
    with pytest.raises(StoreFullError):
        SEQUENTIAL.run(label, range(9))
    failing.times = 0
    label.flush()
    with disk(store_path) as rows:
        assert rows() == len(called)
    assert SEQUENTIAL.run(label, range(9)) == list(range(9))
    assert called == list(range(9))


def test_a_policy_that_raises_is_heard(store_path):
    """An exception in a user's policy comes out of the run, with the results saved."""

    class Broken:
        seconds = None

        def due(self, pending):
            raise ZeroDivisionError

    label = SEQUENTIAL.step(lambda row: row, store_path, save=Broken(), name="s")
    with pytest.raises(ZeroDivisionError):
        SEQUENTIAL.run(label, range(3))
    with disk(store_path) as rows:
        assert rows() == 1


def test_a_policy_that_raises_in_the_timer_is_heard(store_path):
    """An exception in a user's policy, asked by the timer, comes out of the run all the same."""

    class Broken:
        seconds = 0.05

        def due(self, pending):
            if pending.seconds > 0.04:
                raise ZeroDivisionError
            return False

    def step(row):
        time.sleep(0.2 * (row == 2))
        return row

    label = SEQUENTIAL.step(step, store_path, save=Broken(), name="s")
    with pytest.raises(ZeroDivisionError):
        SEQUENTIAL.run(label, range(5))
    with disk(store_path) as rows:
        assert rows() >= 2


def test_a_closed_store_refuses_a_run_that_goes_on(store_path):
    """A store closed under a run ends it loudly: no run is taken for complete that is not."""
    label = SEQUENTIAL.step(lambda row: row, store_path, save=every(rows=2), name="s")
    results = []
    with pytest.raises(StoreError, match="closed"):
        for result in label.run(range(10)):
            results.append(result)
            if result == 4:
                label.store.close()
    with disk(store_path) as rows:
        assert rows() == 5 <= len(results) < 7
