"""Stores of every released format, kept for ever: they open, read and resume.

`python tests/test_formats.py` writes the file of the present format where there is none. From the
first release on a file that is there is never written again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import os
import shutil
import sys

import pytest
from conftest import verify
from stores import ERROR

from checkpointdb import Store, every, step
from checkpointdb.file import key_index, migrations
from checkpointdb.file.read import Reader
from checkpointdb.file.records import Entry
from checkpointdb.values.keys import Keyer

DATA = os.path.join(os.path.dirname(__file__), "data")
FORMATS = range(1, migrations.newest() + 1)

ROWS = [
    *({"id": n, "text": f"review {n}, naïve ☕"} for n in range(40)),
    {"id": 40, "at": dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC), "tags": ("a", "b")},
    "a plain text",
    None,
]
CALLS = []


@dataclasses.dataclass
class Label:
    text: str
    score: float


def label(row) -> Label:
    CALLS.append(row)
    return Label(repr(row), float("nan") if row is None else 0.5)


def price(row):
    CALLS.append(row)
    return {"price": decimal.Decimal(len(repr(row))), "set": {1, 2}}


def steps(store):
    return [
        step(store, version=1, save=every(rows=7), meta={"model": "m"})(label),
        step(store, version="2024-05", key=repr, save=every(rows=1))(price),
    ]


def write(path):
    """Make a store with all that a store can hold, in the index and in the tail."""
    key_index.TAIL = 30
    with Store(path) as store:
        label_, price_ = steps(store)
        list(label_.run(ROWS))
        list(price_.run(ROWS[-5:]))
        id = store.log.register_step("flaky", 3, "null").id
        run = store.log.begin_run(id, "every(rows=1)", "no returned row", None)
        for n, (error, result) in enumerate([(ERROR, None), (ERROR, None), (None, '"good"')]):
            row = {"n": min(n, 1)}
            key, identity, _ = Keyer("flaky", 3).identify(row)
            text, before = f'{{"n":{min(n, 1)}}}', store.log.find([key])[0]
            entry = Entry(
                key,
                identity,
                min(n, 1),
                n + 1,
                0.5,
                0.01,
                error,
                result,
                text,
                replaces=before.id if before else 0,
            )
            store.log.append(id, run, [entry])


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    target = str(tmp_path / "rows.ckpt")
    shutil.copy(os.path.join(DATA, f"format-{request.param}.ckpt"), target)
    yield target
    verify(target)


def test_a_store_of_every_format_reads(path):
    """Without being changed: by a reader, which writes nothing."""
    with open(path, "rb") as file:
        before = file.read()
    with Reader(path) as reader:
        assert reader.verify() == []
        infos = {info.name: info for info in reader.steps()}
        assert (infos["label"].results, infos["label"].version) == (43, 1)
        assert (infos["price"].results, infos["price"].version) == (5, "2024-05")
        flaky = infos["flaky"]
        assert (flaky.results, flaky.failures, flaky.records, flaky.cost) == (1, 1, 3, 0.03)
        records = list(reader.records("label"))
        assert [record.input for record in records] == ROWS
        assert records[0].result == {"text": repr(ROWS[0]), "score": 0.5}
        failed, retried = reader.records("flaky")
        assert failed.error["type"] == "ValueError"
        assert (retried.result, retried.attempts) == ("good", 3)
        first = reader.runs("label")[0]
        assert (first.ended, first.report.rows, first.report.computed) == ("finished", 43, 43)
        assert (first.policy, first.meta) == ("every(rows=7)", {"model": "m"})
    with open(path, "rb") as file:
        assert file.read() == before


def test_a_store_of_every_format_resumes(path):
    """Every saved row is a hit, with an equal result; new rows are added."""
    del CALLS[:]
    with Store(path) as store:
        label_, price_ = steps(store)
        results = list(label_.run([*ROWS, "new"]))
        assert CALLS == ["new"]
        assert [repr(result) for result in results] == [repr(label(row)) for row in [*ROWS, "new"]]
        del CALLS[:]
        results = list(price_.run(ROWS[-5:]))
        assert CALLS == []
        assert results == [price(row) for row in ROWS[-5:]]
        assert store.verify() == []
        assert {info.name: info.results for info in store.steps()}["label"] == 44


if __name__ == "__main__":
    newest = os.path.join(DATA, f"format-{migrations.newest()}.ckpt")
    if os.path.exists(newest):
        sys.exit(f"{newest} is there: it is never written again")
    write(newest)
