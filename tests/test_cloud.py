"""What was shipped is never lost and never doubled: a folder in the place of a bucket."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys

import cloud_life as life
import pytest
from cli_helpers import invoke
from stores import ERROR, Log, entry
from test_merge import rows_of

from checkpointdb import BucketError, Store, StoreError, StoreVersionError, every, pull, step

pytest.importorskip("obstore", reason="obstore is not installed")

from checkpointdb.cloud import compaction, segment
from checkpointdb.cloud.bucket import Bucket
from checkpointdb.cloud.names import Name, in_order


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/bucket"


def remove(path):
    """Lose a machine's file."""
    for ending in ("", "-wal", "-shm"):
        if os.path.exists(path + ending):
            os.unlink(path + ending)


def objects(url):
    """Return the path, time and size of each object: what is written over changes."""
    folder = url.removeprefix("file://")
    found = {}
    for directory, _, files in os.walk(folder):
        for file in files:
            path = os.path.join(directory, file)
            status = os.stat(path)
            found[os.path.relpath(path, folder)] = status.st_ino, status.st_mtime_ns
    return found


def push(path, url, *entries, name="label"):
    with Store(path) as store:
        if entries:
            Log(store, name).add(*entries)
        return store.push(url)


def pulled(url, path):
    pull(url, path)
    return rows_of(path)


def expected(*numbers):
    return {("label", n): {"n": n, "text": f"result of {n}, naïve ☕"} for n in numbers}


def test_what_was_pushed_is_pulled(at, url):
    made = push(at("a"), url, 1, 2, entry(3, error=ERROR))
    assert (made.segments, made.records) == (1, 3)
    assert pulled(url, at("b")) == {**expected(1, 2), ("label", 3): "ValueError"}


def test_a_run_goes_on_from_what_was_pulled_and_ships_what_is_new(at, url):
    triple = step(at("a"), version=1, name="triple", save=every(rows=9))(lambda row: row * 3)
    list(triple.run(range(50)))
    triple.store.push(url)
    done = pull(url, at("b"))
    assert done.records == 50
    there = triple.replace(store=at("b"))
    run = there.run(range(60))
    assert list(run) == [n * 3 for n in range(60)]
    assert (run.report.hits, run.report.computed) == (50, 10)
    assert there.store.push(url).records == 10
    pull(url, at("c"))
    with Store(at("c")) as store:
        assert len(rows_of(at("c"))) == 60
        assert [(it.report.rows, it.ended) for it in store.runs()] == [
            (50, "finished"), (60, "finished"),
        ]  # fmt: skip


def test_nothing_is_shipped_twice_or_written_over(at, url):
    push(at("a"), url, 1, 2)
    before = objects(url)
    assert push(at("a"), url).segments == 0
    assert objects(url) == before
    assert push(at("a"), url, 3).records == 1
    assert before.items() <= objects(url).items()


def test_slices_are_bounded(at, url, monkeypatch):
    monkeypatch.setattr(segment, "MOST_RECORDS", 10)
    assert push(at("a"), url, *range(35)).segments == 4
    monkeypatch.setattr(segment, "MOST_BYTES", 1)
    assert push(at("a"), url, 35, 36, 37).segments == 3
    assert pulled(url, at("b")) == expected(*range(38))


def test_a_row_computed_again_counts_even_if_that_was_shipped_by_a_later_opening(at, url):
    push(at("a"), url, 1, 2)
    push(at("a"), url, entry(1, result='"again"'))
    assert pulled(url, at("b")) == {**expected(2), ("label", 1): "again"}


def test_several_machines_ship_to_one_prefix(at, url):
    for n, name in enumerate("abc"):
        push(at(name), url, *range(n * 10, n * 10 + 12))
    assert pulled(url, at("all")) == expected(*range(32))


def test_copies_of_a_store_that_go_on_in_two_places_do_not_collide(at, url):
    push(at("a"), url, *range(5))
    with Store(at("a")) as store:
        Log(store).add(5, 6)  # not shipped when the copy is made
    shutil.copy(at("a"), at("copy"))
    push(at("a"), url, 7, 8)
    push(at("copy"), url, 9)
    push(at("a"), url, 10)
    push(at("copy"), url, 11, 12)
    assert pulled(url, at("all")) == expected(*range(13))


def test_an_older_copy_that_was_put_back_goes_on(at, url):
    push(at("a"), url, 1)
    shutil.copy(at("a"), at("old"))
    push(at("a"), url, 2)
    os.replace(at("old"), at("a"))
    push(at("a"), url, 3)
    assert pulled(url, at("all")) == expected(1, 2, 3)


def test_records_of_a_store_that_was_merged_in_are_shipped(at, url):
    """Of one whose older records came from the bucket: they are read in the right order."""
    with Store(at("x")) as store:
        log = Log(store)
        log.add(1, 2)
        store.push(url)
        pull(url, at("s"))
        log.add(3)  # of the same run
    with Store(at("s")) as store:
        store.merge(at("x"))
        Log(store).add(4)
    push(at("s"), url)
    assert pulled(url, at("all")) == expected(1, 2, 3, 4)


def test_a_store_that_was_compacted_meanwhile(at, url):
    push(at("a"), url, 1, 2, 3)
    with Store(at("a")) as store:
        Log(store).add(entry(2, result='"again"'))
    with Store(at("a")) as store:
        assert store.compact() == 1
    push(at("a"), url, 4)
    assert pulled(url, at("b")) == {**expected(1, 3, 4), ("label", 2): "again"}


class TestForget:
    def test_what_was_deleted_is_not_pulled(self, at, url):
        push(at("a"), url, 1, 2)
        with Store(at("a")) as store:
            store.forget(where="position = 1")
        assert push(at("a"), url).segments == 1
        assert pulled(url, at("b")) == expected(2)

    def test_nor_what_another_machine_computed(self, at, url):
        push(at("a"), url, 1, 2)
        with Store(at("a")) as store:
            store.forget(where="position = 1")
        push(at("a"), url)
        push(at("b"), url, 1, 3)
        assert pulled(url, at("all")) == expected(2, 3)

    def test_what_was_computed_again_counts(self, at, url):
        push(at("a"), url, 1)
        with Store(at("a")) as store:
            store.forget("label")
        push(at("a"), url)
        push(at("a"), url, entry(1, result='"again"'))
        assert pulled(url, at("b")) == {("label", 1): "again"}

    def test_tombstones_that_were_pulled_are_not_shipped_again(self, at, url):
        push(at("a"), url, 1)
        with Store(at("a")) as store:
            store.forget("label")
        push(at("a"), url)
        pull(url, at("b"))
        assert push(at("b"), url).segments == 0


def test_a_day_in_which_everything_happens_in_any_order(at, url, tmp_path):
    """What is in the bucket is what all that ship to it had, whatever they did to each other."""
    many(at, url, tmp_path, random.randrange(10**9), 14)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(60))
def test_many_such_days(at, url, tmp_path, seed):
    many(at, url, tmp_path, seed, 60)


def many(at, url, tmp_path, seed, acts):
    print("seed", seed)
    choose = random.Random(seed)
    stores, runs, shipped, n = {"s0": set()}, {}, set(), 0
    with Store(at("s0")):
        pass
    push(at("s0"), url)
    for act in range(acts):
        name = choose.choice(sorted(stores))
        what = choose.choice(("add", "add", "push", "push", "pull", "copy", "merge", "again"))
        if what == "add":
            more = range(n, n := n + choose.randrange(1, 5))
            with Store(at(name)) as store:
                log = Log(store)
                log.run = runs.setdefault(name, log.run)  # it goes on, or a new one begins
                log.add(*more)
            stores[name].update(more)
            if choose.random() < 0.3:
                del runs[name]
        elif what == "again" and stores[name]:
            with Store(at(name)) as store:
                Log(store).add(entry(choose.choice(sorted(stores[name]))))
        elif what == "push":
            push(at(name), url)
            shipped |= stores[name]
        elif what == "pull":
            stores[f"s{act + 1}"] = set(shipped)
            pull(url, at(f"s{act + 1}"))
        elif what == "copy":
            stores[f"s{act + 1}"] = set(stores[name])
            shutil.copy(at(name), at(f"s{act + 1}"))
        elif what == "merge" and (other := choose.choice(sorted(stores))) != name:
            with Store(at(name)) as store:
                store.merge(at(other))
            stores[name] |= stores[other]
        assert set(rows_of(at(name))) == {("label", it) for it in stores[name]}
    assert pulled(url, at("all")) == expected(*shipped)


# --- at the same moment


@pytest.mark.parametrize("have", ["a manifest", "a segment, too"])
def test_a_bucket_that_another_process_begins_meanwhile_is_one_of_ours(at, url, monkeypatch, have):
    """Between being asked for its manifest and for what else it holds."""
    read = Bucket._read

    def too_early(self, name):
        monkeypatch.undo()
        found = read(self, name)
        push(at("other"), url, *([1] if have == "a segment, too" else []))
        return found

    monkeypatch.setattr(Bucket, "_read", too_early)
    push(at("a"), url, 2)
    assert pulled(url, at("b")) == expected(*([1, 2] if have == "a segment, too" else [2]))


def test_a_file_that_another_process_pulls_meanwhile_is_kept(at, url, monkeypatch):
    """Both go on with it, under `shared=True` say."""
    push(at("other"), url, 1, 2)
    get = Bucket.get

    def too_late(self, name):
        monkeypatch.undo()
        Store(at("a"), remote=url).close()
        return get(self, name)

    monkeypatch.setattr(Bucket, "get", too_late)
    with Store(at("a"), remote=url) as store:
        Log(store).add(3)
    assert rows_of(at("a")) == pulled(url, at("b")) == expected(1, 2, 3)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_folder_that_is_compacted_while_it_is_listed(at, tmp_path, monkeypatch, nth):
    """A list has neither what was deleted meanwhile nor what was put in its place."""
    url, lists = f"file://{tmp_path}/bucket", []
    with Store(at("a"), remote=url) as store:
        for row in (1, 2, 3):
            Log(store).add(row)
            store.push()
    real = Bucket._list

    def torn(self):
        names, is_of_a_moment = real(self)
        lists.append(names)
        if len(lists) == nth:
            monkeypatch.undo()
            assert compaction.compact(self, names, all=True) == len(names) > 1
            left = set(real(self)[0])
            names = [name for name in names if name in left]
        return names, is_of_a_moment

    monkeypatch.setattr(Bucket, "_list", torn)
    assert pulled(url, at("b")) == expected(1, 2, 3)


WORKER = """
import sys
import checkpointdb as ckpt

@ckpt.step("{path}", version=1, shared=True, remote="{url}")
def double(row):
    return row * 2

print("ready", flush=True)
sys.stdin.readline()
assert list(double.run(range(20))) == [row * 2 for row in range(20)]
double.store.close()
"""


def test_processes_that_share_a_new_store_and_a_new_bucket_may_begin_at_once(at, url, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKER.format(path=at("a.ckpt"), url=url))
    command = [sys.executable, "-W", "ignore", str(script)]
    workers = [
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(4)
    ]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.communicate(timeout=60)[1] for worker in workers] == [""] * 4
    assert len(pulled(url, at("b"))) == 20


class TestErrors:
    @pytest.mark.parametrize("bad", ["bucket/prefix", "s4://b/p", "s3://", "file://here/x", ""])
    def test_no_bucket(self, at, bad):
        with pytest.raises(ValueError, match=r"s3://bucket/prefix|three slashes"):
            pull(bad, at("a"))

    def test_something_else_is_there(self, at, url, tmp_path):
        os.makedirs(tmp_path / "bucket" / "photos")
        (tmp_path / "bucket" / "photos" / "cat.jpg").write_bytes(b"meow")
        for act in (lambda: push(at("a"), url, 1), lambda: pull(url, at("b"))):
            with pytest.raises(BucketError, match=r"holds something else.*cat.jpg"):
                act()
        assert list(objects(url)) == ["photos/cat.jpg"]

    def test_nothing_is_there(self, at, url):
        with pytest.raises(BucketError, match="nothing was pushed there"):
            pull(url, at("a"))
        assert not os.path.exists(at("a"))
        assert not os.path.exists(url.removeprefix("file://"))

    @pytest.mark.parametrize("bad", [b"{}", b"\xff", b'{"format":1,"id":7}'])
    def test_another_manifest(self, at, url, tmp_path, bad):
        os.makedirs(tmp_path / "bucket")
        (tmp_path / "bucket" / "checkpointdb.json").write_bytes(bad)
        with pytest.raises(BucketError, match="holds something else"):
            push(at("a"), url, 1)

    def test_a_newer_format(self, at, url, tmp_path):
        os.makedirs(tmp_path / "bucket")
        (tmp_path / "bucket" / "checkpointdb.json").write_text('{"format":99,"id":"00"}')
        with pytest.raises(StoreVersionError, match="format 99"):
            pull(url, at("a"))

    def test_a_damaged_segment(self, at, url, tmp_path):
        push(at("a"), url, 1, 2)
        (file,) = (tmp_path / "bucket").glob("*/*.ckpt")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with pytest.raises(BucketError, match=f"{file.name} is damaged"):
            pull(url, at("b"))
        assert not os.path.exists(at("b"))

    def test_a_missing_segment(self, at, url, tmp_path, monkeypatch):
        monkeypatch.setattr(segment, "MOST_RECORDS", 1)
        push(at("a"), url, 1, 2, 3)
        sorted((tmp_path / "bucket").glob("*/*.ckpt"))[1].unlink()
        with pytest.raises(BucketError, match=r"segment 2 of writer .* is missing"):
            pull(url, at("b"))

    def test_a_store_is_there(self, at, url):
        push(at("a"), url, 1)
        with pytest.raises(StoreError, match=r"exists; nothing was written\. Give another path$"):
            pull(url, at("a"))

    def test_a_folder_that_cannot_be_made(self, at, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(BucketError, match="cannot be reached"):
            push(at("a"), f"file://{tmp_path}/file/bucket", 1)

    def test_the_extra_is_not_installed(self, at, url, monkeypatch):
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        with pytest.raises(ImportError, match=r"pip install 'checkpointdb\[cloud\]'"):
            push(at("a"), url, 1)

    def test_a_bucket_that_was_emptied_gets_it_all_again(self, at, url, tmp_path):
        push(at("a"), url, 1, 2)
        shutil.rmtree(tmp_path / "bucket")
        push(at("a"), url, 3)
        assert pulled(url, at("b")) == expected(1, 2, 3)


class TestNames:
    def test_bigger_ones_supersede(self):
        names = [Name("000001-" + "a" * 16, a, b, f"{a}{b}".ljust(32, "0")) for a, b in
                 [(1, 1), (2, 2), (3, 3), (1, 2), (4, 4), (3, 4)]]  # fmt: skip
        assert [(it.first, it.last) for it in in_order(names)] == [(1, 2), (3, 4)]

    def test_older_writers_come_first(self):
        names = [Name(f"{age:06}-{n * 16}", 1, 1, "") for age, n in [(10, "a"), (9, "b"), (9, "a")]]
        assert [it.writer[:8] for it in in_order(names)] == ["000009-a", "000009-b", "000010-a"]

    def test_of_others_are_none(self):
        name = Name("000001-" + "a" * 16, 1, 2, "0" * 32)
        assert Name.parse(name.path) == name
        for other in ("x", name.path + "#1", "a/" + name.path, name.path.upper()):
            assert Name.parse(other) is None


RESULTS = {("row", n): {"n": n, "result": n * 7} for n in range(30)}
each_moment = pytest.mark.parametrize("all", [False, pytest.param(True, marks=pytest.mark.slow)])


def moments(requests, all):
    """Return moments to die at, and whether before the request or after it: some, or all."""
    every = [(k, before) for k in range(1, requests + 1) for before in (True, False)]
    if not all:
        seed = random.randrange(10**9)
        print("seed", seed)
        every = random.Random(seed).sample(every, 3)
    return every


@pytest.mark.linux
@each_moment
def test_killed_at_a_request_of_a_push(at, url, tmp_path, all):
    """Nothing is lost; and a segment whose note was not written any more is not shipped again."""
    life.ends(life.ship, at("a"), url, 10)
    shutil.copytree(tmp_path / "bucket", tmp_path / "kept")
    shutil.copy(at("a"), at("kept"))
    requests = life.ends(life.ship, at("a"), url, 10, 30)
    assert requests > 5
    for k, before in moments(requests, all):
        shutil.rmtree(tmp_path / "bucket")
        shutil.copytree(tmp_path / "kept", tmp_path / "bucket")
        remove(at("a"))
        shutil.copy(at("kept"), at("a"))
        assert life.ends(life.ship, at("a"), url, 10, 30, die_at=k, before=before) == -9
        with Store(at("a")) as store:
            store.push(url)
        assert push(at("a"), url).segments == 0
        assert rows_of(at("a")) == pulled(url, at(f"all{k}{before}")) == RESULTS
        assert shipped_records(url) == 30, f"doubled: killed at request {k}, before: {before}"


def shipped_records(url):
    """Return how many records there are in the bucket, each counted as often as it is there."""
    bucket, total = Bucket(url), 0
    for name in in_order(bucket.segments()):
        path = f"{url.removeprefix('file://')}/{name.path}"
        with Store(path, readonly=True) as store:
            total += sum(it.records for it in store.steps())
    return total


@pytest.mark.linux
@each_moment
def test_killed_at_a_request_of_a_pull(at, url, all):
    for numbers in (10,), (10, 20):
        life.ends(life.ship, at("a"), url, *numbers)
    for k, before in moments(6, all):  # a folder is listed twice
        assert life.ends(life.pull, at("b"), url, die_at=k, before=before) == -9
        assert not os.path.exists(at("b"))
    assert life.ends(life.pull, at("b"), url) == 6
    assert len(rows_of(at("b"))) == 20


FORKED = """
import multiprocessing, sys
import checkpointdb as ckpt

@ckpt.step("{path}", version=1, remote="{url}")
def double(row):
    return row * 2

def child(row):
    try:
        double(row)
    except ckpt.BucketError as error:
        return str(error)

if __name__ == "__main__":
    list(double.run([1]))
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.apply(child, [2]))
"""


@pytest.mark.parametrize("method, said", [("fork", "'spawn'"), ("spawn", "None")])
def test_a_process_that_was_forked_after_a_request_is_told_and_does_not_hang(
    at, url, tmp_path, method, said
):
    script = tmp_path / "script.py"
    script.write_text(FORKED.format(path=at("a.ckpt"), url=url))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), method]
    assert said in subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


class TestCompaction:
    @pytest.fixture
    def many(self, at, url, monkeypatch):
        """Two writers of many segments; rows deleted, computed again, of another machine."""
        monkeypatch.setattr(segment, "MOST_RECORDS", 2)
        push(at("a"), url, *range(9))
        with Store(at("a")) as store:
            store.forget(where="position = 3")
            Log(store).add(10, entry(1, result='"again"'), 11, 12)
            store.push(url)
        push(at("b"), url, 3, 20, 21, 22, entry(23, error=ERROR), 24)
        with Store(at("b")) as store:
            Log(store).add(entry(23, result='"at last"'))
            store.push(url)
        return pulled(url, at("before"))

    def test_less_objects_and_the_same_store(self, at, url, many):
        assert len(objects(url)) == 12
        assert life.compact(url) is None
        assert len(objects(url)) == 5  # of four openings, and the manifest
        assert pulled(url, at("b2")) == many
        for name in Bucket(url).segments():
            with Store(f"{url.removeprefix('file://')}/{name.path}", readonly=True) as store:
                assert store.verify() == []

    def test_while_somebody_reads(self, at, url, many, monkeypatch):
        """Every segment that was listed is gone when it is asked for."""
        listed = Bucket.segments

        def late(bucket):
            names = listed(bucket)
            monkeypatch.setattr(Bucket, "segments", listed)
            life.compact(url)
            return names

        monkeypatch.setattr(Bucket, "segments", late)
        assert pulled(url, at("c")) == many

    @pytest.mark.linux
    @each_moment
    def test_killed_at_a_request(self, at, url, many, tmp_path, all):
        shutil.copytree(tmp_path / "bucket", tmp_path / "kept")
        requests = life.ends(life.compact, url)
        assert requests > 15
        for k, before in moments(requests, all):
            shutil.rmtree(tmp_path / "bucket")
            shutil.copytree(tmp_path / "kept", tmp_path / "bucket")
            assert life.ends(life.compact, url, die_at=k, before=before) == -9
            assert pulled(url, at(f"x{k}{before}")) == many, f"killed at {k}, before: {before}"
            life.compact(url)
            assert len(objects(url)) == 5
            assert pulled(url, at(f"y{k}{before}")) == many

    def test_a_writer_does_it_by_itself(self, at, url, monkeypatch):
        monkeypatch.setattr(segment, "MOST_RECORDS", 1)
        push(at("a"), url, *range(70))
        assert len(objects(url)) == 1 + 2 + 6
        assert pulled(url, at("b")) == expected(*range(70))
        assert push(at("a"), url).segments == 0

    def test_it_needs_no_more_than_it_is_worth(self):
        names = [Name("000001-" + "a" * 16, n, n, "", 1) for n in range(1, 100)]
        assert [len(it) for it in compaction._groups(names, False)] == [32, 32, 32]
        assert [len(it) for it in compaction._groups(names, True)] == [99]
        big = [Name(it.writer, it.first, it.last, "", compaction.MOST // 5) for it in names[:12]]
        assert [len(it) for it in compaction._groups(big, False)] == [5, 5]
        bigger = [Name(it.writer, it.first, it.last, "", compaction.MOST) for it in names]
        assert compaction._groups(bigger, True) == []

    def test_by_command(self, at, url, many):
        assert invoke("compact", url, "--dry-run").exit_code == 0
        done = invoke("compact", url, "--yes")
        assert (done.exit_code, "4 segments now" in done.stderr) == (0, True)
        assert invoke("compact", url + "/nothing", "--yes").exit_code == 1
        assert pulled(url, at("c")) == many


class TestCommands:
    def test_push_and_pull(self, at, url):
        with Store(at("a")) as store:
            Log(store).add(1, 2, 3)
        for args, said in (
            (("push", at("a"), url), "3 records shipped in 1 segment of"),
            (("push", at("a"), url), "has all of it"),
            (("pull", url, at("b")), "3 records from 1 segment"),
        ):
            done = invoke(*args)
            assert (done.exit_code, said in done.stderr) == (0, True)
        assert rows_of(at("b")) == expected(1, 2, 3)

    def test_errors_are_one_line(self, at, url):
        for args in ("pull", "s4://x/y", at("b")), ("pull", url, at("b")), ("push", at("b"), url):
            done = invoke(*args)
            assert (done.exit_code, done.stderr[:7]) == (1, "Error: ")
