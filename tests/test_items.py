"""`run.items()`, `given=` and `using=`: rows with their results, arguments that all rows share."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from drivers import ASYNC, SEQUENTIAL, THREADS, each_driver

import checkpointdb as ckpt
from checkpointdb import MISS, Store, args

pytestmark = pytest.mark.loops


# --- items


@each_driver
@pytest.mark.parametrize(("ordered", "batch"), [(True, None), (False, 3)])
def test_items_are_rows_with_their_results(driver, ordered, batch, store_path):
    """The objects that the source gave, equal rows and hits too, whatever the order."""

    def label(row):
        return [it["x"] for it in row] if batch else row["x"]

    step = driver.step(label, store_path, key="x", on_changed_input="reuse")
    rows = [{"x": n % 7, "n": n} for n in range(20)]
    for _ in range(2):
        run = driver.start(step, rows, ordered=ordered, batch_size=batch)
        pairs = driver.results(run.items())
        assert len(pairs) == 20 and all(row["x"] == result for row, result in pairs)
        assert {id(row) for row, _ in pairs} == set(map(id, rows))
        assert not ordered or [row for row, _ in pairs] == rows
        assert run.report.rows == 20


def test_items_of_failures_and_of_rows_of_several_arguments(store_path):
    """Each row is what was given, and so is that of a `Failed`."""

    def step(row, t=0):
        return 1 / row + t

    step = ckpt.step(store_path, version=1)(step)
    rows = [1, args(0, t=1), args(1, t=1)]
    one, failed, two = step.run(rows, on_error="record").items()
    assert one == (1, 1.0) and two == (rows[2], 2.0)
    assert failed[0] is rows[1] and failed[1].row is rows[1]
    assert [pair[0] for pair in step.run([1, 2], given={"t": 1}).items()] == [1, 2]


def test_items_says_what_a_run_gives_out_before_it_begins(store_path):
    """Afterwards it is an error that says so; what a run is does not change."""
    step = ckpt.step(store_path, version=1)(abs)
    with step.run([1, 2]) as run:
        assert len(run.items()) == 2 and next(run) == (1, 1)
        with pytest.raises(RuntimeError, match="before its loop begins"):
            run.items()
    with pytest.raises(RuntimeError, match="has ended"):
        run.items()


# --- events


@each_driver
def test_a_commit_says_which_records_it_wrote(driver, store_path):
    """The ids of all commits together are those of all records, each once."""
    events = []
    step = driver.step(lambda row: row, store_path, name="s", save=ckpt.every(rows=3))
    driver.run(step, range(20), on_event=events.append)
    committed = [event for event in events if isinstance(event, ckpt.Committed)]
    ids = [n for event in committed for n in range(event.first_id, event.last_id + 1)]
    with Store(store_path) as store:
        assert sorted(ids) == sorted(record.id for record in store.records())
    assert sum(event.rows for event in committed) == len(ids) == 20


@pytest.mark.parametrize("driver", [SEQUENTIAL, ASYNC], ids=str)
def test_direct_calls_tell_of_their_commits_too(driver, store_path):
    """By the step's own on_event; a run may have another, or none."""
    events, others = [], []
    step = driver.step(
        lambda row: row, store_path, name="s", save=ckpt.every(rows=1), on_event=events.append
    )
    driver.call(step, 1)
    step.put(2, 2)
    assert [it.first_id for it in events if isinstance(it, ckpt.Committed)] == [1, 2]
    events.clear()
    driver.run(step, [3], on_event=others.append)
    driver.run(step, [4], on_event=None)
    assert events == [] and others
    driver.run(step, [5])
    assert [it.last_id for it in events if isinstance(it, ckpt.Committed)] == [5]


# --- given and using


def two(row, temperature=0.5, client=None):
    return [row, temperature, client]


@each_driver
def test_given_arguments_are_those_of_each_row(driver, store_path):
    """With the key of the call; values of means reach the call and nothing else."""
    calls = []

    def plain(row, temperature=0.5, client=None):
        calls.append((row, temperature, client))
        return [row, temperature]

    async def tasks(row, temperature=0.5, client=None):
        await asyncio.sleep(0)
        return plain(row, temperature, client)

    fn = tasks if driver.is_async else plain
    step = ckpt.step(store_path, version=1, name="s", using=("client",))(fn)
    client = object()
    options = {"given": {"temperature": 0.9}, "using": {"client": client}}
    assert driver.run(step, [1, 2], **options) == [[1, 0.9], [2, 0.9]]
    assert sorted(calls) == [(1, 0.9, client), (2, 0.9, client)]
    assert step.get(args(1, temperature=0.9)) == driver.call(step, 1, 0.9, client=3) == [1, 0.9]
    assert step.get(args(1, 0.9, client=object())) == [1, 0.9] and step.get(1) is MISS
    assert driver.run(step, [args(1, 0.9, 7), args(1, temperature=0.9)]) == [[1, 0.9]] * 2
    assert step.plan([1, 2, 3], given={"temperature": 0.9}).hits == 2 and len(calls) == 2
    assert step.why(1, temperature=0.9, client=8).status == "hit"
    step.put(args(5, client=object()), "put")
    assert step.get(5) == driver.call(step, args(5, client=2)) == "put"
    step.flush()
    with Store(store_path) as store:
        kept = {str(record.input) for record in store.records("s")}
    assert kept == {str({"row": n, "temperature": 0.9}) for n in (1, 2)} | {"5"}


def test_given_arguments_reach_batches_and_executors(store_path):
    """A batch gets its rows and, once, what all share; so does a worker in another process."""

    def batch(rows, model, client):
        return [f"{row}{model}{client}" for row in rows]

    step = ckpt.step(store_path, version=1, using=("client",))(batch)
    options = {"given": {"model": "m"}, "using": {"client": "c"}}
    assert list(step.run([1, 2, 3], batch_size=2, **options)) == ["1mc", "2mc", "3mc"]
    assert list(step.run([1, 2, 3], batch_size=2, **options | {"using": None})) == [
        "1mc", "2mc", "3mc",
    ]  # fmt: skip
    assert step.get(args(1, "m")) == "1mc"
    with pytest.raises(TypeError, match="several arguments cannot be in a batch"):
        list(step.run([args(9, "m")], batch_size=2, on_error="record"))
    with ThreadPoolExecutor(2) as pool:
        in_pool = ckpt.step(store_path, version=1, name="in pool", using=("client",))(two)
        run = in_pool.run([1, args(2, client=4)], executor=pool, given={"temperature": 1})
        assert list(run) == [[1, 1, None], [2, 1, 4]]
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        of_name = ckpt.step(store_path, version=1, name="in process", using=("client",))(two)
        run = of_name.run([1, args(2, temperature=3, client=4)], executor=pool)
        assert list(run) == [[1, 0.5, None], [2, 3, 4]]


def test_a_first_parameter_may_be_a_means(store_path):
    """The row is the first one that is none."""

    def ask(client, prompt, temperature=1):
        return [client, prompt, temperature]

    step = ckpt.step(store_path, version=1, using=("client",))(ask)
    assert list(step.run(["a"], using={"client": "c"})) == [["c", "a", 1]]
    assert step("d", "a") == step.get("a") == ["c", "a", 1]
    assert list(step.run(["a"], using={"client": 2}, given={"temperature": 0})) == [[2, "a", 0]]
    assert step.get(args(3, "a", temperature=0)) == [2, "a", 0]


def test_means_count_for_no_change_of_code(store_path):
    """Neither as a default nor bound by a partial."""
    import functools

    for default in (1, 2):

        def label(row, size=default):
            return row

        assert list(ckpt.step(store_path, version=1, using=("size",))(label).run([1])) == [1]
    for size in (3, 4):
        bound = functools.partial(label, size=size)
        step = ckpt.step(store_path, version=1, name="b", using=("size",))(bound)
        assert step.get(5) is MISS or size == 4
        assert step(5) == 5
        step.store.close()
    with Store(store_path) as store:
        assert [record.result for record in store.records()] == [1, 5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"given": {"temp": 1}}, "'temp', but two has no such parameter; it has row, temperature"),
        ({"using": {"temp": 1}}, "'temp', but two has no such parameter"),
        ({"given": {"client": 1}}, r"given= has 'client', which step\(using=...\) names"),
        ({"using": {"temperature": 1}}, r"using= has 'temperature', which step\(using=...\) does"),
        ({"given": {"row": 1}}, "which is the row itself"),
        ({"given": {"temperature": object()}}, r"in every key.*using=\('temperature',\)"),
        ({"given": [1]}, "given must be arguments by name"),
        ({"given": {1: 1}}, "given must be arguments by name"),
        ({"using": ("client",)}, "using must be arguments by name"),
    ],
)
def test_names_that_cannot_be_meant_are_refused_at_once(store_path, options, said):
    """Before anything is read or opened."""
    step = ckpt.step(store_path, version=1, using=("client",))(two)
    with pytest.raises(TypeError, match=said):
        step.run([1], **options)
    if "given" in options:
        with pytest.raises(TypeError, match=said):
            step.plan([1], **options)


def test_wrong_use_is_no_failure_of_a_row(store_path):
    """A call that cannot be made ends the run, also under `on_error="record"`."""

    def needs(row, client):
        return row

    step = ckpt.step(store_path, version=1, using="client")(needs)
    for options in ({}, THREADS.options):
        with pytest.raises(TypeError, match="missing a required argument: 'client'"):
            list(step.run([1, 2], on_error="record", **options))
    with pytest.raises(TypeError, match="is given for all rows, and again by"):
        list(ckpt.run(two, [args(1, temperature=2)], store=store_path, version=1,
                      given={"temperature": 1}))  # fmt: skip
    for wrong in (("row", "client"), ("nobody",), 5):
        with pytest.raises(TypeError, match="using"):
            ckpt.step(store_path, version=1, using=wrong)(needs)
    with Store(store_path) as store:
        assert list(store.records()) == []


def test_rows_of_a_list_that_change_are_seen_under_given(store_path):
    """Each is checked just before it is paid for, as without."""
    step = ckpt.step(store_path, version=1)(two)
    rows = [{"n": 0}, {"n": 1}, {"n": 2}]
    found = []
    for n, result in enumerate(step.run(rows, given={"temperature": 1})):
        found.append(result[0]["n"])
        if n == 0:
            rows[2] = {"n": 9}
    assert found == [0, 1, 9] and step.get(args({"n": 9}, temperature=1)) is not MISS
    assert step.get(args({"n": 2}, temperature=1)) is MISS


def test_a_call_with_a_time_limit_copies_rows_and_not_means(store_path):
    """A client cannot be copied, and need not be."""
    import threading

    lock = threading.Lock()
    step = ckpt.step(store_path, version=1, name="t", using=("client",), timeout=30)(
        lambda row, client: [row, client is lock]
    )
    assert list(step.run([{"a": 1}], using={"client": lock})) == [[{"a": 1}, True]]
