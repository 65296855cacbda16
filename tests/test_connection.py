"""Opening, creating and refusing files: what is not ours is named, and nothing is written to it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap

import apsw
import pytest
from stores import Log, entry, files_beside, key

from checkpointdb import (
    CheckpointError,
    Store,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreVersionError,
)
from checkpointdb.file import (
    connection,
    key_index,
    locks,
    migrations,
    pragmas,
    probe,
)
from checkpointdb.file.probe import check_sqlite
from checkpointdb.file.read import Reader
from checkpointdb.file.sqlite_errors import mapped

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_script(code, *args, check=True):
    """Run Python code in a process of its own, with our modules at hand."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, os.path.dirname(__file__)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def saved(path, rows=40):
    """Make a closed store with some records, in the index and in the tail."""
    with Store(path) as store:
        log = Log(store)
        log.add(*range(rows))
        log.add(entry(rows, error='{"type":"E","message":"m","traceback":"t"}'))


# --- what is not a store


def empty(path):
    open(path, "wb").close()


def text(path):
    with open(path, "w") as file:
        file.write("id,text\n" + "1,hello\n" * 500)


def garbage(path):
    with open(path, "wb") as file:
        file.write(random.Random(1).randbytes(20_000))


def one_byte(path):
    with open(path, "wb") as file:
        file.write(b"S")


def header_only(path):
    with open(path, "wb") as file:
        file.write(b"SQLite format 3\x00")


def foreign(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("create table records (id integer primary key, key, result)")
        db.execute("insert into records values (1, 2, 3)")
        db.commit()


def foreign_wal(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table t (a)")
        db.commit()


def newer(path):
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.pragma("user_version", migrations.newest() + 1)
        db.pragma("journal_mode", "delete")


def no_format(path):
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.pragma("user_version", 0)
        db.pragma("journal_mode", "delete")


def only_our_name(path):
    with contextlib.closing(apsw.Connection(path)) as db:
        db.pragma("application_id", migrations.APPLICATION_ID)
        db.pragma("user_version", migrations.newest())
        db.execute("create table t (a)")


def changed_schema(path):
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.execute("alter table records add column mood text")
        db.pragma("journal_mode", "delete")


def view_as_table(path):
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.pragma("journal_mode", "delete")
        db.execute(
            """
            alter table records rename to secrets;
            create view records as select * from secrets;
            create trigger swallow instead of insert on records begin select 1; end
            """
        )


def one_view_changed(path):
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.pragma("journal_mode", "delete")
        db.execute("drop view failures; create view failures as select 1 as id")


def one_index_more(path):
    """Over hex(zeroblob(60000000 + id)), say, each insert would allocate hundreds of megabytes."""
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.execute("create index more on records (hex(id))")
        db.pragma("journal_mode", "delete")


def one_trigger_more(path):
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.execute("create trigger t after insert on records begin delete from records; end")
        db.pragma("journal_mode", "delete")


def before_format_1(path):
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.pragma("application_id", migrations.BEFORE_FORMAT_1)
        db.pragma("journal_mode", "delete")


def truncated(path):
    saved(path)
    with open(path, "r+b") as file:
        file.truncate(pragmas.PAGE_SIZE)


NOT_A_STORE = {
    empty: (StoreError, "an empty file.*nothing was written.*Delete it, or give another path"),
    text: (StoreError, "not a checkpointdb store, nor any SQLite.*nothing was.*another path"),
    garbage: (StoreError, "not a checkpointdb store, nor any SQLite.*nothing was.*another path"),
    one_byte: (StoreError, "not a checkpointdb store, nor any SQLite.*nothing was.*another path"),
    header_only: (StoreError, "not a checkpointdb store.*nothing was.*another path"),
    foreign: (StoreError, "an SQLite file, but not a checkpointdb store; nothing was written"),
    foreign_wal: (StoreError, "an SQLite file, but not a checkpointdb store; nothing was written"),
    newer: (StoreVersionError, "newer checkpointdb.*format 2.*knows 1.*written. Upgrade"),
    no_format: (StoreCorruptError, "damaged: it has no file format; nothing was written"),
    only_our_name: (StoreCorruptError, "is not as checkpointdb created it: another program"),
    changed_schema: (StoreCorruptError, "the table `records` is not as.*another program changed"),
    view_as_table: (StoreCorruptError, "is not as checkpointdb created it: another program"),
    one_view_changed: (StoreCorruptError, "the view `failures` is not as.*Nothing was read or"),
    one_index_more: (StoreCorruptError, "the index `more` is not as checkpointdb created it"),
    one_trigger_more: (StoreCorruptError, "the trigger `t` is not as checkpointdb created it"),
    before_format_1: (StoreVersionError, "from before its first release.*nothing was written"),
    truncated: (StoreCorruptError, "the file is damaged.*Keep it as it is"),
}


@pytest.mark.damages_store
@pytest.mark.parametrize("opener", [Store, Reader])
@pytest.mark.parametrize("make", NOT_A_STORE, ids=lambda make: make.__name__)
def test_what_is_not_our_store_is_refused_and_not_one_byte_of_it_changes(store_path, make, opener):
    """The error is of the right class, names the file, and says what is wrong and what to do."""
    make(store_path)
    before = files_beside(store_path)
    kind, message = NOT_A_STORE[make]
    with pytest.raises(StoreError, match=message) as caught:
        opener(store_path)
    assert type(caught.value) is kind
    assert caught.value.path == store_path
    assert str(caught.value).startswith(store_path + ": ")
    assert files_beside(store_path) == before


@pytest.mark.damages_store
def test_a_foreign_database_in_use_by_its_owner_is_left_alone(store_path):
    """Its log is neither read into it nor removed."""
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.pragma("journal_mode", "wal")
        db.execute("create table t (a); insert into t values (1)")
        before = files_beside(store_path)
        assert before["rows.ckpt-wal"]
        with pytest.raises(StoreError, match="not a checkpointdb store"):
            Store(store_path)
        assert files_beside(store_path) == before
        db.execute("insert into t values (2)")


@pytest.mark.damages_store
def test_a_truncated_store_never_gives_wrong_bytes_and_never_changes(store_path, monkeypatch):
    """At any length: it is refused, or every record is right or named as damaged."""
    monkeypatch.setattr(key_index, "TAIL", 30)
    saved(store_path)
    with open(store_path, "rb") as file:
        whole = file.read()
    right = [entry(n).result for n in range(41)]
    pages = range(0, len(whole), pragmas.PAGE_SIZE)
    lengths = {*pages, *(n + 1 for n in pages), *(n - 1 for n in pages if n)}
    lengths |= {random.Random(2).randrange(len(whole)) for _ in range(30)}
    refused = 0
    for length in sorted(lengths):
        with open(store_path, "wb") as file:
            file.write(whole[:length])
        try:
            store = Store(store_path)
        except StoreError:
            refused += 1
        else:
            with store:
                assert store.verify() != []
                for n in range(40):
                    with contextlib.suppress(StoreCorruptError):
                        (result,) = Log.found(_Holder(store), n)
                        assert result in (right[n], None)
                with contextlib.suppress(StoreCorruptError):
                    list(store.records())
        assert files_beside(store_path) == {"rows.ckpt": whole[:length]}
    assert refused > 10


class _Holder:
    def __init__(self, store):
        self.store = store


@pytest.mark.damages_store
def test_a_store_cut_short_in_the_middle_of_its_log_loses_only_the_last_commits(store_path):
    """A torn -wal, as a crash leaves it, opens as the store after its first m commits."""
    with Store(store_path) as store:
        log = Log(store)
        for n in range(30):
            log.add(n)
        copies = {ext: _bytes(store_path + ext) for ext in ("", "-wal")}
    rng = random.Random(3)
    counts = set()
    for _ in range(25):
        for name in os.listdir(os.path.dirname(store_path)):
            os.unlink(os.path.join(os.path.dirname(store_path), name))
        for ext, data in copies.items():
            cut = data[: rng.randrange(len(data))] if ext else data
            with open(store_path + ext, "wb") as file:
                file.write(cut)
        with Store(store_path) as store:
            assert store.verify() == []
            records = list(store.records())
        assert [record.position for record in records] == list(range(len(records)))
        counts.add(len(records))
    assert len(counts) > 5


def _bytes(path):
    with open(path, "rb") as file:
        return file.read()


# --- where there can be no store


def test_a_directory_is_no_store(tmp_path):
    """The message says to give the path of a file."""
    for opener in (Store, Reader):
        with pytest.raises(StoreError, match="a directory; give the path of a file"):
            opener(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_missing_directory_is_named(tmp_path):
    """Nothing is created on the way."""
    with pytest.raises(StoreError, match=r"cannot create a store here.*missing must exist"):
        Store(tmp_path / "missing" / "rows.ckpt")
    with pytest.raises(StoreError, match="Not a directory"):
        (tmp_path / "file").write_text("")
        Store(tmp_path / "file" / "rows.ckpt")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("opener", [lambda path: Store(path, create=False), Reader])
def test_a_store_that_must_exist_is_not_created(store_path, opener):
    """`create=False`, and every reader."""
    with pytest.raises(StoreError, match="No such file"):
        opener(store_path)
    assert not os.path.exists(store_path)


def test_a_wrong_durability_is_a_value_error(store_path):
    """Before anything is created."""
    with pytest.raises(ValueError, match="durability must be 'power' or 'process', got 'disk'"):
        Store(store_path, durability="disk")
    assert not os.path.exists(store_path)


def is_ours(directory):
    """Tell whether a directory was made for tests: pytest's have a level more under xdist."""
    return "pytest-of-" in str(directory)


AS_NOBODY = """
    import json, os, sys
    path, what = sys.argv[1:]
    from checkpointdb import Store, StoreError
    from checkpointdb.file.read import Reader
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    out = {}
    for opener in (Store, Reader):
        try:
            with opener(path) as it:
                out[opener.__name__] = len(list(it.records()))
        except StoreError as error:
            out[opener.__name__] = f"{type(error).__name__}: {error}"
    print(json.dumps(out))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("log", [False, True], ids=["closed", "left by a killed run"])
@pytest.mark.parametrize("file_mode", [0o644, 0o600])
def test_a_read_only_place_can_be_read_and_cannot_be_written(tmp_path, file_mode, log):
    """In a directory of somebody else: reading works if the file may be read; no file is made."""
    place = tmp_path / "place"
    place.mkdir()
    path = str(place / "rows.ckpt")
    if log:
        with Store(tmp_path / "live.ckpt") as store:
            Log(store).add(*range(40))
            for ext in ("", "-wal"):
                shutil.copy(str(tmp_path / "live.ckpt") + ext, path + ext)
    else:
        saved(path, 39)
    for name in os.listdir(place):
        os.chmod(place / name, file_mode)
    for directory in (place, *itertools.takewhile(is_ours, place.parents)):
        os.chmod(directory, 0o755)
    before = files_beside(path)
    out = json.loads(run_script(AS_NOBODY, path, ""))
    assert out["Store"].startswith(f"StoreError: {path}: cannot be opened (")
    assert "Check the permissions" in out["Store"]
    if file_mode == 0o644:
        assert out["Reader"] == 40
    else:
        assert out["Reader"].startswith(f"StoreError: {path}: cannot be opened (")
    assert files_beside(path) == before


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_a_store_cannot_be_created_in_a_read_only_directory(tmp_path):
    """The message names the directory, and nothing is left in it."""
    place = tmp_path / "place"
    place.mkdir()
    for directory in (place, *itertools.takewhile(is_ours, place.parents)):
        os.chmod(directory, 0o755)
    out = json.loads(run_script(AS_NOBODY, place / "rows.ckpt", ""))
    assert "cannot create a store here (Permission denied)" in out["Store"]
    assert str(place) in out["Store"]
    assert "No such file" in out["Reader"]
    assert os.listdir(place) == []


# --- creation


def test_a_new_store_is_private_and_what_the_format_says(store_path):
    """Mode 0600 for the file and for what SQLite puts beside it; WAL; our id and format."""
    umask = os.umask(0)
    try:
        with Store(store_path) as store:
            Log(store).add(1)
            for ext in ("", "-wal", "-shm"):
                assert stat.S_IMODE(os.stat(store_path + ext).st_mode) == 0o600
    finally:
        os.umask(umask)
    with contextlib.closing(apsw.Connection(store_path)) as db:
        assert db.pragma("application_id") == int.from_bytes(b"CKPT", "big")
        assert db.pragma("user_version") == 1
        assert db.pragma("journal_mode") == "wal"
    assert os.listdir(os.path.dirname(store_path)) == ["rows.ckpt"]


def test_a_store_is_in_wal_mode_from_the_moment_it_has_its_name(store_path):
    """No writer ever has to change its header."""
    connection.create(store_path)
    with open(store_path, "rb") as file:
        assert file.read(20)[18:] == b"\x02\x02"
    assert os.listdir(os.path.dirname(store_path)) == ["rows.ckpt"]


def test_a_path_that_is_a_link_is_followed(tmp_path):
    """To a store, or to a place where there is none yet."""
    os.symlink(tmp_path / "real.ckpt", tmp_path / "link.ckpt")
    with Store(tmp_path / "link.ckpt") as store:
        assert store.path == str(tmp_path / "real.ckpt")
    with Store(tmp_path / "link.ckpt", create=False):
        pass
    assert sorted(os.listdir(tmp_path)) == ["link.ckpt", "real.ckpt"]


def fail(*args):
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("target", "exception"),
    [
        ("migrations.migrate", apsw.FullError("database or disk is full")),
        ("pragmas.harden", apsw.IOError("disk I/O error")),
        ("system.give_name", OSError(28, "No space left on device")),
        ("system.sync_directory", OSError(5, "Input/output error")),
    ],
)
def test_a_creation_that_fails_is_our_error_and_leaves_nothing(
    store_path, monkeypatch, target, exception
):
    """Whichever step of it: no half-made store, no temporary file; and it works afterwards."""

    def fail(*args):
        raise exception

    with monkeypatch.context() as patch:
        place = "file" if target.startswith("temporary") else "file.connection"
        patch.setattr(f"checkpointdb.{place}.{target}", fail)
        with pytest.raises(StoreError, match=r"rows\.ckpt"):
            connection.create(store_path)
    left = os.listdir(os.path.dirname(store_path))
    assert left == (["rows.ckpt"] if target == "system.sync_directory" else [])
    with Store(store_path) as store:
        assert store.verify() == []


@pytest.mark.linux
def test_a_file_system_without_hard_links_gets_a_store_all_the_same(store_path, monkeypatch):
    """By a rename then."""

    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with Store(store_path) as store:
        assert store.verify() == []
    assert os.listdir(os.path.dirname(store_path)) == ["rows.ckpt"]


@pytest.mark.linux
def test_a_store_that_appears_during_creation_is_kept(store_path, monkeypatch):
    """Another process was faster: its store is not replaced."""
    link = os.link

    def late(source, target):
        monkeypatch.undo()
        saved(store_path)
        link(source, target)

    monkeypatch.setattr("os.link", late)
    with Store(store_path) as store:
        assert len(list(store.records())) == 41


KILLED_IN_CREATION = """
    import os, signal, sys
    from checkpointdb.file import connection
    from checkpointdb.file.read import Reader
    directory, seen = sys.argv[1], [0]

    def create(path, last):
        count = 0
        def profile(frame, event, arg):
            nonlocal count
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(profile)
        connection.create(path)
        sys.setprofile(None)
        return count

    create(os.path.join(directory, "first.ckpt"), -1)  # what is imported then, and seen once
    total = create(os.path.join(directory, "whole.ckpt"), -1)
    whole = 0
    for last in range(1, total + 1):
        os.mkdir(os.path.join(directory, str(last)))  # what is there makes calls, too
        path = os.path.join(directory, str(last), "rows.ckpt")
        child = os.fork()
        if not child:
            create(path, last)
            os._exit(0)
        os.waitpid(child, 0)
        if os.path.exists(path):
            with Reader(path) as reader:
                assert reader.verify() == [] and reader.steps() == []
            whole += 1
        left = os.listdir(os.path.dirname(path))
        connection_left = [name for name in left if name.startswith("rows.ckpt-")]
        assert not connection_left, connection_left
    print(total, whole)
"""


@pytest.mark.slow
def test_a_process_killed_while_creating_leaves_a_whole_store_or_none(tmp_path):
    """At every call that creation makes."""
    total, whole = map(int, run_script(KILLED_IN_CREATION, tmp_path).split())
    assert total > 80
    assert 0 < whole < total / 2


FOUR = """
    import sys
    from checkpointdb import Store
    from stores import Log
    path, n = sys.argv[1], int(sys.argv[2])
    sys.stdin.readline()
    with Store(path) as store:
        Log(store, f"step {n}").add(*range(n * 100, n * 100 + 50))
"""


def test_processes_that_create_the_same_store_at_once_share_one(store_path):
    """None of them fails, and nobody's records are lost."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, os.path.dirname(__file__)])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(FOUR), store_path, str(n)],
            stdin=subprocess.PIPE,
            env=env,
        )
        for n in range(4)
    ]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 4
    with Store(store_path) as store:
        assert [step.results for step in store.steps()] == [50] * 4


# --- opening


@pytest.mark.parametrize("version", ["3.51.2", "3.7.0", "3.40.1", "3.50.99"])
def test_an_sqlite_that_can_lose_committed_rows_is_refused(store_path, monkeypatch, version):
    """It has the WAL-reset bug; the message says which version is good."""
    with pytest.raises(StoreVersionError, match=rf"SQLite {version}.*upgrade apsw.*3\.51\.3"):
        check_sqlite(version)
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    for opener in (Store, Reader):
        with pytest.raises(StoreVersionError):
            opener(store_path)
    assert not os.path.exists(store_path)


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "3.53.0", "3.100.0", "4.0.0", None])
def test_an_sqlite_without_that_bug_is_accepted(version):
    """Versions are compared by number; the one that runs these tests is good."""
    check_sqlite(version)


def test_a_connection_is_hardened(open_store):
    """No trigger, no view, no attached database, no extension: the file is data, never code."""
    store = open_store()
    for db in (store.log._writer, store.log._reader):
        assert db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1) == 1
        assert db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, -1) == 0
        assert db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, -1) == 0
        assert db.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, -1) == 0
        assert db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, -1) == 0
        assert db.limit(apsw.SQLITE_LIMIT_ATTACHED) == 0
        assert db.pragma("mmap_size") == 0
        assert db.pragma("cell_size_check") == 1
    with pytest.raises(apsw.Error):
        store.log._reader.execute("insert into system_state values ('x', 1)")


def test_what_others_put_beside_our_tables_is_left_alone(store_path):
    """Their tables with indexes and triggers, and their views: nothing of ours reads them."""
    saved(store_path)
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.execute(
            """
            create table notes (id integer primary key, text);
            create index of_notes on notes (text);
            create trigger t after insert on notes begin delete from records; end;
            create view mine as select count(*) from records;
            analyze
            """
        )
    with Store(store_path) as store:
        Log(store).add(100)
        assert len(list(store.records())) == 42


def test_a_trigger_that_slipped_in_never_runs(store_path):
    """Were it not refused, it would still be dead: triggers are off in our connections."""
    with Store(store_path) as store:
        log = Log(store)
        with contextlib.closing(apsw.Connection(store_path)) as db:
            db.execute("create trigger t after insert on records begin delete from records; end")
        log.add(100, 101)
        with contextlib.closing(apsw.Connection(store_path)) as db:
            db.execute("drop trigger t")
        assert len(list(store.records())) == 2


def test_no_row_of_a_hostile_file_takes_more_memory_than_ours_may(open_store):
    """SQLite's limits are those of a row of ours, on the reading and the writing connection."""
    store = open_store()
    for handle in (store.log._writer, store.log._reader):
        with pytest.raises(apsw.TooBigError):
            handle.execute("select zeroblob(?)", (pragmas.ROW_BYTES + 1,)).fetchall()
        assert handle.limit(apsw.SQLITE_LIMIT_ATTACHED) == 0


def locks_of(path):
    """Return the POSIX locks that this process holds on a file."""
    inode = f":{os.stat(path).st_ino}"
    with open("/proc/locks") as file:
        lines = [line.split()[1:] for line in file]
    ours = {tuple(line) for line in lines if line[3] == str(os.getpid())}
    return sorted(line for line in ours if line[4].endswith(inode))


@pytest.mark.linux
def test_reading_a_store_does_not_drop_the_locks_of_its_writer(open_store, store_path):
    """Closing any other descriptor of the file would: reproduced data loss."""
    store = open_store()
    log = Log(store)
    log.add(1)
    before = locks_of(store_path), locks_of(store_path + "-shm")
    assert before[0]
    assert before[1]
    with Reader(store_path) as reader:
        assert reader.verify() == []
    store.steps(), store.runs(), list(store.records()), store.get(key(1).hex()), store.verify()
    probe.probe(store_path, None)
    Store(store_path).close()
    with pytest.raises(FileExistsError):
        os.open(store_path, os.O_CREAT | os.O_EXCL)
    assert (locks_of(store_path), locks_of(store_path + "-shm")) == before
    log.add(2)


def test_a_store_that_another_process_is_writing_opens_and_reads(open_store, store_path):
    """The write lock is taken by commits only."""
    log = Log(open_store())
    log.add(1)
    with contextlib.closing(apsw.Connection(store_path)) as other:
        other.execute("begin immediate")
        with Store(store_path) as store:
            assert Log.found(_Holder(store), 1) == [entry(1).result]
            assert len(list(store.records())) == 1
        other.execute("rollback")


def test_a_store_locked_for_too_long_is_an_error_that_says_so(open_store, store_path, monkeypatch):
    """After the wait, with nothing lost, and the next commit works."""
    monkeypatch.setattr(pragmas, "BUSY_MILLISECONDS", 50)
    log = Log(open_store())
    with contextlib.closing(apsw.Connection(store_path)) as other:
        other.execute("begin immediate")
        with pytest.raises(StoreLockedError, match="another process has held the write lock"):
            log.add(1)
        other.execute("rollback")
    assert log.found(1) == [None]
    log.add(1)
    assert log.found(1) == [entry(1).result]


def test_a_reader_of_a_store_that_is_open_uses_its_locks(open_store, store_path):
    """Also before anything was written: it would read torn pages at the first wal_checkpoint."""
    saved(store_path, 2000)
    store = open_store()
    assert os.stat(store_path + "-wal").st_size == 0
    log = Log(store)
    seen = []
    for record in store.records():
        seen.append(record.position)
        if record.position % 500 == 0:
            log.add(*range(10_000 * len(seen), 10_000 * len(seen) + 300))
            store.log._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert seen == list(range(2001))


def test_a_reader_without_locks_notices_that_somebody_wrote(store_path):
    """It was sound until then; the caller is told to read again."""
    saved(store_path)
    with Reader(store_path) as reader:
        reader.check_unchanged()
        with Store(store_path) as store:
            Log(store).add(100)
        with pytest.raises(StoreError, match="began to write while it was read: read again"):
            reader.check_unchanged()


def test_reading_creates_no_file(store_path):
    """Of a closed store, and of one whose run was killed and whose -shm is gone."""
    saved(store_path)
    before = files_beside(store_path)
    with Reader(store_path) as reader:
        assert len(list(reader.records())) == 41
        assert set(files_beside(store_path)) == set(before)
    with Store(store_path) as store:
        Log(store).add(100)
        copy = os.path.join(os.path.dirname(store_path), "copy.ckpt")
        for ext in ("", "-wal"):
            shutil.copy(store_path + ext, copy + ext)
    with Reader(copy) as reader:
        assert len(list(reader.records())) == 42
        assert reader.verify() == []
        assert not os.path.exists(copy + "-shm")


@pytest.mark.linux
@pytest.mark.parametrize("opener", [Store, Reader])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another process"])
@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_second_name_of_an_open_store_is_refused(store_path, monkeypatch, opener, elsewhere, how):
    """Each name has a log of its own: what is written under one is not seen under the other."""
    monkeypatch.setattr(probe, "SETTLING_SECONDS", 0.1)
    saved(store_path)
    other = store_path + ".other"
    held = holding(store_path) if elsewhere else Store(store_path)
    with held:
        getattr(os, how)(store_path, other)
        before = os.listdir(os.path.dirname(store_path))
        with pytest.raises(StoreError, match=r"process \d+ has this file open under another name"):
            opener(other)
        assert os.listdir(os.path.dirname(store_path)) == before
        if how == "link":  # under its own name it is open to all
            opener(store_path).close()
        else:
            os.rename(other, store_path)
    os.path.exists(other) or os.link(store_path, other)
    opener(other).close()  # a second name alone does no harm: a backup made of links


@contextlib.contextmanager
def holding(path):
    """Have another process keep a store open for the block."""
    code = (
        "import sys, checkpointdb\ns = checkpointdb.Store(sys.argv[1]); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.communicate(b"\n")


def test_a_file_of_another_device_with_the_same_number_is_no_second_name(store_path, tmp_path):
    """The table of locks has all of them; it names the device too."""
    table = tmp_path / "locks"
    saved(store_path)
    status = os.stat(store_path)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    table.write_text(
        f"1: POSIX  ADVISORY  READ 4711 fe:77:{status.st_ino} 1073741826 1073742335\n"
        f"2: FLOCK  ADVISORY  READ 4712 {device}:{status.st_ino} 0 EOF\n"
        f"2: -> POSIX  ADVISORY  READ 4713 {device}:{status.st_ino} 0 EOF\n"
        f"3: POSIX  ADVISORY  READ 4714 {device}:{status.st_ino} 1073741826 1073742335\n"
    )
    assert locks.lockers(store_path, str(table)) == {4714}
    assert locks.lockers(store_path, str(tmp_path / "no such")) is None
    assert locks.lockers(store_path + ".gone") == set()


@pytest.mark.parametrize(
    "error",
    [
        error
        for error in vars(apsw).values()
        if isinstance(error, type) and issubclass(error, apsw.Error)
    ],
    ids=lambda error: error.__name__,
)
def test_every_error_of_sqlite_becomes_one_of_ours(error):
    """With the file named and the cause attached; no caller ever has to import apsw."""
    cause = error("what happened")
    with (
        pytest.raises(StoreError, match=r"^rows\.ckpt: ") as caught,
        mapped("rows.ckpt"),
    ):
        raise cause
    assert caught.value.__cause__ is cause
    assert caught.value.path == "rows.ckpt"
    assert isinstance(caught.value, CheckpointError)
