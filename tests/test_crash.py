"""kill -9 at random instants costs what the save policy says, and not a row more."""

from __future__ import annotations

import random
import shutil
import signal

import pytest
from crash_child import result_of
from drivers import DRIVERS
from lives import Lives

pytestmark = [pytest.mark.loops, pytest.mark.on_disk]

KILLS = 25
ADAPTIVE_ROWS = 4096

CASES = [
    # save policy, its N, durability, driver
    ("every(rows=1)", 1, "power", "sequential"),
    ("every(rows=1)", 1, "process", "bridged"),
    ("every(rows=1)", 1, "power", "threads"),
    ("every(rows=7)", 7, "power", "sequential"),
    ("every(rows=7)", 7, "process", "async"),
    ("every(rows=7)", 7, "process", "tasks"),
    ("every(rows=50)", 50, "power", "async"),
    ("every(rows=50)", 50, "process", "threads"),
    ("adaptive()", ADAPTIVE_ROWS, "power", "sequential"),
    ("adaptive()", ADAPTIVE_ROWS, "process", "bridged tasks"),
]
# Without the slow ones, one in five.
LANES = [
    pytest.param(*case, marks=pytest.mark.slow) if n % 5 else case for n, case in enumerate(CASES)
]


def must_not_be_called(row):
    raise AssertionError(f"row {row} was saved and is computed again")


def kill_at_random(directory, seed, save, n, durability, driver, kills):
    """Kill a run again and again, check the laws each time; return how many rows that cost."""
    print(f"seed={seed}")  # pytest shows it when a law is broken
    chance, cost = random.Random(seed), 0
    in_flight = DRIVERS[driver].concurrency
    with Lives(directory, save, durability, driver) as lives:
        for _ in range(kills):
            before = set(lives.stored)
            # One in four while the store is created or opened, the others once rows come.
            delay = chance.uniform(0.001, 0.02) * chance.choice([1, -1, -1, -1])
            assert lives.end("SIGKILL", delay) == -signal.SIGKILL
            added = lives.read_store()
            assert len(set(lives.now["C"]) - set(lives.now["A"])) <= in_flight
            assert not before & set(lives.now["C"]), "a saved row was computed again"
            lost = lives.returned - lives.stored.keys()
            assert len(lost & set(lives.now["R"])) <= n - 1
            assert len(lost) <= n - 1 + in_flight - 1
            assert len(lives.answered - lives.stored.keys()) <= n - 1 + in_flight
            if save.startswith("every") and in_flight == 1:  # else rows come during a commit
                assert len(added) % n == 0, "a part of a commit is in the store"
            cost += len(lost & set(lives.now["R"]))
        rows = max(lives.called, default=0) + 20
        assert lives.end("RUN", rows) == 0
        lives.read_store()
        # In order, and as an uninterrupted run would have it.
        assert lives.now["R"] == list(range(rows))
        assert lives.stored == {row: result_of(row) for row in range(rows)}
    how = DRIVERS[driver]
    step = how.step(must_not_be_called, lives.store, name="step")
    with pytest.warns(UserWarning, match="its code changed"):
        assert how.run(step, range(rows)) == [result_of(row) for row in range(rows)]
    step.store.close()
    assert rows > kills, "the lives were too short to prove anything"
    return cost


@pytest.mark.parametrize(("save", "n", "durability", "driver"), LANES)
def test_a_kill_costs_no_more_than_the_loss_window(tmp_path, save, n, durability, driver):
    """After kill -9 at most N-1 returned rows and the call in flight are computed again."""
    cost = kill_at_random(tmp_path, 20_24, save, n, durability, driver, KILLS)
    print(f"{KILLS} kills cost {cost} returned rows")
    assert (cost > 0) == (n > 1), "the kills were too kind"


@pytest.mark.soak
@pytest.mark.parametrize(("save", "n", "durability", "driver"), CASES)
def test_two_thousand_kills_over_all_cases(tmp_path, save, n, durability, driver):
    """The same over 2,000 kills a seed, in stores that are begun anew every 25."""
    seed = random.SystemRandom().randrange(10**6)
    for part in range(2_000 // KILLS // len(CASES) + 1):
        directory = tmp_path / str(part)
        directory.mkdir()
        kill_at_random(directory, seed + part, save, n, durability, driver, KILLS)
        shutil.rmtree(directory)
