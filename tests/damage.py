"""Damage stores on purpose, and know which records are still whole byte for byte.

    python damage.py --seed 7 --files 1000

Prints how much of what is whole `salvage` recovers, by kind of damage, as JSON.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile

import apsw

import checkpointdb as ckpt
from checkpointdb.file import key_index
from checkpointdb.file.cells import Cells
from checkpointdb.file.pages import LEAF_TABLE, Pages
from checkpointdb.file.wal import FRAME_HEADER, HEADER

PAGE, ROWS = 8192, 120


def make(path, keep_log):
    """Make a store: two steps, failures tried again, long results, an index on disk.

    With `keep_log` the newest commits are only in its log, as a kill leaves it.
    """
    tail, key_index.TAIL = key_index.TAIL, 60
    made = path + ".made"
    try:
        store = ckpt.Store(made)
        no_luck = iter([True] * len(range(0, ROWS, 11)))

        def label(row):
            if row["n"] % 11 == 0 and next(no_luck, False):
                raise ValueError("no luck")
            return {"n": row["n"], "text": "naïve " * (5000 if row["n"] % 20 == 7 else 40)}

        def other(row):
            return bytes(range(256)) * (1 + row["n"] % 5)

        rows = [{"n": n} for n in range(ROWS)]
        options = {"version": 1, "save": ckpt.every(rows=20)}
        step = ckpt.step(store, name="label", on_error="record", **options)(label)
        list(step.run(rows))
        list(ckpt.step(store, name="other", **options)(other).run(rows[: ROWS // 2]))
        if keep_log:
            store.log._writer.wal_checkpoint()
        list(step.run(rows))
        for ending in ("", "-wal"):
            if keep_log:
                shutil.copy(made + ending, path + ending)
        store.close()
        if not keep_log:
            shutil.copy(made, path)
    finally:
        key_index.TAIL = tail
        os.unlink(made)


def records_of(path):
    """Return the records of a sound store: id to key, checksum and the bytes of the outcome."""
    with contextlib.closing(apsw.Connection(path)) as db:
        sql = "select id, key, checksum, error, cast(result as blob) from records"
        return {id: tuple(more) for id, *more in db.execute(sql).fetchall()}


def places_of(path):
    """Return where each record's bytes are: id to (which file, offset, end)."""
    pages = Pages(path)
    try:
        cells, places = Cells(pages), {}
        for number in range(1, len(pages) + 1):
            page = pages.page(number)
            if cells.kind(page, number) != LEAF_TABLE:
                continue
            for at in cells.places(page, number):
                cell = cells.cell(page, at, LEAF_TABLE)
                values = cells.values(page, cell)
                if len(values) > 15 and type(values[1]) is bytes:
                    found = _places_of(pages, number, page, cell)
                    places[cell.rowid] = found + [_head(*piece) for piece in found]
        return places
    finally:
        pages.close()


def _places_of(pages, number, page, cell):
    ending, at = _where(pages, number)
    found = [(ending, at + cell.start, at + cell.end)]
    left = cell.size - cell.local
    following = page[cell.end - 4 : cell.end]
    while left > 0:
        number = int.from_bytes(following, "big")
        ending, at = _where(pages, number)
        taken = min(left, PAGE - 4)
        found.append((ending, at, at + 4 + taken))
        following, left = pages.page(number)[:4], left - taken
    return found


def _head(ending, at, end):
    """Return where the head of its frame is, by which a page in the log is known."""
    if ending == "":
        return ending, at, at
    begin = HEADER + (at - HEADER) // (PAGE + FRAME_HEADER) * (PAGE + FRAME_HEADER)
    return ending, begin, begin + FRAME_HEADER


def _where(pages, number):
    frames = pages._frames.get(number)
    return ("-wal", frames[0][0]) if frames else ("", (number - 1) * PAGE)


def whole(before, after, places):
    """Return the ids of the records whose bytes are where they were."""
    return {
        id
        for id, pieces in places.items()
        if all(before[f][a:b] == after.get(f, b"")[a:b] for f, a, b in pieces)
    }


# --- kinds of damage: each changes one file's bytes in place, or returns them anew


def flips(data, chance):
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def sectors(data, chance):
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) // 512) * 512
        data[at : at + 512] = bytes(512) if chance.random() < 0.5 else chance.randbytes(512)


def pages_gone(data, chance):
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) // PAGE) * PAGE
        data[at : at + PAGE] = bytes(PAGE) if chance.random() < 0.5 else chance.randbytes(PAGE)


def first_page(data, chance):
    data[:PAGE] = bytes(PAGE)


def header(data, chance):
    at = chance.randrange(90)
    data[at : at + 10] = chance.randbytes(10)


def page_size(data, chance):
    data[16:18] = chance.choice([b"\x02\x00", b"\x10\x00", b"\x40\x00", b"\0\x01", b"\0\0", b"ab"])


def schema(data, chance):
    data[100:PAGE] = bytes(PAGE - 100)


def roots(data, chance):
    """Every page that another one of a tree is found by."""
    for at in range(PAGE, len(data), PAGE):
        if data[at] in (2, 5):
            data[at : at + PAGE] = bytes(PAGE)


def chains(data, chance):
    """The numbers of the next on overflow pages."""
    places = [at for at in range(PAGE, len(data), PAGE) if data[at] == 0 and any(data[at : at + 4])]
    for at in chance.sample(places, min(2, len(places))):
        data[at : at + 4] = chance.choice([bytes(4), b"\0\0\0\x02", b"\xff\xff\xff\xff"])


def cut(data, chance):
    del data[chance.randrange(PAGE, len(data)) :]


def misdirected(data, chance):
    """A page that was written in place of another one."""
    one, other = (chance.randrange(len(data) // PAGE) * PAGE for _ in range(2))
    data[one : one + PAGE] = data[other : other + PAGE]


def leaf_heads(data, chance):
    """What a page says of itself: its kind, how many cells, where they are."""
    places = [at for at in range(PAGE, len(data), PAGE) if data[at] == LEAF_TABLE]
    for at in chance.sample(places, min(3, len(places))):
        size = chance.choice([1, 8, 40])
        data[at : at + size] = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)


KINDS = (flips, sectors, pages_gone, first_page, header, page_size, schema, roots, chains, cut,
         misdirected, leaf_heads)  # fmt: skip
OF_LOG = (flips, sectors, cut)


class Damaged:
    """Two sound stores, one with a log, and how much comes back of what is whole in their wrecks.

    Args:
        directory: to work in.
        seed: of every choice.
    """

    def __init__(self, directory, seed):
        self.chance = random.Random(seed)
        self.path, self.new = (
            os.path.join(directory, "old.ckpt"),
            os.path.join(directory, "new.ckpt"),
        )
        self.stores = []
        for n in range(2):
            path = os.path.join(directory, f"sound-{n}.ckpt")
            make(path, keep_log=bool(n))
            files = {}
            for ending in ("", "-wal"):
                if os.path.exists(path + ending):
                    with open(path + ending, "rb") as file:
                        files[ending] = file.read()
            places = places_of(path)
            records = records_of(path)
            assert places.keys() == records.keys() and len(records) > ROWS
            self.stores.append((files, places, records))
        self.counts = collections.defaultdict(collections.Counter)

    def one(self):
        """Damage one of the stores, salvage it, count; raise if anything wrong came back."""
        files, places, records = self.chance.choice(self.stores)
        kind, damaged = self._damage(files)
        for ending in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + ending)
            if ending in damaged:
                with open(self.path + ending, "wb") as file:
                    file.write(damaged[ending])
        there = whole(files, damaged, places)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.new)
        try:
            done = ckpt.salvage(self.path, self.new)
            saved = records_of(self.new)
        except ckpt.StoreError:
            assert not there
            return
        known = set(records.values())
        assert set(saved.values()) <= known, "a record that never was"
        came = {id for id in there if records[id] in set(saved.values())}
        missing = len(records) - len(set(saved.values()))
        assert done.records == len(saved)
        # what was at the end of a log has left no trace elsewhere
        assert not missing or done.problems or kind.startswith("log"), (kind, missing)
        count = self.counts[kind]
        count.update(
            files=1, whole=len(there), recovered=len(came), damaged=len(records) - len(there)
        )
        count["recovered although damaged"] += len(set(saved.values())) - len(came)

    def _damage(self, files):
        damaged = {ending: bytearray(data) for ending, data in files.items()}
        if "-wal" in files and self.chance.random() < 0.5:
            kind = self.chance.choice(OF_LOG)
            kind(damaged["-wal"], self.chance)
            return f"log: {kind.__name__}", damaged
        kind = self.chance.choice(KINDS)
        kind(damaged[""], self.chance)
        return kind.__name__, damaged


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--files", type=int, default=1000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        damaged = Damaged(directory, chosen.seed)
        for _ in range(chosen.files):
            damaged.one()
    json.dump({"seed": chosen.seed, "kinds": damaged.counts}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
