"""`get`, `put`, `many` and `args`: look-ups and results without a call, several rows at once."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from drivers import ASYNC, SEQUENTIAL

import checkpointdb as ckpt
from checkpointdb import MISS, Store, args

pytestmark = pytest.mark.loops
both = pytest.mark.parametrize("driver", [SEQUENTIAL, ASYNC], ids=str)


class Label:
    """A step's function that keeps a list of its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, row, temperature=0.5):
        self.calls.append((row, temperature))
        if row == "bad":
            raise ValueError("bad row")
        return {"row": row, "t": temperature}


def label_of(path, driver=SEQUENTIAL, **options):
    label = Label()

    def fn(row, temperature=0.5):
        return label(row, temperature)

    async def afn(row, temperature=0.5):
        await asyncio.sleep(0)
        return label(row, temperature)

    step = ckpt.step(path, version=1, name="label", **options)(afn if driver.is_async else fn)
    return step, label.calls


def many(driver, step, rows, **options):
    if driver.is_async:
        return asyncio.run(step.amany(rows, **options))
    return step.many(rows, **options)


# --- get


@both
def test_a_look_up_calls_nothing_and_creates_nothing(driver, store_path):
    """It is a falsy MISS until there is a result, pending or committed, here or in another one."""
    step, calls = label_of(store_path, driver, save=ckpt.on_exit())
    assert step.get("a") is MISS and not MISS and repr(MISS) == "MISS"
    assert pickle.loads(pickle.dumps(MISS)) is MISS
    assert not os.path.exists(store_path)
    driver.call(step, "a")
    assert step.get("a") == {"row": "a", "t": 0.5}  # pending
    assert step.get("b") is MISS and calls == [("a", 0.5)]
    step.store.close()
    again, _ = label_of(store_path, driver)
    assert again.get("a") == {"row": "a", "t": 0.5}
    assert again.get(args("a", temperature=0.9)) is MISS
    assert len(calls) == 1


def test_none_and_other_falsy_results_are_no_miss(store_path):
    """Only MISS is MISS."""
    step = ckpt.step(store_path, version=1, name="f")(lambda row: row)
    for row in (None, 0, "", [], False):
        step(row)
        assert step.get(row) is not MISS and step.get(row) == row


@both
def test_a_failure_is_a_miss(driver, store_path):
    """It is no result; the next call tries it again."""
    step, _ = label_of(store_path, driver, on_error="record", save=ckpt.every(rows=1))
    with pytest.raises(ValueError):
        driver.call(step, "bad")
    assert step.get("bad") is MISS


def test_a_row_that_is_being_computed_is_a_miss(store_path):
    """A look-up waits for nobody."""
    entered, leave = threading.Event(), threading.Event()

    @ckpt.step(store_path, version=1)
    def slow(row):
        entered.set()
        leave.wait()
        return row

    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(slow, 1)
        entered.wait()
        assert slow.get(1) is MISS
        leave.set()
        assert called.result() == 1 == slow.get(1)


def test_a_look_up_is_told_of_other_code_and_other_rows(store_path):
    """As a direct call is: it warns, or has no result, or is an error."""
    first = ckpt.step(store_path, version=1, name="f", key="id")(lambda row: row["x"])
    first({"id": 1, "x": 1})
    first.store.close()
    options = {"name": "f", "key": "id", "on_change": "reuse"}
    warned = ckpt.step(store_path, version=1, **options)(lambda row: row["x"])
    with pytest.warns(ckpt.StaleResultsWarning, match="the rest of the row"):
        assert warned.get({"id": 1, "x": 2}) == 1
    options["on_changed_input"] = "recompute"
    assert ckpt.step(store_path, version=1, **options)(lambda row: 1).get({"id": 1, "x": 2}) is MISS
    options["on_changed_input"] = "error"
    with pytest.raises(ckpt.StaleResultsError):
        ckpt.step(store_path, version=1, **options)(lambda row: 1).get({"id": 1, "x": 2})


def test_what_cannot_be_a_row_is_an_error_of_look_ups_too(store_path):
    """The place is named, and nothing is changed."""
    step, calls = label_of(store_path, on_error="record")
    step("a")
    for use in (step.get, lambda row: step.put(row, 1), lambda row: step.many(["b", row])[1]):
        try:
            found = use({"x": [object()]})
        except ckpt.EncodeError as error:
            assert error.where == "$.x[0]"
        else:
            assert isinstance(found, ckpt.Failed)  # many() under on_error="record"
    with pytest.raises(ckpt.EncodeError):
        step({"x": [object()]})
    strict, calls = label_of(store_path)
    with pytest.raises(ckpt.EncodeError):
        strict.many(["c", object()])
    assert calls == [] and strict.get("c") is MISS


# --- put


@both
def test_a_result_that_was_put_is_a_hit_for_all(driver, store_path):
    """For get, direct calls, runs and another process's; its cost and time are in the record."""
    step, calls = label_of(store_path, driver, save=ckpt.every(rows=1))
    step.put("a", "put", cost=0.25, seconds=2.0)
    step.put(args("a", temperature=0.9), "put hot")
    assert step.get("a") == driver.call(step, "a") == "put"
    assert driver.call(step, "a", temperature=0.9) == "put hot"
    assert driver.run(step, ["a", args("a", 0.9)]) == ["put", "put hot"] and calls == []
    step.store.close()
    with Store(store_path) as store:
        first, second = store.records()
        assert (first.cost, first.seconds, first.attempts, first.input) == (0.25, 2.0, 1, "a")
        assert (second.cost, second.input) == (None, {"row": "a", "temperature": 0.9})
        info = store.runs()[0]
        assert (info.report.rows, info.report.computed) == (5, 2)
        assert info.report.cost == 0.25


def test_a_saved_result_is_replaced_only_if_told(store_path):
    """Else it is an error, and nothing changes; pending and committed ones alike."""
    step, _ = label_of(store_path, save=ckpt.on_exit())
    for commit in (lambda: None, step.flush):
        step.put("a", 1, replace=True)
        commit()
        with pytest.raises(ValueError, match="replace=True"):
            step.put("a", 2)
        assert step.get("a") == 1
    step.put("a", 3, replace=True)
    step.flush()
    assert step.get("a") == 3
    step.store.close()
    with Store(store_path) as store:
        assert [record.result for record in store.records()] == [3] and store.verify() == []


@both
def test_a_put_result_takes_the_place_of_a_failure(driver, store_path):
    """And strikes nothing else; a run gives it out."""
    step, calls = label_of(store_path, driver, on_error="record", save=ckpt.every(rows=1))
    driver.run(step, ["bad", "a"])
    step.put("bad", "mended")
    assert driver.run(step, ["bad", "a"])[0] == "mended" and len(calls) == 2
    with Store(store_path) as store:
        record = next(store.records())
        assert (record.error, record.result, record.attempts) == (None, "mended", 2)


def test_put_is_durable_when_a_direct_call_is(store_path):
    """At once under `every(rows=1)`, async steps too; otherwise when it is due, or flushed."""
    for driver in (SEQUENTIAL, ASYNC):
        step, _ = label_of(store_path, driver, save=ckpt.every(rows=1), on_change="reuse")
        step.put(str(driver), 1)
        with Store(store_path) as store:
            assert store.records() and len(list(store.records())) == 1 + driver.is_async
    step, _ = label_of(store_path, save=ckpt.on_exit(), on_change="reuse")
    step.put("late", 1)
    with Store(store_path) as store:
        assert len(list(store.records())) == 2
        step.flush()
        assert len(list(store.records())) == 3


def test_a_put_that_cannot_be_stored_changes_nothing(store_path):
    """Neither the result that is there nor a row without one."""
    step, _ = label_of(store_path)
    step.put("a", 1)
    for row, replace in (("a", True), ("b", False)):
        with pytest.raises(ckpt.EncodeError) as caught:
            step.put(row, {"x": object()}, replace=replace)
        assert set(caught.value.result) == {"x"}
    assert step.get("a") == 1 and step.get("b") is MISS
    for wrong in ({"cost": -1}, {"cost": "1"}, {"seconds": -1}, {"nth": -1}, {"nth": True}):
        with pytest.raises(ValueError):
            step.put("c", 1, **wrong)
    with pytest.raises(ValueError, match="separate"):
        step.put("c", 1, nth=1)


def test_put_goes_by_valid_and_cost_of_the_step(store_path):
    """A refused result is a failure with the result in it, but never in a good one's place."""
    step, _ = label_of(store_path, valid=lambda it: it != "", cost=len, save=ckpt.every(rows=1))
    step.put("a", "good")
    for row, options in (("a", {"replace": True}), ("b", {})):
        with pytest.raises(ValueError, match="valid= refused") as caught:
            step.put(row, "", **options)
        assert caught.value.result == ""
    assert step.get("a") == "good" and step.get("b") is MISS
    step.put("b", "mended", cost=1)
    with Store(store_path) as store:
        assert [(it.result, it.cost) for it in store.records()] == [("good", 4.0), ("mended", 1.0)]


def test_what_was_put_counts_for_the_budget_and_answers_the_ledger(store_path):
    """The step's money is what all its results cost; an answered call is struck out."""
    killed = subprocess.run(
        [sys.executable, "-c", LEDGER, store_path], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -9, killed.stderr
    step, _ = label_of(store_path)
    with Store(store_path) as store, store_reader(store_path) as reader:
        assert len(reader.calls()) == 1
        step.put("a", "answer", cost=2.0)
        step.flush()
        assert reader.calls() == [] and next(store.records()).cost == 2.0
    with pytest.raises(ckpt.BudgetExceeded, match=r"spent \$2"):
        list(step.run(["b"], cost=lambda _: 1.0, max_cost=1.5))


LEDGER = """
import os, sys
import checkpointdb as ckpt
def label(row):
    os.kill(os.getpid(), 9)
list(ckpt.run(label, ["a"], store=sys.argv[1], version=1, ledger=True))
"""


def store_reader(path):
    from checkpointdb.file.read import Reader

    return Reader(path)


def test_threads_that_put_one_row_are_told(store_path):
    """One of them saves it; each other one gets the error, and none of the results is mixed."""
    judged, both_are_in = [], threading.Event()

    def valid(result):
        judged.append(result)
        if len(judged) > 1:
            both_are_in.set()
        both_are_in.wait(0.2)  # for another one to come between our look and our saving
        return True

    step, _ = label_of(store_path, valid=valid)
    start = threading.Barrier(4)

    def put(n):
        start.wait()
        try:
            step.put("a", n)
        except ValueError:
            return None
        return n

    with ThreadPoolExecutor(4) as pool:
        saved = [n for n in pool.map(put, range(4)) if n is not None]
    assert len(saved) == 1 and saved == judged and step.get("a") == saved[0]


def test_put_and_get_in_async_code(store_path):
    """They are plain functions there too."""

    async def main():
        step, calls = label_of(store_path, ASYNC, shared=True)
        step.put("a", 1)
        assert await step("a") == 1 == step.get("a") and calls == []

    asyncio.run(main())


def test_a_redacted_row_that_is_put_is_redacted(store_path):
    """What is kept of a row is what a call would keep."""
    step = ckpt.step(store_path, version=1, name="f", redact="email", input="row")(lambda row: 1)
    step.put({"id": 1, "email": "a@b.c"}, 1)
    narrow = ckpt.step(store_path, version=1, name="g", key="id", input="key")(lambda row: 1)
    narrow.put({"id": 1, "email": "a@b.c"}, 1)
    assert (
        narrow.get({"id": 1, "email": "a@b.c"}) == 1 and step.get({"id": 1, "email": "a@b.c"}) == 1
    )
    step.flush()
    with Store(store_path) as store:
        assert [record.input for record in store.records()] == [
            {"id": 1, "email": "[redacted]"}, {"id": 1},
        ]  # fmt: skip


def test_results_of_a_batch_step_are_looked_up_and_saved_one_by_one(store_path):
    """Each has the type that the annotation gives to what is in the list."""

    def batch(rows: list[str]) -> list[tuple[int, str]]:
        return [(len(row), row) for row in rows]

    step = ckpt.step(store_path, version=1, save=ckpt.every(rows=1))(batch)
    list(step.run(["a", "bb"], batch_size=2))
    step.put("c", (9, "put"))
    found = [step.get(row) for row in ("a", "bb", "c")]
    assert found == [(1, "a"), (2, "bb"), (9, "put")] == list(step.results(["a", "bb", "c"]))
    assert list(step.run(["a", "bb", "c"], batch_size=2)) == found
    assert step(["d"]) == step.get(["d"]) == [(1, "d")]  # a direct call: its row is the list

    def other(rows: list[str]) -> list[tuple[int, int]]:
        return [(1, 1)]

    typed = ckpt.step(store_path, version=1, name="batch", on_change="reuse")(other)
    with pytest.raises(ckpt.DecodeError, match=r"does not fit list\[tuple"):
        typed.get("a")


# --- nth


@both
def test_equal_rows_are_told_apart_by_nth(driver, store_path):
    """`get`, `put` and `many` name them; direct calls and runs find what was put, in order."""
    step, calls = label_of(store_path, driver, duplicates="separate")
    step.put("a", "second", nth=1)
    step.put("a", "first")
    assert (step.get("a"), step.get("a", nth=1), step.get("a", nth=2)) == ("first", "second", MISS)
    assert many(driver, step, ["a", "a"], nth=[1, 0]) == ["second", "first"]
    assert many(driver, step, ["a", "b"], nth=1)[0] == "second" and calls == [("b", 0.5)]
    assert step.get("b") is MISS and step.get("b", nth=1)
    assert [driver.call(step, "a") for _ in range(3)][:2] == ["first", "second"]
    assert driver.run(step, ["a"] * 3)[:2] == ["first", "second"]
    with pytest.raises(ValueError, match="2 numbers for 1 rows"):
        many(driver, step, ["a"], nth=[1, 2])


@both
def test_many_equal_rows_are_numbered_as_direct_calls_are(driver, store_path):
    """Each has a sample of its own, and the next session begins at the first again."""
    for calls_made in (3, 0):
        step, calls = label_of(store_path, driver, duplicates="separate", save=ckpt.every(rows=1))
        assert len(many(driver, step, ["a"] * 3)) == 3
        step.store.close()
        assert len(calls) == calls_made


# --- many


@both
def test_many_rows_are_direct_calls_made_together(driver, store_path):
    """Hits are looked up, each missing row is computed once, results come in order."""
    step, calls = label_of(store_path, driver)
    driver.call(step, "a")
    rows = (row for row in ["a", "b", args("a", temperature=0.9), "b", "c"])
    found = many(driver, step, rows, concurrency=2)
    assert [(it["row"], it["t"]) for it in found] == [
        ("a", 0.5), ("b", 0.5), ("a", 0.9), ("b", 0.5), ("c", 0.5),
    ]  # fmt: skip
    assert len(calls) == 4 and many(driver, step, []) == []
    for wrong in ({"concurrency": 0}, {"nth": 1}):
        with pytest.raises(ValueError):
            many(driver, step, ["a"], **wrong)
    for rows in ("abc", {"a": 1}, 5):
        with pytest.raises(TypeError, match="rows must be an iterable"):
            many(driver, step, rows)


@both
@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_exception_among_many_rows_is_raised_and_the_rest_is_saved(
    driver, concurrency, store_path
):
    """What returned is kept, the exception is the function's own, and the next one goes on."""
    step, calls = label_of(store_path, driver, duplicates="separate")
    with pytest.raises(ValueError, match="bad row"):
        many(driver, step, ["a", "bad", "b", "c", "d", "e"], concurrency=concurrency)
    assert (step.get("a") and len(calls) < 6) or concurrency > 1
    computed = len(calls) - 1  # the bad one is not
    assert len(many(driver, step, ["a", "b", "c", "d", "e"], nth=0)) == 5
    assert len(calls) - 1 == 5 >= computed
    calls.clear()
    assert driver.call(step, "z") and len(calls) == 1  # numbers of unbegun rows were given back
    assert many(driver, step, ["f"]) and step.get("f")


@both
def test_recorded_failures_take_their_place_among_many(driver, store_path):
    """Under `on_error="record"` all rows are tried, and positions never shift."""
    step, calls = label_of(store_path, driver, on_error="record", save=ckpt.every(rows=1))
    first, failed, last = many(driver, step, ["a", "bad", "b"])
    assert (first["row"], last["row"]) == ("a", "b")
    assert isinstance(failed, ckpt.Failed) and failed.row == "bad" and failed.attempts == 1
    assert many(driver, step, ["bad"])[0].attempts == 2
    assert len(calls) == 4


def test_rows_that_another_thread_computes_are_awaited(store_path):
    """Each row is computed once, whoever asks first; nobody waits for ever for the other."""
    step, calls = label_of(store_path)
    rows = list(map(str, range(40)))
    with ThreadPoolExecutor(4) as pool:
        order = [rows, rows[::-1], rows, rows[::-1]]
        found = list(pool.map(step.many, order))
    assert [it["row"] for it in found[0]] == rows and found[0] == found[1][::-1]
    assert sorted(row for row, _ in calls) == sorted(rows)


def test_who_waits_for_a_row_that_was_not_begun_computes_it(store_path):
    """A failure of one row is not that of the others in the same call."""
    entered, leave = threading.Event(), threading.Event()

    @ckpt.step(store_path, version=1)
    def step(row):
        if row == "bad":
            entered.set()
            leave.wait()
            raise ValueError("bad row")
        return row

    with ThreadPoolExecutor(3) as pool:
        failing = pool.submit(step.many, ["bad", "a"])
        entered.wait()
        single, several = pool.submit(step, "a"), pool.submit(step.many, ["a", "b"])
        while step.get("b") is MISS:  # it has computed its own row, and waits for the other
            pass
        leave.set()
        with pytest.raises(ValueError, match="bad row"):
            failing.result()
        assert single.result() == "a" and several.result() == ["a", "b"]


def test_many_of_an_async_step_in_sync_code_and_on_a_loop(store_path):
    """It is called on the loop of all runs; where a loop runs, the error says what to write."""
    step, calls = label_of(store_path, ASYNC)
    assert [it["row"] for it in step.many(["a", "b", "a"])] == ["a", "b", "a"] and len(calls) == 2

    async def main():
        step.many(["c"])

    with pytest.raises(RuntimeError, match=r"await label\.amany"):
        asyncio.run(main())
    plain, _ = label_of(store_path)
    with pytest.raises(TypeError, match=r"many\(\), not amany"):
        asyncio.run(plain.amany(["a"]))


def test_calls_in_flight_of_a_cancelled_amany_are_kept(store_path):
    """They are paid for; no other one begins, and a row that was not begun is free."""
    calls = []

    async def main():
        entered, leave = asyncio.Event(), asyncio.Event()

        @ckpt.step(store_path, version=1, name="f")
        async def step(row):
            calls.append(row)
            if len(calls) == 2:
                entered.set()
            await leave.wait()
            return row

        task = asyncio.create_task(step.amany([1, 2, 3, 4], concurrency=2))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        leave.set()
        assert await step(3) == 3  # nobody holds it
        return step

    step = asyncio.run(main())
    assert sorted(calls) == [1, 2, 3] and step.get(1) == 1 and step.get(2) == 2
    assert step.get(4) is MISS


SHARED = """
import os, sys, time
import checkpointdb as ckpt

@ckpt.step(sys.argv[1], version=1, shared=True, save=ckpt.every(rows=1))
def f(row):
    os.write(1, b"%d\\n" % row)  # at once: threads of one print get into each other
    time.sleep(0.01)
    return row

assert f.many(range(30), concurrency=int(sys.argv[2])) == list(range(30))
"""


def test_processes_that_share_a_store_compute_each_of_many_rows_once(store_path):
    """Claims hold for rows that are asked for together."""
    life = [sys.executable, "-c", SHARED, store_path]
    lives = [subprocess.Popen([*life, n], stdout=subprocess.PIPE, text=True) for n in "12"]
    said = [it.communicate()[0].split() for it in lives]
    assert [it.returncode for it in lives] == [0, 0]
    assert sorted(map(int, said[0] + said[1])) == list(range(30))


def test_ctrl_c_among_many_rows_loses_nothing(tmp_path):
    """What returned is saved; the exception is the program's own."""
    code = """
import _thread, sys
import checkpointdb as ckpt

@ckpt.step(sys.argv[1], version=1, save=ckpt.on_exit())
def f(row):
    if row == 3:
        import signal, os
        os.kill(os.getpid(), signal.SIGINT)
    return row

try:
    f.many(range(10))
except KeyboardInterrupt:
    print([n for n in range(10) if f.get(n) is not ckpt.MISS])
"""
    path = str(tmp_path / "a.ckpt")
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert done.stdout in ("[0, 1, 2]\n", "[0, 1, 2, 3]\n"), done.stderr


# --- rows of several arguments


@both
def test_args_are_a_row_wherever_a_row_is_taken(driver, store_path):
    """With the key of the call with these arguments."""
    step, calls = label_of(store_path, driver, save=ckpt.every(rows=1))
    driver.call(step, "a", temperature=0.9)
    row = args("a", temperature=0.9)
    assert row == args("a", temperature=0.9) != args("a")
    assert repr(row) == "args('a', temperature=0.9)" and pickle.loads(pickle.dumps(row)) == row
    assert step.get(row) == driver.run(step, [row, args("a", 0.9)])[1] == driver.call(step, row)
    assert step.plan([row, args("b", 0.9), "a"]).hits == 1
    assert step.why(row).status == step.why("a", temperature=0.9).status == "hit"
    assert step.why("a").status == "miss"
    assert driver.run(step, [args("a")], concurrency=2) == driver.run(step, ["a"])
    assert calls == [("a", 0.9), ("a", 0.5)]
    for wrong in (args("a", temp=1), args(), args("a", 0.9, 3), args(temperature=1)):
        for use in (step.get, lambda row: step.put(row, 1), lambda row: step.plan([row])):
            with pytest.raises(TypeError):
                use(wrong)
        with pytest.raises(TypeError):
            driver.run(step, ["a", wrong], on_error="record")
        with pytest.raises(TypeError):
            driver.call(step, wrong)
    with pytest.raises(ckpt.EncodeError):
        ckpt.key_of("label", 1, row)


def test_key_names_arguments_of_a_row_that_has_several(store_path):
    """As it does for direct calls; what it leaves out is not stored."""
    step = ckpt.step(store_path, version=1, name="f", key=("text",))(lambda text, secret=None: text)
    step.put(args("a", secret="s"), 1)
    assert step.get(args("a", secret="t")) == 1 == step("a", secret="u")
    step.flush()
    with Store(store_path) as store:
        assert next(store.records()).input == {"text": "a"}


def test_a_failed_row_is_what_the_user_gave(store_path):
    """Not what its key was made of."""
    step, _ = label_of(store_path)
    row = args("bad", 0.9)
    (failed,) = step.run([row], on_error="record")
    assert failed.row is row
    (failed,) = step.run(["bad"], on_error="record", given={"temperature": 0.9})
    assert failed.row == "bad"
    (failed,) = step.run([row], on_error="record", retry_failed=False)
    assert failed.row is row and failed.attempts == 2


def test_a_step_that_was_sent_elsewhere_looks_up_there(store_path):
    """A pickled step has the store's path, and needs no call before a look-up."""
    import cloudpickle

    step = ckpt.step(store_path, version=1, name="f", save=ckpt.every(rows=1))(lambda row: row)
    step.put("a", 1)
    code = "import sys, pickle; print(pickle.load(sys.stdin.buffer).get('a'))"
    here = cloudpickle.dumps(step)
    there = subprocess.run([sys.executable, "-c", code], input=here, capture_output=True)
    assert there.stdout == b"1\n"
