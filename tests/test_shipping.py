"""A run ships while it goes on, never ends by that, and a lost machine costs the cadence."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import threading
import time

import cloud_life as life
import pytest
from stores import Log, entry
from test_cloud import remove
from test_merge import rows_of

import checkpointdb as ckpt
from checkpointdb import BucketError, Store, every, on_exit, pull, step

pytest.importorskip("obstore", reason="obstore is not installed")

from checkpointdb.cloud import segment, shipment, shipper
from checkpointdb.cloud.bucket import Bucket


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(shipper, "SOONEST", 0.02)
    monkeypatch.setattr(shipper, "LONGEST", 0.05)


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/bucket"


def until(true):
    """Wait until something is true."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def segments(url):
    return Bucket(url).segments() if os.path.isdir(url.removeprefix("file://")) else []


def double(row):
    return row * 2


def test_nothing_is_asked_before_the_first_use(at, url, tmp_path):
    label = step(at("a"), version=1, remote=url)(double)
    assert not os.path.exists(tmp_path / "bucket")
    assert label(1) == 2
    assert os.path.exists(tmp_path / "bucket" / "checkpointdb.json")


def test_a_run_ships_while_it_goes_on(at, url):
    def rows():
        yield from range(20)
        until(lambda: segments(url))
        yield from range(20, 40)

    label = step(at("a"), version=1, remote=url, ship=every(rows=1), save=every(rows=1))(double)
    assert len(list(label.run(rows()))) == 40
    label.store.close()
    pull(url, at("b"))
    assert len(rows_of(at("b"))) == 40
    with Store(at("b")) as store:
        assert [it.ended for it in store.runs()] == ["finished"]


def test_a_fresh_machine_goes_on(at, url):
    label = step(at("a"), version=1, name="label", remote=url)(double)
    list(label.run(range(30)))
    label.store.close()
    there = step(at("b"), version=1, name="label", remote=url)(double)
    assert there.get(7) == 14
    run = there.run(range(40))
    list(run)
    assert (run.report.hits, run.report.computed) == (30, 10)
    there.store.close()
    for look, path in (
        (lambda it: it.plan(range(50)).misses, "c"),
        (lambda it: it.why(1).status, "d"),
    ):
        assert look(step(at(path), version=1, name="label", remote=url)(double)) in (10, "hit")


def test_the_end_of_a_run_ships_whatever_the_policy(at, url):
    label = step(at("a"), version=1, remote=url, ship=on_exit())(double)
    list(label.run(range(5)))
    until(lambda: segments(url))


def test_closing_ships_what_is_left_and_that_the_run_ended(at, url):
    with Store(at("a"), remote=url, ship=on_exit()) as store:
        Log(store).add(1, 2, 3)
    pull(url, at("b"))
    with Store(at("b")) as store:
        assert [it.ended for it in store.runs()] == ["closed"]
    assert len(rows_of(at("b"))) == 3


def test_runs_of_hits_alone_make_no_segment(at, url):
    for _ in range(3):
        label = step(at("a"), version=1, remote=url)(double)
        list(label.run(range(5)))
        label.store.close()
    assert len({it.writer for it in segments(url)}) == 1


def test_two_handles_of_one_store_ship_it_once(at, url, monkeypatch):
    """Even if one of them is closed while its segment is on its way."""
    put = Bucket.put
    monkeypatch.setattr(Bucket, "put", lambda *args: (time.sleep(0.1), put(*args)))
    one, other = (Store(at("a"), remote=url, ship=every(rows=1)) for _ in range(2))
    logs = [Log(store) for store in (one, other)]
    for n in range(20):
        logs[n % 2].add(n)
        time.sleep(0.02)
    one.close()
    logs[1].add(20)
    other.close()
    pull(url, at("b"))
    assert len(rows_of(at("b"))) == 21
    total = 0
    for name in segments(url):
        with Store(f"{url.removeprefix('file://')}/{name.path}", readonly=True) as store:
            total += sum(it.records for it in store.steps())
    assert total == 21


def test_push_of_a_store_that_ships(at, url):
    with Store(at("a"), remote=url, ship=on_exit()) as store:
        Log(store).add(1, 2)
        assert store.push().records == 2
        assert store.push(url).segments == 0
    with Store(at("b")) as store, pytest.raises(ValueError, match="has no remote="):
        store.push()


def test_the_next_segment_is_cut_while_one_is_put_and_once(at, url, monkeypatch):
    cuts, puts, put = [], [], Bucket.put

    def cut(*args):
        cuts.append(args)
        return segment.cut(*args)

    def fails_at_first(bucket, name, data):
        puts.append(name.last)
        if name.last < 3:
            until(lambda: len(cuts) > name.last)
        if len(puts) == 1:
            raise BucketError("not this time", url)
        put(bucket, name, data)

    monkeypatch.setattr(segment, "MOST_RECORDS", 10)
    monkeypatch.setattr(shipment, "cut", cut)
    monkeypatch.setattr(Bucket, "put", fails_at_first)
    with Store(at("a"), remote=url) as store:
        Log(store).add(*range(25))
        with pytest.raises(BucketError, match="not this time"):
            store.push()
        assert store.push().segments == 3
        assert puts == [1, 1, 2, 3]
        assert len(cuts) == 4, "each once, and that there is no more"
    pull(url, at("b"))
    assert len(rows_of(at("b"))) == 25


def test_a_process_that_ends_cuts_without_a_thread(at, url, monkeypatch):
    def refused(thread):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(segment, "MOST_RECORDS", 10)
    with Store(at("a")) as store:
        Log(store).add(*range(25))
        monkeypatch.setattr(threading.Thread, "start", refused)
        assert store.push(url).segments == 3
    pull(url, at("b"))
    assert len(rows_of(at("b"))) == 25


def test_a_lost_bucket_ends_no_run_and_is_said_once(at, url, tmp_path, caplog):
    """It catches up, by itself."""
    caplog.set_level(logging.INFO, "checkpointdb.ship")
    with Store(at("a"), remote=url, ship=every(rows=1)) as store:
        log = Log(store)
        log.add(1)
        until(lambda: segments(url))
        os.rename(tmp_path / "bucket", tmp_path / "away")
        (tmp_path / "bucket").write_text("")
        for n in range(2, 6):
            log.add(n)
            until(lambda: "nothing of" in caplog.text)
            time.sleep(0.1)
        os.unlink(tmp_path / "bucket")
        os.rename(tmp_path / "away", tmp_path / "bucket")
        until(lambda: "ships again" in caplog.text)
    warnings = [it for it in caplog.records if it.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "is shipped since 20" in warnings[0].getMessage()
    pull(url, at("b"))
    assert len(rows_of(at("b"))) == 5


def test_lost_to_the_end_it_says_what_is_not_there(at, url, tmp_path, caplog):
    with Store(at("a"), remote=url, ship=on_exit()) as store:
        Log(store).add(1)
        shutil.rmtree(tmp_path / "bucket")
        (tmp_path / "bucket").write_text("")
    assert "ckpt push" in caplog.text
    assert len(rows_of(at("a"))) == 1


def test_without_the_bucket_a_store_that_it_knows_goes_on_and_another_does_not(at, url, tmp_path):
    with Store(at("a"), remote=url) as store:
        Log(store).add(1)
    os.rename(tmp_path / "bucket", tmp_path / "away")
    (tmp_path / "bucket").write_text("")
    with Store(at("a"), remote=url) as store:
        Log(store).add(2)
    with pytest.raises(BucketError, match="cannot be reached"):
        Store(at("new"), remote=url)
    assert not os.path.exists(at("new"))
    os.unlink(tmp_path / "bucket")
    os.rename(tmp_path / "away", tmp_path / "bucket")
    with Store(at("a"), remote=url):
        pass
    pull(url, at("b"))
    assert len(rows_of(at("b"))) == 2


def test_a_store_that_the_bucket_does_not_know_is_an_error_that_says_what_to_do(at, url):
    with Store(at("a")) as store:
        Log(store).add(1)
    with pytest.raises(BucketError, match=r"ckpt push STORE URL.*move the file away"):
        Store(at("a"), remote=url)
    with Store(at("a")) as store:
        store.push(url)
    with Store(at("a"), remote=url):
        pass
    with Store(at("empty")):
        pass
    with pytest.raises(BucketError, match="does not know"):
        Store(at("empty"), remote=url)


def test_what_cannot_be_meant(at, url):
    with pytest.raises(ValueError, match="ship= says how often"):
        step(at("a"), version=1, ship=every(rows=1))
    with pytest.raises(TypeError, match="ship= takes a policy"):
        Store(at("a"), remote=url, ship=30)
    with pytest.raises(TypeError, match="URL of a bucket"):
        step(at("a"), version=1, remote=7)
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        Store(at("a"), remote="bucket")
    with pytest.raises(ValueError, match="readonly"):
        Store(at("a"), remote=url, readonly=True)
    with Store(at("a")) as store, pytest.raises(TypeError, match="belongs to the Store"):
        step(store, version=1, remote=url)(double)


def test_a_replay_asks_no_bucket(at, url, tmp_path):
    label = step(at("a"), version=1)(double)
    label(1)
    label.store.close()
    again = step(at("a"), version=1, name="double", remote=url, replay=True)(double)
    assert again(1) == 2
    assert not os.path.exists(tmp_path / "bucket")


def test_clocks_that_differ_by_a_day_decide_nothing(at, url, monkeypatch):
    now = time.time
    for name, off in ("a", 86_400), ("b", -86_400), ("a", -172_800):
        monkeypatch.setattr(time, "time", lambda off=off: now() + off)
        with Store(at(name), remote=url) as store:
            Log(store).add(*([1, 2] if off > 0 else [2, 3] if name == "b" else [4]))
            Log(store, "again").add(entry(9, f'"{name} {off}"'))
    monkeypatch.undo()
    pull(url, at("all"))
    found = rows_of(at("all"))
    assert {n for name, n in found if name == "label"} == {1, 2, 3, 4}
    assert found["again", 9] == "a -172800"  # the newest of its log, whatever its clock said


@pytest.mark.linux
def test_sigterm_ships_what_is_left(at, url):
    process = life.start(life.call_and_wait, at("a"), url)
    until(lambda: os.path.exists(at("a") + ".ready"))
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == -signal.SIGTERM
    pull(url, at("b"))
    assert len(rows_of(at("b"))) == 7


CADENCE = 0.3


@pytest.mark.linux
@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.soak]) for n in range(20)])
def test_a_lost_machine_costs_the_cadence(at, url, seed):
    lost_machine(at, url, seed)


@pytest.mark.linux
def test_a_lost_machine_costs_only_what_was_not_shipped(at, url):
    lost_machine(at, url, random.randrange(10**9))


def lost_machine(at, url, seed):
    """Kill a driver in the middle of a shipped run, lose its disk, and run again elsewhere."""
    print("seed", seed)
    calls = at("a") + ".calls"
    process = life.start(life.slowly, at("a"), url, calls, CADENCE)
    until(lambda: len(segments(url)) >= 2)
    time.sleep(random.Random(seed).random() * 2 * CADENCE)
    os.kill(process.pid, signal.SIGKILL)
    killed = time.time()
    process.join(30)
    with open(calls) as file:
        told = [line.split() for line in file.read().splitlines()]
    called = {int(n): float(when) for n, when in told if when}
    remove(at("a"))
    before = len(segments(url))
    label = step(at("b"), version=1, name="slow", remote=url, on_change="reuse")(double)
    run = label.run(range(len(called)))
    list(run)
    again = run.report.computed
    print(f"{len(called)} paid, {again} paid again, {before} segments")
    assert run.report.hits == len(called) - again > 0
    assert again <= sum(when > killed - CADENCE - 1 for when in called.values()) + 1
    label.store.close()
    pull(url, at("all"))
    with ckpt.Store(at("all")) as store:
        assert store.steps()[0].results == len(called)
