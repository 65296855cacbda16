"""The decorator: checkpointed calls, identity, code changes, typed results, wrong use."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
import typing
import warnings
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pydantic
import pytest
from drivers import ASYNC, SEQUENTIAL, each_driver, one_at_a_time

import checkpointdb as ckpt
from checkpointdb import EncodeError, Store, StoreError, every


@pytest.fixture
def calls():
    return []


def saved(path):
    """What is on disk, in input order."""
    with Store(path, create=False) as store:
        return [record.result for record in store.records()]


def make(driver, path, calls, **options):
    def label(row):
        calls.append(row)
        return {"of": row}

    return driver.step(label, path, **options)


# --- checkpointed calls


@one_at_a_time
def test_a_call_and_a_run_share_their_results(driver, store_path, calls):
    """label(row) and label.run([row]) have the same key: what one paid for the other reads."""
    label = make(driver, store_path, calls)
    assert driver.call(label, {"id": 1}) == {"of": {"id": 1}}
    label.flush()
    assert driver.run(label, [{"id": 1}, {"id": 2}]) == [{"of": {"id": 1}}, {"of": {"id": 2}}]
    assert driver.call(label, {"id": 2}) == {"of": {"id": 2}}
    assert driver.call(label, row={"id": 2}) == {"of": {"id": 2}}
    assert calls == [{"id": 1}, {"id": 2}]


@one_at_a_time
def test_each_call_returns_its_own_copy(driver, store_path, calls):
    """A hit is a fresh equal value, pending or committed: changing one changes no other."""
    label = make(driver, store_path, calls, save=ckpt.on_exit())
    driver.call(label, 1)["of"] = "spoiled"
    driver.call(label, 1)["of"] = "spoiled"
    label.flush()
    driver.call(label, 1)["of"] = "spoiled"
    assert driver.call(label, 1) == {"of": 1}
    assert calls == [1]


def test_calls_with_several_arguments_are_known_by_their_bound_arguments(store_path, calls):
    """However arguments are passed, the same ones are the same call; others are another."""

    @ckpt.step(store_path, version=1)
    def add(a, b=2, *rest, scale=1, **more):
        calls.append((a, b, rest, scale, more))
        return [a, b, list(rest), scale, more]

    assert add(1, 2) == add(a=1, b=2) == add(b=2, a=1) == [1, 2, [], 1, {}]
    assert add(1, 2, scale=3) == add(scale=3, b=2, a=1) == [1, 2, [], 3, {}]
    assert add(1, 2, 3, 4) == [1, 2, [3, 4], 1, {}]
    assert add(1, 2, x=5) == [1, 2, [], 1, {"x": 5}]
    assert add(2, 1) == [2, 1, [], 1, {}]
    assert len(calls) == 5
    with pytest.raises(TypeError, match="argument"):
        add()


@one_at_a_time
def test_a_failed_call_is_not_saved_and_can_be_repeated(driver, store_path):
    """The function's exception passes through a call, the same object, and the next call tries."""
    boom, fail = KeyError("no"), [True]

    def label(row):
        if fail.pop():
            raise boom
        return row

    label = driver.step(label, store_path)
    with pytest.raises(KeyError) as raised:
        driver.call(label, 1)
    assert raised.value is boom
    fail.append(False)
    assert driver.call(label, 1) == 1


def test_threads_that_ask_for_the_same_row_share_one_call(store_path, calls):
    """From 16 threads, each distinct row is computed once and everybody has its result."""

    @ckpt.step(store_path, version=1, save=every(rows=7))
    def label(row):
        calls.append(row)
        time.sleep(0.002)
        return {"of": row}

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(label, [i % 40 for i in range(800)]))
    assert results == [{"of": i % 40} for i in range(800)]
    assert sorted(calls) == list(range(40))


def test_threads_that_ask_for_the_same_row_share_its_exception(store_path, calls):
    """Threads waiting for one call get its exception, and none of them hangs."""
    barrier = threading.Barrier(8)

    @ckpt.step(store_path, version=1)
    def label(row):
        calls.append(row)
        time.sleep(0.1)
        raise ValueError(row)

    def ask(_):
        barrier.wait()
        with pytest.raises(ValueError, match="5"):
            label(5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert 1 <= len(calls) < 8


def test_tasks_that_ask_for_the_same_row_share_one_call(store_path, calls):
    """Of many tasks that await the same row one computes it; so also across loops in threads."""

    @ckpt.step(store_path, version=1)
    async def label(row):
        calls.append(row)
        await asyncio.sleep(0.01)
        return {"of": row}

    async def ask():
        return await asyncio.gather(*(label(i % 25) for i in range(500)))

    with ThreadPoolExecutor(3) as pool:
        for results in pool.map(lambda _: asyncio.run(ask()), range(3)):
            assert results == [{"of": i % 25} for i in range(500)]
    assert sorted(calls) == list(range(25))


def test_a_cancelled_task_takes_nobody_with_it(store_path, calls):
    """A task that waits for another's call survives the cancellation of the task that called."""

    @ckpt.step(store_path, version=1)
    async def label(row):
        calls.append(row)
        await asyncio.sleep(0.05)
        return row

    async def main():
        first = asyncio.create_task(label(1))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(label(1))
        await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await asyncio.wait_for(second, 5)

    assert asyncio.run(main()) == 1


def test_separate_calls_from_threads_are_numbered_without_a_race(store_path, calls):
    """Under duplicates="separate" every one of 3,000 calls from 8 threads is paid for and saved."""
    label = make(SEQUENTIAL, store_path, calls, duplicates="separate", save=ckpt.on_exit())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(label, [0] * 3000))
    finally:
        sys.setswitchinterval(before)
    label.flush()
    assert len(calls) == len(saved(store_path)) == 3000


# --- when calls are committed


def test_calls_are_committed_by_the_policy(store_path, calls):
    """Direct calls are committed when the save policy says, no sooner."""
    label = make(SEQUENTIAL, store_path, calls, save=every(rows=3))
    counts = []
    for i in range(7):
        label(i)
        counts.append(len(saved(store_path)))
    assert counts == [0, 0, 3, 3, 3, 6, 6]


def test_calls_are_committed_by_the_timer(store_path, calls):
    """Under every(seconds=) a direct call is committed though no other call follows."""
    label = make(SEQUENTIAL, store_path, calls, save=every(seconds=0.1))
    label(1)
    deadline = time.monotonic() + 2
    while not saved(store_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert saved(store_path) == [{"of": 1}]


@one_at_a_time
def test_flush_commits_calls(driver, store_path, calls):
    """flush() commits what direct calls have pending."""
    label = make(driver, store_path, calls, save=ckpt.on_exit())
    driver.call(label, 1)
    assert saved(store_path) == []
    label.flush()
    assert saved(store_path) == [{"of": 1}]


def test_a_step_goes_on_after_its_store_was_closed(store_path, calls):
    """Closing label.store commits; the next use of a step with a path opens it anew."""
    label = make(SEQUENTIAL, store_path, calls, save=ckpt.on_exit())
    label(1)
    label.store.close()
    assert saved(store_path) == [{"of": 1}]
    assert label(1) == {"of": 1}
    assert label(2) == {"of": 2}
    assert calls == [1, 2]


def run_python(source, *args):
    """Run a script; return its exit status."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(source), *map(str, args)]
    return subprocess.run(command, timeout=30, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("end", "status"),
    [("", 0), ("sys.exit(3)", 3), ("raise RuntimeError", 1), ("raise KeyboardInterrupt", -2)],
)
@pytest.mark.parametrize("use", ["label(0)", "next(run)", "for _ in run: break"])
def test_the_end_of_the_interpreter_commits(store_path, use, end, status):
    """Whatever clean way the program ends, what returned is saved."""
    done = run_python(
        f"""
        import sys, itertools, checkpointdb as ckpt

        @ckpt.step(sys.argv[1], version=1, save=ckpt.on_exit())
        def label(row):
            return row

        run = iter(label.run(itertools.count()))
        {use}
        {end}
        """,
        store_path,
    )
    assert done.returncode == status, done.stderr
    assert saved(store_path)[0] == 0


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise RuntimeError"])
def test_an_end_in_the_loop_body_commits(store_path, end):
    """sys.exit and exceptions in the loop body end the program with every returned row saved."""
    done = run_python(
        f"""
        import sys, itertools, checkpointdb as ckpt

        @ckpt.step(sys.argv[1], version=1, save=ckpt.on_exit())
        def label(row):
            return row

        for result in label.run(range(1000)):
            if result == 30:
                {end or "pass"}
        """,
        store_path,
    )
    assert (done.returncode != 0) == bool(end), done.stderr
    assert saved(store_path)[:31] == list(range(31))


def _work(label, row):
    label(row)


@pytest.mark.parametrize("method", [pytest.param("fork", marks=pytest.mark.linux), "spawn"])
def test_calls_in_a_multiprocessing_worker_are_committed_at_its_end(store_path, method, calls):
    """A worker of multiprocessing, though it leaves by os._exit, commits what it has pending."""
    if method == "spawn":
        script = """
            import multiprocessing, sys, checkpointdb as ckpt

            def work(path):
                step = ckpt.step(path, version=1, save=ckpt.on_exit())(len)
                step("four")

            if __name__ == "__main__":
                context = multiprocessing.get_context("spawn")
                worker = context.Process(target=work, args=sys.argv[1:])
                worker.start()
                worker.join()
                sys.exit(worker.exitcode)
            """
        path = os.path.join(os.path.dirname(store_path), "spawning.py")
        with open(path, "w") as file:
            file.write(textwrap.dedent(script))
        done = subprocess.run([sys.executable, path, store_path], timeout=30)
        assert done.returncode == 0
        assert saved(store_path) == [4]
        return
    label = make(SEQUENTIAL, store_path, calls, save=ckpt.on_exit())
    label(0)  # the parent's store is open, with a row pending, when it forks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 on: fork beside threads
        worker = multiprocessing.get_context("fork").Process(target=_work, args=(label, 1))
        worker.start()
    worker.join(20)
    assert worker.exitcode == 0
    assert saved(store_path) == [{"of": 1}]
    label.flush()
    assert sorted(r["of"] for r in saved(store_path)) == [0, 1]


# --- identity


@one_at_a_time
def test_another_version_computes_anew_and_keeps_the_old_results(driver, store_path, calls):
    """A new version computes every row; the old version's results stay and still serve."""
    driver.run(make(driver, store_path, calls, version=1), range(3))
    driver.run(make(driver, store_path, calls, version="2"), range(3))
    assert calls == [0, 1, 2] * 2
    assert driver.run(make(driver, store_path, calls, version=1), range(3))
    assert driver.run(make(driver, store_path, calls, version=2), range(3))
    assert len(calls) == 9  # 2 is not "2"
    with Store(store_path) as store:
        assert [(s.version, s.results) for s in store.steps()] == [(1, 3), ("2", 3), (2, 3)]


@pytest.mark.parametrize("key", [("id", "prompt"), lambda row: (row["id"], row["prompt"])])
@one_at_a_time
def test_key_narrows_what_makes_rows_equal(driver, store_path, calls, key):
    """With key=, rows that agree in it share one result whatever else they hold."""

    def label(row):
        calls.append(row)
        return row["id"]

    label = driver.step(label, store_path, key=key)
    rows = [{"id": i % 2, "prompt": "p", "at": time.time() + i, "file": object()} for i in range(6)]
    assert driver.run(label, rows) == [0, 1] * 3
    assert driver.call(label, rows[5] | {"at": None}) == 1
    assert len(calls) == 2


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


@pytest.mark.parametrize("row", [{"x": 1}, Point(1)])
def test_a_field_that_key_names_and_the_row_lacks(store_path, calls, row):
    """A row without a field that key= names is an EncodeError with that field, and no call."""
    label = make(SEQUENTIAL, store_path, calls, key=("x", "id"))
    with pytest.raises(
        EncodeError, match=r"\$\.id: key= names this field, but the row does not have it"
    ) as raised:
        label(row)
    assert raised.value.where == "$.id"
    assert calls == []


def test_fields_of_objects_can_make_the_key(store_path, calls):
    """key= names attributes where rows are objects."""
    label = SEQUENTIAL.step(
        lambda row: calls.append(row) or row.x, store_path, name="s", key="x",
        on_changed_input="reuse",
    )  # fmt: skip
    assert [label(Point(1, 0.5)), label(Point(1, 1.5)), label(Point(2))] == [1, 1, 2]
    assert len(calls) == 2


def test_meta_is_kept_with_the_run(store_path, calls):
    """meta= is stored with every run."""
    SEQUENTIAL.run(make(SEQUENTIAL, store_path, calls, meta={"model": "m-1"}), [1])
    with Store(store_path) as store:
        (run,) = store.runs()
    assert run.meta == {"model": "m-1"}
    assert (run.step, run.version, run.policy) == ("label", 1, repr(ckpt.adaptive()))


# --- code changes


def stepped(path, source, **options):
    """A step from source text, as a later state of the same script."""
    name = os.path.join(os.path.dirname(path), f"code_{abs(hash(source))}.py")
    with open(name, "w") as file:
        file.write(textwrap.dedent(source))
    scope = {}
    exec(compile(textwrap.dedent(source), name, "exec"), scope)
    return ckpt.step(path, version=1, **options)(scope["label"])


BEFORE = """
    def label(row):
        return row + 1
"""


def test_a_change_of_code_warns_in_every_run_and_says_what_is_reused(store_path):
    """Code that changed under the same version: a warning a run, saying how many it reuses."""
    list(stepped(store_path, BEFORE).run(range(1234)))
    after = stepped(store_path, BEFORE.replace("1", "2"))
    with pytest.warns(UserWarning, match=r"code changed.*1,234 results .*are reused") as caught:
        assert list(after.run([0])) == [1]
    assert len(caught) == 1
    assert "version than 1" in str(caught[0].message)
    with pytest.warns(ckpt.StaleResultsWarning, match="1,234 results"):
        again = stepped(store_path, BEFORE.replace("1", "2"))
        assert list(again.run([1, 5000])) == [2, 5002]


@each_driver
def test_the_warning_points_to_the_line_that_asks_for_results(driver, store_path):
    """Not to a line of ours or of the standard library: there is nothing to change there."""
    list(stepped(store_path, BEFORE).run([1]))

    def label(row):
        return row

    step = driver.step(label, store_path, name="label")
    with pytest.warns(UserWarning, match="code changed") as caught:
        driver.run(step, [1])
    assert os.path.basename(caught[0].filename) in ("drivers.py", "test_step.py")


@pytest.mark.parametrize(
    "after",
    [
        BEFORE.replace("row + 1", "(row\n            + 1)"),
        BEFORE.replace("return", "# a comment\n        return"),
        BEFORE.replace("    return", "    '''A docstring.'''\n        return"),
        BEFORE.replace("row + 1", "row  +  1  # same"),
    ],
    ids=["line break", "comment", "docstring", "spaces"],
)
def test_formatting_comments_and_docstrings_are_not_a_change(store_path, after):
    """Formatting, comments and docstrings do not count as a change of code."""
    list(stepped(store_path, BEFORE).run([1]))
    assert list(stepped(store_path, after).run([1])) == [2]


def test_a_change_of_key_warns_that_results_will_not_be_found(store_path):
    """Another key= under the same version: one warning, saying what becomes of the results."""
    list(stepped(store_path, BEFORE).run([1, 2]))
    with pytest.warns(UserWarning, match=r"key= changed from row to .*2 results saved will not"):
        list(stepped(store_path, BEFORE, key=lambda row: [row]).run([1]))


# --- run() and arun()


def test_run_and_arun_do_without_the_decorator(store_path, calls):
    """ckpt.run and ckpt.arun keep results as the decorator does, under the function's name."""

    def label(row):
        calls.append(row)
        return row + 1

    assert list(ckpt.run(label, range(3), store=store_path, version=1)) == [1, 2, 3]
    wrapped = ASYNC.wrap(label)
    run = ckpt.arun(wrapped, range(5), store=store_path, version=1, save=every(rows=1))
    assert ASYNC.results(run) == [1, 2, 3, 4, 5]
    with Store(store_path) as store:
        assert list(ckpt.run(label, [3], store=store, version=1, name="other")) == [4]
    assert calls == [0, 1, 2, 3, 4, 3]
    batches = ckpt.run(
        lambda rows: [-r for r in rows], [1], store=store_path, version=1, name="b", batch_size=2
    )
    assert list(batches) == [-1]


@pytest.mark.parametrize("kind", ["partial", "method", "callable", "builtin"])
def test_whatever_can_be_called_can_be_a_step(store_path, kind):
    """Partials, bound methods, objects with __call__ and builtins are steps, given a name."""

    class Model:
        def label(self, row):
            return len(row)

        __call__ = label

    fn = {
        "partial": functools.partial(lambda n, row: len(row), 1),
        "method": Model().label,
        "callable": Model(),
        "builtin": len,
    }[kind]
    assert list(ckpt.step(store_path, version=1, name="n")(fn).run(["four"])) == [4]


def test_a_step_looks_like_its_function(store_path):
    """The decorated function keeps name, docstring and signature; __wrapped__ is the function."""

    def label(row: int) -> int:
        """Label it."""
        return row

    step = ckpt.step(store_path, version=1)(label)
    assert step.__wrapped__ is label
    assert (step.__name__, step.__doc__, step.__module__) == ("label", "Label it.", __name__)
    assert "label" in repr(step)
    assert not os.path.exists(store_path)  # nothing is opened before the first use


# --- typed results


class Model(pydantic.BaseModel):
    name: str
    tags: list[str] = []


class Shape(msgspec.Struct):
    name: str
    at: Point


class Pair(typing.NamedTuple):
    a: int
    b: str


class Named(typing.TypedDict):
    name: str


TYPED = [
    (Point, Point(1, 2.5)),
    (Model, Model(name="é", tags=["x"])),
    (Shape, Shape("s", Point(1))),
    (Pair, Pair(1, "b")),
    (Named, {"name": "n"}),
    (tuple[int, str], (1, "x")),
    (list[Point], [Point(1), Point(2)]),
    (Point | None, None),
    (set[int], {1, 2}),
    (bytes, b"\x00\xff"),
    (float, float("inf")),
]


@pytest.mark.parametrize("driver", [SEQUENTIAL, ASYNC], ids=["sync", "async"])
@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=[repr(v) for _, v in TYPED])
def test_a_hit_is_of_the_annotated_type(driver, store_path, annotation, value):
    """A saved result comes back equal and of the type that the step's annotation names."""

    def label(row):
        return value

    label.__annotations__["return"] = annotation
    (first,) = driver.run(driver.step(label, store_path), [1])
    (again,) = driver.run(driver.step(label, store_path), [1])
    for result in first, again, driver.call(driver.step(label, store_path), 1):
        assert result == value
        assert type(result) is type(value)
    assert again is not value or value is None


def test_a_batch_step_is_typed_by_the_items_of_its_list(store_path):
    """The annotation list[Point] of a batch step makes each result a Point."""

    def label(rows) -> list[Point]:
        return [Point(row) for row in rows]

    for _ in range(2):
        step = ckpt.step(store_path, version=1)(label)
        assert list(step.run(range(3), batch_size=2)) == [Point(0), Point(1), Point(2)]


# --- wrong use


def decorate(fn=len, path="never.ckpt", **options):
    return ckpt.step(path, **({"version": 1, "name": "s"} | options))(fn)


def generator(row):
    yield row


@pytest.mark.parametrize(
    ("use", "error", "said"),
    [
        (lambda: ckpt.step(len), TypeError, 'needs its store and version: @step\\("rows.ckpt"'),
        (lambda: ckpt.step("never.ckpt"), TypeError, "needs version="),
        (lambda: ckpt.step("never.ckpt", 1), TypeError, "positional argument"),
        (lambda: decorate(version=None), TypeError, "version must be an int or a str, got None"),
        (lambda: decorate(version=True), TypeError, "version must be .*, got True"),
        (lambda: decorate(version=1.0), TypeError, "version must be .*, got 1.0"),
        (lambda: decorate(generator), TypeError, "is a generator"),
        (lambda: decorate(3), TypeError, "a step is a function"),
        (lambda: decorate(lambda row: row, name=None), TypeError, "give name="),
        (lambda: decorate(name=""), TypeError, "give name="),
        (lambda: decorate(save=100), TypeError, "save= takes a policy"),
        (lambda: decorate(save=every), TypeError, "save= takes a policy"),
        (lambda: decorate(durability="full"), ValueError, "must be 'power' or .*, got 'full'"),
        (
            lambda: decorate(duplicates="drop"),
            ValueError,
            "duplicates must be 'share' or .*, got 'drop'",
        ),
        (lambda: decorate(key=()), TypeError, "key= takes"),
        (lambda: decorate(key=(1,)), TypeError, "key= takes"),
        (lambda: decorate(sav=1), TypeError, "unknown keyword 'sav': did you mean save"),
        (lambda: decorate(ordered=False), TypeError, "ordered= belongs to run.*, not to step"),
        (lambda: decorate().run([], key="id"), TypeError, "key= belongs to step.*, not to run"),
        (lambda: decorate().run("rows"), TypeError, "not str: for one row, call the step"),
        (lambda: decorate().run({"id": 1}), TypeError, "not dict: for one row, call the step"),
        (lambda: decorate().run(b"rows"), TypeError, "not bytes"),
        (lambda: decorate().run(3), TypeError, "not int"),
        (lambda: decorate().run([], batch_size=0), ValueError, "batch_size must be .*, got 0"),
        (
            lambda: decorate().run([], batch_size=True),
            ValueError,
            "batch_size must be .*, got True",
        ),
        (lambda: decorate().run([], batch_size=2.0), ValueError, "batch_size must be .*, got 2.0"),
        (lambda: decorate().arun([]), TypeError, "not an async def: use run"),
    ],
)
def test_wrong_use_is_answered_at_the_call(use, error, said, tmp_path, monkeypatch):
    """Wrong use raises a TypeError or ValueError that says what to give, and opens nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        use()
    assert os.listdir(tmp_path) == []


def test_a_run_is_iterated_the_way_it_was_begun(store_path):
    """`for` over arun() and `async for` over run() say what to use."""

    async def label(row):
        return row

    step = ckpt.step(store_path, version=1)(label)
    with pytest.raises(TypeError, match="iterate with `async for`"):
        iter(step.arun([1]))
    with pytest.raises(TypeError, match="iterate with `for`"):
        aiter(step.run([1]))


@pytest.mark.parametrize("kind", ["directory", "empty", "text", "missing directory"])
def test_a_path_that_is_no_store_is_refused_before_a_call(tmp_path, calls, kind):
    """A store that cannot be opened is an error at run(), or at the first call, naming the path."""
    path = tmp_path / "rows.ckpt"
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a store\n" * 1000)
    else:
        path = tmp_path / "no" / "rows.ckpt"
    label = make(SEQUENTIAL, path, calls)
    for use in (lambda: label.run([1]), lambda: label(1), label.flush):
        with pytest.raises(StoreError, match=r"rows\.ckpt"):
            use()
    assert calls == []
    if kind == "text":
        assert path.read_text() == "not a store\n" * 1000


@pytest.mark.damages_store
def test_a_store_that_breaks_during_a_run_keeps_what_is_pending(store_path, tmp_path, calls):
    """A store deleted under a run is an error, not a silent loss; put back, the run's rows save."""
    label = make(SEQUENTIAL, store_path, calls, save=every(rows=5))
    run = label.run(range(100))
    with pytest.raises(StoreError, match="deleted or replaced"):
        for result in run:
            if result["of"] == 6:
                os.rename(store_path, tmp_path / "aside")
    with contextlib.suppress(StoreError):
        label.flush()
    os.rename(tmp_path / "aside", store_path)
    label.flush()
    assert [r["of"] for r in saved(store_path)] == calls


@pytest.mark.parametrize("where", ["row", "result"])
def test_what_cannot_be_stored_gets_advice_that_fits(store_path, where):
    """A row can be narrowed by key=; a result cannot, and is attached."""

    @ckpt.step(store_path, version=1)
    def label(row):
        return {"x": object()}

    with pytest.raises(ckpt.EncodeError) as raised:
        label({"x": object()} if where == "row" else 1)
    assert raised.value.where == "$.x"
    assert "use plain JSON types or a dataclass" in str(raised.value)
    assert ("key=" in str(raised.value)) == (where == "row")
    assert (".result" in str(raised.value)) == (where == "result")


def test_an_async_call_begins_at_its_await(store_path):
    """As of any `async def`: what its beginning raises comes there; wrong arguments at the call."""

    @ckpt.step(os.path.join(store_path, "missing", "rows.ckpt"), version=1)
    async def label(row):
        return row

    async def main():
        with pytest.raises(TypeError):
            label()
        return await asyncio.gather(label(1), label(object()), return_exceptions=True)

    errors = asyncio.run(main())
    assert [isinstance(error, ckpt.StoreError) for error in errors] == [True] * 2
