"""The format after this one, pretended: a migration that adds a column and a table.

When the first real migration comes, these tests are its tests too.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading

import apsw
import pytest
from conftest import verify
from stores import Log, entry, files_beside

from checkpointdb import Store, StoreVersionError, every, step
from checkpointdb.file import key_index, migrations
from checkpointdb.file.read import Reader

NEXT = """
import os, signal

kill = None

def m_next(connection):
    connection.execute(
        "alter table records add column mood text not null default 'unknown'"
    )
    connection.execute("create table notes (id integer primary key, text text not null)")
    if kill == "in the middle":
        os.kill(os.getpid(), signal.SIGKILL)
    connection.execute("create index of_notes on notes (text)")
"""


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A store of the present format, with rows in the index and in the tail."""
    monkeypatch.setattr(key_index, "TAIL", 10)
    path = str(tmp_path / "rows.ckpt")
    with Store(path) as store:
        assert [*double(store).run(range(20))] == [2 * n for n in range(20)]
    return path


@pytest.fixture
def next_format(monkeypatch):
    """Pretend that the program knows one format more."""
    scope = {}
    exec(NEXT, scope)
    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, scope["m_next"]])
    return migrations.newest()


def double(store, calls=None):
    def fn(row):
        if calls is not None:
            calls.append(row)
        return 2 * row

    return step(store, version=1, name="double", save=every(rows=7))(fn)


def format_of(path):
    with contextlib.closing(apsw.Connection(path)) as db:
        return db.pragma("user_version")


def schema_text(path):
    with contextlib.closing(apsw.Connection(path)) as db:
        return migrations.schema_of(db)


def test_an_old_store_migrates_reads_and_resumes(old, next_format):
    """On opening for writing; every saved row is a hit, and new rows are added."""
    calls = []
    with Store(old) as store:
        assert format_of(old) == next_format
        assert [*double(store, calls).run(range(25))] == [2 * n for n in range(25)]
        assert calls == list(range(20, 25))
        assert [record.input for record in store.records()] == list(range(25))
    verify(old)


def test_a_fresh_store_has_the_schema_of_a_migrated_one(old, tmp_path, next_format):
    """There is one way to a format: through all those before it."""
    fresh = str(tmp_path / "fresh.ckpt")
    Store(fresh).close()
    Store(old).close()
    assert format_of(fresh) == format_of(old) == next_format
    assert schema_text(fresh) == schema_text(old)
    verify(fresh)


def test_a_reader_reads_both_and_migrates_none(old, next_format):
    """A query for a newer column has its answer for an older store."""
    before = files_beside(old)
    mood = "select {} from records order by records.id limit 2"
    for expected in ("before the column", "unknown"):
        with Reader(old) as reader:
            assert [record.result for record in reader.records()] == [2 * n for n in range(20)]
            assert reader.verify() == []
            (info,) = reader.steps()
            assert (info.results, len(reader.runs())) == (20, 1)
            sql = mood.format(reader.since(next_format, "records.mood", "'before the column'"))
            rows = reader._connection.execute(sql).fetchall()
            assert rows == [(expected,), (expected,)]
            assert reader._connection.execute(sql).description[0][0] == "mood"
        if expected != "unknown":
            assert files_beside(old) == before
            Store(old).close()  # migrates it


def test_a_newer_store_is_refused_by_an_older_program(old, next_format, monkeypatch):
    """It says what to do and writes nothing."""
    Store(old).close()
    monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:-1])
    before = files_beside(old)
    for opener in (Store, Reader):
        with pytest.raises(StoreVersionError, match=r"newer checkpointdb.*Upgrade checkpointdb"):
            opener(old)
    assert files_beside(old) == before


KILLED = f"""
import sys
import apsw
from checkpointdb import Store
from checkpointdb.file import migrations
{NEXT}
kill = sys.argv[2]

def trace(cursor, sql, bindings):
    if kill == "before the commit" and sql == "commit":
        os.kill(os.getpid(), signal.SIGKILL)
    return True

class Traced(apsw.Connection):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.exec_trace = trace

apsw.Connection = Traced
migrations.MIGRATIONS.append(m_next)
Store(sys.argv[1])
"""


@pytest.mark.parametrize("kill", ["in the middle", "before the commit"])
def test_a_kill_in_the_middle_leaves_the_old_format_whole(old, kill, request):
    """It is one transaction; the old program goes on, and the new one migrates it later."""
    before = schema_text(old)
    done = subprocess.run([sys.executable, "-c", KILLED, old, kill], check=False)
    assert done.returncode == -signal.SIGKILL
    assert format_of(old) == migrations.newest()
    assert schema_text(old) == before
    verify(old)
    newer = request.getfixturevalue("next_format")
    with Store(old) as store:
        assert [record.result for record in store.records()] == [2 * n for n in range(20)]
    assert format_of(old) == newer
    verify(old)


def test_many_that_migrate_at_once_do_it_once(old, next_format):
    """They wait for each other; the second finds it done."""
    opened, errors = [], []

    def open_it():
        try:
            opened.append(Store(old))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in opened:
        store.close()
    assert errors == []
    assert format_of(old) == next_format


def test_a_handle_that_was_open_goes_on_after_a_migration_elsewhere(old, request):
    """An older program that has the store open writes what it knows; the rest has its default."""
    with Store(old) as store:
        log = Log(store)
        request.getfixturevalue("next_format")
        Store(old).close()
        log.add(*[entry(n) for n in range(3)])
        assert log.found(1) == [entry(1).result]
    with Reader(old) as reader:
        sql = "select mood from records order by id desc limit 1"
        assert reader._connection.execute(sql).get == "unknown"
