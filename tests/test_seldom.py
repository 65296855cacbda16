"""What seldom happens to a store: exits that fail, races for a name, rotten cells, odd damage."""

from __future__ import annotations

import contextlib
import errno
import gc
import glob
import os
import shutil
import weakref

import apsw
import msgspec
import pytest
from stores import Log, entry, key
from test_connection import run_script, saved

import checkpointdb as ckpt
from checkpointdb import DecodeError, Store, StoreCorruptError, StoreError, interrupts, system
from checkpointdb.file import (
    cells,
    codes,
    connection,
    key_index,
    leases,
    lifetime,
    merge,
    migrations,
    new_file,
    pragmas,
    temporary,
    verify,
)
from checkpointdb.file import pages as file_pages
from checkpointdb.file import rescued as rescue
from checkpointdb.file.append import transaction
from checkpointdb.file.backup import backup
from checkpointdb.file.processes import alive, this_process
from checkpointdb.file.read import Reader
from checkpointdb.file.read_log import ReadLog
from checkpointdb.file.records import decoded_error
from checkpointdb.file.rescued import Rescued
from checkpointdb.file.salvage import salvage
from checkpointdb.file.scan import Row

# --- the end of a process

OPEN_TWO = """
import os, signal, sys, checkpointdb as ckpt
def run(path):
    step = ckpt.step(path, name="s", version=1, save=ckpt.on_exit())(lambda row: row * 10)
    return step, step(1)
paths = sys.argv[1:]
kept = [run(path) for path in paths]
os.rename(paths[0], paths[0] + ".gone")
"""


def test_a_store_that_is_gone_is_not_closed_at_the_end_of_a_pools_worker(store_path):
    store = Store(store_path)
    reference = weakref.ref(store.log)
    lifetime._close(reference)
    assert store.log.closed
    del store
    gc.collect()
    assert reference() is None
    lifetime._close(reference)


def results(path):
    with Store(path, create=False) as store:
        return [record.result for record in store.records()]


@pytest.mark.slow
def test_a_store_that_cannot_be_saved_at_exit_keeps_no_other_from_it(tmp_path):
    """Its loss is logged; what the other stores have pending is saved."""
    first, second = str(tmp_path / "a.ckpt"), str(tmp_path / "b.ckpt")
    said = run_script("import sys; sys.stderr = sys.stdout\n" + OPEN_TWO, first, second)
    assert "a store could not be saved at exit" in said
    assert "a.ckpt: the file was deleted or replaced" in said
    assert results(second) == [10]


def test_a_store_that_cannot_be_saved_before_a_signal_keeps_no_other_from_it(tmp_path, caplog):
    """The same; put back, what it has pending is saved in the end."""
    paths = [str(tmp_path / "a.ckpt"), str(tmp_path / "b.ckpt")]
    options = {"name": "s", "version": 1, "save": ckpt.on_exit()}
    kept = [ckpt.step(path, **options)(lambda row: row * 10) for path in paths]
    assert [step(1) for step in kept] == [10, 10]
    os.rename(paths[0], paths[0] + ".away")
    for save in interrupts.savers:
        save()
    assert "results may be lost, a store could not be saved" in caplog.text
    assert results(paths[1]) == [10]
    os.rename(paths[0] + ".away", paths[0])
    for save in interrupts.savers:
        save()
    assert results(paths[0]) == [10]


class Beside:
    """What runs next to a store, as the shipper to a bucket does."""

    worker = "0 beside 0 0"

    def __init__(self, error=None):
        self.error, self.ended = error, 0

    def wake(self):
        pass

    def finish(self):
        self.ended += 1
        if self.error is not None:
            raise self.error


def test_what_runs_next_to_a_store_ends_before_a_signal_kills_whatever_another_does(
    tmp_path, caplog
):
    """One that cannot be ended is logged, and keeps no other from it."""
    stores = [Store(str(tmp_path / f"{name}.ckpt")) for name in "abc"]
    bad, good = Beside(OSError("no bucket")), Beside()
    stores[0].log.companion, stores[1].log.companion = bad, good
    for act in interrupts.last_acts:
        act()
    assert (bad.ended, good.ended) == (1, 1)
    assert "what runs next to a store could not be ended" in caplog.text
    assert "no bucket" in caplog.text
    bad.error = None
    for store in stores:
        store.close()
    assert (bad.ended, good.ended) == (2, 2)


@pytest.mark.slow
@pytest.mark.linux
def test_a_pools_process_that_closed_its_store_ends_in_peace(tmp_path):
    """It leaves by os._exit: what is to be closed there is closed, what is gone is not."""
    code = """
    import gc, multiprocessing, sys, checkpointdb as ckpt
    def work(path):
        with ckpt.Store(path) as store:
            list(ckpt.step(store, name="s", version=1)(lambda row: row * 10).run([1]))
        del store
        gc.collect()
    process = multiprocessing.get_context("fork").Process(target=work, args=sys.argv[1:])
    process.start()
    process.join()
    sys.exit(process.exitcode)
    """
    run_script(code, tmp_path / "rows.ckpt")
    assert results(str(tmp_path / "rows.ckpt")) == [10]


def test_a_store_that_nobody_names_and_that_cannot_be_closed_is_logged(caplog):
    """Nobody is there to have the error."""

    class Stuck:
        def close(self):
            raise StoreError("no", "rows.ckpt")

    handle = Stuck()
    lifetime.give_back(handle, Stuck())
    del handle
    gc.collect()
    assert "a store that nobody uses any more could not be closed" in caplog.text


# --- names


@pytest.mark.parametrize("kind", ["directory", "link", "pipe", "file"])
def test_what_is_there_is_not_written_over(tmp_path, kind):
    """Only a plain file is, and only with force."""
    path = str(tmp_path / "out")
    make = {
        "directory": os.mkdir,
        "link": lambda at: os.symlink("elsewhere", at),
        "pipe": os.mkfifo,
        "file": lambda at: os.close(os.open(at, os.O_CREAT | os.O_WRONLY)),
    }
    new_file.check_new(path)
    make[kind](path)
    with pytest.raises(OSError, match=r"a directory|a symbolic link|not a regular file|it exists"):
        new_file.check_new(path)
    with contextlib.nullcontext() if kind == "file" else pytest.raises(OSError):
        new_file.check_new(path, force=True)


@pytest.mark.parametrize("make", [backup, salvage])
def test_a_file_that_comes_while_a_copy_is_made_is_kept(tmp_path, make):
    """Whoever was first has the name."""
    source, target = str(tmp_path / "rows.ckpt"), str(tmp_path / "copy.ckpt")
    saved(source)

    def progress(*_):
        with open(target, "w") as file:
            file.write("mine")

    with pytest.raises(StoreError, match=r"copy\.ckpt: exists; nothing was written"):
        make(source, target, on_progress=progress)
    with open(target) as file:
        assert file.read() == "mine"
    assert glob.glob(f"{target}.*") == []


@pytest.mark.parametrize("make", [backup, salvage])
def test_a_directory_that_is_not_there_is_an_error_that_names_the_file(tmp_path, make):
    """Nothing is left behind."""
    source = str(tmp_path / "rows.ckpt")
    saved(source)
    target = str(tmp_path / "none" / "copy.ckpt")
    with pytest.raises(StoreError, match=r"copy\.ckpt: cannot be written \(No such file"):
        make(source, target)
    assert os.listdir(tmp_path) == ["rows.ckpt"]


def test_a_copy_that_is_not_sound_takes_no_name(tmp_path):
    """What was saved is verified before it is somebody's only store."""
    source, target = str(tmp_path / "rows.ckpt"), str(tmp_path / "copy.ckpt")
    saved(source)

    def progress(*_):
        for half_made in glob.glob(f"{target}.*.tmp"):
            with (
                contextlib.closing(apsw.Connection(half_made)) as db,
                contextlib.suppress(apsw.Error),
            ):
                db.execute("update records set result = 'other' where id = 40")

    with pytest.raises(StoreError, match="what was saved is not sound: record 40"):
        salvage(source, target, on_progress=progress)
    assert os.listdir(tmp_path) == ["rows.ckpt"]


# --- processes and claims


def test_a_process_of_another_boot_is_dead_and_one_of_another_container_unknown():
    """Numbers of processes say nothing there."""
    here = this_process()
    assert alive(here) is True
    assert alive(msgspec.structs.replace(here, boot="another")) is False
    assert alive(msgspec.structs.replace(here, host="another")) is None
    assert alive(msgspec.structs.replace(here, pid_namespace=here.pid_namespace + 1)) is None
    assert alive(msgspec.structs.replace(here, ticks=here.ticks + 1)) is False


@pytest.mark.parametrize("worker", ["", "a b c", "a b c d e f", None])
def test_a_claim_of_no_worker_is_damage(worker):
    """It is neither void nor held."""
    with pytest.raises(apsw.CorruptError, match="a claim is of no worker"):
        leases.is_void(worker, 0.0)


def test_some_of_a_workers_claims_can_be_given_up(open_store):
    """The others stay its own."""
    store = open_store()
    worker = leases.new_worker()
    with store.log._writing() as writer:
        assert leases.take(writer, worker, [key(1), key(2)]) == {key(1), key(2)}
    store.log.release_claims(worker, [key(1)])
    assert leases.holders(store.log._reader, [key(1), key(2)]) == {key(2): worker}
    store.log.release_claims(worker)
    assert leases.holders(store.log._reader, [key(1), key(2)]) == {}


# --- transactions


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    """All of it or nothing, in one transaction."""

    def m002_of_no_use(db):
        db.execute("create table more (id)")
        raise RuntimeError("no")

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, m002_of_no_use])
    with contextlib.closing(apsw.Connection(str(tmp_path / "new.ckpt"))) as db:
        with pytest.raises(RuntimeError):
            migrations.migrate(db)
        assert not db.in_transaction
        assert db.execute("select count(*) from sqlite_schema").get == 0
        assert db.pragma("user_version") == 0 == db.pragma("application_id")


def test_a_transaction_that_cannot_begin_raises_why(open_store, store_path):
    """There is nothing to take back then."""
    store = open_store()
    Log(store).add(1)
    with contextlib.closing(apsw.Connection(store_path)) as other:
        store.log._writer.execute("begin immediate")
        with pytest.raises(apsw.BusyError), transaction(other):
            pass
        store.log._writer.execute("rollback")


def test_what_a_handler_of_the_users_left_open_is_taken_back(open_store):
    """The next commit has nothing of it."""
    store = open_store()
    log = Log(store)
    log.add(1)
    store.log._writer.execute("begin immediate")
    store.log._writer.execute("delete from records")
    log.add(2)
    assert [record.position for record in store.records()] == [1, 2]


# --- forks


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.parametrize("readonly", [False, True])
def test_a_fork_inside_a_run_leaves_the_run_to_the_parent(tmp_path, readonly):
    """The child can neither read nor write through what it inherited; the parent goes on."""
    path = str(tmp_path / "rows.ckpt")
    saved(path)
    code = """
    import os, sys, checkpointdb as ckpt
    path, readonly = sys.argv[1], sys.argv[2] == "True"
    options = {"name": "s", "version": 1}
    if readonly:
        list(ckpt.step(path, **options)(lambda row: row).run([100, 101]))
    store = ckpt.Store(path, readonly=readonly)
    run = iter(ckpt.step(store, replay=readonly, **options)(lambda row: row).run(iter([100, 101])))
    next(run)
    child = os.fork()
    if not child:
        try:
            store.log.find([b"k" * 16])
        except ckpt.StoreError as error:
            os._exit(0 if "forked" in str(error) and store.log.closed else 3)
        os._exit(4)
    assert os.waitpid(child, 0)[1] == 0
    print(list(run), [f is None for f in store.log.find([b"k" * 16])])
    store.close()
    """
    assert run_script(code, path, readonly) == "[101] [True]\n"


# --- reading


def test_a_log_that_is_only_read_does_no_more(tmp_path):
    """It says so for all that would write, and once it is closed."""
    path = str(tmp_path / "rows.ckpt")
    saved(path)
    log = ReadLog(path)
    assert log.row_digests([1]) == {1: None}
    assert log.check(1) is None and log.flush() is None and not log.is_forked
    with pytest.raises(StoreError, match="is open for reading only"):
        log.append(1, 1, [])
    with pytest.raises(AttributeError):
        log._nothing
    log.close()
    assert log.closed
    with pytest.raises(StoreError, match="the store is closed"):
        log.find([key(1)])
    log.close()


def test_keys_are_looked_for_by_text(tmp_path):
    """A number is none, though Python would make one of it."""
    path = str(tmp_path / "rows.ckpt")
    saved(path)
    with Reader(path) as reader:
        with pytest.raises(TypeError, match="a key is a text of 32 hex digits, not 5"):
            reader.find(5)
        with pytest.raises(ValueError, match="hex"):
            reader.find("xyz")
        assert reader.outcomes([b"n" * 16]) == [None]
        with reader.snapshot() as db:
            db.execute("rollback")


@pytest.mark.damages_store
def test_a_time_and_a_name_that_have_rotted_are_damage(store_path):
    """Each says what it is about."""
    saved(store_path)
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.execute("update records set saved_at = 'soon' where id = (select max(id) from records)")
    with Reader(store_path) as reader, pytest.raises(StoreCorruptError, match="record is invalid"):
        reader.last_commit()
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.execute("update records set saved_at = 1.0")
        db.execute("update steps set name = cast(x'ff' as text)")
    with Reader(store_path) as reader, pytest.raises(StoreCorruptError, match="name of a step"):
        list(reader.records())


@pytest.mark.parametrize("text", ["{", "[]", '{"type":1,"message":""}', "5", "[" * 5000])
def test_a_failure_that_has_rotted_is_damage(text):
    """It is not shown as somebody's error."""
    with pytest.raises(DecodeError, match="a saved failure cannot be read"):
        decoded_error(text)


def test_a_run_that_said_that_it_was_stopped_is_stopped(open_store):
    """Whoever stopped it: its loop, a signal, its pilot."""
    store = open_store()
    for word, state in ("closed", "stopped"), ("failed: E", "failed"), ("finished", "finished"):
        store.log.end_run(Log(store).run, {"hits": 0}, word)
        assert store.runs()[-1].state == state


# --- the key index


@pytest.mark.damages_store
@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("delete from system_state where name = 'indexed_to'", "its state is missing"),
        ("update system_state set value = 'x' where name = 'repeated'", "its state is missing"),
        ("delete from records where id > 20", "records after 20 are gone, to 41"),
        ("update system_state set value = 41 where name = 'indexed_to'", "the key index should"),
    ],
)
def test_a_state_that_has_rotted_is_damage(store_path, sql, says):
    """Nothing is paid for again because of it."""
    saved(store_path)
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.execute(sql)
    with pytest.raises(StoreCorruptError, match=says), Store(store_path) as store:
        store.log.find([b"n" * 16])


@pytest.mark.parametrize("value", ["{", '{"1":5}', 5, "[]"])
def test_what_was_paid_for_dropped_records_must_be_numbers(open_store, value):
    """Else it is damage; without such a row nothing was dropped."""
    store = open_store()
    with store.log._writing() as writer:
        assert key_index.dropped(writer) == {}
        with pytest.raises(apsw.CorruptError, match="not what was written"), transaction(writer):
            writer.execute("insert into system_state values ('dropped', ?)", (value,))
            key_index.dropped(writer)


def test_rows_are_forgotten_by_a_condition_on_their_columns_alone(open_store):
    """One that is none says what there is, and what JSON of other types needs."""
    store = open_store()
    Log(store).add(entry(1, result=b"\x93\x01\x02\x03"), 2)
    with pytest.raises(ValueError, match="is not a condition on a record's columns"):
        store.forget(where="nothing = 1")
    with pytest.raises(ValueError, match="add typeof"):
        store.forget(where="json_extract(result, '$.n') = 1")


# --- merge


def test_rows_of_equal_results_are_history_no_more(tmp_path, monkeypatch):
    """Two stores that got the same have the same; where they differ, so many are listed."""
    monkeypatch.setattr(merge, "MOST_LISTED", 1)
    paths = [str(tmp_path / name) for name in ("a.ckpt", "b.ckpt")]
    for n, path in enumerate(paths):
        with Store(path) as store:
            Log(store).add(1, entry(2, result=f"{n}"), entry(3, result=f"{n}"))
    with Store(paths[0]) as store:
        merged = store.merge(paths[1])
    assert (merged.added, merged.same, merged.different) == (0, 1, 2)
    assert len(merged.conflicts) == 1


def test_a_run_that_begins_while_its_store_is_merged_comes_too(tmp_path, monkeypatch):
    """Its records are under a run of their own."""
    from checkpointdb.file import incoming

    monkeypatch.setattr(incoming, "PAGE", 2)
    paths = [str(tmp_path / name) for name in ("a.ckpt", "b.ckpt")]
    with Store(paths[1]) as other, Store(paths[0]) as store:
        Log(other).add(1, 2, 3)
        more = iter([4])

        def on_progress(*_):
            for n in more:
                Log(other).add(n)

        with Reader(paths[1]) as reader:
            store.log.merge(reader, on_progress)
        assert sorted(record.position for record in store.records()) == [1, 2, 3, 4]
        assert len({record.run for record in store.records()}) == 2


# --- cells


def test_numbers_of_a_cell_are_read_to_their_ninth_byte():
    """Which has eight bits; a number that the page cuts short is none."""
    assert cells.varint(b"\x05", 0) == (5, 1)
    assert cells.varint(b"\x81\x00", 0) == (128, 2)
    assert cells.varint(b"\xff" * 9, 0) == (-1, 9)
    assert cells.varint(b"\x80" * 8 + b"\x07", 0) == (7, 9)
    for short in (b"", b"\x80", b"\xff" * 8):
        with pytest.raises(cells.BrokenError):
            cells.varint(short, 0)


@pytest.mark.parametrize("head", [b"\x01", b"\x02\x81\x01", b"\x0a" + b"\xff" * 9, b"\x00"])
def test_what_is_no_head_of_a_row_has_no_values(head):
    """No values, an end in the middle of a type, a type below zero."""
    with pytest.raises(cells.BrokenError):
        cells.types(head)
    assert cells.width(head) == 0


# --- opening


def test_a_file_that_is_gone_has_no_identity(tmp_path):
    """It is nobody's."""
    assert connection.identity(str(tmp_path / "none")) is None


@pytest.mark.damages_store
def test_a_store_that_is_marked_as_another_programs_file_is_damage(store_path):
    """Its tables are ours; a file without them is none of ours."""
    saved(store_path)
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.pragma("application_id", 7)
        db.pragma("wal_checkpoint(truncate)")
    with pytest.raises(StoreCorruptError, match="not marked as a store any more"):
        Store(store_path)
    other = store_path + ".other"
    with contextlib.closing(apsw.Connection(other)) as db:
        db.execute("create table records (id)")
    with pytest.raises(StoreError, match="an SQLite file, but not a checkpointdb store"):
        Store(other)


def test_a_disk_that_fails_to_sync_the_directory_is_told(tmp_path, monkeypatch):
    """Before anything is written to a store that may vanish.

    Who may not read the directory has not created the store, and need not make its name durable.
    """
    path = str(tmp_path / "rows.ckpt")
    Store(path).close()

    def failing(number):
        def sync(_directory):
            raise OSError(number, os.strerror(number))

        return sync

    monkeypatch.setattr(system, "sync_directory", failing(errno.EACCES))
    Store(path).close()
    monkeypatch.setattr(system, "sync_directory", failing(errno.EIO))
    with pytest.raises(StoreError, match=r"its directory could not be synced \(Input/output"):
        Store(path)
    monkeypatch.undo()
    saved(path)


# --- what salvage finds on pages


@pytest.fixture
def rescued(tmp_path):
    """A new store that is being filled, and its connection."""
    path = str(tmp_path / "new.ckpt")
    open(path, "wb").close()
    connection.lay(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        db.execute("begin")
        yield Rescued(db), db
        db.execute("rollback")


@pytest.fixture
def whole(tmp_path):
    """The columns of a record that is whole, as they are on disk, without its id."""
    path = str(tmp_path / "rows.ckpt")
    saved(path)
    with contextlib.closing(apsw.Connection(path)) as db:
        columns = ", ".join(name for _, name, *_, hidden in table_of(db, "records") if not hidden)
        return list(db.execute(f"select {columns} from records where id = 1").fetchone())


def table_of(db, name):
    return db.execute(f"pragma table_xinfo({name})").fetchall()


def row_of(values, rowid=1, is_index=False, head=b""):
    return Row(rowid, is_index, 0 if values is None else len(values), values, head)


def test_only_a_record_whose_checksum_holds_is_taken(rescued, whole):
    """Once, whatever its id; any other is expected, and told of."""
    new, db = rescued
    names = [name for _, name, *_, hidden in table_of(db, "records") if not hidden]
    for name, value in ("key", "text"), ("identity", None), ("row_digest", "text"), ("error", 5):
        rotten = list(whole)
        rotten[names.index(name)] = value
        new.add(row_of(rotten, rowid=7))
    new.add(row_of(whole, rowid=1))
    new.add(row_of(whole, rowid=1))
    new.add(row_of(whole, rowid=1 << 60))  # kept for the end
    rotten = list(whole)
    rotten[names.index("result")] = "other"
    new.add(row_of(rotten, rowid=1 << 60))  # of no id that could be its own
    assert db.execute("select id from records").fetchall() == [(1,)]
    assert db.execute("select count(*) from temp.strays").get == 1
    assert db.execute("select id from temp.expected").fetchall() == [(7,)]


def test_rows_of_no_table_are_left_alone(rescued):
    """Those of another width, of no values, and those whose values are of other types."""
    new, db = rescued
    new.add(row_of(None))
    new.add(row_of([None, 1.5], rowid=1))
    new.add(Row(1, False, new.record_width, None, b"\x81"))  # of a head that breaks off
    assert not new.is_store
    runs = len([1 for *_, hidden in table_of(db, "runs") if not hidden])
    new.add(row_of([None] * runs, rowid=1))
    assert not new.is_store and db.execute("select count(*) from runs").get == 0


def test_rows_of_indexes_are_what_they_look_like(rescued):
    """A forgotten key, a call that was sent; what has rotted is neither."""
    new, db = rescued
    new.add(row_of([b"k" * 16, b"e" * 16, 3], is_index=True))
    assert db.execute("select generation from system_forgotten").get == 3
    columns = [name for _, name, *_, hidden in table_of(db, "sent_calls") if not hidden]
    usual = {
        "key": b"k" * 16, "run": 1, "step": 1, "position": 5, "sent_at": 1.5, "input": "1",
        "input_form": 0,
    }  # fmt: skip
    call = [usual.get(name) for name in columns]
    new.add(row_of([b"k" * 16, *["rotten"] * (len(columns) - 1)], is_index=True))
    assert db.execute("select count(*) from sent_calls").get == 0
    new.add(row_of(call, is_index=True))
    assert db.execute("select position from sent_calls").get == 5


def test_sums_that_have_rotted_are_not_taken(rescued, whole):
    """The store is sound without them."""
    new, db = rescued
    new.add(row_of(["dropped", "{"], is_index=True))
    new.add(row_of(whole))
    new.finish(is_damaged=True)
    assert db.execute("select count(*) from system_state where name = 'dropped'").get == 0


def test_problems_are_named_up_to_a_number(rescued, monkeypatch):
    """A file of which all is lost has no report of a gigabyte."""
    monkeypatch.setattr(rescue, "MOST_NAMED", 2)
    new, _ = rescued
    for n in range(5):
        new._tell(f"record {n}", "lost")
    assert len(new.problems) == 2


def test_bytes_that_look_like_a_record_are_none(rescued, tmp_path, whole):
    """Neither its head nor its length is that of one."""
    path = str(tmp_path / "odd.ckpt")
    with Store(path) as store:
        begin = b"\x00\x2c\x2c"
        odd = begin + b"\xff" * 20 + b"\x05" + begin + b"\x05\x05" + b"\x03" + begin
        Log(store).add(*(entry(n, result=msgspec.msgpack.encode(odd * 3)) for n in range(30)))
    with open(path, "r+b") as file:
        data = file.read()
        for at in range(8192, len(data), 8192):
            if data[at] == 13:  # a leaf: its cells are named no more
                file.seek(at)
                file.write(b"\x0d\x00\x00\x00\x00")
    salvage(path, str(tmp_path / "saved.ckpt"))
    assert len(results(str(tmp_path / "saved.ckpt"))) == 30


def test_a_log_that_is_cut_has_the_pages_of_what_was_not_committed(tmp_path):
    """They count where nothing better is there; a log too short for a frame has none."""
    path = str(tmp_path / "rows.ckpt")
    store = Store(path)
    Log(store).add(*range(300))
    for ending in ("", "-wal"):
        shutil.copy(path + ending, str(tmp_path / "left.ckpt") + ending)
    store.close()
    left = str(tmp_path / "left.ckpt")
    size = os.path.getsize(left + "-wal")
    os.truncate(left + "-wal", size - 8192 - 24)
    done = salvage(left, str(tmp_path / "new.ckpt"))
    assert done.records > 0
    os.truncate(left + "-wal", 40)
    with contextlib.closing(file_pages.Pages(left)) as pages:
        assert len(pages) == os.path.getsize(left) // 8192


def test_a_row_that_would_not_fit_is_none(tmp_path):
    """Of no bytes, or of more than any row has."""
    path = str(tmp_path / "rows.ckpt")
    saved(path)
    with contextlib.closing(file_pages.Pages(path)) as pages:
        for start, size in (10, 0), (10, 1 << 40), (pages.usable - 1, 50):
            with pytest.raises(cells.BrokenError):
                cells.Cells(pages).laid(1, start, size)


def test_a_line_of_sqlites_check_says_what_it_means():
    """Lost room, a lost index, or lost records."""
    assert "room in the file is lost" in verify._of_structure("Page 9: never used", {})
    assert "may not find saved" in verify._of_structure("Tree 5 page 5: x", {5: "system_key_index"})
    assert verify._of_structure("Tree 6 page 5: x", {5: "records"}) == verify._UNREADABLE


# --- more of it


def test_a_condition_too_large_to_be_computed_is_the_stores_error(open_store):
    """Not the user's condition is wrong then, but what it makes."""
    store = open_store()
    Log(store).add(1)
    with pytest.raises(StoreError, match="too big"):
        store.forget(where="length(zeroblob(2000000000) || 'x') > 0")


def test_codes_without_runs_made_nothing(open_store):
    """Nor is the log read for them."""
    store = open_store()
    log = Log(store)
    with store.log._writing() as writer:
        assert codes.made_by(writer, log.step, [999]).results == 0
        assert codes.made_by(writer, log.step, []).results == 0


def test_a_merge_extends_the_index_on_disk(tmp_path, monkeypatch):
    """As commits do, and forgets from memory what is there then."""
    monkeypatch.setattr(key_index, "TAIL", 10)
    paths = [str(tmp_path / name) for name in ("a.ckpt", "b.ckpt")]
    with Store(paths[0]) as store, Store(paths[1]) as other:
        Log(other).add(*range(30))
        assert store.merge(paths[1]).added == 30
        assert store.log._reader.execute("select count(*) from system_key_index").get == 30
        assert all(store.log.find([key(n) for n in range(30)]))


def test_a_record_that_comes_by_two_ways_is_the_same(tmp_path):
    """From the store where it was made, and from one that has merged it: nothing comes twice."""
    a, b, c = (str(tmp_path / name) for name in ("a.ckpt", "b.ckpt", "c.ckpt"))
    with Store(a) as store:
        Log(store).add(1, 2)
    with Store(b) as store:
        store.merge(a)
    with Store(c) as store:
        assert store.merge(a).added == 2
        again = store.merge(b)
        assert (again.added, again.replaced, again.history) == (0, 0, 0)


def test_a_log_that_grows_under_a_reader_is_told_once(open_store, store_path, monkeypatch, caplog):
    """With who it is, as far as that is seen, and what to do."""
    monkeypatch.setattr(pragmas, "WAL_BYTES", 100_000)
    store = open_store()
    log = Log(store)
    log.add(1)
    with contextlib.closing(apsw.Connection(store_path)) as reader:
        reader.execute("begin; select * from records")
        for n in range(20):
            log.add(*range(100 * n, 100 * n + 100))
        reader.execute("rollback")
    assert caplog.text.count("and growing, because") == 1
    assert "end that reader, and the log shrinks" in caplog.text


def test_a_log_that_is_long_by_one_large_commit_is_told_nobody(open_store, monkeypatch, caplog):
    """It could be moved at once: no reader keeps it, and there is nothing to do."""
    monkeypatch.setattr(pragmas, "WAL_BYTES", 100_000)
    monkeypatch.setattr(pragmas, "WAL_PAGES", 10)
    Log(open_store()).add(*range(2_000))
    assert "and growing" not in caplog.text


def test_what_was_to_become_a_store_and_is_gone_is_not_dead(tmp_path):
    """Its maker has just given it its name."""
    assert not temporary._is_dead(str(tmp_path / "none.tmp"), str(tmp_path / "none"))


def test_a_log_without_runs_is_nobodys(tmp_path):
    """Whoever asks is not alone in it."""
    path = str(tmp_path / "rows.ckpt")
    saved(path)
    log = ReadLog(path)
    assert not log.is_alone(object())
    log.close()
