"""The default policy loses next to nothing, at any concurrency and on any disk: by kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

import checkpointdb as ckpt
from checkpointdb import Store
from checkpointdb.file import log

pytestmark = [pytest.mark.loops, pytest.mark.on_disk]

# A life: calls of EACH seconds, N in flight, each noted as it returns; a commit takes SLOW more.
LIFE = """
import asyncio, os, sys, threading, time
import checkpointdb as ckpt
from checkpointdb.file import log

path, paid = sys.argv[1], os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
kind, n, each, slow = sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6])
insert = log.insert

def slowly(*args):
    time.sleep(slow)
    insert(*args)

def plain(x):
    time.sleep(each)
    os.write(paid, b"%d\\n" % x)
    return x

async def tasks(x):
    await asyncio.sleep(each)
    os.write(paid, b"%d\\n" % x)
    return x

log.insert = slowly
step = ckpt.step(path, version=1, name="s")(plain if "thread" in kind else tasks)
if kind in ("threads", "tasks"):
    for _ in step.run(range(10**6), concurrency=n):
        pass
elif kind == "direct calls in tasks":
    async def main():
        for first in range(0, 10**6, n):
            await asyncio.gather(*map(step, range(first, first + n)))
    asyncio.run(main())
else:
    def calls(first):
        for x in range(first, 10**9, n):
            step(x)
    step(-1)
    for first in range(n):
        threading.Thread(target=calls, args=(first,)).start()
"""


def lost_by_a_kill(directory, kind, n, each, slow):
    """Kill a run halfway between two bursts; return what had returned and is not saved."""
    store, paid = os.path.join(directory, "s.ckpt"), os.path.join(directory, "paid")
    command = [sys.executable, "-c", LIFE, store, paid, kind, str(n), str(each), str(slow)]

    def returned():
        if not os.path.exists(paid):
            return set()
        with open(paid) as file:
            return set(map(int, file.read().split()))

    with subprocess.Popen(command) as life:
        deadline = time.monotonic() + 60
        while len(returned()) < 3 * n:
            assert life.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(each / 2)
        life.send_signal(signal.SIGKILL)
        life.wait()
    with Store(store) as opened:
        return returned() - {record.result for record in opened.records()}


@pytest.mark.parametrize("slow", [0.0, 0.02], ids=["this disk", "a slow disk"])
@pytest.mark.parametrize(
    ("kind", "n", "each"),
    [
        ("tasks", 64, 1.0),
        ("threads", 16, 0.3),
        ("direct calls in tasks", 64, 0.5),
        ("direct calls in threads", 16, 0.3),
        ("threads", 1, 0.3),
    ],
)
def test_a_kill_between_bursts_loses_next_to_nothing(tmp_path, kind, n, each, slow):
    """What returned together is committed together, some milliseconds later: the first of a burst
    is not committed alone, and the others do not wait for the next burst."""
    assert len(lost_by_a_kill(tmp_path, kind, n, each, slow)) <= 2


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk on which a commit takes 150 ms."""
    insert = log.insert

    def slowly(*args):
        time.sleep(0.15)
        insert(*args)

    monkeypatch.setattr(log, "insert", slowly)


@pytest.mark.parametrize("direct", [False, True], ids=["run", "direct calls"])
def test_a_commit_does_not_hold_up_the_event_loop(store_path, slow_disk, direct):
    """Other tasks of the loop go on while the disk is slow, whether rows are looked up or kept."""
    gaps = []

    @ckpt.step(store_path, version=1)
    async def step(row):
        await asyncio.sleep(0.02 + row % 7 / 100)
        return row

    async def calls(first):
        for row in range(first, 640, 16):
            await step(row)

    async def beat():
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - before)

    async def main():
        await step(-1)  # opens the store
        beating = asyncio.create_task(beat())
        if direct:
            await asyncio.gather(*map(calls, range(16)))
        else:
            async for _ in step.arun(range(640), concurrency=16):
                pass
        beating.cancel()

    asyncio.run(main())
    held = [gap for gap in gaps if gap > 0.1]
    assert len(held) <= 3, f"the loop was held up {len(held)} times, {sum(held):.1f} s"


def test_a_slow_call_is_committed_at_once(store_path):
    """One call at a time, each of 0.5 s: it is saved when the next one has hardly begun."""
    lost = []

    @ckpt.step(store_path, version=1)
    def step(row):
        time.sleep(0.2)
        with Store(store_path) as store:
            lost.extend({*range(row)} - {record.result for record in store.records()})
        time.sleep(0.3)
        return row

    run = step.run(range(4))
    assert next(run) == 0
    with Store(store_path) as store:
        assert [record.result for record in store.records()] == [0], "not before it is given out"
    assert list(run) == [1, 2, 3] and not lost


def test_where_commits_are_slow_a_call_is_committed_beside_the_next_one(store_path, slow_disk):
    """It would hold up the loop too long, and a call that blocks must not keep it waiting."""
    saved = []

    @ckpt.step(store_path, version=1)
    def step(row):
        time.sleep(0.5 if row < 3 else 1.5)
        if row == 3:
            with Store(store_path) as store:
                saved.extend(record.result for record in store.records())
        return row

    assert list(step.run(range(4))) == [0, 1, 2, 3]
    assert saved == [0, 1, 2]


def test_a_run_says_what_a_crash_would_cost_here(store_path):
    """In the store and in its last event: figures of this run, not the ceilings of the policy."""
    events = []

    @ckpt.step(store_path, version=1)
    def step(row):
        time.sleep(0.05)
        return row

    list(step.run(range(64), concurrency=16, on_event=events.append))
    said = events[-1].loss_window
    assert events[0].loss_window == "5 s (not measured yet)"
    assert said.startswith("about ") and said.endswith(("row", "rows"))
    assert int(said.split()[-2]) <= 48
    with Store(store_path) as store:
        assert store.runs()[-1].loss_window == said


def test_a_fixed_limit_is_not_said_where_a_burst_was_more(store_path, slow_disk):
    """32 calls return together under every(rows=1): those that wait for it are not durable."""

    @ckpt.step(store_path, version=1, save=ckpt.every(rows=1))
    async def step(row):
        await asyncio.sleep(0.05)
        return row

    list(step.run(range(32), concurrency=32))
    with Store(store_path) as store:
        said = store.runs()[-1].loss_window
    assert said.endswith(", as many as returned during a commit") and int(said.split()[0]) > 1
