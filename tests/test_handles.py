"""What a process keeps open: what it uses, and no more; and which file a path means."""

from __future__ import annotations

import os

import pytest
from test_connection import run_script

import checkpointdb as ckpt

MANY = """
import resource, sys
import checkpointdb as ckpt

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
n, how = int(sys.argv[1]), sys.argv[2]

async def later(row):
    return row

def plain(row):
    return row

step, kept = ckpt.step("a.ckpt", version=1)(plain), []
for i in range(n):
    if how == "run":
        assert list(ckpt.run(plain, [i], store="a.ckpt", version=1)) == [i]
    elif how == "async":
        assert list(ckpt.run(later, [i], store="a.ckpt", version=1)) == [i]
    elif how == "threads":
        assert list(ckpt.run(plain, [i], store="a.ckpt", version=1, concurrency=2)) == [i]
    elif how == "kept":
        kept.append(ckpt.run(plain, [i], store="a.ckpt", version=1))
        assert list(kept[-1]) == [i] and kept[-1].report.rows == 1
    elif how == "calls":
        assert step.replace(store=f"part-{i % 50}.ckpt")(i) == i
    elif how == "async calls":
        import asyncio
        assert asyncio.run(ckpt.step(f"part-{i % 50}.ckpt", version=1)(later)(i)) == i
    elif how == "closed":
        run = ckpt.run(plain, range(9), store="a.ckpt", version=1)
        assert next(run) == 0
        run.close()
    elif how == "forgotten":
        assert next(ckpt.run(plain, range(9), store="a.ckpt", version=1)) == 0
    elif how == "failing":
        try:
            list(ckpt.run(lambda row: 1 / 0, [i], store="a.ckpt", version=1, name="f"))
        except ZeroDivisionError:
            pass
    else:
        assert list(step.replace(store=f"part-{i % 50}.ckpt").run([i])) == [i]
"""
HOW = [
    "run",
    "async",
    "threads",
    "kept",
    "closed",
    "forgotten",
    "failing",
    "replace",
    "calls",
    "async calls",
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "n",
    [
        pytest.param(100, marks=pytest.mark.slow),
        pytest.param(10_000, marks=pytest.mark.soak),
    ],
)
def test_each_run_gives_back_what_it_opened(tmp_path, monkeypatch, how, n):
    """However it ends; a process has 256 files and a store takes four."""
    monkeypatch.chdir(tmp_path)
    run_script(MANY, n, how)


def test_a_store_that_somebody_has_stays_open(tmp_path):
    """A handle, a step or a run that goes on is enough; a store of the user's own is theirs."""
    path = str(tmp_path / "a.ckpt")
    store = ckpt.step(path, version=1)(abs).store
    assert list(ckpt.run(abs, [-1], store=store, version=1)) == [1]
    assert not store.closed
    run = ckpt.run(abs, range(3), store=str(tmp_path / "b.ckpt"), version=1)
    assert list(run) == [0, 1, 2]
    assert store.flush() is None


def test_what_single_calls_left_pending_is_saved_though_nobody_names_the_step(store_path):
    """It is saved at the exit of the process, at the latest."""
    code = """
        import sys, checkpointdb as ckpt
        def call(n):
            return ckpt.step(sys.argv[1], version=1, save=ckpt.on_exit(), name="f")(abs)(n)
        print(call(-1), call(-2))
    """
    assert run_script(code, store_path).split() == ["1", "2"]
    with ckpt.Store(store_path) as store:
        assert len(list(store.records())) == 2


def test_a_path_means_the_same_file_wherever_the_program_goes(tmp_path, monkeypatch):
    """For plan, why, run and replace, before the first use and after it."""
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir(), away.mkdir()
    monkeypatch.chdir(home)
    step = ckpt.step("a.ckpt", version=1)(abs)
    monkeypatch.chdir(away)
    assert step.path == str(home / "a.ckpt")
    assert step.plan([-1]).misses == 1
    assert list(step.run([-1])) == [1]
    assert step.plan([-1]).hits == 1
    assert step.why(-1).status == "hit"
    assert step.replace(save=ckpt.every(rows=1)).path == str(home / "a.ckpt")
    step.store.close()
    assert step(-1) == 1
    assert os.listdir(away) == []
