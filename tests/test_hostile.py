"""Files that somebody made to do harm: refused or read, in a second, in 256 MiB, in our words."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import warnings

import apsw
import hostile
import pytest
from cli_helpers import invoke
from hostile_life import UNSAFE

import checkpointdb as ckpt
from checkpointdb.file.read import Reader

HERE = os.path.dirname(__file__)
SECONDS = 1.0


class Handler:
    """A process that handles file after file, with little room; begun again if one kills it.

    Or keeps its store open: what a damaged store cannot save stays pending, and the thread that
    tries again would take of the room that the next file has.
    """

    def __init__(self):
        self.process = None

    def __call__(self, path, *names):
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "hostile_life.py"], cwd=HERE, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        self.process.stdin.write(json.dumps([path, *names]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            return {"wrong": [f"it died: {self.process.returncode} {self.process.stderr.read()}"]}
        done = json.loads(line)
        if done["open"]:
            self.close()
        return done

    def close(self):
        if self.process is not None:
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def handle():
    handler = Handler()
    yield handler
    handler.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("whole") / "rows.ckpt")
    hostile.whole(path)
    return path


def bad(handle, whole, directory, make, *names):
    """Return what is wrong with how a file is handled, None if nothing is."""
    path = str(directory / "rows.ckpt")
    shutil.copy(whole, path)
    make(path)
    done = handle(path, *names)
    if done["wrong"]:
        return done["wrong"]
    if "unsafe" in done["ends"]:
        return f"an error that steers a terminal: {done['ends']}"
    if done["seconds"] > SECONDS:
        return f"{done['seconds']:.1f} s of processor time: {done['ends']}"
    return None


def test_a_whole_store_is_handled(handle, whole, tmp_path):
    """Or all the others would prove nothing."""
    path = str(tmp_path / "rows.ckpt")
    shutil.copy(whole, path)
    done = handle(path)
    assert set(done["ends"].values()) == {"ok"} and not done["wrong"], done


@pytest.mark.soak
@pytest.mark.parametrize("name", hostile.MAKERS)
def test_a_file_made_by_hand(handle, whole, tmp_path, name):
    """All that is done with a store, on each of them."""
    assert bad(handle, whole, tmp_path, hostile.MAKERS[name]) is None


ACTS = (("inspect", "run"), ("json", "export csv"), ("read",), ("failures", "watch", "why"))
ALL = tuple(itertools.chain(*ACTS, ["export jsonl"]))


@pytest.mark.slow
def test_some_of_the_files_made_by_hand(handle, whole, tmp_path):
    """Seventy of them, with a part of what is done; `soak` has all."""
    names = sorted(hostile.MAKERS)[:: len(hostile.MAKERS) // 70]
    found = {}
    for number, name in enumerate(names):
        directory = tmp_path / str(number)
        directory.mkdir()
        acts = ACTS[number % len(ACTS)]
        found[name] = bad(handle, whole, directory, hostile.MAKERS[name], *acts)
    assert not {name: wrong for name, wrong in found.items() if wrong}
    assert len(found) >= 60


def mutated(handle, whole, tmp_path, seed, count, *acts):
    """Return what is wrong with how mutated files are handled, by seed."""
    found = {}
    for number in range(seed, seed + count):
        wrong = bad(
            handle, whole, tmp_path, lambda path, n=number: hostile.mutate(path, random.Random(n)),
            *(acts or ACTS[number % len(ACTS)]),
        )  # fmt: skip
        if wrong:
            found[number] = wrong
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
    return found


@pytest.mark.slow
def test_some_mutated_files(handle, whole, tmp_path):
    """A hundred, always the same, so that a change of the code is what makes it red."""
    assert mutated(handle, whole, tmp_path, 0, 100) == {}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1_000, 11_000, 500))
def test_ten_thousand_mutated_files(handle, whole, tmp_path, seed):
    """With all that is done with a store."""
    assert mutated(handle, whole, tmp_path, seed, 500, *ALL) == {}


@pytest.mark.parametrize("path", ["", "a\0b", ":memory:", "file:x.ckpt", "file:x?mode=memory",
                                  "x.ckpt?mode=ro", "a\nb.ckpt", "\x1b[31m.ckpt", "%41.ckpt",
                                  "x" * 300, "\udcff.ckpt", "~", "\u202e.ckpt"])  # fmt: skip
def test_a_path_is_a_path_and_nothing_else(tmp_path, monkeypatch, path):
    """No URI, no memory, no escape: the file has just this name, or none is made."""
    monkeypatch.chdir(tmp_path)
    try:
        with ckpt.Store(path) as store:
            assert store.verify() == []
    except (ckpt.StoreError, ValueError):
        assert os.listdir(".") == []
        assert path in ("", "a\0b", "x" * 300, "\udcff.ckpt")
    else:
        assert os.listdir(".") == [path]
        done = invoke("inspect", path)
        assert done.exit_code == 0 and not UNSAFE.search(done.stdout)


@pytest.mark.linux
@pytest.mark.parametrize("opener", [ckpt.Store, Reader])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, opener):
    """Whoever opens one for reading waits until somebody writes to it."""
    path = str(tmp_path / "rows.ckpt")
    os.mkfifo(path)
    with pytest.raises(ckpt.StoreError, match="not a regular file; give the path of one"):
        opener(path)


def test_a_rollback_journal_is_not_played_back(whole, tmp_path):
    """SQLite would: it cuts the file to the size that the journal says, before anybody asks."""
    path = str(tmp_path / "rows.ckpt")
    shutil.copy(whole, path)
    head = hostile.JOURNAL + struct.pack(">IIIII", 0, 7, 5, 512, 8192) + b"\0" * 484
    with open(path + "-journal", "wb") as file:
        file.write(head)
    size = os.path.getsize(path)
    for opener in (ckpt.Store, Reader):
        with pytest.raises(ckpt.StoreError, match="a rollback journal, which checkpointdb never"):
            opener(path)
    assert os.path.getsize(path) == size and os.path.exists(path + "-journal")
    with contextlib.closing(apsw.Connection(path)) as plain, contextlib.suppress(apsw.Error):
        plain.execute("select count(*) from records").fetchall()
    assert os.path.getsize(path) < size  # or this test would prove nothing


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_what_another_user_put_beside_a_store_is_refused(whole, tmp_path, ending):
    """In a directory such as /tmp anybody may, as long as the store is closed."""
    path = str(tmp_path / "rows.ckpt")
    shutil.copy(whole, path)
    open(path + ending, "wb").close()
    os.chown(path + ending, 65534, 65534)
    for opener in (ckpt.Store, Reader):
        with pytest.raises(ckpt.StoreError, match="another user's: it does not belong"):
            opener(path)


def warned(path):
    """Return what opening a store warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ckpt.Store(path).close()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o700, None), (0o755, None), (0o1777, None), (0o1770, None), (0o770, "chmod go-w"),
     (0o702, "chmod go-w"), (0o777, "chmod go-w")],
)  # fmt: skip
def test_a_directory_that_others_may_write_to_is_warned_of_once(tmp_path, mode, said):
    """A sticky one is none: nobody takes another's file away there."""
    path = str(tmp_path / "place" / "rows.ckpt")
    os.mkdir(tmp_path / "place")
    os.chmod(tmp_path / "place", mode)
    found = warned(path)
    assert len(found) == bool(said) and (not said or said in found[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [(lambda path: os.chown(path, 65534, 65534), "it belongs to another user"),
     (lambda path: os.chmod(path, 0o660), "chmod 600 it")],
    ids=["owner", "mode"],
)  # fmt: skip
def test_a_store_that_is_not_ours_alone_is_warned_of(whole, tmp_path, spoil, said):
    """Who can change it can change results."""
    path = str(tmp_path / "rows.ckpt")
    shutil.copy(whole, path)
    os.chmod(path, 0o600)
    assert warned(path) == []
    spoil(path)
    assert said in warned(path)[0]


@pytest.mark.parametrize(
    ("change", "ask"),
    [
        ("update steps set created_at = 'x'", ckpt.Store.steps),
        ("update steps set failures = 'x'", ckpt.Store.steps),
        ("update runs set pid = 'x'", ckpt.Store.runs),
        ("update runs set cost = x'00'", ckpt.Store.runs),
        ("update records set saved_at = 'x'", lambda store: list(store.records())),
        ("update records set attempts = 'x'", lambda store: list(store.records())),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_a_value_of_a_type_that_nobody_wrote_is_damage(whole, tmp_path, change, ask):
    """And no TypeError wherever it is used: SQLite keeps whatever is put into a column."""
    path = str(tmp_path / "rows.ckpt")
    shutil.copy(whole, path)
    with hostile.opened(path) as db:
        db.execute(change)
    with ckpt.Store(path) as store, pytest.raises(ckpt.StoreCorruptError, match="the file is dam"):
        ask(store)
