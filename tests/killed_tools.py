"""Compactions and backups that end by SIGKILL inside SQLite, at a write, sync or truncation.

    python killed_tools.py DIRECTORY FIRST EVERY compact|backup

Prints the number of points, then what was wrong.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

from killed_life import Killer

import checkpointdb as ckpt
from checkpointdb.file import key_index, pragmas
from checkpointdb.file.backup import backup
from checkpointdb.file.read import Reader

ROWS = 150


def make(path):
    """Make a store in which half of the rows were computed again, and leave it as a kill does."""
    twice = iter([True] * (ROWS // 2))

    def f(row):
        if row["i"] % 2 and next(twice, False):
            raise ValueError("no luck")
        return {"v": "x" * 400 + str(row["i"])}

    made = path + ".made"
    store = ckpt.Store(made)
    step = ckpt.step(store, version=1, name="f", on_error="record", save=ckpt.every(rows=25))(f)
    for _ in range(2):
        list(step.run([{"i": i} for i in range(ROWS)]))
    for ending in ("", "-wal"):
        shutil.copy(made + ending, path + ending)
    store.close()


def in_use(path, what):
    """Have a store open while it is copied, so that part of it is in its log."""
    return ckpt.Store(path) if what == "backup" else contextlib.nullcontext()


def newest(path):
    """Return what a run would find: key to result, through a reader that must be content."""
    with Reader(path) as reader:
        if wrong := reader.verify():
            raise ckpt.StoreError(f"{wrong}")
        return {record.key: record.result for record in reader.records()}, reader.last_commit()[0]


def compact(path, at):
    """Compact a store, and be killed at an operation; return how many there were."""
    killer = Killer(at)
    with ckpt.Store(path, vfs="killer") as store:
        store.compact()
    return killer.n


def copy(path, at):
    """Back a store up, and be killed at an operation; return how many there were."""
    killer = Killer(at)
    backup(path, path + ".copy", vfs="killer")
    return killer.n


def problem(path, before):
    """Return what is wrong after a kill, None if all is well."""
    try:
        for there in (path, path + ".copy"):
            if os.path.exists(there) and newest(there) != before:
                return f"{there} has other results"
        with ckpt.Store(path) as store:
            store.compact()
            if wrong := store.verify():
                return str(wrong)
        if newest(path) != before:
            return "other results after it was done again"
    except ckpt.CheckpointError as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(directory, first, every, what):
    key_index.TAIL, pragmas.WAL_PAGES = 60, 20
    act = {"compact": compact, "backup": copy}[what]
    made = os.path.join(directory, "made.ckpt")
    make(made)
    before = newest(made)

    def lay(name):
        path = os.path.join(directory, name)
        for ending in ("", "-wal"):
            shutil.copy(made + ending, path + ending)
        return path

    with in_use(whole := lay("whole.ckpt"), what):
        points, wrong = act(whole, 0), []
    print(points)
    for at in range(first, points + 1, every):
        path = lay(f"{at}.ckpt")
        with in_use(path, what):
            child = os.fork()
            if not child:
                act(path, at)
                os._exit(0)
            os.waitpid(child, 0)
        if (found := problem(path, before)) is not None:
            wrong.append(f"killed at {at} of {points}: {found}")
    print(*wrong, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
