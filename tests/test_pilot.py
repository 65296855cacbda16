"""`pilot=` and `retry_failed="last"`: which rows are paid for, and when."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cli_helpers import STEPS, calls, invoke, write_rows
from drivers import BRIDGED, BRIDGED_TASKS, SEQUENTIAL, TASKS, each_driver

import checkpointdb as ckpt
from checkpointdb import Store

pytestmark = pytest.mark.loops


def counted(driver, path, **options):
    """Return a step that fails for every fifth row, until it may not, and its calls."""
    made, fails = [], threading.Event()
    fails.set()

    def label(row):
        made.append(row)
        if fails.is_set() and row % 5 == 0:
            raise ValueError(f"row {row}")
        return row * 2

    step = driver.step(label, path, name="label", save=ckpt.every(rows=1), **options)
    return step, made, fails


@each_driver
def test_a_pilot_stops_before_a_call_more_and_the_next_run_goes_on(driver, store_path):
    """Hits cost nothing of it, failed calls count, and what it paid for is never paid again."""
    step, made, _ = counted(driver, store_path)
    driver.run(step, [1, 2])
    made.clear()
    rows = list(range(1, 40))
    run = driver.start(step, rows, pilot=10, on_error="record", cost=lambda _: 0.5)
    results = driver.results(run)
    assert sorted(made) == rows[2:12] and len(results) == 12
    assert results[:4] == [2, 4, 6, 8] and isinstance(results[4], ckpt.Failed)
    plan = step.plan(rows)
    assert (plan.hits, plan.misses, plan.failed) == (10, 27, 2)
    assert str(plan).startswith(
        "39 rows: 10 hits; 29 calls to make, 2 of them tried before, about $"
    )
    with Store(store_path) as store:
        info = store.runs()[-1]
        assert (info.ended, info.state) == ("pilot ended", "stopped")
    driver.run(step, rows, on_error="record")
    assert sorted(made) == sorted([*rows[2:], 5, 10])


@pytest.mark.parametrize("driver", [SEQUENTIAL, TASKS], ids=str)
def test_a_pilot_of_as_many_calls_as_there_are_is_a_whole_run(driver, store_path):
    """No row is left out for it, and it has finished."""
    step, made, _ = counted(driver, store_path)
    rows = [1, 2, 3, 1, 2]
    assert driver.run(step, rows, pilot=3) == [2, 4, 6, 2, 4] and len(made) == 3
    assert driver.run(step, rows, pilot=1) == [2, 4, 6, 2, 4]
    with Store(store_path) as store:
        assert [info.ended for info in store.runs()] == ["finished", "finished"]


@pytest.mark.parametrize("driver", [BRIDGED, BRIDGED_TASKS, TASKS], ids=str)
def test_a_pilot_over_an_async_source(driver, store_path):
    """It reads little further than the row that would be one call more."""
    step, made, fails = counted(driver, store_path)
    read = []

    async def rows():
        for row in range(100):
            read.append(row)
            yield row

    assert driver.run(step, rows(), pilot=7, on_error="record")[1:5] == [2, 4, 6, 8]
    assert sorted(made) == list(range(7)) and len(read) < 20
    fails.clear()
    found = driver.results(
        driver.start(step, rows(), retry_failed="last", ordered=False, pilot=94).items()
    )
    assert sorted(made[7:]) == [0, *range(7, 100)] and len(found) == 99  # 5 is one call more
    assert made[-1] == 0


def test_a_pilot_in_batches_an_executor_and_among_processes(store_path):
    """Rows are counted, not batches; claims of rows that have no turn are given up."""
    step, made, _ = counted(SEQUENTIAL, store_path)

    def batch(rows):
        made.append(len(rows))
        return rows

    of_batches = ckpt.step(store_path, version=1)(batch)
    assert list(of_batches.run(range(20), batch_size=3, pilot=8)) == list(range(8))
    assert made == [3, 3, 2]
    with ThreadPoolExecutor(3) as pool:
        assert len(list(step.run(range(1, 5), executor=pool, pilot=2))) == 2
    assert len(list(step.run(range(11, 40), shared=True, pilot=3))) == 3
    assert len(list(step.run([16, 17, 18, 19], shared=True))) == 4


@each_driver
def test_rows_that_failed_come_after_all_others(driver, store_path):
    """Each row has its result in the end; equal ones of a failed row too."""
    step, made, fails = counted(driver, store_path)
    rows = list(range(1, 31))
    driver.run(step, rows[:20], on_error="record")
    fails.clear()
    made.clear()
    run = driver.start(step, [*rows, *rows], retry_failed="last", ordered=False)
    pairs = driver.results(run.items())
    assert sorted(pairs) == sorted((row, row * 2) for row in rows * 2)
    untouched, failed = rows[20:], [5, 10, 15, 20]
    late = 3 if driver.name == "threads" else 0  # calls that began first may come to note it last
    assert set(made[: 10 - late]) <= set(untouched) and sorted(made) == [*failed, *untouched]
    assert run.report.rows == 60


def test_rows_that_failed_wait_for_those_of_a_source_of_any_length(store_path):
    """More of them than wait for a slow row, each of them equal to others."""
    step, made, fails = counted(SEQUENTIAL, store_path)
    list(step.run([5], on_error="record"))
    fails.clear()
    for options in ({}, {"concurrency": 4}):
        rows = [5] * 3000 + [1]
        results = list(step.run(rows, retry_failed="last", ordered=False, **options))
        assert sorted(results) == [2] + [10] * 3000
    assert made == [5, 1, 5]


@pytest.mark.parametrize("driver", [SEQUENTIAL, TASKS], ids=str)
def test_a_pilot_ends_among_failed_rows_though_many_are_equal(driver, store_path):
    """Nobody waits for a row that has no turn."""
    step, _, fails = counted(driver, store_path)
    driver.run(step, [5], on_error="record")
    fails.clear()
    rows = [1, *[5] * 600]
    assert driver.run(step, rows, pilot=1, retry_failed="last", ordered=False) == [2]


def test_pilot_and_retries_are_checked(store_path):
    """At the call; the message says what to write."""
    step, _, _ = counted(SEQUENTIAL, store_path)
    for wrong in ({"pilot": 0}, {"pilot": "3"}, {"pilot": True}, {"retry_failed": "first"}):
        with pytest.raises(ValueError, match=r"pilot|retry_failed"):
            step.run([1], **wrong)
    with pytest.raises(ValueError, match="say ordered=False"):
        step.run([1], retry_failed="last")


def test_a_script_that_fails_while_rows_are_read_asynchronously_ends(tmp_path):
    """Its exit waits for no event loop that has ended."""
    code = f"""
import checkpointdb as ckpt

async def rows():
    for row in range(5):
        yield row

@ckpt.step({str(tmp_path / "a.ckpt")!r}, version=1)
async def label(row):
    return 1 / (row - 2)

list(label.run(rows()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


# --- the command line

PLAIN = ("--store", "rows.ckpt", "--version", "1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.py").write_text(STEPS + "\n\ndef usd(result):\n    return 0.5\n")
    write_rows(tmp_path / "rows.jsonl", [{"n": n} for n in range(10)])
    return tmp_path


def test_a_pilot_on_the_command_line_says_what_the_rest_costs(here):
    """In words and in JSON; the next run goes on."""
    run = ("run", "steps.py:slow", "rows.jsonl", *PLAIN, "--cost", "usd")
    done = invoke(*run, "--pilot", "4", "--concurrency", "2")
    assert done.exit_code == 0 and len(calls(here)) == 4
    assert "the rest: 6 calls, about $3.00, about" in done.stderr
    assert "at concurrency 2; run it without --pilot to go on" in done.stderr
    told = json.loads(invoke(*run, "--pilot", "2", "--json").stdout)
    assert told["report"]["computed"] == 2 and told["rest"]["misses"] == 4
    assert told["rest"]["cost"] == 2.0
    done = invoke(*run, "--pilot", "9")
    assert "no call is left to pay" in done.stderr and len(calls(here)) == 10
    assert "rest" not in json.loads(invoke(*run, "--json").stdout)
    done = invoke("run", "steps.py:double", "-", *PLAIN, "--pilot", "1", input='{"n": 1}\n' * 2)
    assert "standard input is read only once" in done.stderr


def test_failed_rows_last_on_the_command_line(here):
    """They are computed after the others; what would need their order is refused."""
    run = ("run", "steps.py:refuse", "rows.jsonl", *PLAIN, "--on-error", "record")
    assert invoke(*run, "--limit", "8").exit_code == 3
    (here / "steps.py").write_text(STEPS.replace('raise KeyError("no seven")', "return 70"))
    done = invoke(*run, "--retry-failed-last", "--on-change", "reuse")
    assert done.exit_code == 0 and "10 rows in" in done.stderr, done.output
    with Store("rows.ckpt") as store:
        newest = max(store.records(), key=lambda record: record.id)
        assert (newest.input, newest.result) == ({"n": 7}, 70)
    for more, said in (
        (("--retry-failed-last", "-o", "o.jsonl"), "ckpt export --rows INPUT"),
        (("--pilot", "3", "-o", "o.jsonl"), "leave -o out"),
        (("--retry-failed-last", "--no-retry-failed"), "exclude each other"),
    ):
        done = invoke(*run, *more)
        assert done.exit_code == 2 and said in done.output.replace("\n", " ")
