"""What a process that died leaves behind: a store that opens whole, a log that is not trusted."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import warnings

import apsw
import pytest
from stores import Log

import checkpointdb as ckpt
from checkpointdb import Store, StoreError
from checkpointdb.file import connection, pragmas, probe, wal
from checkpointdb.file.locks import lockers
from checkpointdb.file.log_file import LogFile
from checkpointdb.file.probe import uri
from checkpointdb.file.read import Reader

HERE = os.path.dirname(os.path.abspath(__file__))
FRAME = 8192 + 24


@pytest.mark.parametrize(
    "every",
    [pytest.param(7, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.soak)],
)
def test_a_store_opens_after_a_kill_at_any_write_or_sync(tmp_path, every):
    """In creation, commits, wal_checkpoints, extensions of the index, closing; readers too."""
    first = random.randint(1, every)
    print("first", first)
    done = subprocess.run(
        [sys.executable, os.path.join(HERE, "killed_life.py"), tmp_path, str(first), str(every)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    points, *wrong = done.stdout.split("\n")
    assert done.returncode == 0, done.stderr
    assert int(points) > 200
    assert [line for line in wrong if line] == []


def left_behind(path, commits=6):
    """Leave a store as a kill does, with so many commits in its log; return where its copy is."""
    store = Store(path)
    log = Log(store)
    for n in range(commits):
        log.add(*range(20 * n, 20 * n + 20))
    copy = path.replace(".ckpt", "-left.ckpt")
    for ending in ("", "-wal", "-shm"):
        shutil.copy(path + ending, copy + ending)
    store.close()
    return copy


def damage(path, at):
    """Flip one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def frames(path):
    """Return of each frame of a log whether it ends a commit."""
    data = pathlib.Path(path).read_bytes()
    return [any(data[at + 4 : at + 8]) for at in range(32, len(data), FRAME)]


@pytest.mark.parametrize("shm", [True, False], ids=["shm", "no shm"])
@pytest.mark.parametrize("opener", [Store, Reader])
@pytest.mark.parametrize("where", ["page", "number", "salt", "checksum", "header", "its salt"])
def test_a_damaged_frame_before_whole_commits_is_said(store_path, opener, where, shm):
    """How many commits cannot be read; it is no refusal, and nothing has been written over them."""
    copy = left_behind(store_path)
    ends = [n for n, is_end in enumerate(frames(copy + "-wal"), 1) if is_end]
    frame = ends[2] + 1
    at = 32 + (frame - 1) * FRAME
    offset = {"page": at + 500, "number": at, "salt": at + 9, "checksum": at + 17}
    damage(copy + "-wal", offset.get(where, {"header": 10, "its salt": 18}.get(where)))
    if not shm:
        os.unlink(copy + "-shm")
    before = pathlib.Path(copy + "-wal").read_bytes()
    what, lost = f"frame {frame} of {len(frames(copy + '-wal'))} is damaged", len(ends) - 3
    if where in ("header", "its salt"):
        what, lost = "the header is damaged", len(ends)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=f"{what}.* {lost} whole commits"):
            opener(copy)
    assert pathlib.Path(copy + "-wal").read_bytes() == before
    with pytest.warns(UserWarning, match="copy the store with its -wal and -shm"), opener(copy):
        pass


@pytest.mark.parametrize("is_torn", [False, True], ids=["damage", "no log at all"])
def test_a_log_that_somebody_writes_to_while_it_is_looked_at_is_not_damaged(
    store_path, monkeypatch, is_torn
):
    """Two halves were read then. It is looked at again, and found whole."""
    copy, looked, look = left_behind(store_path), [], wal.look
    whole = pathlib.Path(copy + "-wal").read_bytes()

    def too_early(*where):
        looked.append(1)
        if len(looked) < 3:
            damage(copy + "-wal", 32 + 9 * FRAME)
        try:
            if is_torn and len(looked) < 3:
                raise apsw.IOError("short read")
            return look(*where)
        finally:
            pathlib.Path(copy + "-wal").write_bytes(whole)

    monkeypatch.setattr(wal, "look", too_early)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Reader(copy) as reader:
            assert len(list(reader.records())) == 120
    assert len(looked) == 3


def test_a_log_that_is_written_to_all_the_time_is_in_use(store_path, monkeypatch):
    """Who looks at it each time just between two others finds no damage, and is done in time."""
    copy, look = left_behind(store_path), wal.look

    def always(*where):
        damage(copy + "-wal", 32 + 9 * FRAME)
        try:
            return look(*where)
        finally:
            damage(copy + "-wal", 32 + 9 * FRAME)

    monkeypatch.setattr(wal, "look", always)
    monkeypatch.setattr(probe, "SETTLING_SECONDS", 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Reader(copy) as reader:
            assert len(list(reader.records())) == 120


@pytest.mark.linux
@pytest.mark.parametrize("opener", [Reader, lambda path: Store(path, readonly=True)])
def test_whoever_reads_without_locks_leaves_those_of_this_process_alone(store_path, opener):
    """A writer that lost its lock would have its log deleted by whoever comes and goes."""
    copy = left_behind(store_path)
    os.unlink(copy + "-shm")
    reader = opener(copy)
    with Store(copy) as store:
        held = lockers(copy)
        reader.close()
        assert lockers(copy) == held == {os.getpid()}
        wal.look(uri(copy, "mode=ro"), "")
        assert lockers(copy) == held
        assert store.verify() == []


@pytest.mark.parametrize("opener", [Store, Reader])
@pytest.mark.parametrize("cut", ["whole", "last frame", "half a frame", "one byte of the last"])
def test_a_log_that_merely_ends_early_is_silent(store_path, opener, cut):
    """A commit that was cut short was never acknowledged."""
    copy = left_behind(store_path)
    size = os.path.getsize(copy + "-wal")
    if cut == "one byte of the last":
        damage(copy + "-wal", size - 5)
    else:
        taken = {"whole": 0, "last frame": FRAME, "half a frame": FRAME // 2}[cut]
        os.truncate(copy + "-wal", size - taken)
    opener(copy).close()


@pytest.mark.parametrize("opener", [Store, Reader])
@pytest.mark.parametrize("torn", [9, 17, 27])
@pytest.mark.parametrize("is_copied", [True, False])
def test_a_log_torn_as_it_is_begun_anew_has_lost_nothing(store_path, opener, torn, is_copied):
    """Its commits are in the main file by then; if one is not, the header has rotted."""
    copy = left_behind(store_path)
    if is_copied:
        with contextlib.closing(apsw.Connection(copy)) as db:
            db.pragma("journal_mode")
            db.wal_checkpoint()
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    with open(copy + "-wal", "r+b") as file:
        header = bytearray(file.read(32))
        header[12:torn] = os.urandom(torn - 12) if torn > 12 else b""
        header[8:12] = os.urandom(4)
        file.seek(0)
        file.write(header)
    expected = contextlib.nullcontext()
    if not is_copied:
        expected = pytest.warns(UserWarning, match="the header is damaged")
    with expected, opener(copy):
        pass


def test_a_commit_cut_short_behind_a_torn_header_is_not_missed(store_path):
    """It was never acknowledged: all others are in the main file, and nothing is said."""
    copy = left_behind(store_path)
    with contextlib.closing(apsw.Connection(copy)) as db:
        db.pragma("journal_mode")
        db.wal_checkpoint()
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    log = pathlib.Path(copy + "-wal")
    data = bytearray(log.read_bytes())
    begun = (1 << 20).to_bytes(4, "big") + data[36 : 32 + FRAME // 2]  # of a page far behind
    log.write_bytes(data[:8] + os.urandom(4) + data[12:] + begun)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Reader(copy).close()


def test_what_was_never_committed_is_no_damage(store_path):
    """Frames of a big transaction that was killed stay behind those of the next, killed as well."""
    with Store(store_path) as store:
        Log(store).add(1)
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.pragma("cache_size", 5)
        db.execute("begin; create table spilled (a)")
        db.execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 500)"
            " insert into spilled select randomblob(4000) from n"
        )
        db.cache_flush()
        first = store_path.replace(".ckpt", "-first.ckpt")
        for ending in ("", "-wal"):
            shutil.copy(store_path + ending, first + ending)
        db.execute("rollback")
    assert not any(frames(first + "-wal"))
    with contextlib.closing(apsw.Connection(first)) as db:
        db.execute("create table t (a)")
        second = first.replace("-first", "-second")
        for ending in ("", "-wal"):
            shutil.copy(first + ending, second + ending)
    assert sum(frames(second + "-wal")) == 1
    Reader(second).close()
    Store(second).close()


def test_a_first_page_torn_in_a_wal_checkpoint_is_read_from_the_log(store_path):
    """A power cut in the middle of writing it: it is whole in the log."""
    copy = left_behind(store_path)
    with contextlib.closing(apsw.Connection(copy)) as db:
        assert db.execute("select count(*) from records").get == 120
        for ending in ("", "-wal"):
            shutil.copy(copy + ending, copy.replace("-left", "-torn") + ending)
    torn = copy.replace("-left", "-torn")
    with open(torn, "r+b") as file:
        file.write(b"\xa5" * 512)
    with Reader(torn) as reader:
        assert len(list(reader.records())) == 120
    with Store(torn) as store:
        assert len(list(store.records())) == 120
        assert store.verify() == []


# --- the log of an open store


@pytest.mark.parametrize("how", ["run", "calls", "threads"])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_a_log_deleted_under_an_open_store_is_noticed_before_more_is_paid(store_path, how, rows):
    """As a replaced file is; what was committed, and what was pending, is found by the next one."""
    calls = []

    def label(row):
        calls.append(row)
        if row == 20:
            os.unlink(store_path + "-wal")
        return row

    step = ckpt.step(store_path, version=1, save=ckpt.every(rows=rows))(label)
    with pytest.raises(StoreError, match="-wal was deleted while the store was open"):
        if how == "calls":
            [step(row) for row in range(1000)]
        else:
            list(step.run(list(range(1000)), concurrency=1 + (how == "threads")))
    assert len(calls) < 600  # those that had been looked up already
    if rows == 1 and how != "threads":
        assert len(calls) == 21
    if rows == 1 or how != "calls":  # else some are pending
        shutil.copy(store_path, store_path + ".copy")
        with Reader(store_path + ".copy") as reader:
            assert sorted(record.input for record in reader.records()) == sorted(calls)
    step.store.close()
    with Store(store_path) as store:
        assert sorted(record.input for record in store.records()) == sorted(calls)
        assert store.verify() == []


def test_a_log_replaced_under_an_open_store_is_noticed_before_more_is_written(store_path):
    """What is written then would be read against pages that are not there."""
    with Store(store_path) as store:
        log = Log(store)
        log.add(1)
        os.rename(store_path + "-wal", store_path + "-away")
        shutil.copy(store_path + "-away", store_path + "-wal")
        with pytest.raises(StoreError, match="its -wal was replaced"):
            log.add(2)
        os.rename(store_path + "-away", store_path + "-wal")
        log.add(3)
    with Reader(store_path) as reader:
        assert len(list(reader.records())) == 2
        assert reader.verify() == []


class Forgetful(apsw.VFS):
    """A disk of which `durable` is what a power cut leaves: what was written since the last sync is
    gone, and for good what was written before a sync that failed, as on Linux."""

    def __init__(self, name):
        self.name, self.durable, self.dirty, self.failing = name, {}, {}, ""
        super().__init__(name, "unix")

    def xOpen(self, name, flags):
        return ForgetfulFile(self, name, flags)

    def xDelete(self, name, sync):
        super().xDelete(name, sync)
        self.durable.pop(name, None)
        self.dirty.pop(name, None)

    def cut(self, path, to):
        """Lay down what a power cut would leave of a store now."""
        for ending in ("", "-wal"):
            if path + ending in self.durable:
                pathlib.Path(to + ending).write_bytes(self.durable[path + ending])


class ForgetfulFile(apsw.VFSFile):
    def __init__(self, vfs, name, flags):
        self.vfs = vfs
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.path = path or str(id(self))
        if os.path.exists(self.path):
            vfs.durable.setdefault(self.path, bytearray(pathlib.Path(self.path).read_bytes()))
        super().__init__("unix", name, flags)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self.vfs.dirty.setdefault(self.path, []).append((bytes(data), offset))

    def xTruncate(self, size):
        super().xTruncate(size)
        self.vfs.dirty.setdefault(self.path, []).append((None, size))

    def xSync(self, flags):
        super().xSync(flags)
        written = self.vfs.dirty.pop(self.path, [])
        fails, self.vfs.failing = self.vfs.failing[:1], self.vfs.failing[1:]
        if fails == "x":
            raise apsw.IOError("the disk has failed")
        file = self.vfs.durable.setdefault(self.path, bytearray())
        for data, offset in written:
            if data is None:
                del file[offset:]
            else:
                file.extend(bytes(max(offset + len(data) - len(file), 0)))
                file[offset : offset + len(data)] = data


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("where", ["flush", "wal_checkpoint", "claim"])
@pytest.mark.parametrize("failures", ["x", "xxx", "x-x", "-x-x"])
def test_after_a_failed_sync_nothing_is_acknowledged_that_is_not_on_the_disk(
    store_path, monkeypatch, durability, where, failures
):
    """Linux says once that it could not write, and takes the pages for written: the next flush may
    not rely on them."""
    Store(store_path).close()
    if where == "wal_checkpoint":
        monkeypatch.setattr(pragmas, "WAL_PAGES", 1)
    vfs = Forgetful(f"forgetful-{durability}-{where}-{failures}")
    store = Store(store_path, durability=durability, vfs=vfs.name)
    log = Log(store)
    store.flush()
    if where == "claim":
        store.log.claim("a b 1 2 3 c", [b"k" * 16])
    vfs.failing = failures
    with contextlib.suppress(StoreError):
        log.add(*range(10))
    for _ in range(9):
        try:
            if log.found(0) == [None]:
                log.add(*range(10))
            store.flush()
        except StoreError:
            continue
        break
    vfs.failing = ""
    after = store_path.replace("rows", "after")
    vfs.cut(store_path, after)
    with Reader(after) as reader:
        assert {record.position for record in reader.records()} == set(range(10))
        assert reader.verify() == []
    store.close()
    vfs.unregister()


@pytest.mark.parametrize("when", ["saving", "closing"])
def test_a_store_that_could_not_be_closed_is_closed_by_the_next_try(store_path, monkeypatch, when):
    """The error is the user's to see; until then it is open, and all is there afterwards."""
    Store(store_path).close()
    vfs, close = Forgetful(f"forgetful-close-{when}"), connection.close
    store = Store(store_path, durability="process", vfs=vfs.name)
    Log(store).add(*range(10))

    def close_without_memory(writer):
        monkeypatch.setattr(connection, "close", close)
        close(writer)
        raise MemoryError

    if when == "saving":
        vfs.failing = "x"
    else:
        monkeypatch.setattr(connection, "close", close_without_memory)
    with pytest.raises(StoreError if when == "saving" else MemoryError):
        store.close()
    assert not store.closed
    store.close()
    assert store.closed
    after = store_path.replace("rows", "after")
    vfs.cut(store_path, after)
    with Reader(after) as reader:
        assert len(list(reader.records())) == 10
    vfs.unregister()


class FullFile(ForgetfulFile):
    """A file of a disk that has no room for the main file, but for its log."""

    def xWrite(self, data, offset):
        if self.vfs.is_full and not self.path.endswith("-wal"):
            raise apsw.FullError("no room")
        super().xWrite(data, offset)


class Full(Forgetful):
    is_full = False

    def xOpen(self, name, flags):
        return FullFile(self, name, flags)


def test_a_log_that_cannot_be_moved_for_want_of_room_takes_commits_all_the_same(
    store_path, monkeypatch
):
    """And is moved by the first commit that finds room."""
    Store(store_path).close()
    monkeypatch.setattr(pragmas, "WAL_PAGES", 1)
    vfs = Full("full")
    with Store(store_path, vfs=vfs.name) as store:
        log, size = Log(store), os.path.getsize(store_path)
        vfs.is_full = True
        for n in range(0, 300, 100):
            log.add(*range(n, n + 100))
        assert os.path.getsize(store_path) == size
        assert not store.log._file.is_doubtful
        vfs.is_full = False
        log.add(300)
        assert os.path.getsize(store_path) > size
        assert [record.position for record in store.records()] == list(range(301))
    vfs.unregister()


@pytest.mark.parametrize(
    "module, name, readonly",
    [
        (probe, "check_file", True),
        (probe, "check_file", False),
        (connection, "_warn_of_network", False),
    ],
)
def test_a_store_that_is_deleted_while_it_is_opened(
    store_path, monkeypatch, module, name, readonly
):
    Store(store_path).close()
    real = getattr(module, name)

    def deleted(path):
        found = real(path)
        os.unlink(path)
        return found

    monkeypatch.setattr(module, name, deleted)
    with pytest.raises(StoreError, match="unable to open"):
        Store(store_path, readonly=readonly)


def test_a_store_that_is_deleted_while_it_is_merged(store_path, tmp_path):
    """Whoever has it open reads all of it."""
    other = str(tmp_path / "other.ckpt")
    with Store(other) as store:
        Log(store).add(1, 2)
    with Store(store_path) as store, pytest.MonkeyPatch.context() as patch:
        opened = Reader.__enter__

        def deleted(reader):
            os.unlink(other)
            return opened(reader)

        patch.setattr(Reader, "__enter__", deleted)
        assert store.merge(other).added == 2


def test_a_store_that_another_thread_closes_is_closed_and_nobody_deleted_its_log(
    store_path, monkeypatch
):
    store, check = Store(store_path), LogFile.check

    def closed(file):
        monkeypatch.undo()
        store.close()
        check(file)

    monkeypatch.setattr(LogFile, "check", closed)
    with pytest.raises(StoreError, match="the store is closed"):
        store.log.find([bytes(16)])


def test_a_run_that_another_thread_ends_while_its_store_is_closed(store_path, monkeypatch):
    store = Store(store_path)
    step = store.log.register_step("s", 1, "{}").id
    run = store.log.begin_run(step, "", "", None)
    writing = type(store.log)._writing

    def ended(log):
        monkeypatch.undo()
        log.end_run(run, {"hits": 0}, "finished")
        return writing(log)

    monkeypatch.setattr(type(store.log), "_writing", ended)
    store.log._give_up_the_rest()
    assert [it.ended for it in store.runs()] == ["finished"]
    store.close()
