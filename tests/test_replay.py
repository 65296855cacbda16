"""A replay gives out what is saved; it calls nothing, pays nothing, and writes nothing."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys

import pytest
from drivers import BRIDGED, SEQUENTIAL, TASKS

import checkpointdb as ckpt
from checkpointdb import MISS, ReplayMissError, Store, args

pytest_plugins = ["pytester"]

ROWS = [{"id": n, "text": f"t{n}"} for n in range(30)]


def fingerprint(path):
    """Return what there is in the directory of a store, byte for byte."""
    directory = os.path.dirname(path)
    content = {}
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            content[name] = hashlib.sha256(file.read()).hexdigest()
    return content


def record(driver, path, rows=ROWS, **options):
    """Save the rows; return the step, and a list that gets each call."""
    calls = []

    def label(row):
        calls.append(row)
        if row == "bad":
            raise ValueError("bad row")
        return len(calls)

    step = driver.step(label, path, name="label", save=ckpt.every(rows=1), **options)
    driver.run(step, rows, on_error="record", concurrency=1)
    step.store.close()
    calls.clear()
    return step, calls


@pytest.mark.parametrize("driver", [SEQUENTIAL, TASKS, BRIDGED], ids=str)
def test_what_is_saved_is_given_out_and_nothing_is_called_or_written(driver, store_path):
    """By runs, direct calls and look-ups, of a path and of a store open for reading only."""
    step, calls = record(driver, store_path)
    before = fingerprint(store_path)
    with Store(store_path, readonly=True) as store:
        for replay in (step.replace(replay=True), step.replace(store=store)):
            assert driver.run(replay, ROWS) == list(range(1, 31))
            assert driver.call(replay, ROWS[3]) == replay.get(ROWS[3]) == 4
            assert replay.get("new") is MISS
            assert replay.plan([*ROWS, "new"]).misses == 1
            assert replay.why(ROWS[0]).status == "hit"
            replay.flush()
            replay.store.close()
            with Store(store_path, readonly=True) as store:
                assert len(list(store.records())) == 30 and store.readonly
    assert calls == [] and fingerprint(store_path) == before
    with Store(store_path) as store:
        assert len(store.runs()) == 1


@pytest.mark.parametrize(
    ("driver", "on_error"), [(SEQUENTIAL, "raise"), (TASKS, "record"), (BRIDGED, "record")], ids=str
)
def test_a_row_that_is_not_saved_is_an_error_that_says_what_differs(driver, on_error, store_path):
    """Before any call, and whatever happens to failures; what came before it is given out."""
    step, calls = record(driver, store_path)
    replay, found = step.replace(replay=True), []
    wanted = {"id": 7, "text": "other"}
    run = driver.start(replay, [*ROWS[:2], wanted, ROWS[3]], on_error=on_error)
    with pytest.raises(ReplayMissError, match=r"text is 'other'.*there 't7'") as caught:
        driver.consume(run, each=found.append)
    assert found == [1, 2] and caught.value.row is wanted
    assert caught.value.differs == {"text": ("other", "t7")}
    assert caught.value.key == ckpt.key_of("label", 1, wanted)
    assert not getattr(caught.value, "__notes__", None)
    with pytest.raises(ReplayMissError, match="there 't7'"):
        driver.call(replay, wanted)
    assert calls == []
    with pytest.raises(ckpt.StoreError, match="replay saves nothing"):
        replay.put(wanted, 1)
    with pytest.raises(ckpt.StoreError, match="reading only"):
        replay.accept()
    with pytest.raises(ckpt.StoreError, match="reading only"):
        replay.store.forget("label")
    replay.store.close()


def test_an_error_names_another_version_or_step(store_path):
    """Which is what differs most often in a test."""
    step, _ = record(SEQUENTIAL, store_path)
    for options, said in (
        ({"version": 2, "name": "label"}, "saved under version 1"),
        ({"version": 1, "name": "other"}, "saved under 'label'"),
    ):
        other = ckpt.step(store_path, replay=True, **options)(step.__wrapped__)
        with pytest.raises(ReplayMissError, match=said):
            other(ROWS[0])


def test_a_saved_failure_is_given_out_where_failures_are(store_path):
    """Else it is a miss that names it."""
    step, calls = record(SEQUENTIAL, store_path, rows=["bad", "good"])
    replay = step.replace(replay=True)
    failed, good = replay.run(["bad", "good"], on_error="record")
    assert (failed.error_type, failed.message, failed.attempts) == ("ValueError", "bad row", 1)
    assert good == 2
    for use in (lambda: list(replay.run(["bad"])), lambda: replay("bad")):
        with pytest.raises(ReplayMissError, match="with ValueError: bad row"):
            use()
    assert calls == []


@pytest.mark.parametrize("driver", [SEQUENTIAL, TASKS], ids=str)
def test_samples_of_equal_rows_come_in_their_order(driver, store_path):
    """As many as were saved; one more is a miss that says so."""
    step, _ = record(driver, store_path, rows=["a", "b", "a", "a"], duplicates="separate")
    replay = step.replace(replay=True)
    assert driver.run(replay, ["a", "a", "b", "a"]) == [1, 3, 2, 4]
    with pytest.raises(ReplayMissError, match="equal row number 3"):
        driver.run(replay, ["a"] * 4)
    assert replay.get("a", nth=2) == 4
    replay.store.close()


def test_options_that_pay_or_share_have_nothing_to_do(store_path):
    """A run under replay takes them all the same."""
    step, _ = record(SEQUENTIAL, store_path)
    replay = step.replace(replay=True)
    run = replay.run(
        ROWS, shared=True, ledger=True, cost=float, max_cost=0.0, timeout=5.0, concurrency=2
    )
    assert list(run) == list(range(1, 31)) and run.report.hits == 30
    assert list(replay.run(map(args, ROWS), batch_size=4).items())[0][1] == 1  # noqa: RUF015


def test_results_of_other_code_are_told_in_a_replay_too(store_path):
    """They warn, or are refused, or are misses."""
    record(SEQUENTIAL, store_path)

    def step_of(**options):
        return ckpt.step(store_path, version=1, name="label", replay=True, **options)(lambda _: 0)

    with pytest.warns(ckpt.StaleResultsWarning):
        assert step_of()(ROWS[0]) == 1
    with pytest.raises(ckpt.StaleResultsError):
        step_of(on_change="error")(ROWS[0])
    with pytest.raises(ReplayMissError, match="computed by other code"):
        step_of(on_change="recompute")(ROWS[0])


def test_a_replay_finds_what_another_process_saves_meanwhile(store_path):
    """And one that opened the file without locks notices that it changed."""
    step, _ = record(SEQUENTIAL, store_path, rows=["a"])
    replay = step.replace(replay=True)
    assert replay("a") == 1 and replay.get("b") is MISS
    life = (
        "import sys, checkpointdb as ckpt\n"
        "s = ckpt.step(sys.argv[1], version=1, name='label', on_change='reuse')(lambda row: 7)\n"
        "s('b'); s.store.close()"
    )
    subprocess.run([sys.executable, "-c", life, store_path], check=True)
    assert replay.get("b") == 7 and replay("b") == 7


def test_no_store_is_a_miss(store_path):
    """Of a replay; a look-up says so, and a store that is to be read is an error of its own."""
    step = ckpt.step(store_path, version=1, replay=True)(abs)
    for use in (lambda: step(1), lambda: list(step.run([1])), lambda: step.many([1])):
        with pytest.raises(ReplayMissError, match="there is no store at"):
            use()
    assert step.get(1) is MISS
    with pytest.raises(ckpt.StoreError):
        Store(store_path, readonly=True)
    assert not os.path.exists(store_path)


def test_a_store_on_a_read_only_disk_can_be_replayed(store_path, tmp_path):
    """Nothing is created beside it."""
    step, _ = record(SEQUENTIAL, store_path)
    os.chmod(store_path, 0o400)
    os.chmod(tmp_path, 0o500)
    try:
        assert list(step.replace(replay=True).run(ROWS)) == list(range(1, 31))
    finally:
        os.chmod(tmp_path, 0o700)
        os.chmod(store_path, 0o600)


def test_the_recipe_for_pytest_records_once_and_replays(pytester, monkeypatch):
    """The code of docs/testing.md, run by pytest itself."""
    with open(os.path.join(os.path.dirname(__file__), "..", "docs", "testing.md")) as file:
        conftest, test = re.findall(r"```python\n(.*?)```", file.read(), re.S)
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_pipeline=test, pipeline=PIPELINE)
    pytester.mkdir("tests")
    monkeypatch.setenv("RECORD", "1")
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert (pytester.path / "calls.log").read_text() == "fine\nbad\n"
    other = test.replace('"fine"', '"fine!"').replace("def test_", "def test_other_")
    pytester.makepyfile(test_other=other)
    monkeypatch.delenv("RECORD")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1, failed=1)
    assert "ReplayMissError" in result.stdout.str() and "there 'fine'" in result.stdout.str()
    assert (pytester.path / "calls.log").read_text() == "fine\nbad\n"


PIPELINE = """
import checkpointdb as ckpt

@ckpt.step("pipeline.ckpt", version=1)
def label(row):
    with open("calls.log", "a") as log:
        log.write(row["text"] + "\\n")
    return "good" if row["text"].startswith("fine") else "bad"

def summary(rows):
    labels = list(label.run(rows))
    return {name: labels.count(name) for name in ("good", "bad")}
"""
