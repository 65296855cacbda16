"""Lives of a store that end by SIGKILL inside SQLite, at a write, sync, truncation or deletion.

    python killed_life.py DIRECTORY FIRST EVERY

Each life is a fork: it makes a store, runs 300 rows, with extensions of the index and
wal_checkpoints on the way, and closes it. Whoever comes next, a reader and a writer, must find a
whole store with every row that was acknowledged. Prints the number of points, then what was wrong.
"""

from __future__ import annotations

import os
import signal
import sys

import apsw

import checkpointdb as ckpt
from checkpointdb.file import key_index, pragmas
from checkpointdb.file.read import Reader

ROWS, EACH = 300, 25


class Killer(apsw.VFS):
    """Kills this process at its n-th operation that changes a file."""

    def __init__(self, at):
        self.at, self.n = at, 0
        super().__init__("killer", "unix")

    def step(self):
        self.n += 1
        if self.n == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def xOpen(self, name, flags):
        return KillerFile(self, name, flags)

    def xDelete(self, name, sync):
        super().xDelete(name, sync)
        self.step()


class KillerFile(apsw.VFSFile):
    def __init__(self, vfs, name, flags):
        self.vfs = vfs
        super().__init__("unix", name, flags)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self.vfs.step()

    def xSync(self, flags):
        super().xSync(flags)
        self.vfs.step()

    def xTruncate(self, size):
        super().xTruncate(size)
        self.vfs.step()


def live(path, at):
    """Make a store and fill it; note what was acknowledged; return how many operations it took."""
    killer = Killer(at)
    with ckpt.Store(path, vfs="killer") as store:
        step = ckpt.step(store, version=1, name="f", save=ckpt.every(rows=EACH))
        rows = [{"i": i} for i in range(ROWS)]
        for n, _ in enumerate(step(lambda row: {"v": "x" * 400 + str(row["i"])}).run(rows), 1):
            if n % EACH == 0:
                with open(path + ".acknowledged", "w") as file:
                    file.write(str(n))
    return killer.n


def problem(path, status):
    """Return what is wrong with a store whose life has ended, None if all is well."""
    acknowledged = 0
    if os.path.exists(path + ".acknowledged"):
        with open(path + ".acknowledged") as file:
            acknowledged = int(file.read() or 0)
    if not os.path.exists(path):
        return f"{acknowledged} rows are gone with the file" if acknowledged else None
    try:
        with Reader(path) as reader:
            read = len(list(reader.records()))
            wrong = reader.verify()
        with ckpt.Store(path) as store:
            there = len(list(store.records()))
            wrong += store.verify()
    except ckpt.CheckpointError as error:
        return f"{type(error).__name__}: {error}"
    if wrong or not acknowledged <= read == there or (not status and there != ROWS):
        return f"{acknowledged} acknowledged, {read} read, {there} there, {wrong}"
    return None


def main(directory, first, every):
    key_index.TAIL, pragmas.WAL_PAGES = 100, 40
    whole = os.path.join(directory, "whole.ckpt")
    points, lost = live(whole, 0), []
    print(points)
    for at in range(first, points + 1, every):
        path = os.path.join(directory, f"{at}.ckpt")
        child = os.fork()
        if not child:
            live(path, at)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if (wrong := problem(path, status)) is not None:
            lost.append(f"killed at {at} of {points}: {wrong}")
    print(*lost, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
