"""Runs over Dask's workers: one of them killed, the driver killed; bounds of what is paid again.

Dask is in a group of its own: uv sync --group dask.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from lives_of_engines import Job

import checkpointdb as ckpt

pytest.importorskip("distributed", reason="dask is not installed: uv sync --group dask")

AT_ONCE, SAVE = 8, 20  # of dask_life.py
EXAMPLE = Path(__file__).parent.parent / "examples" / "dask_job.py"


@pytest.mark.soak
@pytest.mark.parametrize("victim", ["a worker", "the driver"])
def test_killed_it_pays_for_few_rows_again(tmp_path, store_path, victim):
    """A worker takes its calls along, at most those in flight; the driver the loss window too."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    rng, rows = random.Random(seed), 600
    log = tmp_path / "calls.log"
    job = Job("dask_life.py", tmp_path, log, store_path, log, rows)
    job.start()
    job.wait_for(rng.randrange(100, 400))
    bound = AT_ONCE
    if victim == "a worker":
        os.kill(rng.choice(sorted({pid for _, pid in job.calls()})), signal.SIGKILL)
    else:
        job.kill_all()
        bound += SAVE - 1
        job.start()
    job.finish()
    calls = job.calls()
    again = len(calls) - rows
    print(f"\nseed {seed}: {victim} killed, {again} rows computed again, bound {bound}")
    assert {row for row, _ in calls} == set(range(rows))
    assert again <= bound
    with ckpt.Store(store_path) as store:
        assert sorted(record.result for record in store.records()) == [n * 2 for n in range(rows)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:distributed", "ignore::Warning:tornado")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_the_example(tmp_path, monkeypatch, capsys):
    """As its reader would run it, twice: the second time nothing is computed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda _: None)
    rows = [{"text": "x" * n} for n in range(20)]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = importlib.util.spec_from_file_location("dask_job", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dask_job", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["dask_job.py", "reviews.jsonl"])
    for computed in 20, 0:
        module.main()
        said = capsys.readouterr()
        assert [json.loads(line)["length"] for line in said.out.splitlines()] == list(range(20))
        assert f"computed={computed}" in said.err
