"""`key="id"` finds a saved result, and the rest of the row is another."""

from __future__ import annotations

import warnings

import pytest
from drivers import each_driver

import checkpointdb as ckpt

ROWS = [{"id": n, "text": f"text {n}"} for n in range(5)]
EDITED = [row if n % 2 else row | {"text": "edited"} for n, row in enumerate(ROWS)]  # 3 of 5


def answer(row):
    return row["text"].upper()


OLD, NEW = [answer(row) for row in ROWS], [answer(row) for row in EDITED]


def go(path, rows, fn=answer, close=True, **options):
    step = ckpt.step(path, version=1, key="id", name="answer", **options)(fn)
    run = step.run(rows)
    results = list(run)
    if close:
        step.store.close()
    return results, run.report.computed


def test_a_changed_row_warns_once_a_run_with_a_count(store_path):
    """By default; the old results are reused, and the same rows are silent."""
    assert go(store_path, ROWS) == (OLD, 5)
    assert go(store_path, ROWS) == (OLD, 0)
    with pytest.warns(ckpt.StaleResultsWarning, match="3 rows have a saved result") as caught:
        assert go(store_path, EDITED) == (OLD, 0)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert go(store_path, EDITED, on_changed_input="reuse") == (OLD, 0)


def test_results_that_are_not_committed_are_compared_too(store_path):
    """A row of the same run, seen again; and one that shares the call of another."""
    rows = [ROWS[0], EDITED[0]]
    with pytest.warns(ckpt.StaleResultsWarning, match="1 row has a saved result"):
        assert go(store_path, iter(rows), save=ckpt.on_exit()) == ([OLD[0]] * 2, 1)


def test_recompute_replaces_the_results_of_changed_rows(store_path):
    """And of no others; afterwards the edited row is the one that was computed."""
    go(store_path, ROWS)
    assert go(store_path, EDITED, on_changed_input="recompute") == (NEW, 3)
    assert go(store_path, EDITED, on_changed_input="error") == (NEW, 0)
    with ckpt.Store(store_path) as store:
        assert [record.result for record in store.records()] == NEW


@each_driver
def test_error_refuses_the_changed_row(driver, store_path):
    """Before a call; the rows before it are given out."""
    go(store_path, ROWS)
    step = driver.step(answer, store_path, key="id", name="answer", on_changed_input="error")
    with pytest.raises(ckpt.StaleResultsError, match="a different rest"):
        driver.run(step, EDITED)


@pytest.mark.parametrize("asked", ["error", "recompute"])
def test_two_rows_of_one_key_in_one_run_are_an_error(store_path, asked):
    """Whichever is saved, the other would get its answer; of a hit and a new row, too."""
    rows = [ROWS[0], ROWS[1], EDITED[0]]
    for saved in (0, 2):
        with pytest.raises(ckpt.StaleResultsError, match="another row of this run"):
            go(store_path, rows, on_changed_input=asked)
        with ckpt.Store(store_path) as store:
            assert len(list(store.records())) == 2, saved
    assert go(store_path, [ROWS[0], ROWS[0]], on_changed_input=asked) == ([OLD[0]] * 2, 0)


def test_a_loop_that_edits_the_rows_to_come_is_no_second_row(store_path):
    """The row is read again: there is one of its key."""
    rows = [dict(row) for row in ROWS]
    step = ckpt.step(store_path, version=1, key="id", on_changed_input="recompute")(answer)
    results = []
    for result in step.run(rows):
        results.append(result)
        if len(results) == 4:  # the last two were looked up together
            rows[4]["text"] = "edited"
    assert results == [*OLD[:4], "EDITED"]


def test_a_missing_digest_is_never_a_change(store_path):
    """The rest of the row cannot be encoded: nothing is known of it."""
    rows = [row | {"client": object()} for row in ROWS]
    go(store_path, rows)
    for asked in ("warn", "error", "recompute"):
        rows = [row | {"client": object()} for row in EDITED]
        assert go(store_path, rows, on_changed_input=asked) == (OLD, 0)
        assert go(store_path, EDITED, on_changed_input=asked) == (OLD, 0)


def test_single_calls_warn_of_the_first(store_path):
    """They have no end at which to count; under recompute each is on its own."""
    step = ckpt.step(store_path, version=1, key="id")(answer)
    assert step(ROWS[0]) == OLD[0]
    with pytest.warns(ckpt.StaleResultsWarning, match="1 row has"):
        assert step(EDITED[0]) == OLD[0]
    assert step(EDITED[0]) == OLD[0]
    again = ckpt.step(step.store, version=1, key="id", on_changed_input="recompute")(answer)
    assert [again(row) for row in (EDITED[0], ROWS[0], EDITED[0])] == [NEW[0], OLD[0], NEW[0]]


@pytest.mark.parametrize("asked", ["warn", "recompute"])
def test_a_plan_counts_the_rows_that_would_be_computed_again(store_path, asked):
    """Their key finds a result of another content; only `"recompute"` pays for them."""
    options = {"version": 1, "name": "s", "key": "id", "on_changed_input": asked}
    step = ckpt.step(store_path, **options)(lambda row: row["x"])
    list(step.run([{"id": i, "x": i} for i in range(4)]))
    rows = [{"id": i, "x": i if i < 3 else -1} for i in range(5)]
    plan = step.plan(rows)
    wanted = (3, 2) if asked == "recompute" else (4, 1)
    assert (plan.hits, plan.misses) == wanted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = step.run(rows)
        list(run)
    assert (run.report.hits, run.report.computed) == wanted
