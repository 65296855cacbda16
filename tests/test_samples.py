"""duplicates="separate" among processes: who gets which of equal rows, and what comes back."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import apsw
import msgspec
import pytest
from test_shared import elsewhere

import checkpointdb as ckpt
from checkpointdb import Store
from checkpointdb.engine import occurrences as numbering
from checkpointdb.file import leases, occurrences, processes

pytestmark = pytest.mark.loops
LIFE = os.path.join(os.path.dirname(__file__), "samples_life.py")


class Life:
    """A process that draws samples: see `samples_life.py`."""

    def __init__(self, path, how, name):
        self.kind, self.name = "run" if how in ("run", "shared") else "calls", name
        self._process = subprocess.Popen(
            [sys.executable, LIFE, path, how, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "begun\n"

    def tell(self, what, row="x"):
        print(what, row, file=self._process.stdin, flush=True)
        return tuple(self._process.stdout.readline().split())

    def ask(self, row="x"):
        return self.tell("ask", row)

    def end(self):
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def begin(store_path):
    """Begin processes; what is still alive at the end of the test ends."""
    lives = []

    def begin(how, name="a"):
        lives.append(Life(store_path, how, name))
        return lives[-1]

    yield begin
    for life in lives:
        if life._process.poll() is None:
            life.kill()


def table(path, name):
    with contextlib.closing(apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)) as connection:
        return connection.execute(f"select * from {name}").fetchall()


KINDS = pytest.mark.parametrize("how", ["run", "calls", "async"])


@KINDS
def test_who_begins_after_an_end_gets_what_was_paid_and_who_lived_beside_it_does_not(begin, how):
    """A has 0, 1, 2; B, alive beside it, 3, 4, 5, and after A's end 6; C gets A's again."""
    a, b = begin(how, "a"), begin(how, "b")
    assert a.ask() == ("called", "a-0")
    first = [a.ask() for _ in range(2)]
    assert [b.ask() for _ in range(3)] == [("called", f"b-{n}") for n in range(3)]
    a.end()
    assert b.ask() == ("called", "b-3")
    c = begin(how, "c")
    assert [c.ask() for _ in range(3)] == [("hit", "a-0"), *(("hit", it) for _, it in first)]
    assert c.ask() == ("called", "c-0")
    b.end(), c.end()
    d = begin(how, "d")
    wanted = [*(f"a-{n}" for n in range(3)), *(f"b-{n}" for n in range(4)), "c-0"]
    assert [d.ask() for _ in wanted] == [("hit", token) for token in wanted]
    d.end()


@KINDS
def test_what_a_killed_one_left_comes_back_to_whoever_asks_next(begin, how):
    """A has saved 0 and is killed in the call of 1; B, alive beside it, gets 0 as a hit, then 1."""
    a, b = begin(how, "a"), begin(how, "b")
    assert (a.ask(), a.tell("hang")) == (("called", "a-0"), ("hangs",))
    assert b.ask() == ("called", "b-0")
    a.kill()
    assert [b.ask() for _ in range(3)] == [("hit", "a-0"), ("called", "b-1"), ("called", "b-2")]
    b.end()
    c = begin(how, "c")
    assert [c.ask()[1] for _ in range(4)] == ["a-0", "b-1", "b-0", "b-2"]
    c.kill()


@KINDS
def test_a_resume_after_the_kill_of_all_finds_what_was_paid(begin, how):
    """Two that live beside each other are killed; two that follow get the same, in any shares."""
    a, b = begin(how, "a"), begin(how, "b")
    paid = {(a, b)[n % 2].ask()[1] for n in range(10)}
    a.kill(), b.kill()
    c, d = begin(how, "c"), begin(how, "d")
    again = [(c, d)[n % 3 == 0].ask() for n in range(10)]
    assert {kind for kind, _ in again} == {"hit"}
    assert {token for _, token in again} == paid


def test_runs_and_direct_calls_do_not_count_together(begin):
    """A run begins at its first sample whatever direct calls live beside it, and they likewise."""
    calls = begin("calls", "c")
    assert calls.ask() == ("called", "c-0")
    run = begin("run", "r")
    assert [run.ask(), run.ask()] == [("hit", "c-0"), ("called", "r-0")]
    assert calls.ask() == ("hit", "r-0")


def test_a_call_that_raises_gives_its_number_back(begin, store_path):
    """A retry draws the sample that failed: a resume has no gap to pay for."""
    a = begin("calls", "a")
    assert a.ask() == ("called", "a-0")
    assert [a.tell("fail"), a.tell("fail")] == [("failed",), ("failed",)]
    assert a.ask() == ("called", "a-1")
    a.end()
    with Store(store_path) as store:
        assert [r.occurrence for r in store.records() if r.input == "x"] == [0, 1]


def test_runs_that_share_pass_over_the_same_rows(store_path):
    """Under shared=True the n-th equal row is the same one in each run, and computed by one."""
    drawn, both = [], threading.Barrier(2)

    def sample(row):
        drawn.append(row)
        return len(drawn)

    def rows():
        both.wait(30)  # both have begun
        yield from ["x"] * 40
        both.wait(30)

    def work(_):
        with Store(store_path) as store:
            step = ckpt.step(store, version=1, duplicates="separate")(sample)
            return list(step.run(rows(), shared=True))

    Store(store_path).close()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, "ab")
    assert first == second and len(drawn) == len(set(first)) == 40


def draw(store, **options):
    drawn = []
    step = ckpt.step(store, version=1, name="draw", duplicates="separate", **options)(
        lambda row: drawn.append(row) or len(drawn)
    )
    return step, drawn


def counting(store, process, ended=False):
    """Have a process that is not this one take number 0 of `x`."""
    log, x = store.log, bytes.fromhex(ckpt.key_of("draw", 1, "x"))
    counter = log.begin_counter("run")
    assert log.take_occurrences(counter, [x], {}, 0) == ([0], 0)
    with log._writing() as writer:
        worker = leases.new_worker(process)
        writer.execute("update system_counters set worker = ?", (worker,))
    return counter


def test_a_pid_that_another_process_has_now_is_no_sign_of_life(store_path):
    """A process is told by its start, too: what the dead one left comes back."""
    dead = msgspec.structs.replace(processes.this_process(), ticks=1)
    with Store(store_path) as store:
        counting(store, dead)
        step, _ = draw(store)
        assert list(step.run(["x"])) == [1]
        assert [record.occurrence for record in store.records()] == [0]


@pytest.mark.parametrize("lives", [False, True])
def test_a_counter_in_another_container_is_waited_for_until_it_is_known(
    store_path, monkeypatch, lives
):
    """It lives if it renews its lease; else, once that ran out, what it left comes back."""
    monkeypatch.setattr(occurrences, "LEASE_SECONDS", 1.0)
    with Store(store_path) as store:
        counter = counting(store, elsewhere())
        if lives:
            threading.Timer(0.3, store.log.renew_counter, [counter]).start()
        began = time.monotonic()
        assert list(draw(store)[0].run(["x"])) == [1]
        waited = time.monotonic() - began
        assert [record.occurrence for record in store.records()] == [1 if lives else 0]
        assert waited > (0.2 if lives else 0.8)


def test_a_counter_renews_its_lease_while_it_counts(store_path, monkeypatch):
    """Whoever cannot see its process sees that; and it ends with its run."""
    monkeypatch.setattr(numbering, "LEASE_SECONDS", 0.06)
    with Store(store_path) as store:
        run = draw(store)[0].run(iter("xy"))
        next(run)
        (first,) = table(store_path, "system_counters")
        deadline = time.monotonic() + 5
        while table(store_path, "system_counters") == [first] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert table(store_path, "system_counters")[0][4] > first[4]
        run.close()
        assert table(store_path, "system_counters") == table(store_path, "system_occurrences") == []


def test_a_step_that_shares_its_duplicates_pays_nothing_for_this(store_path, monkeypatch):
    """Neither a counter nor a number is written, nor asked for, by runs and direct calls."""
    monkeypatch.setattr(numbering.Occurrences, "__init__", None)
    step = ckpt.step(store_path, version=1)(abs)
    assert list(step.run([1, 1, -1])) == [1, 1, 1] and step(-2) == 2
    assert table(store_path, "system_counters") == table(store_path, "system_occurrences") == []


def test_a_session_of_direct_calls_ends_with_its_store(store_path):
    """After a close the same calls are hits; threads of one session never get the same one."""
    step, drawn = draw(store_path)
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(step, ["x"] * 200))
    assert sorted(first) == list(range(1, 201))
    step.store.close()
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(step, ["x"] * 200)) == sorted(first)
    assert len(drawn) == 200


def test_two_runs_of_one_process_draw_different_samples_while_both_live(store_path):
    """A run inside the loop of another, and one after both."""
    step, drawn = draw(store_path)
    outer, inner = [], []
    for result in step.run(["x"] * 5):
        outer.append(result)
        if len(outer) == 2:
            inner = list(step.run(["x"] * 5))
    assert len({*outer, *inner}) == 10
    assert set(step.run(["x"] * 10)) == {*outer, *inner} and len(drawn) == 10


class Oracle:
    """The law, in plain Python."""

    def __init__(self):
        self.lives, self.begun, self.saved = [], 0, {}

    def begin(self, life):
        self.begun += 1
        life.id, life.ended, life.held = self.begun, None, set()
        self.lives.append(life)

    def expect(self, life, row):
        beside = [
            it for it in self.lives
            if it.kind == life.kind and (it is life or it.ended is None or it.ended >= life.id)
        ]  # fmt: skip
        n = 0
        while any((row, n) in it.held for it in beside):
            n += 1
        life.held.add((row, n))
        return n, self.saved.get((row, n))

    def most(self, row):
        return max((n for of, n in self.saved if of == row), default=-1)

    def asked(self, life, what, row):
        """Ask a process, compare its answer with the law, and tell whether it hangs in a call."""
        n, saved = self.expect(life, row)
        answer = life.tell(what, row)
        if saved is not None:
            assert answer == ("hit", saved)
            return False
        if what == "hang":
            assert answer == ("hangs",)
            return True
        assert answer[0] == "called" and answer[1].startswith(f"{life.name}-")
        self.saved[row, n] = answer[1]
        return False


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(2))
def test_many_processes_that_live_end_and_are_killed_are_numbered_by_the_law(begin, turn):
    """Of random processes that ask, end and are killed, each gets what the law says."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, oracle, alive = random.Random(seed), Oracle(), []
    for step in range(120):
        what = chance.choices(["ask", "begin", "end", "kill", "hang"], [75, 10, 5, 5, 5])[0]
        if not alive or (what == "begin" and len(alive) < 5):
            how = chance.choice(["run", "run", "calls"])
            alive.append(begin(how, f"{how}{step}"))
            oracle.begin(alive[-1])
        life, row = chance.choice(alive), chance.choice("xxy")
        if what in ("ask", "hang") and oracle.asked(life, what, row):
            what = "kill"
        if what in ("end", "kill"):
            getattr(life, what)()
            life.ended = oracle.begun if what == "end" else 0
            alive.remove(life)
    for life in alive:
        life.end()
    assert_nothing_is_lost(begin, oracle)


def assert_nothing_is_lost(begin, oracle):
    """Who begins last finds all that was paid."""
    for kind in ("run", "calls"):
        last = begin(kind, "last")
        for row in "xy":
            got = {last.ask(row)[1] for n in range(oracle.most(row) + 1)}
            assert {token for (of, _), token in oracle.saved.items() if of == row} <= got
        last.end()


@pytest.mark.parametrize("kills", [False, True])
def test_a_plan_counts_past_what_live_runs_have_taken(begin, store_path, kills):
    """The samples of a run beside it are not its hits; those of an ended or killed run are."""
    options = {"version": 1, "name": "draw", "duplicates": "separate", "on_change": "reuse"}
    step = ckpt.step(store_path, **options)(lambda row: row)
    a = begin("run", "a")
    assert [a.ask()[0] for _ in range(3)] == ["called"] * 3
    plan = step.plan(["x"] * 4)
    assert (plan.hits, plan.misses) == (0, 4)
    assert (plan.hits, plan.misses) == told_by_a_run(step, ["x"] * 4)
    a.kill() if kills else a.end()
    plan = step.plan(["x"] * 9)
    assert (plan.hits, plan.misses) == (7, 2)
    assert (plan.hits, plan.misses) == told_by_a_run(step, ["x"] * 9)


def told_by_a_run(step, rows):
    run = step.run(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is computed elsewhere, too
        list(run)
    return run.report.hits, run.report.computed
