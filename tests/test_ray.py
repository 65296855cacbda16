"""A job of Ray Data: real actors and the whole job killed; every result once, few paid for again.

Ray is in a group of its own: uv sync --group ray. `just soak tests/test_ray.py -s` prints figures.
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

import pytest

import checkpointdb as ckpt
from checkpointdb.integrations.ray import merge_segments

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not glob.glob(os.path.join(sys.prefix, "lib", "python3*", "site-packages", "ray")),
        reason="ray is not installed: uv sync --group ray",
    ),
]

LIFE = Path(__file__).parent / "ray_life.py"
ROWS, SECONDS, SAVE = int(os.environ.get("RAY_ROWS", 20_000)), 5.0, 50
SLACK = 3.0  # seconds: the timer's half one, the copy, and a busy machine


class Job:
    """A job of Ray in a directory of its own, with the log of its calls."""

    def __init__(self, directory):
        self.folder, self.log = str(directory / "shared"), directory / "calls.log"
        self.scratch = str(directory / "scratch")
        self.output, self.driver = directory / "output", None

    def start(self):
        more = json.dumps({"seconds": SECONDS})
        with open(self.output, "ab") as output:
            self.driver = subprocess.Popen(
                [sys.executable, str(LIFE), self.folder, self.scratch, str(self.log), str(ROWS), more],
                stdout=output, stderr=output, start_new_session=True, cwd=self.log.parent,
                env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            )  # fmt: skip

    def calls(self):
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines()
        return [(int(row), int(pid), float(at)) for row, pid, at in map(str.split, lines)]

    def wait_for(self, count):
        until = time.monotonic() + 600
        while len(self.calls()) < count:
            assert self.driver.poll() is None, self.output.read_text()[-3000:]
            assert time.monotonic() < until, self.output.read_text()[-3000:]
            time.sleep(0.2)

    def kill_all(self):
        """Kill the driver and whatever it started: raylet, object store, actors."""
        for pid in family(self.driver.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.driver.wait()

    def finish(self):
        code = self.driver.wait(900)
        assert code == 0, self.output.read_text()[-3000:]


def family(pid):
    children = collections.defaultdict(list)
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            fields = Path(stat).read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(fields[1])].append(int(stat.split("/")[2]))
    found = [pid]
    for one in found:
        found += children[one]
    return found


def merged(job, path):
    with ckpt.Store(path) as store:
        for file in glob.glob(f"{job.folder}/*.ckpt"):
            store.merge(file)
        assert store.verify() == []
        results = collections.Counter(record.result["twice"] for record in store.records())
        return results, sum(step.records for step in store.steps())


def actors_of(calls, since):
    return sorted({pid for _, pid, at in calls if at > since})


@pytest.mark.parametrize("nodes", ["live on", "are lost"])
def test_an_actor_and_the_job_killed(tmp_path, nodes):
    """All results once after the merge. Where the nodes live on, what a kill costs is the save
    policy's; where they are lost, what was not shipped."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    rng, job, lost = random.Random(seed), Job(tmp_path), []
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
        shutil.rmtree(job.scratch)
    job.start()
    job.finish()

    calls = job.calls()
    again = len(calls) - ROWS
    assert {row for row, _, _ in calls} == set(range(ROWS))
    kills = len(lost)
    ended = dict(lost)
    recent = sum(pid in ended and at > ended[pid] - SECONDS - SLACK for _, pid, at in calls)
    bound = kills * (SAVE + 1) if nodes == "live on" else SAVE + 1 + recent
    results, records = merged(job, str(tmp_path / "all.ckpt"))
    segments = len(glob.glob(f"{job.folder}/*.ckpt"))
    print(
        f"\nseed {seed}, nodes {nodes}: {ROWS} rows, {kills} actors killed, {before} calls before "
        f"the restart, {again} computed again (bound {bound}), {records} records in {segments} "
        f"segments, then {merge_segments(job.folder)}"
    )
    assert results == collections.Counter(n * 2 for n in range(ROWS))
    assert again <= bound
    job.start()  # all of it is there
    job.finish()
    assert len(job.calls()) == len(calls)
