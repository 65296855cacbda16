"""Segments: what a process shipped is everybody's, what it committed is found on its machine."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import verify

import checkpointdb as ckpt
from checkpointdb import StoreCorruptError, StoreError, every
from checkpointdb.integrations import folder as folders
from checkpointdb.integrations import segments
from checkpointdb.integrations.folder import put
from checkpointdb.integrations.ray import Checkpointed, merge_segments
from checkpointdb.integrations.scratch import Scratch


class Cluster:
    """Actors, one after the other or at once, and the rows that the step was called for."""

    def __init__(self, directory):
        self.folder, self.scratch = str(directory / "shared"), str(directory / "scratch")
        self.calls, self.actors = [], []

    def actor(self, ship=every(rows=1), of=None, scratch=None, save=every(rows=1), **options):
        def doubled(row):
            self.calls.append(row)
            return {"twice": row["id"] * 2}

        made = ckpt.step("nowhere.ckpt", version=1, name="doubled", save=save, on_change="reuse")
        scratch = scratch or self.scratch
        options |= {"ship": ship, "scratch": scratch}
        actor = Checkpointed(made(of or doubled), self.folder, **options)
        self.actors.append(actor)
        return actor

    def end(self):
        while self.actors:
            self.actors.pop().__del__()

    def files(self):
        return sorted(glob.glob(os.path.join(self.folder, "*.ckpt")))

    def merged(self, path):
        with ckpt.Store(path) as store:
            for file in self.files():
                store.merge(file)
            return sorted(record.input["id"] for record in store.records())


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LOOK_SHARE", 1e9)  # a busy machine takes long to look
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.end()
    for file in cluster.files():
        verify(file)
    assert not os.path.exists("nowhere.ckpt")


def batch(*numbers):
    return {"id": np.array(numbers)}


def twice(found):
    return list(found["twice"])


FORMS = {
    "numpy": lambda numbers: {"id": np.array(numbers)},
    "pandas": lambda numbers: pd.DataFrame({"id": numbers}),
    "pyarrow": lambda numbers: pa.table({"id": numbers}),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_one_actor_shipped_is_a_hit_for_the_next_one(cluster, form):
    """In the batches of all three formats, which have the same rows; the kind of a batch stays."""
    cluster.actor()(batch(1, 2, 3))
    cluster.end()
    there = FORMS[form]([3, 1, 4])
    found = cluster.actor()(there)
    assert type(found) is type(there)
    assert np.array(found["twice"]).tolist() == [6, 2, 8]
    assert np.array(found["id"]).tolist() == [3, 1, 4]
    assert [row["id"] for row in cluster.calls] == [1, 2, 3, 4]


def test_a_batch_of_hits_writes_nothing(cluster):
    cluster.actor()(batch(1, 2))
    cluster.end()
    actor, before = cluster.actor(), cluster.files()
    assert twice(actor(batch(2, 1))) == [4, 2]
    assert cluster.files() == before
    assert glob.glob(f"{cluster.scratch}/*/*/*") == []


def test_actors_that_live_side_by_side_find_what_the_others_shipped(cluster):
    """And leave alone what lies on the machine of one that lives."""
    one, two = cluster.actor(), cluster.actor()
    one(batch(1, 2))
    assert twice(two(batch(2, 3))) == [4, 6]
    one(batch(3, 4))
    assert [row["id"] for row in cluster.calls] == [1, 2, 3, 4]


def test_a_row_that_two_computed_is_one_after_the_merge(cluster, tmp_path):
    one, two = cluster.actor(every(seconds=99)), cluster.actor(every(seconds=99))
    one(batch(1, 2))
    two(batch(2, 3))
    cluster.end()
    assert len(cluster.calls) == 4
    assert cluster.merged(str(tmp_path / "all.ckpt")) == [1, 2, 3]


def test_equal_rows_of_an_actor_are_computed_once_before_and_after_they_are_shipped(cluster):
    actor = cluster.actor(every(rows=3))
    assert twice(actor(batch(1, 1))) == [2, 2]
    assert twice(actor(batch(1, 2, 3, 4))) == [2, 4, 6, 8]
    assert twice(actor(batch(4, 3))) == [8, 6]
    assert len(cluster.calls) == 4


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
def test_killed_with_its_machine_or_without(cluster, tmp_path):
    """A killed process costs what the save policy says; a lost machine what was not shipped."""
    command = [sys.executable, "-c", LIFE, cluster.folder, cluster.scratch]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=tmp_path) as child:
        for n in range(39):
            assert child.stdout.readline() == f"{n}\n"
            if n < 38:
                child.stdin.write("\n")
                child.stdin.flush()
        child.send_signal(signal.SIGKILL)
    other = Cluster(tmp_path / "other")
    shutil.copytree(cluster.folder, other.folder)
    for where, bound in (cluster, 4), (other, 10):
        assert twice(where.actor()(batch(*range(40)))) == [2 * n for n in range(40)]
        again = sum(row["id"] < 38 for row in where.calls)
        assert again < bound, f"{again} rows computed again"
        where.end()
        assert where.merged(f"{where.folder}.all") == list(range(40))
        assert glob.glob(f"{where.scratch}/*/*") == []


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_time_is_kept_while_no_batch_comes(cluster, monkeypatch):
    monkeypatch.setattr(segments, "POLL_SECONDS", 0.02)
    actor = cluster.actor(every(seconds=0.05))
    actor(batch(1))
    wait_for(cluster.files)
    assert twice(cluster.actor()(batch(1))) == [2]
    assert len(cluster.calls) == 1


def test_a_call_that_takes_long_does_not_hold_up_what_returned_before(cluster, monkeypatch):
    monkeypatch.setattr(segments, "POLL_SECONDS", 0.02)
    go_on = threading.Event()

    def slow(row):
        if row["id"] == 3:
            wait_for(cluster.files)
            go_on.wait(20)
        return {"twice": row["id"] * 2}

    thread = threading.Thread(
        target=cluster.actor(every(seconds=0.05), slow), args=[batch(1, 2, 3)]
    )
    thread.start()
    wait_for(cluster.files)
    assert twice(cluster.actor()(batch(1, 2))) == [2, 4]
    go_on.set()
    thread.join(20)
    assert cluster.calls == []


class WhenTold:
    is_due = False

    def due(self, pending):
        return self.is_due


def test_what_cannot_be_shipped_stops_nothing(cluster, monkeypatch):
    """It is said once, and shipped when that can be done."""
    monkeypatch.setattr(segments, "RETRY_SECONDS", 0.0)
    ship = WhenTold()
    actor = cluster.actor(ship)
    actor(batch(1))
    ((path,), ship.is_due) = glob.glob(f"{cluster.scratch}/*/*/*.ckpt"), True
    in_the_way = os.path.join(cluster.folder, os.path.basename(path))
    os.mkdir(in_the_way)
    with pytest.warns(UserWarning, match="nothing is shipped from now on"):
        actor(batch(2))
    actor(batch(3, 4))
    os.rmdir(in_the_way)
    actor(batch(5))
    cluster.end()
    cluster.actor(scratch=cluster.scratch + "2")(batch(1, 2, 3, 4, 5))
    assert len(cluster.calls) == 5


def test_nothing_is_paid_for_while_the_folder_is_away(cluster):
    cluster.actor()(batch(1))
    cluster.end()
    actor = cluster.actor()
    os.rename(cluster.folder, cluster.folder + ".away")
    with pytest.raises(StoreError, match="none is computed"):
        actor(batch(1))
    os.rename(cluster.folder + ".away", cluster.folder)
    assert twice(actor(batch(1))) == [2]
    assert len(cluster.calls) == 1


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([5], 1), ([6, 5, 4], 3), ([9, 1, 1], 2), ([4, 1, 1], 3), ([20] + [1] * 8, 8),
        ([20, 20, 20, 1], 4), ([9, 3, 1], 1), ([1, 20, 1], 1),
    ],
)  # fmt: skip
def test_which_segments_become_one(sizes, count):
    assert folders.small_ones(sizes) == count


def test_however_often_it_ships_an_actor_leaves_few_segments(cluster, monkeypatch):
    monkeypatch.setattr(folders, "FAN", 3)
    actor = cluster.actor()
    for n in range(7):
        actor(batch(n))
    assert len(cluster.files()) < 4
    assert twice(actor(batch(*range(7)))) == [2 * n for n in range(7)]
    cluster.end()
    assert len(cluster.calls) == 7


def test_merging_the_folder_between_jobs_and_under_one(cluster, tmp_path):
    for n in range(4):
        cluster.actor()(batch(n, n + 1))
        cluster.end()
    actor = cluster.actor()
    assert twice(actor(batch(0))) == [0]
    assert merge_segments(cluster.folder) == 1
    assert merge_segments(cluster.folder) == 1
    assert twice(actor(batch(1, 2, 3))) == [2, 4, 6]
    assert len(cluster.calls) == 5
    assert cluster.merged(str(tmp_path / "all.ckpt")) == [0, 1, 2, 3, 4]


def test_a_segment_that_is_merged_away_while_it_is_shipped(cluster, monkeypatch):
    """What it had is found in the one that took its place; the job goes on."""
    cluster.actor()(batch(0))
    cluster.end()
    put = segments.put

    def merged_at_once(store, target):
        put(store, target)
        assert merge_segments(cluster.folder) == 1

    monkeypatch.setattr(segments, "put", merged_at_once)
    actor = cluster.actor()
    for n in range(1, 12):
        assert twice(actor(batch(n))) == [2 * n]
    assert twice(actor(batch(*range(12)))) == [2 * n for n in range(12)]
    assert len(cluster.calls) == 12


def test_a_segment_that_is_shipped_again_while_it_is_merged_away(cluster, monkeypatch, tmp_path):
    """What came after the merge had read it is not deleted with it."""
    cluster.actor()(batch(0))
    cluster.end()
    go = threading.Event()

    def doubled(row):
        assert row["id"] != 3 or go.wait(60)
        return {"twice": row["id"] * 2}

    actor = cluster.actor(of=doubled)
    thread = threading.Thread(target=actor, args=[batch(1, 2, 3, 4)])
    thread.start()
    while len(cluster.files()) < 2:
        time.sleep(0.01)

    def shipped_meanwhile(store, target):
        put(store, target)
        go.set()
        thread.join()

    monkeypatch.setattr(folders, "put", shipped_meanwhile)
    merge_segments(cluster.folder)
    assert cluster.merged(str(tmp_path / "all.ckpt")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_two_that_merge_a_folder_at_the_same_time(cluster, monkeypatch, tmp_path, at):
    for n in range(3):
        cluster.actor()(batch(n))
        cluster.end()
    merge, merged = ckpt.Store.merge, []

    def too_late(self, path):
        if len(merged) == at:
            monkeypatch.undo()
            assert merge_segments(cluster.folder) == 1
        merged.append(path)
        return merge(self, path)

    monkeypatch.setattr(ckpt.Store, "merge", too_late)
    assert merge_segments(cluster.folder) == (2 if at else 1)
    assert cluster.merged(str(tmp_path / "all.ckpt")) == [0, 1, 2]


def test_a_large_segment_is_not_written_anew_for_small_ones(cluster):
    def long(row):
        return {"twice": str(row["id"]) * 500_000}

    cluster.actor(of=long)(batch(1))
    cluster.end()
    (large,) = cluster.files()
    for n in range(2):
        cluster.actor()(batch(n + 2))
        cluster.end()
    assert merge_segments(cluster.folder) == 2
    assert large in cluster.files()


KILLED = """
import os, signal, sys
from checkpointdb.integrations import folder
real = os.unlink
def unlink(path):
    if os.path.dirname(path) == sys.argv[1] and path.endswith(".ckpt"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(path)
folder.os.unlink = unlink
folder.merge_segments(sys.argv[1])
"""


@pytest.mark.slow
def test_a_merge_of_segments_that_is_killed_loses_none(cluster, tmp_path):
    for n in range(3):
        cluster.actor()(batch(n))
        cluster.end()
    subprocess.run([sys.executable, "-c", KILLED, os.path.realpath(cluster.folder)])
    assert len(cluster.files()) == 4
    assert merge_segments(cluster.folder) == 1
    assert cluster.merged(str(tmp_path / "all.ckpt")) == [0, 1, 2]


def test_failures_are_a_column_and_are_tried_again_by_the_next_job(cluster):
    def picky(row):
        cluster.calls.append(row)
        if row["id"] == 2 and len(cluster.calls) < 3:
            raise ValueError("busy")
        return {"twice": row["id"] * 2}

    found = cluster.actor(of=picky, on_error="record")(batch(1, 2))
    assert list(found["error"]) == [None, "ValueError: busy"]
    cluster.end()
    found = cluster.actor(of=picky, on_error="record")(batch(1, 2))
    assert (twice(found), list(found["error"])) == ([2, 4], [None, None])
    assert [row["id"] for row in cluster.calls] == [1, 2, 2]


def test_arguments_that_are_given_and_columns_are_in_the_key(cluster):
    def scaled(row, by):
        cluster.calls.append(row)
        return {"by": row * by}

    for by in 2, 3, 2:
        actor = cluster.actor(of=scaled, columns="id", given={"by": by})
        assert list(actor(batch(1, 2) | {"other": np.array([by, by])})["by"]) == [by, 2 * by]
        cluster.end()
    assert len(cluster.calls) == 4


def test_a_row_that_cannot_be_one_keeps_no_other_from_being_a_hit(cluster):
    rows = {"id": np.array([1, 2], object), "what": np.array([None, threading.Lock()], object)}
    cluster.actor()({name: column[:1] for name, column in rows.items()})
    cluster.end()
    with pytest.raises(ckpt.EncodeError):
        cluster.actor()(rows)
    found = cluster.actor(on_error="record")(rows)
    assert found["twice"][0] == 2
    assert "EncodeError" in found["error"][1]
    assert len(cluster.calls) == 1


class TestWrongUse:
    def test_equal_rows_that_are_counted(self, cluster):
        made = ckpt.step("nowhere.ckpt", version=1, duplicates="separate")(len)
        with pytest.raises(ValueError, match="have no common count"):
            Checkpointed(made, cluster.folder)

    def test_what_counts_one_run(self, cluster):
        with pytest.raises(TypeError, match="max_cost= counts one run"):
            cluster.actor(max_cost=1.0)

    def test_a_scratch_directory_that_others_can_write_to(self, cluster):
        os.makedirs(cluster.scratch)
        os.chmod(cluster.scratch, 0o777)
        with pytest.raises(StoreError, match="only you can write to"):
            cluster.actor()
        os.chmod(cluster.scratch, 0o700)

    def test_a_file_that_is_no_store(self, cluster):
        cluster.actor()(batch(1))
        cluster.end()
        path = os.path.join(cluster.folder, "notes.ckpt")
        with open(path, "w") as file:
            file.write("not a store" * 99)
        with pytest.raises(StoreError, match=r"notes\.ckpt"):
            cluster.actor()
        os.unlink(path)

    def test_a_folder_of_too_many_segments(self, cluster, monkeypatch):
        """An actor that is started again finds what lay on its node all the same."""
        for n in range(3):
            cluster.actor()(batch(n))
            cluster.end()
        monkeypatch.setattr(folders, "MOST_OPEN", 2)
        with pytest.raises(StoreError, match="merge_segments"):
            cluster.actor()
        step = ckpt.step("nowhere.ckpt", version=1, name="doubled")(len)
        folder = folders.Folder(cluster.folder, step, is_restarted=True)
        assert len(folder._steps) == 2
        folder.close()
        assert merge_segments(cluster.folder) == 1
        assert twice(cluster.actor()(batch(0, 1, 2))) == [0, 2, 4]
        assert len(cluster.calls) == 3

    def test_a_folder_that_cannot_be_made(self, cluster, tmp_path):
        (tmp_path / "shared").write_text("a file")
        with pytest.raises(StoreError, match="cannot be made"):
            cluster.actor()
        (tmp_path / "shared").unlink()


def test_a_damaged_store_that_was_left_is_named_and_stays_where_it_is(cluster):
    actor = cluster.actor(every(seconds=99))
    actor(batch(1, 2))
    segmented = actor._step
    (path,) = glob.glob(f"{cluster.scratch}/*/*/*.ckpt")
    segmented._segment.store.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("update records set result = '7' where id = 1")
    segmented._segment = None
    segmented._ended.set()
    os.close(segmented._scratch._descriptor)  # as if it had been killed
    segmented._scratch._descriptor = -1
    with pytest.warns(UserWarning, match="left by a process that was killed"):
        cluster.actor()(batch(3))
    assert os.path.exists(path)
    with pytest.raises(StoreCorruptError):
        segmented._folder.take(path)


def test_a_directory_that_another_process_took_for_one_that_was_left_is_made_again(
    tmp_path, monkeypatch
):
    made, make = [], tempfile.mkdtemp

    def taken(**where):
        made.append(make(**where))
        if len(made) < 3:
            os.rmdir(made[-1])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    Scratch(str(tmp_path), "folder").remove()
    assert len(made) == 3


def test_many_that_begin_at_the_same_time_do_not_disturb_each_other(tmp_path):
    def begin(_):
        scratch = Scratch(str(tmp_path), "folder")
        scratch.empty_others(lambda store: True)
        scratch.remove()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(500)))
