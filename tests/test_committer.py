"""The committer alone, over a real store: what it asks of its policy, its timer, late results."""

from __future__ import annotations

import asyncio
import threading
import time
from time import perf_counter

import msgspec
import pytest
from stores import ERROR, entry, key

from checkpointdb import Store, StoreError, adaptive, every, on_exit
from checkpointdb.engine import committer as module
from checkpointdb.engine.beside import Beside
from checkpointdb.engine.committer import Committer, _rest
from checkpointdb.engine.in_flight import InFlight
from checkpointdb.engine.rows import Slot
from checkpointdb.engine.tally import Tally
from checkpointdb.file.read import Reader
from checkpointdb.file.records import SentCall
from checkpointdb.policy import POLL_SECONDS, SOONEST, Exposed, Pending


@pytest.fixture
def store(store_path):
    with Store(store_path) as store:
        yield store


def committer_of(store, policy, **options):
    step = store.log.register_step("s", 1, "null").id
    run = store.log.begin_run(step, "", "", None)
    return Committer(store.log, policy, Tally("s"), step, run, **options)


def positions(store):
    return [record.position for record in store.records()]


def sent_of(store):
    with Reader(store.path) as reader:
        return sorted(call.position for call in reader.calls())


class Watch:
    """A policy of the user's that notes what it is asked, and says what it is told to."""

    def __init__(self, seconds=None, due=False):
        self.seconds, self.is_due, self.seen = seconds, due, []

    def due(self, pending):
        self.seen.append(msgspec.structs.replace(pending))
        if isinstance(self.is_due, Exception):
            raise self.is_due
        return self.is_due


def test_a_policy_sees_the_sums_of_what_is_pending(store):
    """Of work, cost and bytes; a commit takes its part of them, and starts the clocks anew."""
    watch = Watch()
    committer = committer_of(store, watch)
    start = perf_counter()
    committer.put([entry(1, result="12", cost=0.5)], start, in_flight=3)
    committer.put([entry(2, result="34", cost=0.25)], start + 2, in_flight=1)
    first, second = watch.seen
    assert (first.rows, first.work, first.cost, first.seconds, first.in_flight) == (
        1, 0.25, 0.5, 0.0, 3,
    )  # fmt: skip
    assert (second.rows, second.work, second.cost, second.in_flight) == (2, 0.5, 0.75, 1)
    assert second.seconds == pytest.approx(2.0) and second.elapsed >= 2.0
    assert second.bytes == 2 * first.bytes
    assert first.bytes > len("12") + len(entry(1).input)
    long = msgspec.structs.replace(entry(9, result="12"), input='"' + 498 * "x" + '"')
    committer.put([long], start + 2)
    assert watch.seen[-1].bytes == 3 * first.bytes + 500 - len(entry(1).input)
    committer.commit()
    committer.put([entry(3, result="56")], perf_counter())
    third = watch.seen[-1]
    assert (third.rows, third.work, third.cost, third.bytes) == (1, 0.25, 0.0, first.bytes)
    assert third.seconds == 0.0 and third.elapsed < 2.0
    assert third.mean_commit_seconds > 0 and third.mean_processor_seconds > 0
    assert third.in_flight == 1 if third.in_flight else True
    committer.close()


def test_add_puts_and_commits_what_is_due(store):
    """It passes on when the call returned, and how many have not."""
    watch = Watch()
    committer = committer_of(store, watch)
    start = perf_counter()
    committer.add([entry(1)], start)
    committer.add([entry(2)], start + 3, 5)
    assert [(p.in_flight, p.seconds) for p in watch.seen] == [(0, 0.0), (5, pytest.approx(3.0))]
    watch.is_due = True
    committer.add([entry(3)], start + 3)
    assert sorted(positions(store)) == [1, 2, 3]
    committer.close()


def test_what_is_added_during_a_commit_is_all_that_is_pending_after_it(store, monkeypatch):
    """Its rows, bytes, work and cost; the newest entry of a key counts, whichever was committed."""
    watch = Watch()
    committer = committer_of(store, watch)
    append = store.log.append

    def slow(*args, **options):
        committer.put([entry(2, result="34", cost=0.5)], perf_counter())
        committer.put([entry(1, result="99")], perf_counter())
        return append(*args, **options)

    committer.put([entry(4)], perf_counter())
    committer.put([entry(1, error=ERROR, result=None, cost=0.25)], perf_counter())
    monkeypatch.setattr(store.log, "append", slow)
    committer.commit()
    monkeypatch.undo()
    assert [e.result for e in committer.pending.values()] == ["34", "99"] or [
        e.result for e in committer.pending.values()
    ] == ["99", "34"]
    committer.put([entry(3, result="56")], perf_counter())
    last = watch.seen[-1]
    assert (last.rows, last.cost, last.work, len(committer)) == (3, 0.5, 0.75, 3)
    assert last.seconds > 0
    committer.close()
    assert sorted(positions(store)) == [1, 2, 3, 4]


def test_the_timer_asks_as_such_and_only_while_something_is_pending(store):
    """`background` is true for it alone."""
    watch = Watch(seconds=100.0)
    committer = committer_of(store, watch)
    assert committer.tick() == 100.0 and watch.seen == []
    committer.put([entry(1)], perf_counter() - 40)
    assert 59 < committer.tick() <= 60
    committer.put([entry(2)], perf_counter())
    assert [pending.background for pending in watch.seen] == [False, True, False]
    committer.close()


def test_the_timer_asks_not_sooner_than_it_can_be_due(store):
    """Nor in a busy loop."""
    committer = committer_of(store, Watch(seconds=1e-9))
    committer.put([entry(1)], perf_counter())
    assert committer.tick() == SOONEST
    committer.close()


def test_what_another_has_committed_is_asked_of_the_policy_again(store):
    """As a row that returned does, not as the timer does; if it is not due, it stays pending."""
    watch = Watch(due=True)
    committer = committer_of(store, watch)
    commits = committer.put([entry(1)], perf_counter())
    committer.commit()
    committer.put([entry(2)], perf_counter())
    watch.is_due = False
    committer.commit_due(commits)
    assert positions(store) == [1] and len(committer) == 1
    assert not watch.seen[-1].background and 0 <= watch.seen[-1].elapsed < 60
    watch.is_due = True
    committer.commit_due(commits)
    assert positions(store) == [1, 2]
    committer.commit_due(commits)
    committer.close()


def test_a_row_that_waits_for_its_commit_is_not_at_risk(store):
    """Nobody has it yet: the loss window counts the others."""
    committer = committer_of(store, adaptive())
    committer._timer.stop()
    assert "not measured yet" in committer.loss_window
    for n in range(3):
        commits = committer.put([entry(n)], perf_counter(), in_flight=9)
    assert commits is None
    committer.commit_due(0)
    assert committer.loss_window.endswith(", 2 rows")
    committer.put([entry(9)], perf_counter(), in_flight=9)
    committer.commit()
    assert committer.loss_window.endswith(", 2 rows")
    assert committer.counts()["loss_window"] == committer.loss_window
    committer.close()


def test_an_error_of_the_policy_in_the_timer_is_raised_by_the_next_commit(store):
    """Once, and with nothing lost; the timer goes on."""
    watch = Watch(seconds=100.0)
    committer = committer_of(store, watch)
    committer.put([entry(1)], perf_counter())
    watch.is_due = RuntimeError("no policy")
    assert committer.tick() == POLL_SECONDS
    watch.is_due = False
    with pytest.raises(RuntimeError, match="no policy"):
        committer.add([entry(2)], perf_counter())
    assert positions(store) == [1, 2]
    committer.add([entry(3)], perf_counter())
    committer.close()


def test_a_failed_commit_of_the_timer_is_tried_again_by_the_next_row(store, monkeypatch):
    """And is forgotten if that succeeds."""
    committer = committer_of(store, Watch(seconds=100.0, due=True))

    def failing(*args, **options):
        raise StoreError("no", "path")

    committer.put([entry(1)], perf_counter())
    monkeypatch.setattr(store.log, "append", failing)
    assert committer.tick() == POLL_SECONDS
    monkeypatch.undo()
    assert committer.tick() > 0 and positions(store) == [1]
    committer.close()


def until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize(
    "policy", [every(seconds=0.02), adaptive(), on_exit() | adaptive()], ids=repr
)
def test_a_timer_commits_what_nobody_adds_to(store, policy):
    """By itself, each time again, until it is closed; it holds up no exit of the process."""
    committer = committer_of(store, policy)
    timer = committer._timer
    assert timer.daemon and timer.name == "checkpointdb-timer"
    for n in range(2):
        committer.put([entry(n)], perf_counter(), in_flight=1)
        assert until(lambda: not len(committer))
    assert positions(store) == [0, 1]
    committer.close()
    timer.join(20)
    assert not timer.is_alive()


class StoppedMeanwhile:
    """What wakes a timer; the timer is stopped at the very moment at which it notes that."""

    def __init__(self, timer):
        self.timer, self.event = timer, threading.Event()
        self.set, self.wait = self.event.set, self.event.wait

    def clear(self):
        self.timer.stop()
        self.event.clear()


def test_a_timer_that_is_stopped_just_as_it_wakes_ends(store):
    """Not after the policy's five minutes: its thread keeps the store and all its parts alive."""
    committer = committer_of(store, every(seconds=300))
    timer = committer._timer
    timer.stop()
    timer.join(20)
    timer._stopped, timer._woken = False, StoppedMeanwhile(timer)
    timer._woken.set()
    again = threading.Thread(target=timer.run, daemon=True)
    again.start()
    again.join(5)
    assert not again.is_alive()
    committer.close()


def test_a_policy_without_a_clock_has_no_timer(store):
    """There is nothing to ask."""
    committer = committer_of(store, on_exit())
    assert committer._timer is None
    committer.close()


def test_a_forked_child_does_not_wait_for_the_parents_locks(store):
    """Whoever held them is not there."""
    committer = committer_of(store, on_exit())
    taken, done = threading.Event(), threading.Event()

    def hold():
        with committer._committing, committer._lock:
            taken.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(20)
    committer.forked()
    adding = threading.Thread(target=lambda: (committer.add([entry(1)], 0.0), committer.commit()))
    adding.start()
    adding.join(20)
    was_free = not adding.is_alive()
    done.set()
    thread.join()
    assert was_free and positions(store) == [1]
    committer.close()


def test_calls_of_runs_that_are_over_are_struck_out_once_they_are_answered(store):
    """From when the committer is told so, or from its beginning."""
    committer = committer_of(store, on_exit())
    sent = [SentCall(key(n), n, None, 0) for n in range(3)]
    store.log.send(committer._step, committer._run, sent)
    committer.put([entry(0)], 0.0)
    committer.commit()
    assert sent_of(store) == [0, 1, 2]
    committer.answers_calls()
    committer.put([entry(1)], 0.0)
    committer.commit()
    assert sent_of(store) == [0, 2]
    committer.close()


def test_a_late_result_is_committed_even_after_the_store_was_closed(store_path):
    """At once; before `close` it is pending as all are."""
    store = Store(store_path, durability="power")
    committer = committer_of(store, on_exit())
    committer.put([entry(1)], 0.0)
    committer.commit_late()
    assert len(committer) == 1
    committer.close()
    committer.put([entry(2)], 0.0)
    committer.commit_late()
    assert positions(store) == [1, 2]
    store.close()
    committer.put([entry(3)], 0.0)
    committer.commit_late()
    assert len(committer) == 0 and committer._log.durability == "power"
    with Store(store_path) as store:
        assert positions(store) == [1, 2, 3]


def test_a_late_result_that_cannot_be_committed_is_still_pending(store, monkeypatch):
    """The error is the store's own: it is open, and nothing else would do better."""
    committer = committer_of(store, on_exit())
    committer.close()
    committer.put([entry(1)], 0.0)

    def failing(*args, **options):
        raise StoreError("no", "path")

    monkeypatch.setattr(store.log, "append", failing)
    with pytest.raises(StoreError, match=r"^no"):
        committer.commit_late()
    monkeypatch.undo()
    assert len(committer) == 1
    committer.commit_late()
    assert positions(store) == [1]


def test_rows_leave_flight_when_their_commit_beside_a_loop_fails(store, monkeypatch):
    """Those that came due meanwhile too; all of them are pending still."""
    committer, in_flight = committer_of(store, on_exit()), InFlight()
    beside = Beside(committer, in_flight)
    slots = [Slot(n, n, key(n), b"i" * 16, True) for n in range(2)]
    in_flight.enter(slots)

    def failing(*args, **options):
        beside.leave_later(slots[1:], 0)
        raise StoreError("no", "path")

    committer.put([entry(0)], 0.0)
    beside.leave_later(slots[:1], 0)
    monkeypatch.setattr(store.log, "append", failing)
    with pytest.raises(StoreError):
        asyncio.run(beside.commit_due(slots[:1]))
    monkeypatch.undo()
    assert [slot.settled for slot in slots] == [True, True] and len(committer) == 1
    beside.close()
    committer.close()


class Clock:
    """Both clocks of a committer, which go when the test says so."""

    def __init__(self, monkeypatch):
        self.now, self.worked = 1000.0, 50.0
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module, "thread_time", lambda: self.worked)


def test_commits_are_timed_and_what_a_crash_would_have_cost_is_the_most_of_all(store, monkeypatch):
    """The row whose return asks for the commit has not been given out: it is not among them."""
    clock, watch, append = Clock(monkeypatch), Watch(), store.log.append
    tally = Tally("s")
    run = store.log.begin_run(store.log.register_step("s", 1, "null").id, "", "", None)
    committer = Committer(store.log, watch, tally, 1, run)

    def slow(*args, **options):
        clock.now, clock.worked = clock.now + 0.5, clock.worked + 0.125
        return append(*args, **options)

    monkeypatch.setattr(store.log, "append", slow)
    watch.is_due = True
    committer.add([entry(1)], clock.now)
    assert committer._exposed == Exposed(0, 0.5)
    watch.is_due = False
    committer.put([entry(2)], clock.now)
    committer.put([entry(3)], clock.now)
    clock.now += 2
    committer.commit()
    assert committer._exposed == Exposed(2, 2.5)
    committer.put([entry(4)], clock.now)
    seen = watch.seen[-1]
    assert (seen.mean_commit_seconds, seen.mean_processor_seconds) == pytest.approx((0.5, 0.125))
    committer.commit()
    assert committer._exposed == Exposed(2, 2.5)
    report = tally.report()
    assert (report.commits, report.commit_seconds) == (3, 1.5)
    committer.close()


def test_what_a_commit_leaves_pending_is_the_rest():
    """Commits get slower by degrees: a third of what the last one took."""
    sizes = Pending(rows=5, bytes=50, cost=1.5, work=2.0, in_flight=4)
    taken = Pending(
        rows=2, bytes=20, cost=0.5, work=0.5, mean_commit_seconds=0.1, mean_processor_seconds=0.2
    )
    rest = _rest(sizes, taken, 0.2, 0.4)
    assert (rest.rows, rest.bytes, rest.cost, rest.work, rest.in_flight) == (3, 30, 1.0, 1.5, 4)
    assert rest.mean_commit_seconds == pytest.approx(0.13)
    assert rest.mean_processor_seconds == pytest.approx(0.26)
    first = _rest(sizes, Pending(rows=5), 0.2, 0.4)
    assert (first.rows, first.bytes, first.in_flight) == (0, 0, 4)
    assert (first.mean_commit_seconds, first.mean_processor_seconds) == pytest.approx((0.2, 0.4))


def test_the_runs_counts_go_with_a_commit_once_a_second(store, monkeypatch):
    """Not with those of `close`, which brings the run's row up to date itself."""
    clock, asked = Clock(monkeypatch), []
    committer = committer_of(store, Watch(), worker="me")
    append = store.log.append

    def noted(step, run, entries, counts=None, **options):
        asked.append((counts, options["worker"]))
        return append(step, run, entries, counts, **options)

    monkeypatch.setattr(store.log, "append", noted)
    for wait in (0.5, 0.5, 0.5, 0.5):
        clock.now += wait
        committer.put([entry(len(asked))], clock.now)
        committer.commit()
    assert [counts is not None for counts, _ in asked] == [False, True, False, True]
    assert {worker for _, worker in asked} == {"me"}
    assert asked[1][0]["loss_window"] == "as Watch decides" and asked[1][0]["usage"] == "{}"
    assert asked[1][0]["commits"] == 1
    clock.now += 5
    committer.put([entry(9)], clock.now)
    committer.close()
    assert asked[-1] == (None, "me")


def test_a_commit_tells_if_the_file_is_no_longer_the_one_that_is_open(store, monkeypatch):
    """What is paid for after it would be lost; the commit of `close` is the last one anyway."""
    committer, asked = committer_of(store, Watch()), []
    monkeypatch.setattr(store.log, "check_file", lambda: asked.append(1))
    committer.put([entry(1)], perf_counter())
    committer.commit()
    assert asked == [1]
    committer.put([entry(2)], perf_counter())
    committer.close()
    assert asked == [1]
