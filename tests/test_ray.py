"""A job of Ray Data: real actors and the whole job killed; every result once, few paid for again.

Ray is in a group of its own: uv sync --group ray, and for its jobs with a bucket --group cloud.
`just soak tests/test_ray.py -s` prints figures.
"""

from __future__ import annotations

import collections
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from lives_of_engines import ENVIRONMENT, Job

import checkpointdb as ckpt
from checkpointdb.cloud.bucket import Bucket
from checkpointdb.integrations.ray import merge_segments

pytestmark = pytest.mark.skipif(
    not glob.glob(os.path.join(sys.prefix, "lib", "python3*", "site-packages", "ray")),
    reason="ray is not installed: uv sync --group ray",
)

EXAMPLE = Path(__file__).parent.parent / "examples" / "ray_job.py"
ROWS, SECONDS, SAVE = int(os.environ.get("RAY_ROWS", 20_000)), 5.0, 50
SLACK = 3.0  # seconds: the timer's half one, the copy, and a busy machine


class Folder:
    def __init__(self, path):
        self.path = path

    def segments(self):
        return glob.glob(f"{self.path}/*.ckpt")

    def into(self, path):
        with ckpt.Store(path) as store:
            for file in self.segments():
                store.merge(file)


class Prefix:
    def __init__(self, url):
        self.path = url

    def segments(self):
        return Bucket(self.path).segments()

    def into(self, path):
        ckpt.pull(self.path, path)


def merged(shared, path):
    shared.into(path)
    with ckpt.Store(path) as store:
        assert store.verify() == []
        results = collections.Counter(record.result["twice"] for record in store.records())
        return results, sum(step.records for step in store.steps())


def actors_of(calls, since):
    return sorted({pid for _, pid, at in calls if float(at) > since})


@pytest.fixture(params=["folder", "bucket"])
def shared(request, tmp_path):
    if request.param == "folder":
        return Folder(str(tmp_path / "shared"))
    return Prefix(request.getfixturevalue("url"))


@pytest.mark.soak
@pytest.mark.parametrize("nodes", ["live on", "are lost"])
def test_an_actor_and_the_job_killed(tmp_path, shared, nodes):
    """All results once after the merge. Where the nodes live on, what a kill costs is the save
    policy's; where they are lost, what was not shipped."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    rng, lost, log = random.Random(seed), [], tmp_path / "calls.log"
    scratch = str(tmp_path / "scratch")
    job = Job("ray_life.py", tmp_path, log, shared.path, scratch, log, ROWS, SECONDS)
    job.start()
    job.wait_for(ROWS // 5 + rng.randrange(ROWS // 10))
    actor = rng.choice(actors_of(job.calls(), time.time() - 2))
    os.kill(actor, signal.SIGKILL)
    lost.append((actor, time.time()))
    job.wait_for(ROWS // 2 + rng.randrange(ROWS // 5))
    job.kill_all()
    lost += [(pid, time.time()) for pid in {pid for _, pid, _ in job.calls()} - {actor}]
    before = len(job.calls())
    if nodes == "are lost":
        shutil.rmtree(scratch)
    job.start()
    job.finish()

    calls = job.calls()
    job.start()  # all of it is there; what Ray gave actors no time to ship, on their node
    job.finish()
    assert len(job.calls()) == len(calls)
    again = len(calls) - ROWS
    assert {row for row, _, _ in calls} == set(range(ROWS))
    kills = len(lost)
    ended = dict(lost)
    recent = sum(pid in ended and float(at) > ended[pid] - SECONDS - SLACK for _, pid, at in calls)
    bound = kills * (SAVE + 1) if nodes == "live on" else SAVE + 1 + recent
    results, records = merged(shared, str(tmp_path / "all.ckpt"))
    segments = len(shared.segments())
    print(
        f"\nseed {seed}, {shared.path}, nodes {nodes}: {ROWS} rows, {kills} actors killed, "
        f"{before} calls before the restart, {again} computed again (bound {bound}), "
        f"{records} records in {segments} segments, then {(left := merge_segments(shared.path))}"
    )
    assert left < (4 if isinstance(shared, Folder) else 12)  # those of two writers do not merge
    assert results == collections.Counter(n * 2 for n in range(ROWS))
    assert again <= bound


@pytest.mark.slow
def test_the_example(tmp_path, shared):
    """As its reader would run it, twice; and what it says makes one store of all."""
    rows = [{"text": "x" * n} for n in range(100)]
    source, target = tmp_path / "reviews.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in 1, 2:
        command = [sys.executable, EXAMPLE, source, shared.path, target / str(number)]
        subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | ENVIRONMENT)
        table = pyarrow.parquet.read_table(target / str(number))
        assert sorted(table["length"].to_pylist()) == list(range(100))
    path = str(tmp_path / "all.ckpt")
    shared.into(path)
    with ckpt.Store(path) as store:
        assert store.verify() == []
        (step,) = store.steps()
        assert (step.name, step.results, step.records) == ("label", 100, 100)


@pytest.mark.slow
def test_a_bucket_and_another_machine(tmp_path, url):
    """All of a job is killed and its disk lost; then only what was not shipped is paid for again.
    Nor has Ray to give the actors of a job that ends the time to ship the rest. Each node has one
    copy of the bucket."""
    rows, seconds, log = 5000, 0.5, tmp_path / "calls.log"
    for machine in "one", "two", "three":
        scratch = tmp_path / machine
        job = Job("ray_life.py", tmp_path, log, url, scratch, log, rows, seconds)
        before = job.calls()
        job.start()
        if machine == "one":
            job.wait_for(4 * rows // 5)
            job.kill_all()
            shutil.rmtree(scratch)
            continue
        job.finish()
        paid = {row for row, _, _ in job.calls()[len(before) :]}
        last = float(before[-1][2])
        kept = {row for row, _, at in before if float(at) < last - seconds - SLACK / 2}
        assert {row for row, _, _ in before} | paid == set(range(rows))
        assert kept and not kept & paid
        assert len(glob.glob(f"{scratch}/*.shared/*.ckpt")) == 1
    results, _ = merged(Prefix(url), str(tmp_path / "all.ckpt"))
    assert results.keys() <= {n * 2 for n in range(rows)} and set(results.values()) == {1}
    assert results.keys() >= {row * 2 for row in kept}
