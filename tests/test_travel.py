"""Steps that travel to other processes, by name or by value: pickle, cloudpickle, joblib, loky."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor

import cloudpickle
import pytest

import checkpointdb as ckpt
from checkpointdb import Store, every

pytestmark = pytest.mark.loops
context = multiprocessing.get_context("spawn")


@ckpt.step("never-opened.ckpt", version=1)
def by_name(row):
    return [row, os.getpid()]


def closure(path, by, **options):
    @ckpt.step(path, version=1, **options)
    def scaled(row):
        return row * by

    return scaled


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("protocol", [2, pickle.DEFAULT_PROTOCOL, pickle.HIGHEST_PROTOCOL])
def test_a_step_of_a_module_is_pickled_by_its_name(dumps, protocol):
    """A step that its module holds under its name is unpickled as that very object."""
    assert pickle.loads(dumps(by_name, protocol)) is by_name
    assert pickle.loads(dumps({"a": [by_name]}, protocol)) == {"a": [by_name]}


def test_a_copy_of_a_step_is_the_step(store_path):
    """copy and deepcopy take a step for what a function is: an atom."""
    local = closure(store_path, 2)
    for step in by_name, local, by_name.replace(store=store_path):
        assert copy.copy(step) is step
        assert copy.deepcopy({"step": step})["step"] is step


def test_a_step_that_its_module_does_not_hold_is_not_mistaken_for_another(store_path):
    """Plain pickle refuses a closure, and a step saved elsewhere than that of its name."""
    for step in closure(store_path, 2), by_name.replace(store=store_path):
        with pytest.raises((pickle.PicklingError, AttributeError), match="_parts"):
            pickle.dumps(step)


def test_a_step_travels_by_value_whole(store_path):
    """cloudpickle takes a closure with its values and every option of the step; no store."""
    options = {
        "name": "n",
        "key": lambda row: row % 10,
        "save": every(rows=3) | ckpt.on_exit(),
        "durability": "process",
        "duplicates": "separate",
        "meta": {"model": "m"},
    }
    step = closure(store_path, 3, **options)
    assert step(2) == 6
    step.store.close()
    there = pickle.loads(cloudpickle.dumps(step))
    assert there is not step
    assert (there.name, there.version, there.path) == ("n", 1, store_path)
    given, got = step._options(), there._options()
    assert given.pop("key")(12) == got.pop("key")(12) == 2
    assert got == given
    assert there.plan([2, 12]) == step.plan([2, 12])
    assert there(5) == 15
    there.store.close()


def test_an_open_store_stays_at_home(store_path):
    """Of an open Store only the path and its durability travel."""
    with Store(store_path, durability="process") as store:
        step = closure(store, 2)
        there = pickle.loads(cloudpickle.dumps(step))
        assert there._where.given == store_path
        assert there._options()["durability"] == "process"
        assert there(2) == 4
        assert there.store is not store


def test_a_relative_path_means_the_same_store_elsewhere(tmp_path, monkeypatch):
    """A step's path is made whole before it travels: a worker may stand in another directory."""
    monkeypatch.chdir(tmp_path)
    data = cloudpickle.dumps(closure("rows.ckpt", 2))
    monkeypatch.chdir("/")
    assert pickle.loads(data).path == str(tmp_path / "rows.ckpt")


def test_the_same_step_arrives_once(store_path):
    """Each task brings the step anew: it stays one step and one run, with the newest globals."""
    namespace = {"ckpt": ckpt, "path": store_path, "PROMPT": "a", "__name__": "__main__"}
    exec(
        textwrap.dedent(
            """
            @ckpt.step(path, version=1)
            def label(row):
                return [PROMPT, row]
            """
        ),
        namespace,
    )
    arrived = pickle.loads(cloudpickle.dumps(namespace["label"]))
    assert arrived(1) == ["a", 1]
    assert list(arrived.run([2])) == [["a", 2]]
    namespace["PROMPT"] = "b"
    assert pickle.loads(cloudpickle.dumps(namespace["label"])) is arrived
    with pytest.warns(ckpt.StaleResultsWarning, match=r"global PROMPT differs \('a' → 'b'\)"):
        assert arrived(3) == ["b", 3]
    with pytest.warns(ckpt.StaleResultsWarning, match="global PROMPT differs"):
        assert list(arrived.run([4])) == [["b", 4]]
    arrived.store.close()
    with Store(store_path) as store:
        assert [run.report.rows for run in store.runs()] == [1, 1, 1, 1]  # "b" is other code


def test_steps_of_one_name_with_other_values_stay_apart(store_path, tmp_path):
    """Two closures of one code are two steps on arrival too."""
    steps = [closure(store_path, 2), closure(str(tmp_path / "b.ckpt"), 3)]
    assert [there(1) for there in pickle.loads(cloudpickle.dumps(steps))] == [2, 3]


def test_plain_pickles_pool_calls_a_step_by_name(store_path):
    """A pool of spawned processes finds the step of a module by its name."""
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(is_by_name, by_name).result()


def is_by_name(step):
    return step is by_name


SCRIPT = """
    import os, sys
    import checkpointdb as ckpt

    PATH, HOW = sys.argv[1:]
    BY = 3

    def helper(row):
        return row * BY

    @ckpt.step(PATH, version=1, save=ckpt.every(rows=4))
    def scaled(row):
        return [helper(row), os.getpid()]

    @ckpt.step(PATH, version=1)
    async def ascaled(row):
        return [helper(row), os.getpid()]

    def joblib_calls():
        import joblib
        from joblib.externals.loky import get_reusable_executor
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(scaled)(row) for row in range(20))
        get_reusable_executor().shutdown(wait=True)
        return found

    def loky_calls():
        from loky import get_reusable_executor
        pool = get_reusable_executor(2)
        found = list(pool.map(scaled, range(20)))
        pool.shutdown(wait=True)
        return found

    def loky_executor():
        from loky import get_reusable_executor
        pool = get_reusable_executor(2)
        found = list(scaled.run(range(20), executor=pool))
        pool.shutdown(wait=True)
        return found

    def processes(method):
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            return list(pool.map(scaled, range(20)))

    def executor(method):
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            return list(scaled.run(range(20), executor=pool))

    def async_calls():
        import asyncio, joblib
        from joblib.externals.loky import get_reusable_executor
        calls = (joblib.delayed(call)(row) for row in range(20))
        found = joblib.Parallel(n_jobs=2)(calls)
        get_reusable_executor().shutdown(wait=True)
        return found

    def dask_calls():
        import logging, dask
        from distributed import Client, LocalCluster
        logging.getLogger("distributed").setLevel(logging.ERROR)
        dask.config.set({"distributed.admin.tick.limit": "10s"})
        where = {"processes": True, "host": "127.0.0.1", "dashboard_address": None}
        with LocalCluster(n_workers=2, threads_per_worker=1, **where) as cluster:
            with Client(cluster) as client:
                return client.gather(client.map(scaled, range(20)))

    def call(row):
        import asyncio
        return asyncio.run(ascaled(row))

    if __name__ == "__main__":
        name, _, argument = HOW.partition(" ")
        found = globals()[name](*argument.split())
        assert [result for result, _ in found] == [3 * row for row in range(20)], found
        assert os.getpid() not in {pid for _, pid in found}
"""
WAYS = [
    *("joblib_calls", "loky_calls", "loky_executor", "async_calls"),
    pytest.param("dask_calls", marks=pytest.mark.slow),
    *("processes fork", "processes spawn", "executor fork", "executor spawn"),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_step_of_a_script_travels(store_path, tmp_path, way):
    """A step of `__main__`, with the helpers and globals it uses, is called in other processes;
    each row is saved once, and each worker has one run at most."""
    if way == "dask_calls":
        pytest.importorskip("distributed", reason="uv sync --group dask")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(script), store_path, way], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with Store(store_path) as store:
        assert sorted(record.input for record in store.records()) == list(range(20))
        assert sum(run.report.computed for run in store.runs()) == 20
        assert len(store.runs()) <= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_step_of_a_notebook_travels(store_path, tmp_path, monkeypatch):
    """The same for cells: a step and a global defined there, called by joblib's workers."""
    import nbclient
    import nbformat

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    cells = [
        f"""
        import os
        import joblib
        import checkpointdb as ckpt
        BY = 3
        @ckpt.step({store_path!r}, version=1)
        def scaled(row):
            return row * BY
        """,
        """
        joblib.Parallel(n_jobs=2)(joblib.delayed(scaled)(row) for row in range(10))
        """,
        """
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
        """,
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]
    )
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[1].outputs
    assert output["data"]["text/plain"] == str([3 * row for row in range(10)])
    with Store(store_path) as store:
        assert len(list(store.records())) == 10


DILL = """
    import sys
    import checkpointdb as ckpt

    @ckpt.step(sys.argv[1], version=1)
    def scaled(row):
        return row * 3

    def work(step, rows):
        return [step(row) for row in rows]

    if __name__ == "__main__":
        import hashlib
        import dill
        import multiprocess

        scaled(0)  # the store is open when the workers are forked
        with multiprocess.Pool(2) as pool:  # ended by terminate()
            pool.starmap(work, [(scaled, range(1, 50)), (scaled, range(50, 100))])
        print(hashlib.sha256(dill.dumps(scaled, recurse=True)).hexdigest())
"""


def test_dill_takes_a_step_and_the_workers_of_its_pools_lose_nothing(store_path, tmp_path):
    """As `datasets` sends one for num_proc=; and its bytes, which `datasets` hashes to know its
    caches, are the same in every process."""
    pytest.importorskip("dill")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(DILL))
    hashes = set()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(script), store_path], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        hashes.add(done.stdout)
    assert len(hashes) == 1
    with Store(store_path) as store:
        assert sorted(record.input for record in store.records()) == list(range(100))
        assert store.steps()[0].records == 100


def test_another_version_is_another_pickle_even_by_name():
    """Else a cache that knows a step by its pickle would give the former version's results."""
    again = ckpt.step("never-opened.ckpt", version=2, name="by_name")(by_name.__wrapped__)
    prompted = by_name.replace()
    assert by_name.__reduce_ex__(4)[1][3] != again.__reduce_ex__(4)[1][3]
    assert by_name.__reduce_ex__(4)[1][3] == prompted.__reduce_ex__(4)[1][3]


def test_steps_that_arrive_by_value_with_other_depends_stay_apart(store_path):
    """One function, two prompts in the key: two steps in the worker too."""
    steps = [closure(store_path, 2, depends={"prompt": prompt}) for prompt in "ab"]
    there = [pickle.loads(cloudpickle.dumps(step)) for step in steps]
    assert there[0] is not there[1]
    assert [step._keyer.depends for step in there] == [step._keyer.depends for step in steps]
    assert pickle.loads(cloudpickle.dumps(steps[0])) is there[0]


def test_what_cannot_travel_says_so(store_path):
    """What a step's function holds and cloudpickle refuses, such as a lock, is its error."""
    lock = threading.Lock()

    @ckpt.step(store_path, version=1)
    def guarded(row):
        with lock:
            return row

    with pytest.raises(TypeError, match="lock"):
        cloudpickle.dumps(guarded)


RAY = """
    import sys
    import checkpointdb as ckpt
    import ray

    BY = 3

    @ckpt.step(sys.argv[1], version=1, save=ckpt.every(rows=1))  # Ray kills its workers
    def scaled(row):
        return row * BY

    ray.init(num_cpus=2, include_dashboard=False)
    call = ray.remote(lambda row: scaled(row))
    assert ray.get([call.remote(row) for row in range(20)]) == [3 * row for row in range(20)]
    ray.shutdown()
"""


@pytest.mark.soak
def test_a_step_of_a_script_travels_with_ray(store_path):
    """Ray's workers call a step of `__main__` too. Ray is no dependency: install it to run this."""
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RAY), store_path],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stderr
    with Store(store_path) as store:
        assert sorted(record.input for record in store.records()) == list(range(20))
