"""Lives of processes that ship, pull or run, and may die at any of their requests to a bucket."""

from __future__ import annotations

import os
import signal
import sys
import time

from forkserver import context as context
from forkserver import preload

import checkpointdb as ckpt
from checkpointdb.cloud import compaction
from checkpointdb.cloud.bucket import Bucket

preload("cloud_life")

requests = 0


def row(n):
    return {"n": n, "result": n * 7}


def ship(path, url, *numbers):
    """Compute rows, if any are given, and push."""
    with ckpt.Store(path) as store:
        if numbers:
            list(ckpt.run(row, range(*numbers), store=store, version=1))
        store.push(url)


def pull(path, url):
    ckpt.pull(url, path)


def compact(url):
    """Bring all segments together."""
    bucket = Bucket(url)
    compaction.compact(bucket, bucket.segments(), all=True)


def ends(what, *args, die_at=0, before=False):
    """Live such a life in a process of its own; return the exit code, or how many requests it made.

    A note that the store keeps is a moment to die at, too.
    """
    process = context.Process(target=_live, args=(what, args, die_at, before))
    process.start()
    process.join(30)
    return process.exitcode


def _live(what, args, die_at, before):
    from obstore.store import LocalStore

    from checkpointdb.cloud import note

    for holder, names in (LocalStore, ("get", "put", "list", "delete")), (note, ("write",)):
        for name in names:
            setattr(holder, name, _deadly(getattr(holder, name), die_at, before))
    what(*args)
    sys.exit(requests)


def _deadly(call, die_at, before):
    def request(*args, **kwargs):
        global requests
        requests += 1
        mine = requests == die_at
        if mine and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **kwargs)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return request


def start(what, *args):
    """Begin such a life, with the variables of now: those of the server that forks are older."""
    process = context.Process(target=_begun, args=(what, dict(os.environ), args))
    process.start()
    return process


def _begun(what, environment, args):
    os.environ.update(environment)
    what(*args)


def call_and_wait(path, url):
    """Make direct calls, and wait for a signal."""
    label = ckpt.step(path, version=1, remote=url, ship=ckpt.on_exit(), save=ckpt.on_exit())(row)
    for n in range(7):
        label(n)
    open(path + ".ready", "w").close()
    time.sleep(60)


def slowly(path, url, calls, cadence):
    """Compute rows of some milliseconds, each noted when it returns."""

    def slow(row):
        time.sleep(0.004)
        with open(calls, "a") as file:
            file.write(f"{row} {time.time()}\n")
        return row * 2

    label = ckpt.step(path, version=1, remote=url, ship=ckpt.every(seconds=cadence))(slow)
    list(label.run(range(100_000)))


def some(path, url, n):
    """Compute some rows, and end."""
    label = ckpt.step(path, version=1, remote=url, ship=ckpt.every(seconds=0.1))(row)
    list(label.run(range(n)))
    label.store.close()
