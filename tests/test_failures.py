"""Failures as records: they keep their place, are tried again, and are never thrown away."""

from __future__ import annotations

import contextlib
import threading

import apsw
import pytest
from drivers import SEQUENTIAL, TASKS, THREADS
from paid import PROCESSES, Paid, QuotaSpent, each_kind, every_driver, label, result_of, saved

import checkpointdb as ckpt
from checkpointdb import Failed, Store, every, on_exit


@pytest.fixture
def paid(tmp_path):
    return Paid(str(tmp_path / "paid.log"))


def shape(results):
    """Row numbers of the results, error types of the failures."""
    return [r.error_type if isinstance(r, Failed) else r["n"] for r in results]


def ask(path, sql):
    with contextlib.closing(apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)) as connection:
        return connection.execute(sql).fetchall()


# --- on_error="record"


@every_driver
def test_a_failure_takes_the_place_of_its_result(store_path, paid, driver):
    """Under "record" positions never shift: a Failed stands where the result would."""
    step = driver.step(label, store_path)
    rows = paid.rows(12, {0: "boom", 5: "boom", 11: "boom"})
    run = driver.start(step, rows, on_error="record")
    results = driver.results(run)
    assert shape(results) == ["ValueError", 1, 2, 3, 4, "ValueError", 6, 7, 8, 9, 10, "ValueError"]
    failed = results[5]
    assert failed.row == rows[5]
    assert failed.message == "no luck with row 5"
    assert failed.attempts == 1
    assert "ValueError: no luck with row 5" in failed.traceback
    assert "in label" in failed.traceback
    assert (run.report.rows, run.report.computed, run.report.failed) == (12, 9, 3)


@every_driver
def test_the_next_run_tries_failed_rows_and_no_others(store_path, paid, driver):
    """retry_failed=True: what failed is called again, attempts count over runs, and what came
    good is a hit from then on."""
    step = driver.step(label, store_path)
    rows = paid.rows(8, {2: "boom boom ok", 6: "boom ok"})
    shapes = [
        [0, 1, "ValueError", 3, 4, 5, "ValueError", 7],
        [0, 1, "ValueError", 3, 4, 5, 6, 7],
        list(range(8)),
        list(range(8)),
    ]
    for i, (expected, called) in enumerate(zip(shapes, ([*range(8)], [2, 6], [2], []))):
        before = len(paid.calls)
        results = driver.run(step, rows, on_error="record")
        assert shape(results) == expected
        assert sorted(paid.calls[before:]) == called
        if i < 2:
            assert results[2].attempts == i + 1
    assert saved(store_path)[2].attempts == 3
    assert saved(store_path)[0].attempts == 1


@every_driver
def test_failures_can_be_left_alone(store_path, paid, driver):
    """retry_failed=False gives out the saved failure again, and calls nothing."""
    step = driver.step(label, store_path)
    rows = paid.rows(4, {1: "boom ok"})
    first = driver.run(step, rows, on_error="record")
    run = driver.start(step, rows, on_error="record", retry_failed=False)
    second = driver.results(run)
    assert second == first
    assert len(paid.calls) == 4
    assert (run.report.computed, run.report.failed) == (0, 1)
    assert shape(driver.run(step, rows)) == [0, 1, 2, 3]


@each_kind
def test_a_failure_is_saved_as_a_result_is(store_path, paid, driver):
    """A failure is durable when the policy says so, and its history stays in the file."""
    step = driver.step(label, store_path, save=every(rows=1))
    rows = paid.rows(3, {1: "boom boom ok"})
    for failures in (1, 2, 2):
        driver.run(step, rows, on_error="record")
        sql = "select attempts, error ->> 'message' from records where error is not null"
        assert ask(store_path, sql) == [(n + 1, "no luck with row 1") for n in range(failures)]
    assert ask(store_path, "select count(*) from records") == [(5,)]


def test_the_views_show_the_newest_of_each_key(store_path, paid):
    """`failures` shows what failed and has not come good; `results` the rest."""
    step = ckpt.step(store_path, version=1)(label)
    rows = paid.rows(5, {1: "boom ok", 3: "boom"})
    list(step.run(rows, on_error="record"))
    list(step.run(rows[1:2], on_error="record"))
    step.flush()
    assert ask(store_path, "select input ->> 'n' from results order by 1") == [
        (0,), (1,), (2,), (4,),
    ]  # fmt: skip
    assert ask(store_path, "select input ->> 'n', error_type, message, attempts from failures") == [
        (3, "ValueError", "no luck with row 3", 1)
    ]


def test_a_failed_row_has_its_error_in_the_record(store_path, paid):
    """Record.error has type, message and traceback; status="failed" picks just those."""
    step = ckpt.step(store_path, version=1)(label)
    list(step.run(paid.rows(4, {2: "boom"}), on_error="record"))
    with Store(store_path) as store:
        (record,) = store.records(status="failed")
        assert [r.result["n"] for r in store.records(status="ok")] == [0, 1, 3]
        assert store.steps()[0].failures == 1
    assert record.error["type"] == "ValueError"
    assert record.error["message"] == "no luck with row 2"
    assert record.error["traceback"].startswith("Traceback")
    assert record.result is None
    assert record.cost is None


@pytest.mark.parametrize("driver", [SEQUENTIAL, THREADS, TASKS], ids=str)
def test_a_failure_of_an_equal_row_is_shared(store_path, driver):
    """Equal rows fail together: one call a run, a Failed at each position."""
    calls = []

    def step(row):
        calls.append(row)
        if row == "bad":
            raise ValueError
        return {"n": row}

    step = driver.step(step, store_path)
    results = driver.run(step, ["bad", *range(3000), "bad"], on_error="record")
    assert shape(results) == ["ValueError", *range(3000), "ValueError"]
    assert calls.count("bad") == 1


@every_driver
def test_a_row_that_cannot_be_one_is_a_failure_too(store_path, paid, driver):
    """A row with no stable content does not end a run under "record"; it is never called."""
    step = driver.step(label, store_path)
    rows = paid.rows(3)
    rows[1] = rows[1] | {"file": object()}
    results = driver.run(step, rows, on_error="record")
    assert shape(results) == [0, "EncodeError", 2]
    assert "$.file" in results[1].message
    assert sorted(paid.calls) == [0, 2]


def test_a_result_that_cannot_be_stored_is_kept_as_its_repr(store_path):
    """It was paid for and cannot be stored: a failure with its repr, which ends the run whatever
    `on_error` says, for the next row would be paid for and lost too."""

    @ckpt.step(store_path, version=1)
    def step(row):
        return {"answer": threading.Lock()} if row == 1 else row

    with pytest.raises(ckpt.EncodeError):
        list(step.run([0, 1, 2], on_error="record"))
    ((text,),) = ask(store_path, "select error ->> 'repr' from records where error is not null")
    assert text.startswith("{'answer': <unlocked _thread.lock")
    with pytest.raises(ckpt.EncodeError) as caught:
        list(step.run([1]))
    assert isinstance(caught.value.result["answer"], type(threading.Lock()))


def test_an_exception_with_text_that_no_file_can_hold(store_path, caplog):
    """A lone surrogate in a message is written as its escape, not a second failure."""

    @ckpt.step(store_path, version=1)
    def step(row):
        raise ValueError("bad \ud800 text")

    assert next(step.run([1], on_error="record")).message == "bad \ud800 text"
    step.flush()
    assert r"bad \ud800 text" in caplog.text
    assert ask(store_path, "select error ->> 'message' from records") == [(r"bad \ud800 text",)]


# --- on_error="raise"


@every_driver
def test_the_users_exception_ends_the_run_and_nothing_is_lost(store_path, paid, driver):
    """Under "raise" the run ends with the user's exception; every answered call is saved, the note
    says how many and where, and the failed row is not recorded."""
    step = driver.step(label, store_path, save=on_exit())
    rows = paid.rows(20, {9: "boom ok"})
    with pytest.raises(ValueError, match="no luck with row 9") as caught:
        driver.run(step, rows)
    stored = saved(store_path)
    assert stored.keys() == set(paid.calls) - {9}
    note = caught.value.__notes__[-1]
    assert f"{len(stored)} results of step 'label' are saved in {store_path}" in note
    assert f"this run got to {len(stored)} of 20 rows" in note
    assert shape(driver.run(step, rows)) == list(range(20))
    assert len(paid.calls) == 21


def test_the_exception_is_the_same_object(store_path):
    """What the step raised is what the user gets: not a copy, not wrapped."""
    error = KeyError("mine")

    @ckpt.step(store_path, version=1)
    def step(row):
        raise error

    with pytest.raises(KeyError) as caught:
        list(step.run([1], concurrency=4))
    assert caught.value is error


# --- stop_on


@every_driver
def test_a_spent_quota_stops_a_run_that_records_failures(store_path, paid, driver):
    """stop_on= ends the run even under "record": failures before it are records, answered calls
    are saved, the row that met the quota is not a failure."""
    step = driver.step(label, store_path, save=on_exit())
    later = dict.fromkeys(range(40, 400), "slow")  # so that a loaded machine has time to notice
    rows = paid.rows(400, {1: "boom", 30: "quota ok"} | later)
    with pytest.raises(QuotaSpent):
        driver.run(step, rows, on_error="record", stop_on=QuotaSpent)
    stored = saved(store_path)
    assert stored.keys() == set(paid.calls) - {30}
    assert stored[1].error["type"] == "ValueError"
    assert len(paid.calls) < 60, "new rows were taken after the quota was spent"
    assert shape(driver.run(step, rows[:40], on_error="record"))[30] == 30


def test_stop_on_takes_several_and_subclasses(store_path):
    """A tuple of classes; a subclass counts; any other exception is recorded."""

    class Spent(ConnectionError):
        pass

    @ckpt.step(store_path, version=1)
    def step(row):
        raise {"a": Spent, "b": LookupError, "c": ValueError}[row]()

    stop_on = (ConnectionError, LookupError)
    assert next(step.run(["c"], on_error="record", stop_on=stop_on)).error_type == "ValueError"
    for row, kind in (("a", Spent), ("b", LookupError)):
        with pytest.raises(kind):
            list(step.run([row], on_error="record", stop_on=stop_on))


# --- valid


@every_driver
def test_a_refused_result_is_a_failure_with_its_result(store_path, paid, driver):
    """valid= makes a result a failure, recorded with what was paid for, and tried again."""
    step = driver.step(label, store_path)
    rows = paid.rows(5, {1: "empty empty ok", 3: "empty"})
    options = {"valid": lambda result: result["text"] != "", "on_error": "record"}
    assert shape(driver.run(step, rows, **options)) == [0, "invalid", 2, "invalid", 4]
    step.flush()
    stored = saved(store_path)
    assert stored[1].result == result_of(1, "")
    assert stored[1].error["type"] == "invalid"
    assert "row 1" in stored[1].error["message"]
    assert shape(driver.run(step, rows, **options)) == [0, "invalid", 2, "invalid", 4]
    assert shape(driver.run(step, rows, **options)) == [0, 1, 2, "invalid", 4]
    assert sorted(paid.calls) == [0, 1, 1, 1, 2, 3, 3, 3, 4]


@every_driver
def test_a_refused_result_ends_the_run_under_raise(store_path, paid, driver):
    """Under "raise" the refusal is a ValueError that shows the result; it is saved all the same."""
    step = driver.step(label, store_path, save=on_exit())
    rows = paid.rows(12, {4: "empty"})
    with pytest.raises(ValueError, match=r"valid= refused the result of row 4: .*'text': ''"):
        driver.run(step, rows, valid=lambda result: result["text"])
    stored = saved(store_path)
    assert stored.keys() == set(paid.calls)
    assert stored[4].result == result_of(4, "")
    assert stored[4].error["type"] == "invalid"


# --- batches


@pytest.mark.parametrize("driver", [SEQUENTIAL, PROCESSES], ids=str)
def test_a_batch_fails_as_a_whole(store_path, paid, driver):
    """An exception in a batch is a failure of each of its rows; the other batches stand."""
    step = driver.step(label_batch, store_path, name="label")
    rows = paid.rows(9, {4: "boom ok"})
    results = driver.run(step, rows, batch_size=3, on_error="record")
    assert shape(results) == [0, 1, 2, *["ValueError"] * 3, 6, 7, 8]
    assert shape(driver.run(step, rows, batch_size=3, on_error="record")) == list(range(9))


def label_batch(rows):
    return [label(row) for row in rows]


# --- the report


def test_a_run_with_failures_never_pretends_to_be_complete(store_path, paid):
    """The report, the store and the end of the run say how many rows failed."""
    step = ckpt.step(store_path, version=1)(label)
    events = []
    run = step.run(paid.rows(6, {1: "boom", 2: "boom"}), on_error="record", on_event=events.append)
    list(run)
    assert run.report.failed == 2
    with Store(store_path) as store:
        assert store.runs()[-1].report.failed == 2
        assert store.steps()[0].failures == 2
    assert events[-1].report.failed == 2


def test_no_warning_where_nothing_is_saved(store_path):
    """A step that failed at its first row and was mended has no results to warn of."""

    @ckpt.step(store_path, version=1)
    def step(row):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(step.run([1]))
    step.store.close()

    @ckpt.step(store_path, version=1, name="step")
    def mended(row):
        return row

    assert list(mended.run([1])) == [1]


@pytest.mark.parametrize("on_error", ["raise", "record"])
def test_a_result_that_valid_could_not_judge_is_no_success(store_path, paid, on_error):
    """If valid= itself raises, the row is a failure like any other, and its result is kept."""
    step = ckpt.step(store_path, version=1)(label)
    run = step.run(paid.rows(2), valid=lambda result: result["score"], on_error=on_error)
    if on_error == "raise":
        with pytest.raises(KeyError):
            list(run)
    else:
        assert [failed.error_type for failed in run] == ["KeyError", "KeyError"]
    step.flush()
    record = saved(store_path)[0]
    assert record.result == result_of(0)
    assert record.error is not None


# --- a failure and a result of the same row, saved by two


class Sometimes:
    """A step that fails for a row while it is told to."""

    def __init__(self):
        self.fails, self.calls = True, 0

    def step(self, store, **options):
        def sometimes(row):
            self.calls += 1
            if self.fails:
                raise ValueError("no luck")
            return {"row": row, "call": self.calls}

        options = {"save": on_exit(), "on_error": "record", "ignore": ("self",)} | options
        return ckpt.step(store, version=1, **options)(sometimes)

    def fail(self, step, row):
        self.fails = True
        with pytest.raises(ValueError, match="no luck"):
            step(row)
        self.fails = False


def outcomes(path):
    with Store(path) as store:
        return [record.result or record.error["type"] for record in store.records()]


def test_a_run_tries_a_failure_again_that_is_not_committed_yet(store_path):
    """It was not this run that failed, so it is tried; and counted as another attempt."""
    provider = Sometimes()
    with Store(store_path) as store:
        step = provider.step(store)
        provider.fail(step, 3)
        (failed,) = step.run([3], retry_failed=False)
        assert failed.attempts == 1
        assert list(step.run([3])) == [{"row": 3, "call": 2}]
        assert store.get(ckpt.key_of("sometimes", 1, 3)).attempts == 2
    assert outcomes(store_path) == [{"row": 3, "call": 2}]


def test_a_failure_that_waits_for_its_commit_hides_no_result(store_path):
    """A row that failed in a direct call and came good in a run is a hit of the next call."""
    provider = Sometimes()
    with Store(store_path) as store:
        step = provider.step(store)
        provider.fail(step, 3)
        (result,) = step.run([3])
        assert step(3) == result
        assert list(step.run([3])) == [result]
        assert provider.calls == 2
    assert outcomes(store_path) == [result]


@pytest.mark.parametrize("save", [every(rows=1), on_exit()])
def test_an_equal_row_is_not_tried_twice_beside_a_failure_that_waits(store_path, save):
    """Of two failures the one of more attempts counts, and that is this run's own."""
    provider = Sometimes()
    with Store(store_path) as store:
        provider.fail(provider.step(store), 3)
        provider.fails = True
        first, *others = provider.step(store, save=save).run([3, 3, 4, 3])
        assert [failed.attempts for failed in (first, *others)] == [2, 2, 1, 2]
    assert provider.calls == 3


def test_a_failure_committed_later_takes_no_result_away(store_path):
    """Another handle has paid for the row meanwhile: its result stays."""
    provider = Sometimes()
    with Store(store_path) as late, Store(store_path) as first:
        provider.fail(provider.step(late), 3)
        result = provider.step(first)(3)
        first.flush()
    assert outcomes(store_path) == [result]
    with Store(store_path) as store:
        assert list(provider.step(store).run([3])) == [result]
    assert provider.calls == 2


def test_the_run_whose_failure_came_late_is_told(store_path):
    """By a `CameLate` event, as a worker is whose result came late."""
    provider, told = Sometimes(), []
    with Store(store_path) as late, Store(store_path) as first:
        run = provider.step(late).run([3, 4], on_event=told.append)
        failed = next(run)
        provider.fails = False
        result = provider.step(first)(3)
        first.flush()
        list(run)
    assert isinstance(failed, Failed)
    assert [event.position for event in told if isinstance(event, ckpt.CameLate)] == [0]
    assert outcomes(store_path)[0] == result


def test_a_failure_may_replace_the_stale_result_that_was_computed_again(store_path):
    """Under recompute the failure says so; the result of other code does not come back."""
    provider = Sometimes()
    provider.fails = False
    with Store(store_path) as store:
        list(provider.step(store, on_change="recompute").run([3, 4]))

    @ckpt.step(store_path, version=1, name="sometimes", on_change="recompute", on_error="record")
    def other(row):
        raise ValueError("no luck")

    assert shape(other.run([3, 4])) == ["ValueError"] * 2
    other.store.close()
    assert outcomes(store_path) == ["ValueError"] * 2
