"""Actors that ship to a bucket: what one shipped is everybody's, on any machine; little is lost."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import verify

import checkpointdb as ckpt
from checkpointdb import BucketError, Store, StoreError, every, on_exit
from checkpointdb.integrations import mirror
from checkpointdb.integrations.ray import Checkpointed, merge_segments

pytest.importorskip("obstore", reason="obstore is not installed")

from checkpointdb.cloud import shipper
from checkpointdb.cloud.bucket import Bucket


class Job:
    """Actors on machines, which are scratch directories, and the rows that were computed."""

    def __init__(self, directory):
        self.directory, self.bucket = directory, directory / "bucket"
        self.url = f"file://{self.bucket}"
        self.calls, self.actors = [], []

    def actor(self, machine="one", ship=every(rows=1), of=None, save=every(rows=1), **options):
        def doubled(row):
            self.calls.append(int(row["id"]))
            return {"twice": row["id"] * 2}

        made = ckpt.step("nowhere.ckpt", version=1, name="doubled", save=save, on_change="reuse")
        options |= {"ship": ship, "scratch": str(self.directory / machine)}
        actor = Checkpointed(made(of or doubled), self.url, **options)
        self.actors.append(actor)
        return actor

    def end(self):
        while self.actors:
            self.actors.pop().__del__()

    def pulled(self):
        """Return the numbers of all rows in the bucket."""
        path = str(self.directory / f"{time.monotonic_ns()}.ckpt")
        ckpt.pull(self.url, path)
        with ckpt.Store(path) as store:
            assert store.verify() == []
            return sorted(record.input["id"] for record in store.records())

    def stores(self, machine="one"):
        return glob.glob(f"{self.directory}/{machine}/**/*.ckpt", recursive=True)


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(shipper, "SOONEST", 0.02)
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(mirror, "LOOK_SHARE", 1e9)
    job = Job(tmp_path)
    yield job
    job.end()
    assert not os.path.exists("nowhere.ckpt")


def batch(*numbers):
    return {"id": np.array(numbers)}


def twice(found):
    return list(found["twice"])


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def away(bucket, *args):
    raise BucketError(f"{bucket.url}: cannot be reached (away)", bucket.url, passing=True)


def test_a_job_on_another_machine_finds_what_all_actors_shipped(job):
    one, two = job.actor("one"), job.actor("two")
    assert twice(one(batch(1, 2))) == [2, 4]
    assert twice(two(batch(3))) == [6]
    job.end()
    assert job.pulled() == [1, 2, 3]
    assert twice(job.actor("three")(batch(3, 4, 1, 2))) == [6, 8, 2, 4]
    assert job.calls == [1, 2, 3, 4]


def test_the_processes_of_a_machine_share_one_copy_and_fetch_each_segment_once(job, monkeypatch):
    job.actor("one")(batch(1, 2))
    job.end()
    fetched, get = [], Bucket.get
    monkeypatch.setattr(Bucket, "get", lambda self, name: fetched.append(name) or get(self, name))
    one, two = job.actor("two"), job.actor("two")
    assert twice(one(batch(1))) == twice(two(batch(1))) == [2]
    job.end()
    job.actor("two")(batch(2))
    assert len(fetched) == len(Bucket(job.url).segments()) == 1
    (copy,) = job.stores("two")
    verify(copy)
    assert job.calls == [1, 2]


def test_two_that_begin_at_the_same_time_fetch_each_segment_once(job, monkeypatch):
    for n in range(2):
        job.actor("one")(batch(n))
        job.end()
    fetched, get = [], Bucket.get

    def slowly(self, name):
        fetched.append(name)
        time.sleep(0.2)
        return get(self, name)

    monkeypatch.setattr(Bucket, "get", slowly)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(twice(job.actor("two")(batch(0, 1)))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [[0, 2], [0, 2]]
    assert len(fetched) == len(set(fetched)) == 2
    assert job.calls == [0, 1]


def test_a_batch_of_hits_ships_nothing_and_leaves_no_store(job):
    job.actor()(batch(1, 2))
    job.end()
    before = Bucket(job.url).segments()
    assert twice(job.actor()(batch(2, 1))) == [4, 2]
    job.end()
    assert Bucket(job.url).segments() == before
    assert len(job.stores()) == 1


def test_actors_that_live_at_the_same_time_find_what_the_others_shipped(job):
    one, two = job.actor("one"), job.actor("two")
    one(batch(1, 2))
    wait_for(lambda: Bucket(job.url).segments())
    assert twice(two(batch(2, 3, 1))) == [4, 6, 2]
    assert job.calls == [1, 2, 3]


def test_the_bucket_is_asked_seldom(job, monkeypatch):
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 99.0)
    actor, listed, segments = job.actor(ship=on_exit()), [], Bucket.segments
    actor(batch(0))
    monkeypatch.setattr(Bucket, "segments", lambda self: listed.append(self) or segments(self))
    for n in range(20):
        actor(batch(n))
    assert listed == []


def test_it_ships_by_its_policy_alone_though_each_batch_is_a_run(job):
    actor = job.actor(ship=every(rows=5))
    for n in range(4):
        actor(batch(n))
        time.sleep(0.1)
    assert Bucket(job.url).segments() == []
    actor(batch(4))
    wait_for(lambda: Bucket(job.url).segments())
    job.end()
    assert job.pulled() == list(range(5))


def test_what_an_actor_computed_is_a_hit_before_it_is_shipped(job):
    actor = job.actor(ship=on_exit())
    actor(batch(1, 2))
    assert twice(actor(batch(2, 1, 1))) == [4, 2, 2]
    assert job.calls == [1, 2]


LIFE = """
import sys, numpy, checkpointdb as ckpt
from checkpointdb.integrations.ray import Checkpointed

def doubled(row):
    print(row["id"], flush=True)
    sys.stdin.readline()
    return {"twice": row["id"] * 2}

made = ckpt.step("nowhere.ckpt", version=1, save=ckpt.every(rows=4))(doubled)
actor = Checkpointed(made, sys.argv[1], ship=ckpt.every(rows=10), scratch=sys.argv[2])
for start in range(0, 60, 7):
    actor({"id": numpy.arange(start, start + 7)})
"""


@pytest.mark.slow
def test_killed_with_its_machine_or_without(job, tmp_path):
    """A killed process costs what the save policy says; a lost machine what was not shipped."""
    command = [sys.executable, "-c", LIFE, job.url, str(tmp_path / "one")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=tmp_path) as child:
        for n in range(39):
            assert child.stdout.readline() == f"{n}\n"
            if n < 38:
                child.stdin.write("\n")
                child.stdin.flush()
        time.sleep(2.5)  # policies of rows are asked once a second
        child.send_signal(signal.SIGKILL)
    other = Job(tmp_path / "other")
    shutil.copytree(job.bucket, other.bucket)
    for where, bound in (job, 4), (other, 14):
        assert twice(where.actor()(batch(*range(40)))) == [2 * n for n in range(40)]
        again = sum(n < 38 for n in where.calls)
        assert again < bound, f"{again} rows computed again"
        where.end()
        assert where.pulled() == list(range(40))
        assert len(where.stores()) == 1  # the copy of the bucket


def test_failures_are_a_column_and_are_tried_again_by_the_next_job(job):
    def picky(row):
        job.calls.append(row["id"])
        if row["id"] == 2 and len(job.calls) < 3:
            raise ValueError("busy")
        return {"twice": row["id"] * 2}

    found = job.actor(of=picky, on_error="record")(batch(1, 2))
    assert list(found["error"]) == [None, "ValueError: busy"]
    job.end()
    found = job.actor("two", of=picky, on_error="record")(batch(1, 2))
    assert (twice(found), list(found["error"])) == ([2, 4], [None, None])
    assert job.calls == [1, 2, 2]


def test_merging_between_jobs_and_under_one(job):
    for n in range(3):
        actor = job.actor()
        for k in range(3):
            actor(batch(3 * n + k))
            wait_for(lambda: job.pulled() == list(range(3 * n + k + 1)))
        job.end()
    assert len(Bucket(job.url).segments()) >= 9
    actor = job.actor()
    assert merge_segments(job.url) == 3
    assert twice(actor(batch(*range(9)))) == [2 * n for n in range(9)]
    assert twice(job.actor("two")(batch(*range(9)))) == [2 * n for n in range(9)]
    assert job.calls == job.pulled() == list(range(9))
    assert merge_segments(f"file://{job.directory}/nothing") == 0


def test_a_fetch_that_is_killed_goes_on(job, monkeypatch):
    """What was fetched is not asked for again."""
    for n in range(3):
        job.actor()(batch(n))
        job.end()
    fetched, get = [], Bucket.get

    def dying(self, name):
        if len(fetched) == 2:
            raise KeyboardInterrupt
        fetched.append(name)
        return get(self, name)

    monkeypatch.setattr(Bucket, "get", dying)
    with pytest.raises(KeyboardInterrupt):
        job.actor("two")
    monkeypatch.setattr(Bucket, "get", lambda self, name: fetched.append(name) or get(self, name))
    assert twice(job.actor("two")(batch(0, 1, 2))) == [0, 2, 4]
    assert len(fetched) == len(set(fetched)) == 3
    assert job.calls == [0, 1, 2]


KILLED = """
import os, signal, sys, checkpointdb as ckpt
from checkpointdb.file.log import Log
from checkpointdb.integrations.ray import Checkpointed

Log.merge = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
url, scratch = sys.argv[1:]
Checkpointed(ckpt.step("nowhere.ckpt", version=1, name="doubled")(len), url, scratch=scratch)
"""


def test_a_segment_that_a_killed_process_had_fetched_is_in_nobodys_way(job):
    job.actor()(batch(1))
    job.end()
    command = [sys.executable, "-c", KILLED, job.url, str(job.directory / "two")]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert twice(job.actor("two")(batch(1))) == [2]
    assert job.calls == [1]
    assert glob.glob(f"{job.directory}/two/**/*-segment", recursive=True) == []


def test_a_bucket_that_is_away_ends_no_job_and_what_is_left_is_shipped_by_the_next_one(
    job, monkeypatch
):
    actor = job.actor(ship=on_exit())
    actor(batch(1))

    with monkeypatch.context() as patched:
        for name in "segments", "put":
            patched.setattr(Bucket, name, away)
        assert twice(actor(batch(1, 2))) == [2, 4]
        with pytest.warns(UserWarning, match="the next job on this machine ships it"):
            job.end()
    assert twice(job.actor("one")(batch(1, 2))) == [2, 4]
    job.end()
    assert job.pulled() == job.calls == [1, 2]


def test_two_that_begin_at_the_same_time_find_what_a_killed_one_left(job, monkeypatch):
    """The second one waits while the first one ships it."""
    job.actor(ship=on_exit())(batch(1, 2))
    push, shipped = Store.push, []
    with monkeypatch.context() as patched:
        patched.setattr(Store, "push", lambda *_: away(Bucket(job.url)))
        patched.setattr(Bucket, "put", away)
        with pytest.warns(UserWarning):
            job.end()

    def slowly(self, url):
        time.sleep(0.3)
        shipped.append(push(self, url).records)

    monkeypatch.setattr(Store, "push", slowly)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(twice(job.actor()(batch(1, 2)))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (found, shipped, job.calls) == ([[2, 4], [2, 4]], [2], [1, 2])


def test_a_bucket_that_is_away_when_an_actor_begins_is_an_error(job, monkeypatch):
    """What it has would be paid for again."""
    monkeypatch.setattr(Bucket, "segments", away)
    with pytest.raises(BucketError, match="cannot be reached"):
        job.actor()


def test_a_bucket_that_was_emptied_is_a_new_one(job):
    for _ in range(2):  # the second one has what the first one shipped in its copy
        job.actor()(batch(1))
        job.end()
    shutil.rmtree(job.bucket)
    assert twice(job.actor()(batch(1))) == [2]
    job.end()
    assert job.calls == [1, 1]
    assert job.pulled() == [1]


class TestWrongUse:
    def test_no_url_of_a_bucket(self, job):
        for url in "ftp://host/a", "s3:/bucket/a", "s3://":
            job.url = url
            with pytest.raises(ValueError, match="is not a bucket: give s3://bucket/prefix"):
                job.actor()

    def test_a_bucket_of_something_else(self, job):
        job.bucket.mkdir()
        (job.bucket / "notes.txt").write_text("mine")
        with pytest.raises(BucketError, match="holds something else than stores"):
            job.actor()

    def test_a_damaged_segment(self, job):
        job.actor()(batch(1))
        job.end()
        (segment,) = glob.glob(f"{job.bucket}/*/*.ckpt")
        with open(segment, "r+b") as file:
            file.write(b"#" * 20)
        with pytest.raises(BucketError, match="is damaged"):
            job.actor("two")

    def test_a_step_that_ships_by_itself(self, job):
        step = ckpt.step("nowhere.ckpt", version=1, remote=job.url)(len)
        for where in job.url, str(job.directory / "folder"):
            with pytest.raises(ValueError, match="has remote=, which ships the store of one"):
                Checkpointed(step, where)

    def test_equal_rows_that_are_counted(self, job):
        step = ckpt.step("nowhere.ckpt", version=1, duplicates="separate")(len)
        with pytest.raises(ValueError, match="have no common count"):
            Checkpointed(step, job.url)

    def test_a_policy_that_is_none(self, job):
        with pytest.raises(TypeError, match="ship"):
            job.actor(ship=30)

    def test_a_scratch_directory_that_others_can_write_to(self, job):
        (job.directory / "one").mkdir()
        os.chmod(job.directory / "one", 0o777)
        with pytest.raises(StoreError, match="only you can write to"):
            job.actor()
