"""What is whole in a damaged store comes out of it, nothing else does, and the rest is told."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time

import pytest
from cli_helpers import invoke
from damage import Damaged, records_of
from stores import ERROR, Log, entry, key

import checkpointdb as ckpt
from checkpointdb import Store, StoreError
from checkpointdb.file import key_index

pytestmark = pytest.mark.damages_store
PAGE = 8192


@pytest.mark.parametrize(
    "files",
    [pytest.param(15, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.soak)],
)
def test_every_whole_record_of_a_damaged_store_is_recovered(tmp_path, files):
    """And none that never was; what is missing is told, except what only the log's end had."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    damaged = Damaged(str(tmp_path), seed)
    for _ in range(files):
        damaged.one()
    print(damaged.counts)
    whole = sum(count["whole"] for count in damaged.counts.values())
    recovered = sum(count["recovered"] for count in damaged.counts.values())
    assert whole > 100 * files
    assert recovered == whole


@pytest.fixture
def rows_path(store_path, monkeypatch):
    """A closed store of 100 rows, one of them 30 kB, with an index on disk."""
    monkeypatch.setattr(key_index, "TAIL", 50)
    with Store(store_path) as store:
        step = ckpt.step(store, version=1, name="label", save=ckpt.every(rows=20))(result)
        list(step.run(range(100)))
    return store_path


def result(row):
    return {"row": row, "text": "x" * (30_000 if row == 50 else 200)}


def spoil(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def root_of(path, table):
    with contextlib.closing(sqlite3.connect(path)) as db:
        (page,) = db.execute(
            "select rootpage from sqlite_schema where name = ?", (table,)
        ).fetchone()
    return (page - 1) * PAGE


@pytest.mark.parametrize(
    "what", ["first page", "root", "schema", "page size", "index", "header", "steps"]
)
def test_nothing_is_lost_but_what_is_damaged(rows_path, tmp_path, what):
    """SQLite refuses most of these files; a run on the new store calls nothing again."""
    if what in ("root", "index", "steps"):
        table = {"root": "records", "index": "system_key_index", "steps": "steps"}[what]
        spoil(rows_path, root_of(rows_path, table), bytes(PAGE))
    else:
        at, data = {
            "first page": (0, bytes(PAGE)),
            "schema": (100, bytes(PAGE - 100)),
            "page size": (16, b"\x10\x00"),
            "header": (0, b"\xff" * 100),
        }[what]
        spoil(rows_path, at, data)
    new = str(tmp_path / "new.ckpt")
    done = ckpt.salvage(rows_path, new)
    assert (done.records, done.lost) == (100, 0)
    assert bool(done.problems) == (what == "steps")
    called = []
    with Store(new) as store:
        assert store.verify() == []
        (info,) = store.steps()
        assert info.name == ("label (salvaged)" if what == "steps" else "label")
        assert len(store.runs()) == 1
        again = ckpt.step(store, version=1, name="label")(called.append)
        assert list(again.run(range(100))) == [result(row) for row in range(100)]
    assert called == []


def test_a_chain_that_is_cut_costs_its_record_alone(rows_path, tmp_path):
    """It is named with its key, by the command too, which ends with 3."""
    with open(rows_path, "rb") as file:
        data = file.read()
    first = next(
        at
        for at in range(PAGE, len(data), PAGE)
        if data[at] == 0 and data[at + 4 :].count(b"x") > 8000
    )
    spoil(rows_path, first, bytes(4))
    new = str(tmp_path / "new.ckpt")
    done = ckpt.salvage(rows_path, new)
    lost = ckpt.key_of("label", 1, 50)
    assert (done.records, done.lost) == (99, 1)
    assert [(problem.record, problem.key) for problem in done.problems] == [(51, lost)]
    shown = invoke("salvage", rows_path, "-o", str(tmp_path / "other.ckpt"))
    assert shown.exit_code == 3
    assert f"record 51 (key {lost}) is not whole" in shown.stdout
    assert "99 records saved" in shown.stderr and "1 lost" in shown.stderr


def test_the_old_file_is_only_read(rows_path, tmp_path):
    """Neither its bytes nor its time of change; nothing appears next to it."""
    spoil(rows_path, 0, bytes(PAGE))
    os.utime(rows_path, (1, 1))
    with open(rows_path, "rb") as file:
        before = file.read()
    ckpt.salvage(rows_path, tmp_path / "new.ckpt")
    with open(rows_path, "rb") as file:
        assert file.read() == before
    assert os.stat(rows_path).st_mtime == 1
    assert sorted(os.listdir(tmp_path)) == ["new.ckpt", "rows.ckpt"]
    assert os.stat(tmp_path / "new.ckpt").st_mode & 0o777 == 0o600


def test_nothing_is_overwritten_unasked(rows_path, tmp_path):
    """A file, the store itself, a link, a store that is open, a log that is left."""
    new, link = str(tmp_path / "new.ckpt"), str(tmp_path / "link.ckpt")
    with open(new, "w") as file:
        file.write("mine")
    os.symlink(tmp_path / "elsewhere", link)
    for target in (new, link, rows_path):
        with pytest.raises(StoreError, match="exists; nothing was written"):
            ckpt.salvage(rows_path, target)
    for target, why in ((link, "not a plain file"), (rows_path, "is the store itself")):
        with pytest.raises(StoreError, match=why):
            ckpt.salvage(rows_path, target, force=True)
    with open(new) as file:
        assert file.read() == "mine"
    assert ckpt.salvage(rows_path, new, force=True).records == 100
    with Store(new), pytest.raises(StoreError, match="open; close it"):
        ckpt.salvage(rows_path, new, force=True)
    with Store(rows_path), pytest.raises(StoreError, match="has it open"):
        ckpt.salvage(rows_path, tmp_path / "third.ckpt")
    with open(tmp_path / "third.ckpt-wal", "wb") as file:
        file.write(b"log")
    with pytest.raises(StoreError, match="log of another store"):
        ckpt.salvage(rows_path, tmp_path / "third.ckpt")
    assert not os.path.lexists(tmp_path / "elsewhere")


def test_a_file_without_anything_of_a_store_is_refused(tmp_path):
    """Random bytes, text, an SQLite file of somebody else: an error, and no new file."""
    for data in (random.Random(1).randbytes(100_000), b"text\n" * 10_000):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(StoreError, match="nothing of a checkpointdb store"):
            ckpt.salvage(tmp_path / "file", tmp_path / "new.ckpt")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("create table t (a, b, c)")
        db.execute("insert into t values (1, 'two', x'03')")
        db.commit()
    with pytest.raises(StoreError, match="nothing of a checkpointdb store"):
        ckpt.salvage(tmp_path / "other.db", tmp_path / "new.ckpt")
    with pytest.raises(StoreError, match="No such file"):
        ckpt.salvage(tmp_path / "none", tmp_path / "new.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["file", "other.db"]


def test_the_log_that_a_kill_left_is_read(store_path, tmp_path):
    """Commits that never came into the main file; whole ones after a damaged frame, too."""
    with Store(store_path) as store:
        log = Log(store)
        for n in range(10):
            log.add(*range(20 * n, 20 * n + 20))
        copy = str(tmp_path / "copy.ckpt")
        for ending in ("", "-wal"):
            with open(store_path + ending, "rb") as file, open(copy + ending, "wb") as to:
                to.write(file.read())
    size = os.path.getsize(copy + "-wal")
    assert ckpt.salvage(copy, tmp_path / "whole.ckpt").records == 200
    spoil(copy + "-wal", size // 2, b"\xff")
    done = ckpt.salvage(copy, tmp_path / "more.ckpt")
    with pytest.warns(UserWarning, match="is damaged"), Store(copy, create=False) as store:
        assert done.records >= 190 > len(list(store.records()))


def test_rows_that_were_forgotten_stay_so(store_path, tmp_path):
    """Deleted rows are not found on pages that nothing names any more."""
    with Store(store_path) as store:
        log = Log(store)
        log.add(*range(100), entry(200, result='"' + "secret" * 5000 + '"'))
        assert store.forget(where="position >= 50") == 51
    spoil(store_path, 0, bytes(PAGE))
    done = ckpt.salvage(store_path, tmp_path / "new.ckpt")
    assert done.records == 50
    with open(tmp_path / "new.ckpt", "rb") as file:
        assert b"secret" not in file.read()


def test_rows_that_were_forgotten_are_told_where_others_were_lost(store_path, tmp_path):
    """Of a damaged file nobody can tell what was deleted from what is gone."""
    with Store(store_path) as store:
        log = Log(store)
        log.add(*range(100))
        assert store.forget(where="position >= 50 and position < 60") == 10
    assert ckpt.salvage(store_path, tmp_path / "whole.ckpt").problems == []
    with contextlib.closing(sqlite3.connect(store_path)) as db:
        db.execute("update records set result = '{}' where id = 3")
        db.commit()
    done = ckpt.salvage(store_path, tmp_path / "new.ckpt")
    assert (done.records, done.lost) == (89, 1)
    told = {problem.what: problem.means for problem in done.problems}
    assert told["records 51 to 60 are not there"] == "deleted (forget, compact), or lost"


def test_a_file_that_was_cut_is_said_to_be(rows_path, tmp_path):
    """First, and by how much: what was on those pages nobody can name."""
    os.truncate(rows_path, os.path.getsize(rows_path) - 2 * PAGE)
    done = ckpt.salvage(rows_path, tmp_path / "new.ckpt")
    assert done.problems[0].what == "the file ends 2 pages early"
    assert 0 < done.records <= 100


def test_rows_are_found_on_a_page_that_has_lost_its_list_of_them(store_path, tmp_path):
    """By how they begin; the number of a row stands before that, in two bytes from 128 on."""
    with Store(store_path) as store:
        Log(store).add(*range(500))
    with open(store_path, "rb") as file:
        data = file.read()
    pages = range(PAGE, len(data), PAGE)
    leaf = next(at for at in pages if data[at] == 13 and key(250) in data[at : at + PAGE])
    count = int.from_bytes(data[leaf + 3 : leaf + 5], "big")
    spoil(store_path, leaf, bytes(8 + 2 * count))
    done = ckpt.salvage(store_path, tmp_path / "new.ckpt")
    assert (done.records, done.lost) == (500, 0)
    with Store(tmp_path / "new.ckpt") as store:
        assert Log(store).found(250, 499) == [entry(250).result, entry(499).result]


@pytest.mark.parametrize("size", [200, 40_000])
def test_bytes_in_a_result_are_no_record(store_path, tmp_path, size, monkeypatch):
    """A result that holds a page of a store, checksums and all, adds nothing to the new one."""
    other = str(tmp_path / "other.ckpt")
    with Store(other) as store:
        Log(store).add(entry(666, result='"forged"'))
    with open(other, "rb") as file:
        data = file.read()
    at = data.index(b"forged") // PAGE * PAGE
    forged = data[at : at + PAGE]
    start = forged.index(b"forged") - 120
    nested = forged if size > PAGE else forged[start : start + 200]
    with Store(store_path) as store:
        log = Log(store)
        log.add(*range(30))
        for n in range(30, 40):
            log.add(
                entry(n, result=(b"\xc6" + bytes(3) + nested * (size // len(nested) + 1))[:size])
            )
    spoil(store_path, leaf_of(store_path), bytes(8))
    ckpt.salvage(store_path, tmp_path / "new.ckpt")
    keys = {k for k, *_ in records_of(str(tmp_path / "new.ckpt")).values()}
    assert key(666) not in keys and key(3) in keys


def leaf_of(path):
    """Return where a leaf of records is: what it says of itself is spoilt next."""
    with open(path, "rb") as file:
        data = file.read()
    return next(
        at
        for at in range(PAGE, len(data), PAGE)
        if data[at] == 13 and key(3) in data[at : at + PAGE]
    )


def test_the_newest_record_of_a_row_still_wins(store_path, tmp_path):
    """Order, attempts, money and the ledger come along; a later run goes on from them."""
    with Store(store_path) as store:
        log = Log(store)
        log.add(*[entry(n, error=ERROR, cost=0.5) for n in range(20)])
        log.add(*[entry(n, attempts=2, cost=0.25) for n in range(20)])
        before = list(store.records())
        steps = store.steps()
    spoil(store_path, 0, bytes(PAGE))
    ckpt.salvage(store_path, tmp_path / "new.ckpt")
    with Store(tmp_path / "new.ckpt") as store:
        assert list(store.records()) == before
        assert store.steps() == steps and steps[0].cost == 15
        Log(store).add(entry(100))
        assert store.verify() == []


def test_a_lost_newest_record_is_told_where_an_older_one_takes_its_place(store_path, tmp_path):
    """The run that follows would take the older one without a word otherwise."""
    with Store(store_path) as store:
        log = Log(store)
        log.add(*range(5))
        log.add(entry(2, result='{"newer": true}'))
    with open(store_path, "rb") as file:
        at = file.read().index(b'"newer"')
    spoil(store_path, at, b"#")
    done = ckpt.salvage(store_path, tmp_path / "new.ckpt")
    (problem,) = done.problems
    assert problem.record == 6 and "an older record of its row" in problem.means
    assert done.records == 5


def test_ids_that_two_pages_claim_keep_both_records(store_path, tmp_path):
    """A rotted id is another record's: neither record is lost."""
    with Store(store_path) as store:
        Log(store).add(*range(10))
    with open(store_path, "rb") as file:
        data = file.read()
    place = data.index(key(4)) - 1
    while data[place : place + 3] != b"\x00\x2c\x2c":
        place -= 1
    assert data[place - 2] == 5  # its id, before the size of the header
    spoil(store_path, place - 2, b"\x07")
    done = ckpt.salvage(store_path, tmp_path / "new.ckpt")
    assert done.records == 10
    with Store(tmp_path / "new.ckpt") as store:
        assert Log(store).found(*range(10)) == [entry(n).result for n in range(10)]


def test_a_file_made_to_waste_time_does_not(store_path, tmp_path):
    """Thousands of cells that share one chain of pages are given up soon."""
    with Store(store_path) as store:
        log = Log(store)
        log.add(*[entry(n, result='"' + "x" * 60_000 + '"') for n in range(60)])
    with open(store_path, "rb") as file:
        data = bytearray(file.read())
    for at in range(PAGE, len(data), PAGE):
        if data[at] == 0 and any(data[at : at + 4]):
            data[at : at + 4] = (3).to_bytes(4, "big") if at % 2 else data[at : at + 4]
    with open(store_path, "wb") as file:
        file.write(data)
    began = time.process_time()
    ckpt.salvage(store_path, tmp_path / "new.ckpt")
    assert time.process_time() - began < 20


def test_a_compacted_store_keeps_what_was_paid(store_path, tmp_path):
    """The budget of a step counts money whose records are gone."""
    with Store(store_path) as store:
        log = Log(store)
        log.add(*[entry(n, error=ERROR, cost=0.5) for n in range(20)])
        log.add(*[entry(n, attempts=2, cost=0.25) for n in range(20)])
        store.log.end_run(log.run, {"rows": 20}, "finished")
        assert store.compact() == 20
        assert store.steps()[0].cost == 15
    spoil(store_path, 0, bytes(PAGE))
    done = ckpt.salvage(store_path, tmp_path / "new.ckpt")
    assert (done.records, done.problems) == (20, [])
    with Store(tmp_path / "new.ckpt") as store:
        assert store.steps()[0].cost == 15
        assert store.verify() == []
