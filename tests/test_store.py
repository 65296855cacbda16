"""The store: bytes in, bytes out, whatever happens to the file, the disk or the process."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time

import apsw
import msgspec
import pytest
from stores import ERROR, Log, entry, files_beside, identity, key
from test_connection import run_script

from checkpointdb import (
    CheckpointError,
    Record,
    Store,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    every,
    on_exit,
    step,
)
from checkpointdb.file import connection, key_index, migrations
from checkpointdb.file.read import Reader
from checkpointdb.file.records import Code, Entry, Found, Registered
from checkpointdb.values.keys import ARGUMENTS, KEY

# --- commits


def statements(store):
    """Collect the SQL that the writer is sent from now on, in one line each."""
    sent = []

    def trace(cursor, sql, bindings):
        sent.append(" ".join(sql.split()))
        return True

    store.log._writer.exec_trace = trace
    return sent


@pytest.mark.parametrize("rows", [1, 2, 100, 1000])
def test_a_commit_is_one_statement(open_store, rows):
    """However many rows. With failures among them it is a transaction: they hide no result."""
    log = Log(open_store())
    sent = statements(log.store)
    log.add(*range(rows))
    log.add(*[entry(rows + n, attempts=2, cost=0.5, error=ERROR) for n in range(rows)])
    assert sent[1::2] == ["begin immediate", "commit"]
    for sql in sent[::2]:
        assert sql.startswith("insert into records (step, run, saved_at, key, identity, position,")
    assert len(sent[0].encode()) < 16 << 10  # up to there apsw keeps a statement prepared


def test_a_retry_says_what_it_supersedes_in_the_same_transaction(open_store):
    """So that the views, which read the log as it is, show the newest record of each key."""
    log = Log(open_store())
    log.add(entry(1, error=ERROR), 2)
    sent = statements(log.store)
    log.add(msgspec.structs.replace(entry(1, attempts=2), replaces=1))
    assert [sql.split()[0] for sql in sent] == ["begin", "insert", "insert", "commit"]
    assert [sql.split()[2] for sql in sent[1:3]] == ["records", "ignore"]
    assert superseded(log.store) == [1]


def superseded(store):
    """Return the ids of records that are no longer the newest of their key."""
    sql = "select id from system_superseded order by id"
    return [id for (id,) in store.log._reader.execute(sql)]


def test_a_row_that_two_computed_at_the_same_time_is_shown_once(open_store, store_path):
    """Neither knew of the other's: whoever commits last says so, whichever handle it is."""
    one, two = Log(open_store()), Log(open_store())
    one.add(1, 2)
    two.add(2, 3)
    one.add(3, 3)
    assert superseded(one.store) == [2, 4, 5]
    with contextlib.closing(sqlite3.connect(store_path)) as db:
        ids = db.execute("select id from results").fetchall()
    assert ids == [(1,), (3,), (6,)]


def test_a_look_up_just_after_a_commit_takes_no_row_for_a_repeat(open_store, monkeypatch):
    """Look-ups do not wait for a commit: one may see the new rows before the committer does."""
    log = Log(open_store())
    index = log.store.log._finder.index
    added = index.added

    def looked_up_before(*args):
        index.catch_up()
        return added(*args)

    monkeypatch.setattr(index, "added", looked_up_before)
    log.add(1, 2, 3)
    assert superseded(log.store) == []
    log.add(2)
    assert superseded(log.store) == [2]


def test_a_note_that_finds_no_room_does_not_undo_the_commit_before_it(open_store):
    """Else what is committed would count as pending, and be committed again."""
    one, two = Log(open_store()), Log(open_store())
    one.add(1)

    def full(cursor, sql, bindings):
        if "system_superseded" in sql:
            raise apsw.FullError("database or disk is full")
        return True

    two.store.log._writer.exec_trace = full
    two.add(1)
    two.store.log._writer.exec_trace = None
    assert [record.id for record in two.store.records()] == [2]


def test_what_a_crash_left_unsaid_the_index_says(open_store, monkeypatch):
    """A kill between a commit and its note: the next extension of the index notes it."""
    monkeypatch.setattr(key_index, "TAIL", 10)
    log = Log(open_store())
    log.add(*range(10))
    log.add(10, 11, 11, 5)
    log.store.log._writer.execute("delete from system_superseded")
    log.add(*range(20, 30))
    assert superseded(log.store) == [6, 12]
    assert log.store.verify() == []


def test_an_id_is_never_used_again(open_store, store_path):
    """Not even that of the newest record: what was shipped or shown by its id stays that record."""
    log = Log(open_store())
    log.add(*range(5))
    assert log.store.forget(where="position >= 3") == 2
    log.add(7)
    assert [record.id for record in log.store.records()] == [1, 2, 3, 6]
    log.store.log.end_run(log.run, {"rows": 5}, "finished")
    log.store.close()
    with Store(store_path) as store:
        assert store.forget("label") == 4
        log = Log(store)
        log.add(8)
        assert [record.id for record in store.records()] == [7]


def test_a_large_commit_and_a_runs_counts_are_one_transaction(open_store):
    """Several statements then, all or nothing."""
    log = Log(open_store())
    sent = statements(log.store)
    log.add(*range(3000))
    assert [sql.split()[0] for sql in sent] == ["begin", "insert", "insert", "insert", "commit"]
    assert sent[0] == "begin immediate"
    del sent[:]
    log.store.log.append(log.step, log.run, [entry(3000)], {"rows": 3001, "hits": 0})
    assert [sql.split()[0] for sql in sent] == ["begin", "insert", "update", "commit"]
    assert log.store.runs()[0].report.rows == 3001


def test_an_entry_is_read_back_byte_for_byte(open_store):
    """Text stays text and a blob a blob; every column is where it belongs."""
    log = Log(open_store())
    log.store.log.append(
        log.step,
        log.run,
        [
            Entry(key(1), identity(1), 7, 1, 0.5, None, None, '{"a":"é"}', '"in"'),
            Entry(
                key(2),
                identity(2),
                8,
                3,
                1.5,
                0.25,
                None,
                b"\x93\x01\x02\x03",
                b"\xc4\x01\x00",
                KEY,
                identity(9),
                4,
            ),
            Entry(key(3), identity(3), 9, 2, 2.5, 0.75, ERROR, None, "null", ARGUMENTS),
            Entry(key(4), identity(4), 10, 1, 0.5, None, None, "null", None),
        ],
    )
    assert log.store.log.find([key(n) for n in range(1, 6)]) == [
        Found(1, identity(1), 1, None, '{"a":"é"}', log.run),
        Found(2, identity(2), 3, None, b"\x93\x01\x02\x03", log.run),
        Found(3, identity(3), 2, ERROR, None, log.run),
        Found(4, identity(4), 1, None, "null", log.run),
        None,
    ]
    one, two, three, four = log.store.records()
    assert isinstance(one, Record)
    assert (one.key, one.step, one.version, one.position) == (key(1).hex(), "label", 1, 7)
    assert (one.input, one.result, one.error, one.attempts) == ("in", {"a": "é"}, None, 1)
    assert (one.seconds, one.cost, one.run, one.id) == (0.5, None, log.run, 1)
    assert (two.input, two.result, two.cost, two.attempts) == (b"\x00", [1, 2, 3], 0.25, 3)
    assert three.result is None
    assert three.error == {"type": "ValueError", "message": "no luck", "traceback": "…"}
    assert (four.input, four.result, four.error) == (None, None, None)
    assert [r.kept for r in (one, two, three, four)] == ["row", "key", "arguments", "nothing"]
    assert [r.occurrence for r in (one, two, three, four)] == [0, 4, 0, 0]
    assert one.saved_at == four.saved_at > 1.7e9
    assert log.store.get(key(2).hex()) == two
    assert log.store.get(key(9).hex()) is None


def test_look_ups_keep_order_and_duplicates(open_store):
    """One answer a question, in any order, hits and misses mixed."""
    log = Log(open_store())
    log.add(*range(100))
    asked = [5, 200, 5, 99, 0, 201, 5]
    assert log.found(*asked) == [entry(n).result if n < 100 else None for n in asked]
    assert log.store.log.find([]) == []


def test_the_newest_record_of_a_key_counts(open_store):
    """A retry is a new record; the old ones stay in the log."""
    log = Log(open_store())
    log.add(entry(1, error=ERROR))
    log.add(entry(1, result="2", attempts=2), entry(2))
    assert [f.result for f in log.store.log.find([key(1), key(2)])] == ["2", entry(2).result]
    assert next((r.id, r.result) for r in log.store.records()) == (2, 2)
    (info,) = log.store.steps()
    assert (info.results, info.failures, info.records) == (2, 0, 3)


@pytest.mark.parametrize("broken", ["insert", "commit"])
def test_a_commit_is_all_or_nothing(open_store, broken):
    """A statement or a commit that fails leaves the store as it was, and usable."""
    log = Log(open_store())
    log.add(1)

    def trace(cursor, sql, bindings):
        seen[sql.split()[0]] += 1
        if sql.split()[0] == broken and seen[broken] == (3 if broken == "insert" else 1):
            raise apsw.IOError("disk I/O error")
        return True

    seen = collections.Counter()
    log.store.log._writer.exec_trace = trace
    with pytest.raises(StoreError, match="disk I/O error"):
        log.add(*range(10, 3000))
    log.store.log._writer.exec_trace = None
    assert not log.store.log._writer.in_transaction
    assert len(list(log.store.records())) == 1
    log.add(*range(10, 3000))
    assert len(list(log.store.records())) == 2991


def test_records_can_be_read_while_the_store_is_written(open_store):
    """As of the first one asked for; no cursor is open meanwhile, so the log can be cut."""
    log = Log(open_store())
    log.add(*range(1000))
    records = log.store.records()
    first = next(records)
    log.add(*range(1000, 3000))
    assert log.store.log._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE) == (0, 0)
    assert [first.position, *(r.position for r in records)] == list(range(1000))


def test_records_are_chosen_by_step_and_status(open_store):
    """In input order, whatever order they were saved in."""
    log, other = Log(open_store()), Log(open_store(), "other")
    log.add(5, entry(3, error=ERROR), 1)
    other.add(*range(100, 103))
    assert [r.position for r in log.store.records()] == [1, 3, 5, 100, 101, 102]
    assert [r.position for r in log.store.records(step="label")] == [1, 3, 5]
    assert [r.position for r in log.store.records(step="label", status="ok")] == [1, 5]
    assert [r.position for r in log.store.records(status="failed")] == [3]
    assert list(log.store.records(step="nobody")) == []


def test_a_key_is_found_by_its_beginning(open_store, store_path):
    """As `ckpt inspect STORE KEY` does; at most as many as asked for."""
    log = Log(open_store())
    log.add(*range(200))
    with Reader(store_path) as reader:
        for n in (0, 7, 199):
            (record,) = reader.find(key(n).hex())
            assert record.position == n
            (record,) = reader.find(key(n).hex()[:20])
            assert record.position == n
        assert len(reader.find("")) == 2
        assert len(reader.find("", limit=500)) == 200
        assert reader.find("ff" * 16) == []


def test_the_runs_of_a_store_tell_what_they_did(open_store):
    """Their counts, how they ended, where they ran; `ended` is None while they run."""
    log = Log(open_store(durability="process"))
    run = log.store.log.begin_run(log.step, "every(rows=5)", "4 rows", '{"model":"m"}')
    log.store.log.end_run(run, {"rows": 3, "hits": 1, "computed": 2, "cost": 0.5}, "finished")
    first, second = log.store.runs("label")
    assert (first.ended, first.meta, first.report.rows) == (None, None, 0)
    assert (second.id, second.step, second.version, second.ended) == (run, "label", 1, "finished")
    report = second.report
    assert (report.rows, report.hits, report.computed, report.cost) == (3, 1, 2, 0.5)
    assert (second.policy, second.loss_window, second.meta) == (
        "every(rows=5)",
        "4 rows",
        {"model": "m"},
    )
    assert (second.pid, second.durability) == (os.getpid(), "process")
    assert second.updated_at >= second.started_at > 1.7e9
    assert log.store.runs("nobody") == []


def test_a_step_is_its_name_and_its_version(open_store):
    """`1` and `"1"` are two versions; registering again gives the same step and what is stored."""
    store = open_store()
    ids = {
        (name, version): store.log.register_step(name, version, "null").id
        for name in ("a", "b")
        for version in (1, "1", 2)
    }
    assert len(set(ids.values())) == 6
    assert store.log.register_step("a", 1, '["id"]') == Registered(ids["a", 1], "null", None)
    store.log.update_recipe(ids["a", 1], '["id"]')
    store.log.begin_run(ids["a", 1], "", "", None, Code("f1", None))
    store.log.begin_run(ids["a", 1], "", "", None)
    assert store.log.register_step("a", 1, "null") == Registered(ids["a", 1], '["id"]', "f1")
    store.log.begin_run(ids["a", 1], "", "", None, Code("f2", '{"X":"1"}'))
    assert store.log.register_step("a", 1, "null").fingerprint == "f2"
    assert [run.fingerprint for run in store.runs("a")] == ["f1", None, "f2"]
    assert [(s.name, s.version) for s in store.steps()] == list(ids)


# --- the file format


TABLES = {
    "steps": "id name version key_recipe created_at results failures records seconds cost"
    " usage on_change",
    "step_code": "id step fingerprint captured first_used accepted_at",
    "runs": "id step code store uid merged_to started_at updated_at ended host boot pid_namespace"
    " pid pid_ticks policy loss_window durability total meta rows hits computed failed commits"
    " seconds commit_seconds cost usage",
    "records": "id key identity step run position occurrence attempts seconds cost usage saved_at"
    " checksum error result input input_form row_digest origin_id",
    "sent_calls": "key step run position sent_at input input_form",
    "system_claims": "key worker expires",
    "system_forgotten": "key event generation",
    "system_sources": "store read_to mark",
    "system_counters": "id kind shared worker expires ended deaths",
    "system_key_index": "key id",
    "system_occurrences": "content n counter",
    "system_state": "name value",
    "system_superseded": "id",
    "sqlite_sequence": "name seq",
    "results": "id key step version run position occurrence input result attempts seconds cost"
    " usage saved_at",
    "failures": "id key step version run position occurrence input error_type message traceback"
    " result attempts seconds cost usage saved_at",
}


def test_the_tables_and_views_of_format_1_are_these(open_store, store_path):
    """A change of them is a new format, a migration, and a line in docs/file-format.md."""
    open_store().close()
    with contextlib.closing(sqlite3.connect(store_path)) as db:
        names = db.execute("select name from sqlite_schema where sql is not null").fetchall()
        assert {name for (name,) in names} == set(TABLES)
        for name, columns in TABLES.items():
            found = [row[1] for row in db.execute(f"pragma table_xinfo({name})")]
            assert found == columns.split()
        state = dict(db.execute("select * from system_state").fetchall())
        assert re.fullmatch("[0-9a-f]{32}", state.pop("store_id"))
        assert time.time() - state.pop("created_at") < 60
        assert state == {"flushes": 0, "generation": 0, "indexed_to": 0, "repeated": 0}


def test_the_file_format_is_documented():
    """Every table, view and column of a store, and every code of a value."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(os.path.join(root, "docs", "file-format.md"), encoding="utf-8") as file:
        text = file.read()
    for name, columns in TABLES.items():
        assert f"`{name}`" in text
        if name not in ("results", "failures"):
            assert [c for c in columns.split() if f"`{c}`" not in text] == []
    codes = {
        int(n)
        for line in text.splitlines()
        for n in re.findall(r"^\| ([\d, ]+) \|", line)[:1]
        for n in n.split(",")
    }
    assert codes == set(range(1, 37))
    assert f"0x{migrations.APPLICATION_ID:08x}" in text
    for name in ("indexed_to", "flushes", "repeated", "generation", "store_id", "created_at"):
        assert f"`{name}`" in text


def test_any_sqlite_tool_reads_results_and_failures(open_store, store_path):
    """By two views, with the newest record of each key, JSON as text, and times as text."""
    log = Log(open_store())
    log.add(entry(1, error=ERROR), 2, entry(3, result=b"\x93\x01\x02\x03"), entry(4, error=ERROR))
    log.add(entry(1, result='{"label":"good"}', attempts=2, cost=0.5, usage='{"in":7}'))
    log.store.close()
    with contextlib.closing(sqlite3.connect(store_path)) as db:
        db.row_factory = sqlite3.Row
        results = db.execute("select * from results order by id").fetchall()
        failures = db.execute("select * from failures").fetchall()
        labels = db.execute("select result ->> 'label' from results where position = 1").fetchall()
    assert [row["position"] for row in results] == [2, 3, 1]
    last = dict(results[-1])
    assert last.pop("saved_at").startswith("20")
    assert last == {
        "id": 5,
        "key": key(1).hex(),
        "step": "label",
        "version": "1",
        "run": 1,
        "occurrence": 0,
        "position": 1,
        "input": '{"row":1}',
        "result": '{"label":"good"}',
        "attempts": 2,
        "seconds": 0.25,
        "cost": 0.5,
        "usage": '{"in":7}',
    }
    assert json.loads(results[1]["result"]) == {"bytes": 4, "MessagePack": "93010203"}
    assert [tuple(row) for row in labels] == [("good",)]
    (failure,) = failures
    assert (failure["position"], failure["error_type"], failure["message"]) == (
        4,
        "ValueError",
        "no luck",
    )


@pytest.mark.parametrize("view", ["results", "failures"])
def test_the_views_read_the_log_as_it_is(open_store, store_path, view):
    """In its order and without sorting, so that `limit 5` reads five rows at any size."""
    log = Log(open_store())
    log.add(*range(50), *[entry(n, error=ERROR) for n in range(50, 90)])
    with contextlib.closing(sqlite3.connect(store_path)) as db:
        plan = db.execute(f"explain query plan select * from {view} limit 5").fetchall()
        ids = [id for (id,) in db.execute(f"select id from {view}")]
    steps = [detail for *_, detail in plan]
    assert steps[0].split()[:2] == ["SCAN", "records"]
    assert not any("B-TREE" in step or "AUTOMATIC" in step for step in steps)
    assert ids == sorted(ids)
    assert len(ids) == (50 if view == "results" else 40)


def test_the_views_have_types_that_other_tools_understand(open_store, store_path):
    """No column without a type, whatever is in it: table browsers go by that."""
    open_store().close()
    with contextlib.closing(apsw.Connection(store_path)) as db:  # SQLite before 3.41 tells none
        for view in ("results", "failures"):
            types = {row[1]: row[2] for row in db.execute(f"pragma table_xinfo({view})")}
            assert set(types.values()) == {"INTEGER", "TEXT", "REAL"}, types
            assert types["input"] == types["saved_at"] == types["version"] == "TEXT"
        names = [name for (name,) in db.execute("select name from sqlite_schema where sql <> ''")]
        alphabetical = sorted(name for name in names if not name.startswith("sqlite_"))
    plumbing = [name.startswith("system_") for name in alphabetical]
    assert plumbing == sorted(plumbing)


# --- bit rot


@pytest.mark.damages_store
@pytest.mark.parametrize("column", ["key", "identity", "input", "result", "error", "checksum"])
@pytest.mark.parametrize(
    "value",
    [
        "x'00'",
        "'changed'",
        "null",
        "5",
        "0.5",
        "'1'",
        "cast(x'ff' as text)",
    ],
)
def test_a_record_that_was_changed_is_an_error_that_names_it(store_path, column, value):
    """Whatever was changed, to whatever: never wrong bytes; every other record is still read."""
    with Store(store_path) as store:
        log = Log(store)
        log.add(*range(10))
        log.add(entry(10, error=ERROR))
    if value == "null" and column in ("key", "identity", "checksum", "error"):
        return  # SQLite refuses the first three; without error and result it is what is expected
    id = 11 if column == "error" else 5
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.execute(f"update records set {column} = {value} where id = {id}")
    with Store(store_path) as store:
        is_text = "ff" in value  # no UTF-8: SQLite's rows cannot be read at all
        if column == "input" or (column == "identity" and not is_text):
            # a hit is its result: it does not read these
            assert store.log.find([key(id - 1)])[0].result == entry(id - 1).result
        elif column != "key":  # a changed key is another key: the row is computed anew
            with pytest.raises(
                StoreCorruptError, match=rf"record {id} \(key {key(id - 1).hex()}\)"
            ):
                store.log.find([key(id - 2), key(id - 1)])
            with pytest.raises(StoreCorruptError):
                store.log.find([key(id - 1)])
        if column != "key":
            with pytest.raises(
                StoreCorruptError, match=rf"record {id} \(key {key(id - 1).hex()}\)"
            ):
                store.get(key(id - 1).hex())
        with pytest.raises(StoreCorruptError, match=rf"record {id} "):
            list(store.records())
        assert any(problem.what.startswith(f"record {id} ") for problem in store.verify())
        assert store.log.find([key(0), key(7)]) == [
            Found(n + 1, identity(n), 1, None, entry(n).result, 1) for n in (0, 7)
        ]
        assert store.get(key(7).hex()).position == 7


@pytest.mark.damages_store
def test_damage_that_only_a_part_of_the_reading_meets_is_an_error_of_ours(store_path):
    """The page of the steps, which rows are joined to when they are listed already."""
    with Store(store_path) as store:
        Log(store).add(*range(10))
    with contextlib.closing(apsw.Connection(store_path)) as db:
        root = db.execute("select rootpage from sqlite_schema where name = 'steps'").get
    with open(store_path, "r+b") as file:
        file.seek((root - 1) * 8192)
        file.write(bytes(8192))
    with Reader(store_path) as reader:
        for read in (reader.records, lambda: [reader.get(key(3).hex())], lambda: reader.check(3)):
            with pytest.raises(StoreCorruptError):
                list(read())


@pytest.mark.slow
@pytest.mark.damages_store
def test_no_flipped_bit_ever_gives_wrong_bytes(store_path, monkeypatch):
    """A look-up gives what was saved, nothing, or an error of ours: 200 flips, anywhere."""
    monkeypatch.setattr(key_index, "TAIL", 100)
    with Store(store_path) as store:
        log = Log(store)
        log.add(*range(100))
        log.add(*range(100, 150), entry(150, error=ERROR))
    right = {key(n): entry(n).result for n in range(150)} | {key(150): None}
    with open(store_path, "rb") as file:
        whole = file.read()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    outcomes = collections.Counter()
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        with open(store_path, "wb") as file:
            file.write(flipped)
        try:
            outcome = read_all(store_path, right)
        except CheckpointError as error:
            outcome = type(error).__name__
            assert str(error)
        outcomes[outcome] += 1
    assert outcomes["same"] > 10
    assert outcomes["StoreCorruptError"] > 5


def read_all(path, right):
    """Read everything in a store; whatever comes back must be right."""
    with Store(path) as store:
        problems = store.verify()
        found = {}
        for k in right:
            with contextlib.suppress(StoreCorruptError):
                (found[k],) = store.log.find([k])
        for k, answer in found.items():
            assert answer is None or answer.result == right[k]
        with Reader(path) as reader:
            for k in right:
                with contextlib.suppress(StoreCorruptError):
                    record = reader.get(k.hex())
                    assert record is None or record.key == k.hex()
        if len(found) < len(right) or None in found.values():
            assert problems
        for record in store.records():
            assert bytes.fromhex(record.key) in right
        store.steps()
        store.runs()
    return "same"


def set_in_index(path, k, id):
    """Write what only a flipped bit can: an id in the key index that is no number."""
    with contextlib.closing(apsw.Connection(path)) as db:
        typed = db.execute("select sql from sqlite_schema where name = 'system_key_index'").get
        untyped = typed.replace("integer not null", "")
        for sql in (untyped, typed):
            db.pragma("writable_schema", True)
            db.execute("update sqlite_schema set sql = ? where name = 'system_key_index'", (sql,))
            db.pragma("writable_schema", "reset")
            if sql is untyped:
                db.execute("update system_key_index set id = ? where key = ?", (id, k))


@pytest.mark.damages_store
@pytest.mark.parametrize("id", [None, "three", b"3", 3.5, 99])
def test_an_index_that_names_no_record_is_damage_and_not_a_miss(store_path, monkeypatch, id):
    """A miss would be paid for again; any other error would not say that the file is damaged."""
    monkeypatch.setattr(key_index, "TAIL", 10)
    with Store(store_path) as store:
        Log(store).add(*range(10))
    set_in_index(store_path, key(4), id)
    with Store(store_path) as store:
        for look_up in (
            lambda: store.log.find([key(4)]),
            lambda: store.get(key(4).hex()),
            lambda: store.log.find([key(3), key(4)]),
        ):
            with pytest.raises(StoreCorruptError):
                look_up()
        with Reader(store_path) as reader, pytest.raises(StoreCorruptError):
            reader.succeeded([key(4)])
        assert store.verify()


@pytest.mark.damages_store
def test_an_index_that_points_elsewhere_is_noticed(store_path, monkeypatch):
    """By look-ups, which check the key, and by `verify`, which also sees what is missing."""
    monkeypatch.setattr(key_index, "TAIL", 10)
    with Store(store_path) as store:
        Log(store).add(*range(10))
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.execute("update system_key_index set id = 3 where key = ?", (key(4),))
        db.execute("update system_key_index set id = 999 where key = ?", (key(5),))
        db.execute("delete from system_key_index where key = ?", (key(6),))
    with Store(store_path) as store:
        for wrong in (4, 5):
            with pytest.raises(StoreCorruptError):
                store.log.find([key(wrong)])
            with pytest.raises(StoreCorruptError):
                store.get(key(wrong).hex())
        assert store.log.find([key(6)]) == [None]
        assert store.log.find([key(7)]) == [Found(8, identity(7), 1, None, entry(7).result, 1)]
        wrong = "its entry in the key index is wrong"
        missing = "its key is missing from the key index"
        assert sorted(problem.what for problem in store.verify()) == [
            f"record 3: {wrong}",
            f"record 5: {missing}",
            f"record 6: {missing}",
            f"record 7: {missing}",
            f"record 999: {wrong}",
        ]


# --- durability


class CountingFile(apsw.VFSFile):
    def __init__(self, name, flags, events):
        self.name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self.events = events
        super().__init__("unix", name, flags)

    def xWrite(self, data, offset):
        self.events.append(("write", self.name[-4:]))
        super().xWrite(data, offset)

    def xSync(self, flags):
        self.events.append(("sync", self.name[-4:]))
        super().xSync(flags)


class CountingVFS(apsw.VFS):
    """Note every write and every sync, and pass it on."""

    def __init__(self):
        self.events = []
        super().__init__("counting", "unix")

    def xOpen(self, name, flags):
        return CountingFile(name, flags, self.events)


@pytest.fixture
def disk():
    vfs = CountingVFS()
    yield vfs.events
    vfs.unregister()


def test_under_power_every_commit_is_synced_before_it_is_acknowledged(open_store, disk):
    """One sync of the log a commit."""
    log = Log(open_store(vfs="counting"))
    assert log.store.log._writer.pragma("synchronous") == 2
    for n in range(3):
        del disk[:]
        log.add(n)
        assert disk[-1] == ("sync", "-wal")
        assert disk.count(("sync", "-wal")) == 1
    log.store.close()


def test_under_process_a_commit_is_not_synced_and_a_flush_is(open_store, disk):
    """Flush writes, for an empty commit syncs nothing; without new commits it does neither."""
    log = Log(open_store(vfs="counting", durability="process"))
    assert log.store.log._writer.pragma("synchronous") == 1
    log.store.flush()
    for n in range(2):
        del disk[:]
        log.add(n)
        assert ("write", "-wal") in disk
        assert ("sync", "-wal") not in disk
        del disk[:]
        log.store.flush()
        assert ("write", "-wal") in disk
        assert disk[-1] == ("sync", "-wal")
        del disk[:]
        log.store.flush()
        assert disk == []
    assert log.store.log._writer.pragma("synchronous") == 1
    log.add(5)
    del disk[:]
    log.store.log.end_run(log.run, {"rows": 3}, "finished")
    assert disk[-1] == ("sync", "-wal")
    log.store.close()


@pytest.mark.linux
def test_a_new_store_is_synced_before_it_has_its_name(store_path, disk, monkeypatch):
    """And its directory after."""
    link = os.link
    monkeypatch.setattr("os.link", lambda a, b: (disk.append("link"), link(a, b)))
    fsync = os.fsync
    monkeypatch.setattr("os.fsync", lambda fd: (disk.append("fsync"), fsync(fd)))
    connection.create(store_path, "counting")
    assert disk[-2:] == ["link", "fsync"]
    last_write = max(
        i for i, event in enumerate(disk) if event[0] == "write" and event[1] == ".tmp"
    )
    assert ("sync", ".tmp") in disk[last_write:]


# --- when things go wrong


def label_in(store, save):
    @step(store, version=1, save=save)
    def label(row):
        return {"n": row, "text": "x" * 1000}

    return label


@pytest.mark.parametrize("save", [every(rows=7), on_exit()], ids=repr)
def test_a_full_disk_is_an_error_and_loses_nothing(open_store, save):
    """What returned stays pending; once there is room the next commit saves it."""
    store = open_store()
    label = label_in(store, save)
    label(0)
    store.flush()
    pages = store.log._writer.pragma("page_count")
    store.log._writer.pragma("max_page_count", pages + 5)
    returned = []
    with pytest.raises(
        StoreFullError, match=r"the disk is full; nothing pending is lost. Make room"
    ):
        for n in range(1, 500):
            label(n)
            returned.append(n)
            if save == on_exit() and n == 400:
                store.flush()
    with pytest.raises(StoreFullError):
        store.flush()
    with pytest.raises(StoreFullError):
        store.close()
    assert not store.closed
    store.log._writer.pragma("max_page_count", 1 << 30)
    store.flush()
    saved = [record.input for record in store.records()]
    assert saved[: len(returned) + 1] == [0, *returned]
    assert {r.result["n"] for r in store.records()} == set(saved)


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system")
def test_a_disk_that_is_really_full_loses_nothing(tmp_path):
    """On a file system of 8 MB, through a run: go on after making room, without computing twice."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, timeout=10).returncode:
        pytest.skip("may not mount")
    try:
        path = str(small / "rows.ckpt")
        ballast = small / "ballast"
        ballast.write_bytes(bytes(7_600_000))
        calls = []

        @step(path, version=1, save=every(rows=10))
        def label(row):
            calls.append(row)
            return {"n": row, "text": "x" * 1000}

        with pytest.raises(StoreFullError):
            list(label.run(range(350)))
        with Reader(path) as reader:
            assert reader.verify() == []
            saved = [record.position for record in reader.records()]
        assert saved == list(range(len(saved)))
        assert 10 < len(saved) < 350
        ballast.unlink()
        label.flush()
        before = len(calls)
        assert [r["n"] for r in label.run(range(350))] == list(range(350))
        assert sorted(calls) == list(range(350)), "a row was paid for twice"
        assert before < 350
        assert label.store.verify() == []
        label.store.close()
    finally:
        for store in list(connection_stores()):
            with contextlib.suppress(CheckpointError):
                store.close()
        subprocess.run(["umount", "-l", str(small)], check=True, timeout=10)


def connection_stores():
    from checkpointdb.file import lifetime

    return lifetime._open


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_deleted_or_replaced_while_open_keeps_what_is_pending(store_path, replaced):
    """SQLite would go on writing to a file without a name: the commit is refused instead."""
    label = label_in(store_path, every(rows=100))
    for n in range(5):
        label(n)
    moved = {ext: store_path + ".moved" + ext for ext in ("", "-wal", "-shm")}
    for ext, target in moved.items():
        os.rename(store_path + ext, target)
    if replaced:
        connection.create(store_path)
    with pytest.raises(
        StoreError, match=r"was deleted or replaced while it was open.*Put the file"
    ):
        label.flush()
    for ext, target in moved.items():
        os.rename(target, store_path + ext)
    label.flush()
    assert [record.input for record in label.store.records()] == list(range(5))


def test_a_closed_store_says_so(open_store, store_path):
    """Every use of it; closing again does nothing, and leaving `with` closes."""
    store = open_store()
    log = Log(store)
    log.add(1)
    store.close()
    store.close()
    assert store.closed
    for use in (
        lambda: store.log.find([key(1)]),
        lambda: log.add(2),
        store.flush,
        lambda: store.log.register_step("a", 1, "null"),
        lambda: store.log.begin_run(1, "", "", None),
    ):
        with pytest.raises(StoreError, match=r"rows\.ckpt: the store is closed"):
            use()
    with open_store() as store:
        assert not store.closed
        assert repr(store) == f"Store({store_path!r}, durability='power')"
    assert store.closed
    assert os.listdir(os.path.dirname(store_path)) == ["rows.ckpt"]


def test_closing_commits_what_is_pending(store_path):
    """Of a store given by path or open; the next process finds it."""
    label = label_in(store_path, on_exit())
    label(1)
    label.store.close()
    with Store(store_path) as store:
        assert [record.input for record in store.records()] == [1]
        label_in(store, on_exit())(2)
    with Store(store_path) as store:
        assert [record.input for record in store.records()] == [1, 2]


FORK = """
    import os, sys
    from checkpointdb import Store, StoreError
    from stores import Log, entry, key
    from test_connection import locks_of
    path = sys.argv[1]
    store = Store(path)
    log = Log(store)
    log.add(1)
    before = locks_of(path), locks_of(path + "-shm")
    assert before[0] and before[1]
    child = os.fork()
    if not child:
        for use in (lambda: log.add(2), lambda: store.log.find([key(1)]), store.flush):
            try:
                use()
            except StoreError as error:
                assert "forked from it: open the store again in the child" in str(error), error
            else:
                raise AssertionError("used in a child")
        assert store.closed
        store.close()
        mine = Store(path)
        Log(mine, "child").add(10, 11)
        mine.close()
        del store, log
        import gc
        gc.collect()
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert (locks_of(path), locks_of(path + "-shm")) == before
    log.add(3)
    assert log.found(1, 2, 3, 10) == [entry(n).result if n != 2 else None for n in (1, 2, 3, 10)]
    assert store.verify() == []
    store.close()
"""


@pytest.mark.linux
def test_a_forked_child_cannot_use_the_store_and_does_not_harm_it(store_path):
    """A clear error in the child, which opens its own; the parent keeps its locks and its file."""
    run_script(FORK, store_path)
    with Store(store_path) as store:
        assert sorted(record.position for record in store.records()) == [1, 3, 10, 11]


@pytest.fixture
def eager_threads():
    """Have threads take turns every 10 µs."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_threads_share_a_store(open_store, eager_threads):
    """Writing and reading at once: nothing is lost and nothing raises."""
    store = open_store()
    errors = []

    def work(number):
        try:
            log = Log(store, f"step {number}")
            for n in range(number * 10_000, number * 10_000 + 6000, 1200):
                log.add(*range(n, n + 1200))  # two statements, so a transaction
                assert log.found(n) == [entry(n).result]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.steps()
        sum(1 for _ in store.records())
    for thread in threads:
        thread.join()
    assert errors == []
    assert [info.results for info in store.steps()] == [6000] * 4


def test_nothing_is_written_by_reading(open_store, store_path):
    """Neither to the file nor to its log."""
    log = Log(open_store())
    log.add(*range(50))
    before = files_beside(store_path)
    log.found(1, 2, 300)
    list(log.store.records())
    log.store.get(key(1).hex())
    log.store.steps()
    log.store.runs()
    log.store.verify()
    after = files_beside(store_path)
    assert (after["rows.ckpt"], after["rows.ckpt-wal"]) == (
        before["rows.ckpt"],
        before["rows.ckpt-wal"],
    )
