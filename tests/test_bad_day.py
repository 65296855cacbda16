"""Tools for a bad day: damage is said with what it means; a copy and a compaction are safe."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import apsw
import msgspec
import pytest
from cli_helpers import invoke, on_terminal
from conftest import verify
from stores import ERROR, Log, entry, files_beside, key

import checkpointdb as ckpt
from checkpointdb import Store, StoreCorruptError, StoreError
from checkpointdb.file import key_index
from checkpointdb.file.backup import backup
from checkpointdb.file.read import Reader
from checkpointdb.file.salvage import salvage

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = 8192


@pytest.fixture
def filled(store_path, monkeypatch):
    """A closed store: 40 rows, of which 20 failed first; an index on disk up to record 50."""
    monkeypatch.setattr(key_index, "TAIL", 50)
    with Store(store_path) as store:
        fill(store)
    return store_path


def fill(store):
    log = Log(store)
    log.add(*[entry(n, error=ERROR, cost=0.5) for n in range(20)])
    log.add(*range(20, 40))
    log.add(*[entry(n, attempts=2, cost=0.25) for n in range(10)])
    log.add(*[entry(n, attempts=2, cost=0.25) for n in range(10, 20)])
    store.log.end_run(log.run, {"rows": 40}, "finished")


def change(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def found(store, *numbers):
    return [it and it.result for it in store.log.find([key(n) for n in numbers])]


def spoil(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


# --- verify

DAMAGE = {
    "record": ("update records set result = '{}' where id = 30", "record 30 ", "forget STORE"),
    "number": (
        "update records set position = 'x' where id = 30",
        "record 30: a numeric",
        "salvage",
    ),
    "results": ("update steps set results = 41", "counters say 41 results", "max_cost="),
    "cost": ("update steps set cost = 1", r"\$1.0; its records say .*\$12.5", "no result"),
    "key gone": (
        "delete from system_key_index where id = 30",
        "record 30: its key is missing",
        "pays for it again",
    ),
    "key elsewhere": (
        "update system_key_index set id = 3 where id = 30",
        "record 3: its entry in the key index is wrong",
        "stops with a StoreCorruptError",
    ),
    "hidden": (
        "insert into system_superseded values (60)",
        "record 60: it is noted as superseded",
        "views",
    ),
    "shown": (
        "delete from system_superseded where id = 3",
        "record 3: it is superseded and not noted",
        "views",
    ),
    "state": (
        "update system_state set value = 99 where name = 'indexed_to'",
        "more records are indexed than there are",
        "pays for them again",
    ),
    "ids": ("update sqlite_sequence set seq = 5 where name = 'records'", "last id given", "repeat"),
    "gone": ("delete from records where id = 60", "1 records are gone", "pay for them again"),
    "step gone": (
        "delete from steps",
        "names a row of steps that is not there",
        "finds it by its key",
    ),
}


@pytest.mark.damages_store
@pytest.mark.parametrize("what", DAMAGE)
def test_verify_says_what_is_damaged_and_what_that_means(filled, what):
    statement, said, means = DAMAGE[what]
    change(filled, "pragma foreign_keys = off", statement)
    with Reader(filled) as reader:
        problems = reader.verify()
    fitting = [
        problem for problem in problems if pytest.importorskip("re").search(said, problem.what)
    ]
    assert fitting and all(means in problem.means for problem in fitting), problems
    assert str(fitting[0]) == f"{fitting[0].what}: {fitting[0].means}"


@pytest.mark.damages_store
def test_what_verify_advises_helps(filled):
    """A rotten record is forgotten by its key, and computed again."""
    change(filled, "update records set result = x'ff' where id = 30")
    with Store(filled) as store:
        (problem,) = store.verify()
        assert (problem.record, problem.key) == (30, key(29).hex())
        assert store.forget(where=problem.means.split('"')[1]) == 1
        assert store.verify() == []
        assert Log(store).found(29, 28) == [None, entry(28).result]


@pytest.mark.damages_store
def test_records_that_cannot_be_read_are_named_and_the_others_checked(store_path):
    """A page that is gone hides neither what is before nor what is after it."""
    with Store(store_path) as store:
        Log(store).add(*range(500))
    with open(store_path, "rb") as file:
        data = file.read()
    pages = range(PAGE, len(data), PAGE)
    leaf = next(at for at in pages if data[at] == 13 and key(250) in data[at : at + PAGE])
    ids = [n + 1 for n in range(1, 500) if key(n) in data[leaf : leaf + PAGE]]
    change(store_path, "update records set result = '{}' where id in (3, 490)")
    spoil(store_path, leaf, bytes(PAGE))
    with Reader(store_path) as reader:
        said = [problem.what for problem in reader.verify()]
    assert f"records {ids[0]} to {ids[-1]} cannot be read" in said
    assert sum(text.startswith(("record 3 ", "record 490 ")) for text in said) == 2


def test_verify_writes_nothing_and_shows_how_far_it_is(filled):
    before = files_beside(filled)
    seen = []
    with Store(filled, create=False) as store:
        assert store.verify(on_progress=lambda what, share: seen.append((what, share))) == []
    assert {"structure", "records", "key index", "counters"} <= {what for what, _ in seen}
    assert ("records", 1.0) in seen
    assert invoke("verify", filled).exit_code == 0
    assert files_beside(filled) == before


def test_a_terminal_shows_a_bar_while_the_commands_work(filled, tmp_path):
    for arguments in (
        ("verify", filled),
        ("backup", filled, "copy.ckpt"),
        ("salvage", filled, "-o", "new.ckpt"),
    ):
        assert "\u2501" in on_terminal(*arguments, cwd=tmp_path), arguments


@pytest.mark.damages_store
def test_the_command_ends_with_4_when_something_is_damaged(filled, tmp_path):
    """1 is for what is no store, 2 for wrong use."""
    sound = invoke("verify", filled)
    assert (sound.exit_code, sound.stdout) == (0, f"{filled}: nothing is damaged\n")
    change(filled, "update records set result = '{}' where id = 30")
    shown = invoke("verify", filled)
    assert shown.exit_code == 4
    assert "record 30 (key" in shown.stdout and "1 problem" in shown.stdout
    told = json.loads(invoke("verify", filled, "--json").stdout)
    assert told["problems"][0]["record"] == 30 and told["problems"][0]["key"] == key(29).hex()
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(50_000))
    assert invoke("verify", str(tmp_path / "noise")).exit_code == 1
    assert invoke("verify", str(tmp_path / "none")).exit_code == 1
    assert invoke("verify").exit_code == 2


@pytest.mark.damages_store
@pytest.mark.parametrize(
    ("at", "data"),
    [(0, bytes(PAGE)), (68, b"abcd"), (100, bytes(500)), (16, b"\x10\x00"), (0, b"no magic")],
)
def test_a_store_that_sqlite_refuses_is_damaged_and_not_another_file(filled, at, data):
    """Whoever opens it is told of verify and salvage."""
    spoil(filled, at, data)
    shown = invoke("verify", filled)
    assert shown.exit_code == 4 and "ckpt salvage" in shown.stdout
    for opener in (Store, Reader):
        with pytest.raises(StoreCorruptError):
            opener(filled).close()


@pytest.mark.damages_store
def test_a_damaged_log_is_a_problem_said_once(store_path, tmp_path):
    with Store(store_path) as store:
        log = Log(store)
        for n in range(6):
            log.add(*range(20 * n, 20 * n + 20))
        copy = str(tmp_path / "left.ckpt")
        for ending in ("", "-wal"):
            shutil.copy(store_path + ending, copy + ending)
    spoil(copy + "-wal", os.path.getsize(copy + "-wal") // 2, b"\xff")
    shown = invoke("verify", copy)
    assert shown.exit_code == 4
    assert shown.stdout.count("is damaged, and SQLite reads nothing after it") == 1
    assert "whole commits come after it" in shown.stdout and shown.stderr == ""


# --- what a run reads and finds damaged


@pytest.mark.damages_store
@pytest.mark.parametrize(
    "statements",
    [
        ("update records set key = x'00' where id = 60",),
        ("update records set key = 'a text' where id = 60",),
        ("delete from records where id = 60",),
        ("delete from records where id = 55",),
        ("update system_state set value = 58 where name = 'indexed_to'",),
        ("update system_state set value = 61 where name = 'indexed_to'",),
    ],
)
def test_a_key_that_is_known_to_be_lost_is_not_paid_for_again(filled, monkeypatch, statements):
    """What is found is a hit still; a row that is not found stops the run before its call."""
    change(filled, *statements)
    with Store(filled) as store:
        log = Log(store)
        assert log.found(20, 25) == [entry(20).result, entry(25).result]
        for missing in (10, 19, 99):
            with pytest.raises(StoreCorruptError, match="not paid for again"):
                log.found(20, missing), log.found(15), log.found(99)
        with Reader(filled) as reader, pytest.raises(StoreCorruptError):
            reader.succeeded([key(99)])
        assert store.verify()


@pytest.mark.damages_store
def test_a_record_whose_key_is_not_the_one_looked_for_is_told(filled):
    change(filled, f"update records set key = x'{key(77).hex()}' where id = 30")
    with Store(filled) as store:
        with pytest.raises(StoreCorruptError, match="record 30 has another key"):
            store.log.find([key(29)])
        assert Log(store).found(28) == [entry(28).result]


@pytest.mark.damages_store
@pytest.mark.parametrize("counter", ["'many'", "x'00'", "null"])
def test_records_are_read_without_the_help_of_a_damaged_counter(filled, counter):
    """Each row once, by its newest record: counters only say whether one has older ones."""
    declared = "records     integer not null", "records     integer"
    with contextlib.closing(apsw.Connection(filled)) as db:
        for before, after in (declared, declared[::-1]):  # SQL alone makes no null of it
            db.pragma("writable_schema", True)
            changed = "update sqlite_schema set sql = replace(sql, ?, ?) where name = 'steps'"
            db.execute(changed, (before, after))
            db.pragma("writable_schema", "reset")
            if after == declared[1]:
                db.execute(f"update steps set records = {counter}")
    with Reader(filled) as reader:
        assert [record.position for record in reader.records()] == list(range(40))


def test_rows_that_others_delete_meanwhile_are_no_damage(filled):
    with Store(filled) as store, Store(filled) as other:
        assert found(store, 0, 99)[1] is None
        assert other.forget(where="position >= 10") == 30
        assert found(store, 0, 15, 99) == [entry(0, attempts=2).result, None, None]


# --- backup


def test_a_backup_has_what_is_committed_log_included(filled, tmp_path):
    """Also what is pending in this process; mode 0600; nothing else is left next to it."""
    copy = str(tmp_path / "backups" / "copy.ckpt")
    os.mkdir(tmp_path / "backups")
    mask = os.umask(0)
    try:
        with Store(filled) as store:
            step = ckpt.step(store, version=1, name="open", save=ckpt.on_exit())(int)
            run = step.run(range(10))
            next(run), next(run)
            store.backup(copy)
            run.close()
    finally:
        os.umask(mask)
    assert os.stat(copy).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "backups") == ["copy.ckpt"]
    with Store(copy) as store:
        assert len(list(store.records("open"))) == 2
        assert [run.ended for run in store.runs()] == ["finished", "closed"]
        assert store.compact() == 20  # no run is open there, whatever goes on in the other
    verify(copy)


def test_backups_while_another_process_writes_are_of_one_moment(store_path, tmp_path):
    """Each holds the first n rows, n grows, and the writer is not held up."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            import checkpointdb as ckpt
            step = ckpt.step({store_path!r}, version=1, name="f", save=ckpt.every(rows=7))
            for n, _ in enumerate(step(lambda row: "x" * 500).run(range(1_000_000))):
                if n == 50:
                    print("ready", flush=True)
        """)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "ready\n"
        counts = []
        for n in range(3):
            backup(store_path, str(tmp_path / f"{n}.ckpt"))
            with Reader(tmp_path / f"{n}.ckpt") as reader:
                rows = [record.position for record in reader.records()]
                assert rows == list(range(len(rows))) and len(rows) % 7 == 0
                counts.append(len(rows))
        assert child.poll() is None and counts == sorted(counts) and counts[0] < counts[2]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.damages_store
def test_a_damaged_store_has_no_backup(filled, tmp_path):
    """It would take the place of a good one; the message says what helps."""
    change(filled, "update records set result = '{}' where id = 30")
    good = tmp_path / "good.ckpt"
    good.write_bytes(b"an older backup")
    with Store(filled) as store, pytest.raises(StoreCorruptError, match="ckpt salvage"):
        store.backup(good, force=True)
    assert good.read_bytes() == b"an older backup"
    assert sorted(os.listdir(tmp_path)) == ["good.ckpt", "rows.ckpt"]


def test_a_backup_replaces_nothing_unasked(filled, tmp_path):
    copy, link = str(tmp_path / "copy.ckpt"), str(tmp_path / "link.ckpt")
    os.symlink(tmp_path / "elsewhere", link)
    assert invoke("backup", filled, copy).exit_code == 0
    again = invoke("backup", filled, copy)
    assert again.exit_code == 1 and "exists; nothing was written" in again.stderr
    assert invoke("backup", filled, copy, "--force").exit_code == 0
    assert invoke("backup", filled, link, "--force").exit_code == 1
    assert invoke("backup", filled, filled, "--force").exit_code == 1
    assert invoke("backup", filled, str(tmp_path)).exit_code == 1
    assert invoke("backup", filled, str(tmp_path / "none" / "x.ckpt")).exit_code == 1
    with Store(copy):
        assert "open; close it" in invoke("backup", filled, copy, "--force").stderr
    assert not os.path.lexists(tmp_path / "elsewhere")
    verify(copy)


@pytest.mark.linux
@pytest.mark.parametrize("make", [backup, salvage])
def test_a_store_that_somebody_opens_while_it_is_to_be_replaced_is_left_alone(store_path, make):
    """Its log would be deleted under them, and with it what they write."""
    with Store(store_path) as store:
        Log(store).add(1)
    old, opened = store_path.replace(".ckpt", "-old.ckpt"), []
    Store(old).close()

    def somebody_opens(what, share):
        if not opened:
            opened.append(Store(old))
            Log(opened[0]).add(2, 3)

    with pytest.raises(StoreError, match="a store that is open"):
        make(store_path, old, force=True, on_progress=somebody_opens)
    opened[0].close()
    with Store(old) as store:
        assert len(list(store.records())) == 2 and store.verify() == []
    make(store_path, old, force=True)
    with Store(old) as store:
        assert len(list(store.records())) == 1


def test_the_log_of_what_a_backup_replaces_goes_with_it(filled, tmp_path):
    """Or SQLite would read the old rows into the new file."""
    old = str(tmp_path / "old.ckpt")
    with Store(str(tmp_path / "made.ckpt")) as store:
        Log(store, "old").add(*range(200, 300))
        for ending in ("", "-wal"):
            shutil.copy(store.path + ending, old + ending)
    with Store(filled) as store:
        store.backup(old, force=True)
    assert not os.path.exists(old + "-wal")
    with Store(old) as store:
        assert [info.name for info in store.steps()] == ["label"] and store.verify() == []


@pytest.mark.parametrize("what", ["compact", "backup"])
@pytest.mark.parametrize(
    "every", [pytest.param(19, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.soak)]
)
def test_a_kill_at_any_write_or_sync_of_a_tool_harms_nothing(tmp_path, what, every):
    """The store has the same results, and a copy is whole or not there; then it works again."""
    first = random.randint(1, every)
    print("first", first)
    script = os.path.join(HERE, "killed_tools.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(first), str(every), what],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    points, *wrong = done.stdout.split("\n")
    assert int(points) > 40
    assert [line for line in wrong if line] == []


# --- half-made files


def half_made(path, age=3600, locked=False):
    """Leave what a kill leaves; return its name."""
    name = f"{path}.0123abcd.tmp"
    for ending in ("", "-journal"):
        with open(name + ending, "wb") as file:
            file.write(b"half")
        os.utime(name + ending, (os.stat(name).st_mtime - age,) * 2)
    return name


def test_what_a_killed_creation_left_is_removed_by_the_next(store_path, tmp_path):
    """And nothing else: neither what another is making, nor a name that only looks like it."""
    half_made(store_path)
    others = ["rows.ckpt.0123abc.tmp", "rows.ckpt.0123abcd.tmp2", "more.ckpt.0123abcd.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"theirs")
        os.utime(tmp_path / name, (1, 1))
    Store(store_path).close()
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "rows.ckpt"])
    for name in others:
        os.unlink(tmp_path / name)


def test_what_another_process_is_making_is_left_alone(store_path, tmp_path):
    """Its maker holds a lock; a file of this minute may just be getting its name."""
    name = half_made(store_path)
    child = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl; f = open({name!r}); fcntl.flock(f, 2);"
         "print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        child.stdout.readline()
        Store(store_path).close()
        assert os.path.exists(name)
    finally:
        child.communicate("\n")
    os.unlink(store_path)
    os.utime(name)
    Store(store_path).close()
    assert os.path.exists(name)
    for left in glob.glob(f"{name}*"):
        os.unlink(left)


def test_a_second_name_that_a_kill_left_is_removed_without_opening_the_file(store_path):
    """To close another descriptor of an open store would drop its locks."""
    with Store(store_path) as store:
        os.link(store_path, f"{store_path}.0123abcd.tmp")
        with contextlib.suppress(StoreError):
            store.backup(store_path, force=True)
        backup(store_path, f"{store_path}.copy")
    os.link(f"{store_path}.copy", f"{store_path}.copy.89abcdef.tmp")
    backup(store_path, f"{store_path}.copy", force=True)
    os.unlink(f"{store_path}.0123abcd.tmp")
    assert sorted(os.listdir(os.path.dirname(store_path))) == ["rows.ckpt", "rows.ckpt.copy"]


def test_a_log_without_its_store_is_not_read_into_a_new_one(store_path):
    """Somebody deleted the store of a killed run, and not its log."""
    with Store(store_path) as store:
        Log(store).add(*range(30))
        shutil.copy(store_path + "-wal", store_path + ".log")
    os.unlink(store_path)
    os.rename(store_path + ".log", store_path + "-wal")
    with pytest.raises(StoreError, match="log of a store that is gone"):
        Store(store_path)
    assert os.path.exists(store_path + "-wal") and not os.path.exists(store_path)
    os.unlink(store_path + "-wal")


# --- a copy without its log


def test_inspect_recognises_a_copy_whose_log_is_missing(store_path, tmp_path):
    """While the run goes on, for sure; after it was killed, perhaps; a backup is none."""
    copy, whole = str(tmp_path / "copy.ckpt"), str(tmp_path / "whole.ckpt")
    with Store(store_path) as store:
        run = ckpt.step(store, version=1, name="f", save=ckpt.every(rows=1))(int).run(range(20))
        next(run)
        store.log._writer.wal_checkpoint()
        for _ in range(10):
            next(run)
        shutil.copy(store_path, copy)
        store.backup(whole)
        shown = invoke("inspect", copy)
        assert "a copy without its -wal: the newest rows are missing" in shown.stdout
        assert json.loads(invoke("inspect", copy, "--json").stdout)["missing_log"]
        for path in (store_path, whole):
            assert json.loads(invoke("inspect", path, "--json").stdout)["missing_log"] is None
        run.close()
    change(copy, "update runs set pid_ticks = 1")
    assert "if it was copied while the run wrote" in " ".join(
        invoke("inspect", copy).stdout.split()
    )
    assert "-wal" not in invoke("inspect", store_path).stdout
    verify(copy)


# --- compact


def counts(store):
    (info,) = store.steps()
    return info.results, info.failures, info.records, info.cost


def test_compact_drops_what_is_superseded_and_shrinks_the_file(filled):
    """Results, keys, views, money and later runs are as before; ids are not used again."""
    size = os.path.getsize(filled)
    with Store(filled) as store, Store(filled) as other:
        before = list(store.records())
        assert found(other, 3) == [entry(3, attempts=2).result]
        assert store.compact(dry_run=True) == 20
        assert counts(store) == (40, 0, 60, 15)
        assert store.compact() == 20
        assert store.compact() == 0
        assert list(store.records()) == before
        assert counts(store) == (40, 0, 40, 15)
        assert store.verify() == []
        for each in (store, other):
            assert Log(each).found(3, 25, 99) == [
                entry(3, attempts=2).result,
                entry(25).result,
                None,
            ]
        Log(other).add(entry(99))
        assert max(record.id for record in store.records()) == 61
    with contextlib.closing(sqlite3.connect(filled)) as db:
        assert db.execute("select count(*) from results").fetchone() == (41,)
    assert os.path.getsize(filled) < size


def test_how_much_history_stays_is_a_choice(store_path):
    """The newest records of each row; and its newest result, even if a failure came later."""
    with Store(store_path) as store:
        log = Log(store)
        for attempt in range(1, 6):
            log.add(entry(1, result=f'"{attempt}"', attempts=attempt))
        log.add(entry(2), entry(3))
        log.add(msgspec.structs.replace(entry(2, error=ERROR, attempts=2), replaces=6))
        log.add(entry(2, error=ERROR, attempts=3))
        store.log.end_run(log.run, {"rows": 1}, "finished")
        assert [store.compact(keep=keep, dry_run=True) for keep in (9, 4, 3, 2, 1)] == [
            0,
            1,
            2,
            3,
            5,
        ]
        assert store.compact(keep=2) == 3
        assert store.compact() == 2
        assert store.verify() == []
        assert log.found(1, 3) == ['"5"', entry(3).result]
        assert counts(store)[:3] == (2, 1, 4)  # of row 2 the failure, and the result before it
    for keep in (0, -1, True, 1.5, None):
        with Store(store_path) as store, pytest.raises(ValueError, match="keep must be"):
            store.compact(keep=keep)


def test_a_budget_counts_what_was_paid_for_dropped_records(store_path):
    """`max_cost=` is over all runs of a step, compacted or not."""
    luck = iter([False] * 10)

    def f(row):
        if not next(luck, True):
            raise ValueError("no luck")
        return row

    step = ckpt.step(store_path, version=1, name="f", on_error="record")(f)
    list(step.run(range(10), valid=bool, cost=lambda result: 0.5))
    list(step.run(range(10), cost=lambda result: 0.5))
    spent = counts(step.store)[3]
    assert step.store.compact() == 10
    assert counts(step.store)[3] == spent
    with pytest.raises(ckpt.BudgetExceeded):
        list(step.run(range(50, 60), cost=lambda result: 0.5, max_cost=spent))
    assert step.store.verify() == []


def test_compact_is_refused_while_a_run_is_open(filled):
    """Of another process, another handle, or this one; the command too."""
    with Store(filled) as store:
        run = ckpt.step(store, version=1, name="x")(int).run(range(3))
        next(run)
        with pytest.raises(StoreError, match=r"run 2 of step 'x' .* is open: nothing was changed"):
            store.compact()
        with Store(filled) as other, pytest.raises(StoreError, match="is open"):
            other.compact()
        refused = invoke("compact", filled, "--yes")
        assert refused.exit_code == 1 and "Wait until it ends" in refused.stderr
        run.close()
        assert store.compact() == 20


def test_compact_with_a_reader_open(filled):
    """The reader goes on with what it saw; the file shrinks when it is gone."""
    with Store(filled) as store:
        with Reader(filled) as reader:
            records = reader.records()
            first = next(records)
            with reader.snapshot() as connection:
                before = connection.execute("select count(*) from records").get
                assert store.compact() == 20
                assert connection.execute("select count(*) from records").get == before == 60
            assert [first, *records] == list(store.records())
        assert store.verify() == []


def test_the_command_asks_before_it_drops(filled):
    refused = invoke("compact", filled)
    assert refused.exit_code == 1 and "add --yes" in refused.stderr
    assert "20 superseded records will be dropped" in refused.stderr
    assert invoke("compact", filled, "--dry-run").exit_code == 0
    assert invoke("compact", filled, "--keep", "0").exit_code == 2
    done = invoke("compact", filled, "--yes")
    assert done.exit_code == 0 and "20 records dropped" in done.stderr
    assert invoke("compact", filled).exit_code == 0  # nothing to drop: nothing to ask


def test_no_room_for_a_compaction_changes_nothing_that_counts(filled):
    """The copy that VACUUM writes does not fit: our error, and the results are as they were."""
    with Store(filled) as store:
        before = list(store.records())
        pages = store.log._writer.pragma("page_count")
        store.log._writer.pragma("max_page_count", pages)
        vacuum = apsw.FullError("database or disk is full")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("checkpointdb.file.log.shrink", lambda writer: raise_(vacuum))
            with pytest.raises(ckpt.StoreFullError):
                store.compact()
        assert list(store.records()) == before and store.verify() == []
        assert store.compact() == 0


def raise_(error):
    raise error


@pytest.mark.parametrize("compact", [True, False])
def test_no_byte_of_a_dropped_or_forgotten_record_is_left(store_path, compact):
    """Neither in pages that SQLite made into others, nor in those that it gave back.

    Where it moved rows between pages, only a compaction takes away what is left of them.
    """
    with Store(store_path) as store:
        log = Log(store)
        for n in range(0, 300, 10):
            log.add(*[entry(k, result=f'"secret {k}."') for k in range(n, n + 10)])
        if compact:
            log.add(*[entry(k, result=f'"kept {k}."') for k in range(50, 300, 2)])
        store.log.end_run(log.run, {"rows": 1}, "finished")
        store.forget(where="position < 50 or position % 2 = 1" if compact else "position < 50")
        if compact:
            store.compact()
    data = b"".join(files_beside(store_path).values())
    gone = range(300) if compact else range(50)
    assert not [k for k in gone if f"secret {k}.".encode() in data]
    assert (b"kept 298." if compact else b"secret 298.") in data
