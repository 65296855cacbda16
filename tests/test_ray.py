"""A job of Ray Data: real actors and the whole job killed; every result once, few paid for again.

Ray is in a group of its own: uv sync --group ray. `just soak tests/test_ray.py -s` prints figures.
"""

from __future__ import annotations

import collections
import glob
import os
import random
import shutil
import signal
import sys
import time

import pytest
from lives_of_engines import Job

import checkpointdb as ckpt
from checkpointdb.integrations.ray import merge_segments

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not glob.glob(os.path.join(sys.prefix, "lib", "python3*", "site-packages", "ray")),
        reason="ray is not installed: uv sync --group ray",
    ),
]

ROWS, SECONDS, SAVE = int(os.environ.get("RAY_ROWS", 20_000)), 5.0, 50
SLACK = 3.0  # seconds: the timer's half one, the copy, and a busy machine


def merged(folder, path):
    with ckpt.Store(path) as store:
        for file in glob.glob(f"{folder}/*.ckpt"):
            store.merge(file)
        assert store.verify() == []
        results = collections.Counter(record.result["twice"] for record in store.records())
        return results, sum(step.records for step in store.steps())


def actors_of(calls, since):
    return sorted({pid for _, pid, at in calls if float(at) > since})


@pytest.mark.parametrize("nodes", ["live on", "are lost"])
def test_an_actor_and_the_job_killed(tmp_path, nodes):
    """All results once after the merge. Where the nodes live on, what a kill costs is the save
    policy's; where they are lost, what was not shipped."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    rng, lost, log = random.Random(seed), [], tmp_path / "calls.log"
    folder, scratch = str(tmp_path / "shared"), str(tmp_path / "scratch")
    job = Job("ray_life.py", tmp_path, log, folder, scratch, log, ROWS, SECONDS)
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
    again = len(calls) - ROWS
    assert {row for row, _, _ in calls} == set(range(ROWS))
    kills = len(lost)
    ended = dict(lost)
    recent = sum(pid in ended and float(at) > ended[pid] - SECONDS - SLACK for _, pid, at in calls)
    bound = kills * (SAVE + 1) if nodes == "live on" else SAVE + 1 + recent
    results, records = merged(folder, str(tmp_path / "all.ckpt"))
    segments = len(glob.glob(f"{folder}/*.ckpt"))
    print(
        f"\nseed {seed}, nodes {nodes}: {ROWS} rows, {kills} actors killed, {before} calls before "
        f"the restart, {again} computed again (bound {bound}), {records} records in {segments} "
        f"segments, then {(left := merge_segments(folder))}"
    )
    assert left < 4
    assert results == collections.Counter(n * 2 for n in range(ROWS))
    assert again <= bound
    job.start()  # all of it is there
    job.finish()
    assert len(job.calls()) == len(calls)
