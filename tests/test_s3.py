"""Buckets over real HTTP: moto's S3 in a process of its own, behind a proxy that has faults."""

from __future__ import annotations

import json
import logging
import os
import time

import cloud_life as life
import pytest
from s3_server import call
from stores import Log
from test_cloud import expected, pulled, push, remove
from test_merge import rows_of

from checkpointdb import BucketError, Store, every, pull, step

pytest.importorskip("obstore", reason="obstore is not installed")
pytest.importorskip("moto", reason="moto is not installed: uv sync --group cloud")
pytest.importorskip("flask", reason="flask is not installed: uv sync --group cloud")

from checkpointdb.cloud import bucket, segment, shipper

pytestmark = pytest.mark.slow


@pytest.fixture
def faults(s3_proxy):
    def say(*faults):
        call(s3_proxy, "/_faults", json.dumps(faults).encode())

    yield say
    say()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(shipper, "SOONEST", 0.02)
    monkeypatch.setattr(shipper, "LONGEST", 0.05)


def test_pushed_and_pulled_and_compacted(at, url, monkeypatch):
    monkeypatch.setattr(segment, "MOST_RECORDS", 2)
    push(at("a"), url, 1, 2, 3)
    push(at("b"), url, 4, 5, 6, 7)
    assert push(at("b"), url).segments == 0
    assert pulled(url, at("c")) == expected(*range(1, 8))
    assert len(bucket.Bucket(url).segments()) == 4
    life.compact(url)
    assert len(bucket.Bucket(url).segments()) == 2
    assert pulled(url, at("d")) == expected(*range(1, 8))


@pytest.mark.parametrize(
    "bad", [(500, 503), (503, 503), ("cut", "ok", "cut"), ("lost", "lost"), (0.5, 0.5, 0.5)]
)
@pytest.mark.parametrize("before", range(5))
def test_a_service_that_fails_at_times(at, url, faults, bad, before):
    """Nothing is lost, nothing doubled: a put whose answer was lost is tried again."""
    faults(*["ok"] * before, *bad)
    push(at("a"), url, 1, 2)
    faults(*["ok"] * before, *bad)
    assert pulled(url, at("b")) == expected(1, 2)
    faults()
    assert len(bucket.Bucket(url).segments()) == 1


@pytest.mark.parametrize("fault", [500, 503, "cut"])
def test_a_service_that_fails_for_long_ends_no_run(at, url, faults, fault, caplog, monkeypatch):
    monkeypatch.setitem(bucket._RETRY, "max_retries", 0)
    caplog.set_level(logging.INFO, "checkpointdb.ship")
    with Store(at("a"), remote=url, ship=every(rows=1)) as store:
        log = Log(store)
        log.add(1)
        faults(fault, "…")
        for n in range(2, 6):
            log.add(n)
            time.sleep(0.05)
        until(lambda: "is shipped since" in caplog.text)
        faults()
        until(lambda: "ships again" in caplog.text)
    assert len([it for it in caplog.records if it.levelno == logging.WARNING]) == 1
    assert pulled(url, at("b")) == expected(*range(1, 6))


def until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_network_that_refuses(at, url, monkeypatch, caplog):
    with Store(at("a"), remote=url) as store:
        Log(store).add(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with Store(at("a"), remote=url) as store:  # it is known there
        Log(store).add(2)
    assert "what was committed last" in caplog.text
    with pytest.raises(BucketError, match="cannot be reached"):
        Store(at("b"), remote=url)
    assert not os.path.exists(at("b"))


def test_no_such_bucket(at, url):
    for act in (
        lambda: push(at("a"), "s3://nobody/x", 1),
        lambda: pull("s3://nobody/x", at("b")),
        lambda: Store(at("c"), remote="s3://nobody/x"),
    ):
        with pytest.raises(BucketError, match="there is no such bucket"):
            act()


def test_no_credentials(at, url, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(BucketError, match="there are no credentials"):
        pull(url, at("a"))


def test_access_is_denied(at, url, faults):
    faults(403, "…")
    with pytest.raises(BucketError, match="access is denied"):
        pull(url, at("a"))


def test_two_machines_that_share_only_the_bucket(at, url, tmp_path):
    """Each in a process and a folder of its own; one dies, and a third one goes on."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    one = life.start(life.slowly, str(folders[0] / "a.ckpt"), url, str(folders[0] / "calls"), 0.2)
    two = life.start(life.some, str(folders[1] / "a.ckpt"), url, 500)
    two.join(60)
    assert two.exitcode == 0
    until(lambda: len(bucket.Bucket(url).segments()) >= 3)
    one.kill()
    one.join(30)
    remove(str(folders[0] / "a.ckpt"))
    label = step(at("a"), version=1, name="slow", remote=url, on_change="reuse")(double)
    run = label.run(range(20))
    assert list(run) == [n * 2 for n in range(20)]
    assert run.report.hits > 0
    label.store.close()
    found = {name for name, _ in rows_of(at("a"))}
    assert found == {"slow", "row"}


def double(row):
    return row * 2
