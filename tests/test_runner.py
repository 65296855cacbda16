"""A run over rows: order, laziness, memory, duplicates, errors, batches and the report."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import apsw
import msgspec
import pytest
from drivers import (
    ASYNC,
    BRIDGED,
    BRIDGED_TASKS,
    SEQUENTIAL,
    THREADS,
    each_driver,
    one_at_a_time,
    several_at_a_time,
)

import checkpointdb as ckpt
from checkpointdb import EncodeError, Store, every
from checkpointdb.engine import intake

pytestmark = pytest.mark.loops


class Step:
    """A plain function that writes down what it was called with: the oracle of what was paid."""

    def __init__(self, fn=lambda row: {"of": row}):
        self.fn, self.calls = fn, []

    @property
    def plain(self):
        def step(row):
            self.calls.append(row)
            return self.fn(row)

        return step

    def batch(self, rows):
        self.calls.append(list(rows))
        return [self.fn(row) for row in rows]


class Boom(Exception):
    pass


def fail_at(*bad):
    """A step that fails at some rows; which is no captured value, so it is no other binding."""
    is_bad = bad.__contains__

    def fn(row):
        if is_bad(row):
            raise Boom(f"row {row}")
        return row * 10

    return Step(fn)


def saved(path, step=None):
    """What is on disk: inputs to results, read past every handle of the run."""
    with Store(path, create=False) as store:
        return {record.position: record.result for record in store.records(step)}


def watched(rows, taken):
    for row in rows:
        taken.append(row)
        yield row


# --- order, resume, report


@each_driver
def test_results_come_in_the_order_of_the_rows_and_a_second_run_calls_nothing(driver, store_path):
    """Results are in input order; a second run over the same rows is all hits and no call."""
    step = Step()
    rows = [{"id": i, "text": "é" * (i % 3)} for i in range(300)]
    results = [{"of": row} for row in rows]
    first = driver.start(driver.step(step.plain, store_path, name="s"), rows)
    assert driver.results(first) == results
    assert sorted(step.calls, key=lambda row: row["id"]) == rows
    second = driver.start(driver.step(step.plain, store_path, name="s"), rows)
    assert driver.results(second) == results
    assert len(step.calls) == len(rows)
    assert (first.report.rows, first.report.hits, first.report.computed) == (300, 0, 300)
    assert (second.report.rows, second.report.hits, second.report.computed) == (300, 300, 0)
    assert first.report.failed == second.report.failed == second.report.commits == 0
    assert first.report.commits > 0
    assert first.report.seconds >= first.report.commit_seconds > 0


@each_driver
def test_hits_and_misses_mixed_keep_their_places(driver, store_path):
    """Rows saved earlier, in any order, are hits at their place among the computed ones."""
    step = Step()
    driver.run(driver.step(step.plain, store_path, name="s"), [7, 3, 99, 5])
    run = driver.start(driver.step(step.plain, store_path, name="s"), range(10))
    assert driver.results(run) == [{"of": i} for i in range(10)]
    assert sorted(step.calls[4:]) == [0, 1, 2, 4, 6, 8, 9]
    assert (run.report.hits, run.report.computed) == (3, 7)


@each_driver
def test_no_rows(driver, store_path):
    """A run over no rows gives no results and ends well."""
    run = driver.start(driver.step(Step().plain, store_path, name="s"), [])
    assert driver.results(run) == []
    assert run.report.rows == 0
    with Store(store_path) as store:
        assert [r.ended for r in store.runs()] == ["finished"]


@one_at_a_time
def test_how_a_run_ended_is_in_the_store(driver, store_path):
    """The runs table says of each run whether it finished, was closed or failed, and its counts."""
    step = driver.step(fail_at(7).plain, store_path, name="s")
    driver.run(step, range(3))
    driver.run(step, itertools.count(), until=5)
    with pytest.raises(Boom):
        driver.run(step, range(9))
    with Store(store_path) as store:
        runs = store.runs()
    assert [r.ended for r in runs] == ["finished", "closed", "failed: Boom"]
    assert [r.report.hits for r in runs] == [0, 3, 5]
    assert runs[0].report.rows == runs[0].report.computed == 3
    assert runs[2].report.failed == 1


# --- laziness and memory


@each_driver
def test_an_endless_source_of_hits_and_misses_is_read_only_a_little_ahead(driver, store_path):
    """Rows are read from an endless source as results are asked for, 1,024 ahead at the most."""
    taken = []
    step = driver.step(Step().plain, store_path, name="s", save=every(rows=100))
    for until in (1, 50, 3000):
        del taken[:]
        results = driver.run(step, watched(itertools.count(), taken), until=until)
        assert results == [{"of": i} for i in range(until)]
        assert len(taken) <= until + 2 * 1024


@each_driver
def test_nothing_happens_before_the_first_result_is_asked_for(driver, store_path):
    """A run that nobody iterates reads no row and calls nothing."""
    taken, step = [], Step()
    run = driver.start(driver.step(step.plain, store_path, name="s"), watched(range(5), taken))
    assert taken == step.calls == []
    run.close()


@each_driver
def test_a_slow_step_gets_its_rows_one_by_one(driver, store_path):
    """With calls of 20 ms, rows are read a handful ahead, whatever came before."""
    taken, ahead = [], []

    def slow(row):
        time.sleep(0.02)
        return row

    run = driver.start(driver.step(slow, store_path), watched(range(20), taken))
    driver.consume(run, each=lambda row: ahead.append(len(taken) - row))
    assert max(ahead) <= 4 * driver.concurrency


@pytest.mark.parametrize("pause", [0, 0.002], ids=["fast", "slow"])
def test_a_list_that_grows_in_the_loop_is_read_to_its_new_end(store_path, pause):
    """As a plain loop reads it: the link to the next page is a page to visit, resumed or not."""

    def next_page(page):
        time.sleep(pause)
        return [page + 1] if page < 99 else []

    step = ckpt.step(store_path, version=1, name="s")(next_page)
    for _ in range(2):
        pages, visited = [0], 0
        for links in step.run(pages):
            pages.extend(links)
            visited += 1
        assert pages == list(range(100)) and visited == 100


@one_at_a_time
@pytest.mark.parametrize("pause", [0, 0.012], ids=["fast", "slow"])
def test_a_loop_that_changes_the_rows_to_come_is_answered_for_what_they_are_then(
    driver, store_path, pause
):
    """A chain: each result goes into the next row, in place or as a new one; resumed or not."""

    def answer(row):
        time.sleep(pause)
        seen.append(dict(row))
        return row["n"] * 10 + row.get("before", 0)

    def chain(count):
        rows = [{"n": n % 4} for n in range(count)]
        results = []

        def each(result):
            results.append(result)
            at = len(results)
            if at < count and at % 2:
                rows[at]["before"] = result % 7
            elif at < count:
                rows[at] = {**rows[at], "before": result % 7}

        driver.consume(driver.start(step, rows), each=each)
        wanted, before = [], 0
        for n in range(count):
            wanted.append(n % 4 * 10 + before)
            before = wanted[-1] % 7
        assert results == wanted

    seen, step = [], driver.step(answer, store_path, name="s")
    chain(30)
    chain(60)
    chain(60)
    assert len({msgspec.json.encode(row) for row in seen}) == len(seen)
    with Store(store_path) as store:
        records = list(store.records())
        assert [ckpt.key_of("s", 1, r.input) for r in records] == [r.key for r in records]


def test_equal_rows_that_are_counted_apart_may_change_in_the_loop_too(store_path):
    """Under duplicates="separate" a row that changed is counted among its new equals, once."""
    calls = []

    def answer(row):
        calls.append(dict(row))
        return len(calls)

    step = ckpt.step(store_path, version=1, name="s", duplicates="separate")(answer)
    rows, results = [{"n": n // 9} for n in range(12)], []
    for result in step.run(rows):
        results.append(result)
        if len(results) == 5:
            rows[5]["n"] = rows[9]["n"] = 7
    assert results == list(step.run(calls[:])) == list(range(1, 13))
    assert [row["n"] for row in calls] == [0, 0, 0, 0, 0, 7, 0, 0, 0, 7, 1, 1]
    with Store(store_path) as store:
        assert [record.input for record in store.records()] == calls


def test_a_hit_is_identified_once_and_a_row_that_is_paid_for_once_more(store_path):
    """What a loop over a list may change costs a resume nothing."""
    identified = []

    def by_id(row):
        identified.append(row["id"])
        return row["id"]

    step = ckpt.step(store_path, version=1, name="s", key=by_id)(lambda row: row["id"])
    rows = [{"id": i} for i in range(300)]
    assert list(step.run(rows)) == list(range(300))
    assert len(identified) < 600
    del identified[:]
    assert list(step.run(rows)) == list(range(300))
    assert identified == list(range(300))


def test_a_hit_that_the_loop_changes_gets_the_result_it_had_when_it_was_read(store_path):
    """The other side of that: only a row that is about to be paid for is looked at again."""
    step = ckpt.step(store_path, version=1, name="s")(lambda row: row["id"])
    assert list(step.run([{"id": i} for i in range(40)])) == list(range(40))
    rows, results = [{"id": i} for i in range(40)], []
    for result in step.run(rows):
        results.append(result)
        if result == 31:
            rows[33]["id"] = 99
    assert results == list(range(40))


def test_a_list_that_shrinks_in_the_loop_ends_it_as_a_plain_loop(store_path):
    """Rows taken away are not computed."""
    step = ckpt.step(store_path, version=1, name="s")(lambda row: row)
    for _ in range(2):
        rows, results = list(range(100)), []
        for result in step.run(rows):
            results.append(result)
            if result == 40:
                del rows[45:]
        assert results == list(range(45))


@pytest.mark.slow
def test_rows_of_a_list_are_looked_up_ahead_of_slow_calls_but_not_long(store_path, monkeypatch):
    """By no more than about a second, so that what another process saves meanwhile is a hit."""
    monkeypatch.setattr(intake, "LOOK_AHEAD_SECONDS", 0.2)
    ahead = []

    def work(row):
        time.sleep(0.01)
        ahead.append(len(run._session._running.in_flight))
        return row

    run = ckpt.step(store_path, version=1, name="s")(work).run(list(range(200)))
    assert list(run) == list(range(200))
    assert 8 <= max(ahead) <= 40


@each_driver
def test_a_slow_source_is_not_waited_for(driver, store_path):
    """A result is given out before a slow source has been asked for many more rows."""
    taken, ahead = [], []

    def source():
        for i in range(12):
            time.sleep(0.02)
            yield i

    run = driver.start(driver.step(Step().plain, store_path), watched(source(), taken))
    driver.consume(run, each=lambda result: ahead.append(len(taken) - result["of"]))
    assert max(ahead) <= 4 * driver.concurrency


@each_driver
def test_a_source_that_turns_slow_after_thousands_of_hits_is_not_waited_for(driver, store_path):
    """However far the read-ahead grew over hits, a source that then stalls holds up few rows."""
    step = driver.step(Step().plain, store_path, name="s")
    driver.run(step, range(2500))
    behind = []

    def source():
        yield from range(2500)
        for i in range(2500, 2508):
            behind.append(i - results)
            time.sleep(0.02)
            yield i

    results = 0

    def count(_):
        nonlocal results
        results += 1

    run = driver.start(driver.step(Step().plain, store_path, name="s"), source())
    driver.consume(run, each=count)
    assert results == 2508
    assert behind[-1] <= 3 * driver.concurrency


@pytest.mark.parametrize("driver", [SEQUENTIAL, ASYNC, THREADS, BRIDGED_TASKS], ids=str)
def test_memory_does_not_grow_with_the_number_of_rows(driver, store_path):
    """Memory is bounded by the policy, the read-ahead and the newest keys, not by the rows."""
    n = 100_000 if driver is SEQUENTIAL else 10_000
    step = driver.step(lambda row: row["id"], store_path, name="s", save=every(rows=1000))
    blocks, seen = [], itertools.count(1)
    for n in (n, n // 2):  # misses, then hits
        run = driver.start(step, ({"id": i, "text": "x" * 100} for i in range(n)))

        def look(_, run=run):
            if next(seen) % 1000 == 0:
                blocks.append(sys.getallocatedblocks())
                assert len(run._session._running.in_flight) <= 1000 + 1024

        driver.consume(run, each=look)
        assert run.report.rows == n
    # the newest tens of thousands of keys are held, 2 blocks each; a row kept would be 8
    assert max(blocks) < blocks[0] + 3 * min(2 * n, 40_000)


# --- equal rows


@each_driver
@pytest.mark.parametrize("window", [1, 3, 10_000], ids="window={}".format)
def test_equal_rows_are_computed_once_and_each_place_has_its_own_copy(driver, store_path, window):
    """Equal rows, in one window or across, cost one call; changing a result changes no other."""
    step = Step(lambda row: {"of": row, "tags": []})
    rows = [{"n": i % 4} for i in range(40)]
    run = driver.start(driver.step(step.plain, store_path, name="s", save=every(rows=window)), rows)
    seen = []

    def spoil(result):
        assert result == {"of": rows[len(seen)], "tags": []}
        seen.append(result)
        result["tags"].append("spoiled")
        result["of"]["n"] = None

    driver.consume(run, each=spoil)
    assert len(seen) == 40
    assert len(step.calls) == run.report.computed == 4
    assert run.report.hits == 36


@one_at_a_time
def test_separate_duplicates_are_computed_each_and_resume_by_their_number(driver, store_path):
    """Under duplicates="separate" the n-th equal row has the n-th result, also after a stop."""
    numbers = itertools.count()
    step = Step(lambda row: f"{row}{next(numbers)}")

    def begin():
        return driver.step(step.plain, store_path, name="s", duplicates="separate")

    first = driver.run(begin(), ["a", "b", "a", "a"])
    assert first == ["a0", "b1", "a2", "a3"]
    again = driver.run(begin(), ["a", "a", "b", "a", "b", "a"])
    assert again == ["a0", "a2", "b1", "a3", "b4", "a5"]
    assert driver.run(begin(), ["a"] * 4) == ["a0", "a2", "a3", "a5"]
    assert len(step.calls) == 6


@each_driver
def test_a_row_that_the_step_changes_keeps_its_key_and_stored_input(driver, store_path):
    """Key and input are taken before the call: a step that changes its row changes neither."""

    def spoil(row):
        row["seen"] = True
        return row["id"]

    step = Step(spoil)
    driver.run(driver.step(step.plain, store_path, name="s"), [{"id": i} for i in range(3)])
    run = driver.start(driver.step(step.plain, store_path, name="s"), [{"id": i} for i in range(3)])
    assert driver.results(run) == [0, 1, 2]
    assert run.report.hits == 3
    with Store(store_path) as store:
        assert [r.input for r in store.records("s")] == [{"id": 0}, {"id": 1}, {"id": 2}]


@one_at_a_time
def test_what_another_handle_commits_meanwhile_is_a_hit(driver, store_path):
    """Rows that another handle commits while a run is on are not computed by the run."""
    step, other = Step(), Step()
    aside = SEQUENTIAL.step(other.plain, store_path, name="s")

    def each(result):
        if result["of"] == 0:
            SEQUENTIAL.run(aside, range(1000, 1100))

    run = driver.start(
        driver.step(step.plain, store_path, name="s"), [*range(5), *range(1000, 1100)]
    )
    driver.consume(run, each=each)
    assert len(other.calls) == 100
    assert len(step.calls) <= 5 + 4  # those looked up before the other committed
    assert run.report.rows == 105


@each_driver
def test_a_source_that_changes_the_row_it_gave_is_never_answered_wrongly(driver, store_path):
    """A source that yields one object again, changed, gets right results or an error."""

    def source():
        row = {}
        for i in range(50):
            row["id"] = i
            yield row

    step = driver.step(lambda row: row["id"], store_path, name="s")
    try:
        results = driver.run(step, source())
    except (ValueError, EncodeError):
        return
    assert results == list(range(50))


# --- exceptions and stopping


@one_at_a_time
@pytest.mark.parametrize("save", [every(rows=1), every(rows=100), ckpt.on_exit()], ids=repr)
def test_the_users_exception_passes_through_with_everything_before_it_saved(
    driver, store_path, save
):
    """The step's own exception comes out, the same object, with a note; a resume does the rest."""
    boom = Boom("row 7")

    def fn(row):
        if row == 7 and len(step.calls) <= 8:
            raise boom
        return row * 10

    step, results = Step(fn), []
    run = driver.start(driver.step(step.plain, store_path, name="s", save=save), range(20))
    with pytest.raises(Boom) as raised:
        driver.consume(run, each=results.append)
    assert raised.value is boom
    (note,) = boom.__notes__
    assert "7 results of step 's' are saved" in note
    assert store_path in note
    assert results == [0, 10, 20, 30, 40, 50, 60]
    assert saved(store_path) == {i: i * 10 for i in range(7)}
    assert (run.report.rows, run.report.computed, run.report.failed) == (7, 7, 1)

    del step.calls[:]
    step.calls += [None] * 8
    again = driver.step(step.plain, store_path, name="s", save=save)
    assert driver.run(again, range(20)) == [i * 10 for i in range(20)]
    assert step.calls[8:] == list(range(7, 20))


@each_driver
@pytest.mark.parametrize("batch_size", [None, 4], ids=["rows", "batches"])
def test_rows_before_an_error_of_the_source_are_computed_and_saved(driver, store_path, batch_size):
    """When the iterable of rows fails, the rows that came before are computed, given out, saved."""
    boom, results = Boom("line 11 is malformed"), []

    def source():
        yield from range(10)
        raise boom

    step = Step(lambda row: row * 10)
    fn = step.batch if batch_size else step.plain
    run = driver.start(
        driver.step(fn, store_path, name="s", save=ckpt.on_exit()), source(), batch_size=batch_size
    )
    with pytest.raises(Boom) as raised:
        driver.consume(run, each=results.append)
    assert raised.value is boom
    assert results == [i * 10 for i in range(10)]
    assert saved(store_path) == {i: i * 10 for i in range(10)}


@each_driver
def test_an_exception_in_the_loop_body_loses_nothing(driver, store_path):
    """An exception in the user's loop leaves every result given out saved."""
    given = []

    def body(result):
        given.append(result)
        if result == 50:
            raise Boom

    run = driver.start(
        driver.step(fail_at().plain, store_path, name="s", save=ckpt.on_exit()), range(9)
    )
    with pytest.raises(Boom):
        driver.consume(run, each=body)
    assert given == [0, 10, 20, 30, 40, 50]
    assert list(saved(store_path).values())[:6] == given


@each_driver
def test_closing_the_iterator_commits_what_is_pending(driver, store_path):
    """Leaving the loop early and closing the run saves all that was given out."""
    step = driver.step(fail_at().plain, store_path, name="s", save=ckpt.on_exit())
    results = driver.run(step, itertools.count(), until=7)
    assert list(saved(store_path).values())[:7] == results


def test_a_run_that_is_left_and_forgotten_is_saved_and_ended(store_path):
    """After `break`, once nobody holds the run, what it had pending is saved; it ended."""
    step = SEQUENTIAL.step(fail_at().plain, store_path, name="s", save=every(seconds=600))
    for result in step.run(itertools.count()):
        if result == 60:
            break
    assert len(saved(store_path)) == 7
    with Store(store_path) as store:
        assert store.runs()[0].ended == "closed"
    time.sleep(0.05)
    assert "checkpointdb-timer" not in {thread.name for thread in threading.enumerate()}


def test_a_closed_run_gives_nothing_more(store_path):
    """A run that was closed, or used up, stays ended; closing it again does nothing."""
    run = SEQUENTIAL.step(fail_at().plain, store_path).run(itertools.count())
    assert next(run) == 0
    run.close()
    run.close()
    assert next(run, "end") == "end"
    with pytest.raises(RuntimeError, match="has ended"):
        list(run)
    with SEQUENTIAL.step(fail_at().plain, store_path).run(range(3)) as run:
        assert list(run) == [0, 10, 20]
    assert next(run, "end") == "end"


# --- rows and results that cannot be stored


@each_driver
@pytest.mark.parametrize("batch_size", [None, 2], ids=["rows", "batches"])
def test_a_row_without_a_key_is_an_error_before_its_call(driver, store_path, batch_size):
    """A row that cannot be hashed raises, naming place and row, before the step sees it."""
    step, results = Step(), []
    fn = step.batch if batch_size else step.plain
    rows = [{"id": 0}, {"id": 1}, {"id": 2, "meta": [{"file": object()}]}, {"id": 3}]
    run = driver.start(driver.step(fn, store_path, name="s"), rows, batch_size=batch_size)
    with pytest.raises(EncodeError) as raised:
        driver.consume(run, each=results.append)
    assert raised.value.where == "$.meta[0].file"
    assert "$.meta[0].file" in str(raised.value)
    assert any("row 2" in note for note in raised.value.__notes__)
    assert results == [{"of": {"id": 0}}, {"of": {"id": 1}}]
    assert rows[2] not in (itertools.chain(*step.calls) if batch_size else step.calls)
    assert len(saved(store_path)) >= 2


@each_driver
def test_a_result_that_cannot_be_stored_is_attached_to_the_error(driver, store_path):
    """A result that cannot be stored was paid for: it is on the error, all before it is saved."""
    value, calls = {"open": object()}, []

    def fn(row):
        calls.append(row)
        return value if row == 3 else row

    with pytest.raises(EncodeError) as raised:
        driver.run(driver.step(fn, store_path, name="s"), range(5))
    assert raised.value.result is value
    assert driver.name == "threads" or calls[:4] == [0, 1, 2, 3]
    assert saved(store_path).items() >= {row: row for row in calls if row != 3}.items()


# --- batches


@each_driver
def test_a_batch_step_gets_the_misses_in_full_batches(driver, store_path):
    """A batch holds misses only, in order; only the last may be short; places are kept."""
    step = Step(lambda row: row * 10)
    begin = lambda: driver.step(step.batch, store_path, name="s")  # noqa: E731
    assert driver.run(begin(), [2, 5, 6], batch_size=2) == [20, 50, 60]
    assert sorted(step.calls) == [[2, 5], [6]]
    del step.calls[:]
    run = driver.start(begin(), range(12), batch_size=4)
    assert driver.results(run) == [i * 10 for i in range(12)]
    assert sorted(step.calls) == [[0, 1, 3, 4], [7, 8, 9, 10], [11]]
    assert (run.report.rows, run.report.hits, run.report.computed) == (12, 3, 9)


@each_driver
def test_equal_rows_in_a_batch_are_sent_once(driver, store_path):
    """Equal rows take one place in a batch and each gets the result."""
    step = Step()
    results = driver.run(driver.step(step.batch, store_path, name="s"), [1, 1, 2, 1], batch_size=2)
    assert results == [{"of": 1}, {"of": 1}, {"of": 2}, {"of": 1}]
    assert step.calls == [[1, 2]]
    assert len({id(result) for result in results}) == 4


@each_driver
@pytest.mark.parametrize(
    ("returned", "said"),
    [([1, 2], "2 results"), ([], "0 results"), (None, "a NoneType"), ({1: 2}, "a dict")],
)
def test_a_batch_step_that_returns_the_wrong_number(driver, store_path, returned, said):
    """A batch step must return as many results as rows: the error says both and holds what came."""
    fn = lambda rows: [r for r in rows] if rows[0] == 0 else returned  # noqa: C416, E731
    with pytest.raises(ValueError, match=f"list of 3 rows and returned {said}") as raised:
        driver.run(driver.step(fn, store_path, name="s"), range(9), batch_size=3)
    assert raised.value.result is returned
    assert saved(store_path) == {0: 0, 1: 1, 2: 2}


@each_driver
def test_one_bad_result_in_a_batch_does_not_lose_the_others(driver, store_path):
    """The results of a batch beside one that cannot be stored are saved before the error comes."""
    fn = lambda rows: [object() if row == 4 else row for row in rows]  # noqa: E731
    with pytest.raises(EncodeError):
        driver.run(driver.step(fn, store_path, name="s"), range(9), batch_size=3)
    on_disk = saved(store_path)
    assert on_disk.items() >= {0: 0, 1: 1, 2: 2, 3: 3, 5: 5}.items()
    assert on_disk.get(4) is None  # a failure, with what it was


@each_driver
def test_a_batch_is_not_waited_for_over_a_stretch_of_hits(driver, store_path):
    """A miss does not wait for its batch to fill while thousands of hits go by."""
    step, taken, ahead = Step(lambda row: row), [], []
    driver.run(driver.step(step.batch, store_path, name="s"), range(1, 6000), batch_size=100)
    run = driver.start(
        driver.step(step.batch, store_path, name="s"),
        watched(itertools.chain([0], range(1, 6000)), taken),
        batch_size=8,
    )
    driver.consume(run, each=lambda row: ahead.append(len(taken) - row))
    assert max(ahead) <= 3 * 1024


# --- several calls at a time


def pausing(driver, work):
    """A step that pauses as its driver would have it, between `begin` and `end` of `work`."""

    def seconds(row):
        return 0.002 * (1 + row * 7 % 5)  # so that calls end in another order than they began

    if not driver.is_async:

        def step(row):
            work.begin(row)
            time.sleep(seconds(row))
            return work.end(row)

        return step

    async def astep(row):
        work.begin(row)
        await asyncio.sleep(seconds(row))
        return work.end(row)

    return astep


class Work:
    """What is in flight, as the step sees it."""

    def __init__(self, bad=()):
        self.now, self.most, self.begun, self.ended = set(), 0, [], []
        self.is_bad = bad.__contains__  # no captured value: that it is mended is no other binding

    def begin(self, row):
        self.now.add(row)
        self.begun.append(row)
        self.most = max(self.most, len(self.now))

    def end(self, row):
        self.now.remove(row)
        if self.is_bad(row):
            raise Boom(f"row {row}")
        self.ended.append(row)
        return row * 10


@each_driver
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_as_many_calls_are_in_flight_as_asked_for(driver, store_path, ordered):
    """concurrency=N has N calls in flight, never more, and every result comes once."""
    work = Work()
    label = ckpt.step(store_path, version=1, name="s")(pausing(driver, work))
    results = driver.run(label, range(40), ordered=ordered)
    assert work.most == driver.concurrency
    assert (results if ordered else sorted(results)) == [i * 10 for i in range(40)]


@several_at_a_time
def test_unordered_results_come_as_they_complete(driver, store_path):
    """With ordered=False a slow row holds nobody back, and comes when it is done."""
    label = driver.wrap(lambda row: time.sleep(0.2 * (row == 0)) or row)
    if driver.is_async:

        async def label(row):
            await asyncio.sleep(0.2 * (row == 0))
            return row

    label = ckpt.step(store_path, version=1, name="s")(label)
    results = driver.run(label, range(12), ordered=False)
    assert sorted(results) == list(range(12))
    assert results.index(0) >= 8


@several_at_a_time
def test_a_slow_first_row_keeps_no_other_from_being_saved(driver, store_path):
    """While the first row is not done, thousands of others are computed and saved, boundedly."""
    release, taken = threading.Event(), []
    Store(store_path).close()

    def work(row):
        with contextlib.closing(apsw.Connection(store_path)) as disk:
            while disk.execute("select count(*) from records").get < 500:
                time.sleep(0.01)
        release.set()

    if driver.is_async:

        async def step(row):
            await (asyncio.to_thread(work, row) if row == 0 else asyncio.sleep(0))
            return row

    else:

        def step(row):
            if row == 0:
                work(row)
            return row

    label = ckpt.step(store_path, version=1, name="s", save=every(rows=10))(step)
    run = driver.start(label, watched(itertools.count(), taken))
    driver.consume(run, until=3)
    assert release.is_set()
    assert len(taken) <= 3 * 1024


@several_at_a_time
@pytest.mark.parametrize("save", [every(rows=1), ckpt.on_exit()], ids=repr)
def test_an_exception_awaits_and_saves_the_calls_in_flight(driver, store_path, save):
    """When a call fails no other begins, those in flight are saved, and a resume does the rest."""
    work = Work(bad={11})
    label = ckpt.step(store_path, version=1, name="s", save=save)(pausing(driver, work))
    with pytest.raises(Boom) as raised:
        driver.run(label, range(100))
    assert work.now == set()
    assert sorted(saved(store_path).values()) == sorted(row * 10 for row in work.ended)
    assert len(work.begun) <= 11 + 1 + 2 * driver.concurrency
    assert any(f"{len(work.ended)} results" in note for note in raised.value.__notes__)
    before, work.is_bad = set(work.ended), set().__contains__
    del work.begun[:]
    assert driver.run(label, range(100)) == [i * 10 for i in range(100)]
    assert sorted(work.begun) == [row for row in range(100) if row not in before]


@several_at_a_time
def test_closing_a_run_awaits_and_saves_the_calls_in_flight(driver, store_path):
    """Leaving the loop early saves what was in flight: it is paid for."""
    work = Work()
    label = ckpt.step(store_path, version=1, name="s", save=ckpt.on_exit())(pausing(driver, work))
    driver.run(label, itertools.count(), until=5)
    assert work.now == set()
    assert sorted(saved(store_path).values()) == sorted(row * 10 for row in work.ended)
    assert len(work.begun) <= 5 + 3 * driver.concurrency


def logged(row):
    """A step that travels to another process; the file is the oracle of its calls."""
    with open(row["log"], "a") as log:
        log.write(f"{row['id']} {os.getpid()}\n")
    if row["id"] in row.get("bad", ()):
        raise Boom(row["id"])
    return {"square": row["id"] ** 2}


def test_a_process_pool_computes_and_this_process_saves(store_path, tmp_path):
    """With executor= the step runs in other processes, each row once, also over an exception."""
    log = tmp_path / "log"
    label = ckpt.step(store_path, version=1, key="id", on_changed_input="reuse")(logged)
    rows = [{"id": i, "log": str(log)} for i in range(30)]
    spoiled = [row | {"bad": [17]} for row in rows]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        with pytest.raises(Boom):
            list(label.run(spoiled, executor=executor))
        results = list(label.run(rows, executor=executor))
    assert results == [{"square": i**2} for i in range(30)]
    calls = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(row) for row, _ in calls) == sorted([*range(30), 17])
    assert str(os.getpid()) not in {pid for _, pid in calls}


# --- async only


def test_a_run_of_an_async_step_works_inside_a_running_loop(store_path):
    """label.run() of an async step works where a loop is running already, as in a notebook."""
    step = Step()

    async def cell():
        return BRIDGED.run(BRIDGED.step(step.plain, store_path, name="s"), range(5))

    assert asyncio.run(cell()) == [{"of": i} for i in range(5)]
    assert len(step.calls) == 5


@pytest.mark.parametrize("batch_size", [None, 3])
def test_rows_may_come_from_an_async_generator(store_path, batch_size):
    """arun() reads async iterables too, lazily, and passes their errors on after their rows."""

    async def source():
        for i in range(7):
            await asyncio.sleep(0.001)
            yield i
        raise Boom

    step, results = Step(lambda row: row), []
    fn = step.batch if batch_size else step.plain
    run = ASYNC.start(ASYNC.step(fn, store_path, name="s"), source(), batch_size=batch_size)
    with pytest.raises(Boom):
        ASYNC.consume(run, each=results.append)
    assert results == list(range(7))


def test_results_do_not_wait_for_the_next_row_of_an_async_source(store_path):
    """A result is given out when it is there, though the source's next row may never come."""

    async def source():
        yield 1
        await asyncio.sleep(60)

    async def main():
        step = ASYNC.step(Step().plain, store_path, name="s")
        async with contextlib.aclosing(aiter(step.arun(source()))) as results:
            return await asyncio.wait_for(anext(results), 5)

    assert asyncio.run(main()) == {"of": 1}


def test_cancelling_a_task_saves_the_call_in_flight(store_path):
    """A cancelled run awaits and saves its call in flight, then raises CancelledError."""
    started, answered = [], []

    async def slow(row):
        started.append(row)
        await asyncio.sleep(0.1)
        answered.append(row)
        return row

    step = ckpt.step(store_path, version=1, save=ckpt.on_exit())(slow)

    async def consume():
        async for _ in step.arun(itertools.count()):
            pass

    async def main():
        task = asyncio.create_task(consume())
        while len(started) < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert started == answered
    assert list(saved(store_path).values()) == answered
    with Store(store_path) as store:
        assert store.runs()[0].ended == "interrupted"
