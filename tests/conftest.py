"""Fixtures for every test: a store that is verified at the end, and nothing left open behind it."""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import time
import warnings

import apsw
import hypothesis
import pytest
from s3_server import s3, s3_proxy, url  # noqa: F401 - fixtures

from checkpointdb import CheckpointError, Store
from checkpointdb.engine.current import calling_now
from checkpointdb.file import lifetime

if sys.dont_write_bytecode:  # each process of the tests would compile all modules again
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.path.abspath(f"{__file__}/../../.pytest_cache/bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MEMORY = "/dev/shm"  # a sync costs nothing there
if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > 2 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "damages_store: the test destroys its store on purpose; it is not verified"
    )


def pytest_collection_modifyitems(items):
    if not os.path.isdir("/proc/self"):
        for item in items:
            if item.get_closest_marker("linux"):
                item.add_marker(pytest.mark.skip("needs what only Linux has"))


def pytest_xdist_auto_num_workers(config):
    """Use a worker more than there are cores: the tests wait more than they compute."""
    return len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)) + 1


@pytest.fixture(scope="session")
def disk(request):
    """Give a directory on the disk; it is kept if a test failed."""
    directory = tempfile.mkdtemp(prefix="checkpointdb-tests-")
    yield pathlib.Path(directory)
    if not request.session.testsfailed:
        shutil.rmtree(directory)


@pytest.fixture
def tmp_path(request, tmp_path):
    """A directory in memory; for a test that is marked so, on the disk, whose syncs take time."""
    if not request.node.get_closest_marker("on_disk"):
        return tmp_path
    return pathlib.Path(tempfile.mkdtemp(dir=request.getfixturevalue("disk")))


@pytest.fixture(autouse=True)
def no_leaks(tmp_path):
    """Close what a test left to the exit of the process, and fail if that leaves anything open."""
    yield
    assert calling_now() is None, "the test's end is still inside a call"
    close_all()
    deadline = time.monotonic() + 2
    while (left := leaks(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)  # a timer thread ends soon after its run, not at once
    assert not left, f"left open by the test: {left}"


@pytest.fixture
def at(tmp_path):
    """Give the path of a store by its name; whatever stores there are must be sound at the end."""
    yield lambda name: str(tmp_path / f"{name}.ckpt")
    for file in tmp_path.glob("*.ckpt"):
        verify(str(file))


@pytest.fixture
def page_left_behind():
    """Close the clients that a page's code leaves open: a reader's process ends there, not ours."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def store_path(tmp_path, request):
    """A path without a file; whatever store the test makes of it must be sound at the end."""
    path = str(tmp_path / "rows.ckpt")
    yield path
    damaged = request.node.get_closest_marker("damages_store") is not None
    close_all(force=damaged)
    if not damaged:
        assert not glob.glob(glob.escape(path) + ".*.tmp"), "a half-made store was left behind"
        if os.path.exists(path):
            verify(path)


@pytest.fixture
def open_store(store_path):
    """Open `store_path`, as often as you like; all are closed at the end."""

    def open_store(**options):
        return Store(store_path, **options)

    return open_store


@pytest.fixture
def provider():
    """A provider of paid answers on loopback."""
    from provider import Provider

    with Provider() as provider:
        yield provider


@pytest.fixture
def proxy(provider, store_path):
    """Start a proxy to the provider in this process, as often as you like."""
    from proxied import proxies

    with proxies(provider, store_path) as proxy:
        yield proxy


@pytest.fixture
def process(provider, store_path, tmp_path):
    """Start `ckpt proxy` to the provider in a process of its own, as often as you like."""
    from proxied import processes

    with processes(provider, store_path, tmp_path) as process:
        yield process


def verify(path):
    """Fail unless the store at `path` is sound and its counters are what its records say."""
    with Store(path, create=False) as store:
        assert store.verify() == []
        counted = {
            (step.name, step.version): (step.results, step.failures, step.records)
            for step in store.steps()
            if step.records
        }
        results, failures = {}, {}
        for record in store.records():
            kind = results if record.error is None else failures
            identity = record.step, record.version
            kind[identity] = kind.get(identity, 0) + 1
    with contextlib.closing(apsw.Connection(path)) as connection:
        appended = connection.execute(
            """
            select name, version, count(*)
              from records join steps on steps.id = step group by step
            """
        ).fetchall()
    assert counted == {
        (name, version): (results.get((name, version), 0), failures.get((name, version), 0), n)
        for name, version, n in appended
    }


def close_all(force=False):
    """Close every store that is open in this process."""
    for store in list(lifetime._open):
        with contextlib.suppress(CheckpointError) if force else contextlib.nullcontext():
            store.close()
        if not store.closed:
            for connection in store.forked():
                connection.close()
            lifetime.closed(store)


def leaks(directory):
    """Return open files under `directory` and running threads of ours."""
    files = []
    for descriptor in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(FileNotFoundError):
            files.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    threads = [t.name for t in threading.enumerate() if t.name.startswith("checkpointdb")]
    return [name for name in files if name.startswith(str(directory))] + threads
