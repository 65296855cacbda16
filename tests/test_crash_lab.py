"""The crash laboratory catches every planted fault; the store passes a small session."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time

import apsw
import pytest
from crash import faults, kinds, lives, planted, power, report, session
from crash.disk import SEVEN, Disk

import checkpointdb as ckpt
from checkpointdb import StoreError
from checkpointdb.engine import fingerprint

pytestmark = [pytest.mark.loops, pytest.mark.on_disk]
# The seed of these small sessions stays the same, so that a change of the code is what makes them
# red; `.ci/run` and `python -m tests.crash` draw new ones.
SEED = 20_26
STATES = {
    "power": 240, "sharing": 120, "sectors": 120, "syncs": 90, "clocks": 20, "faults": 16,
    "exceptions": 12, "rot": 90, "kills": 16, "signals": 18, "processes": 6,
}  # fmt: skip


def params(names):
    """Yield the names; Python 3.12 counts no bytecodes, or dies of it, and has no signals there."""
    skip = pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="3.12 cannot trace opcodes")
    return [pytest.param(it, marks=[skip] if "signal" in it else []) for it in names]


@pytest.mark.parametrize("name", params(planted.PLANTED))
def test_a_planted_fault_is_caught(name):
    """A laboratory that has not been seen to fail proves nothing."""
    fault = planted.PLANTED[name]
    with fault.plant():
        assert fault.look()


@pytest.mark.parametrize("experiment", params(session.EXPERIMENTS))
def test_the_store_passes(experiment):
    """Nothing acknowledged is lost, no byte is wrong, and everything comes to its end."""
    done = session.run(SEED, STATES[experiment], (experiment,), lambda *_: None)
    print(report.line(experiment, done.experiments[experiment]))
    assert done.violations == []
    assert sum(done.totals.values()) or done.experiments[experiment]["processes"]


@pytest.mark.soak
@pytest.mark.parametrize("kind", kinds.ALONE)
def test_each_operation_fails_in_turn(kind):
    """With EIO and ENOSPC, once and from then on; a seed of its own each time."""
    seed = power.random.SystemRandom().randrange(10**9)
    done = session.run(seed, 0, (), lambda *_: None, everywhere=[kind])
    print(seed, report.line(kind, done.experiments["faults"]))
    assert done.violations == []


def test_the_disk_keeps_what_was_synced_and_may_lose_the_rest():
    """In each mode; a name counts as a file does."""
    operations = [
        ["file", "a", b"old"], ["open", "1", "a"], ["write", "1", 0, b"new"], ["sync", "1"],
        ["write", "1", 3, b"er"], ["open", "2", "b"], ["write", "2", 0, b"x"], ["sync", "2"],
    ]  # fmt: skip
    disk = Disk(operations)
    disk.advance(len(operations))
    chance = power.random.Random(1)
    assert disk.cut("drop", chance) == {"a": b"new"}
    assert disk.cut("keep", chance) == {"a": b"newer", "b": b"x"}
    left = [disk.cut(mode, chance) for mode in SEVEN for _ in range(30)]
    assert all(files["a"].startswith(b"new") for files in left)
    assert {"b" in files for files in left} == {True, False}
    disk.operations.append(["dirsync"])
    disk.advance(len(operations))
    assert disk.cut("drop", chance) == {"a": b"new", "b": b"x"}


def test_all_choices_come_from_the_seed():
    """The same seed cuts the same power, and says what it stands for."""
    recording = power.record(lives.Options("one run", rows=3))
    first, second = (power.Power(7).cuts(recording, 50, SEVEN) for _ in range(2))
    assert first == second
    assert lives.draw(power.random.Random(7), list(kinds.KINDS)) == lives.draw(
        power.random.Random(7), list(kinds.KINDS)
    )
    assert "seed=" in repr(first[0])
    assert report.line("power", {"images": 3, "seconds": 1.0}).endswith("3 images, 1.0 s")


# --- what the laboratory found


class Refusing(faults.Broken):
    """A disk that fails while it is told to."""

    refuses = False

    def check(self, kind):
        if self.refuses and kind in ("write", "sync"):
            raise apsw.IOError("the disk has failed")


@pytest.fixture
def refusing(tmp_path):
    log = faults.journal.Journal(str(tmp_path / "journal"))
    vfs = Refusing(log, None, faults.Fault(at=0))
    yield vfs
    vfs.unregister()
    log.close()


def test_a_run_whose_end_could_not_be_written_does_not_stay_open(store_path, refusing):
    """`forget` was refused for as long as the process lived, a notebook's for days."""
    store = ckpt.Store(store_path, vfs=refusing.name)
    step = store.log.register_step("label", 1, "null").id
    refusing.refuses = True
    with pytest.raises(StoreError):
        store.log.begin_run(step, "p", "w", None)
    refusing.refuses = False
    run = store.log.begin_run(step, "p", "w", None)
    refusing.refuses = True
    with pytest.raises(StoreError):
        store.log.end_run(run, {"rows": 1}, "finished")
    refusing.refuses = False
    store.close()
    with ckpt.Store(store_path) as store:
        assert [it.ended for it in store.runs() if it.ended is None] == []
        assert store.forget("label") == 0


def test_claims_that_could_not_be_given_up_end_with_their_store(store_path, refusing):
    """Else every other worker waited for rows that nobody computes, while this process lives."""
    store = ckpt.Store(store_path, vfs=refusing.name)
    store.log.claim("host boot 1 2 3 worker", [b"k" * 16])
    refusing.refuses = True
    with pytest.raises(StoreError):
        store.log.release_claims("host boot 1 2 3 worker")
    refusing.refuses = False
    store.close()
    with ckpt.Store(store_path) as store:
        assert store.log._reader.execute("select count(*) from system_claims").get == 0


def test_a_store_with_a_log_left_by_a_kill_opens_on_a_vfs_of_ones_own(store_path, refusing):
    """The look at the log took a lock for writing on what is open for reading."""
    child = os.fork()
    if not child:
        store = ckpt.Store(store_path)
        list(ckpt.step(store, version=1, name="f")(lambda row: row).run(range(3)))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.path.getsize(store_path + "-wal")
    with ckpt.Store(store_path, vfs=refusing.name) as store:
        assert len(list(store.records())) == 3


@pytest.mark.damages_store
def test_a_rotten_capture_is_said_as_damage(store_path):
    """It came out of a run as a decoder's own error."""

    def make(store):
        return ckpt.step(store, version=1, name="f", on_change="reuse")

    with ckpt.Store(store_path) as store:
        list(make(store)(lambda row: row).run([1]))
    with apsw.Connection(store_path) as db:
        db.execute("update step_code set captured = '{\"x', fingerprint = 'another'")
    db.close()
    with ckpt.Store(store_path) as store, pytest.raises(ckpt.StoreCorruptError, match="step_code"):
        list(make(store)(lambda row: row).run([1, 2]))


def test_threads_may_begin_runs_while_objects_die():
    """CPython 3.11 raises SystemError if a destructor lets another thread into `ast.parse`."""

    class Dying:
        def __init__(self):
            self.me = self

        def __del__(self):
            time.sleep(0.0002)

    source, errors = "\n".join(f"def f{n}(x): return [x, (x, {n})]" for n in range(60)), []

    def parse_all():
        for _ in range(10):
            rubbish = [Dying() for _ in range(5)]
            del rubbish
            try:
                fingerprint.parse(source)
            except SystemError as error:
                errors.append(error)

    before = gc.get_threshold()
    gc.set_threshold(20)
    try:
        threads = [threading.Thread(target=parse_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*before)
    assert errors == []
