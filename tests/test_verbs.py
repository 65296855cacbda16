"""Verbs on saved results: adopt them under a new version, forget them; each in one transaction."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import apsw
import pytest
from conftest import verify
from paid import Paid, label
from stores import files_beside

import checkpointdb as ckpt
from checkpointdb import Store, StoreError
from checkpointdb import adopt as adopting
from checkpointdb.adopt import adopt
from checkpointdb.file import key_index
from checkpointdb.file.key_index import TAIL


@pytest.fixture
def paid(tmp_path):
    return Paid(str(tmp_path / "paid.log"))


def counts(store):
    return {(s.name, s.version): (s.results, s.failures, s.records) for s in store.steps()}


# --- adopt


def test_adopted_results_are_hits_of_the_new_version(store_path, paid):
    """After adopt the new version has the old results, without a call; the old ones stay."""
    step = ckpt.step(store_path, version=1)(label)
    rows = paid.rows(30, {4: "boom"})
    list(step.run(rows[:20], on_error="record", cost=lambda r: r["usd"]))
    new = ckpt.step(step.store, version=2, name="label")(label)
    list(new.run(rows[:3]))
    calls = len(paid.calls)
    assert adopt(step.store, "label", 1, 2, dry_run=True) == (16, 3)
    assert len(list(step.store.records())) == 23
    assert adopt(step.store, "label", 1, 2) == (16, 3)
    assert new.plan(rows[:20]).hits == 19  # all but the failure
    run = new.run([row for row in rows[:20] if row["n"] != 4])
    assert [r["n"] for r in run] == [n for n in range(20) if n != 4]
    assert len(paid.calls) == calls
    assert counts(step.store) == {("label", 1): (19, 1, 20), ("label", 2): (19, 0, 19)}
    assert adopt(step.store, "label", 1, 2) == (0, 19)
    assert step.store.runs()[2].ended == "adopted from version 1"


@pytest.mark.parametrize("n", [3, 5000])
def test_adopt_is_all_or_nothing(store_path, n, monkeypatch):
    """An adopt that fails half-way leaves the store as it was, at any size."""
    step = ckpt.step(store_path, version=1, name="s")(int)
    list(step.run(range(n)))
    before = list(step.store.records())
    rekey, seen = adopting._rekey, iter(range(2 * n - 1))  # it looks before it writes
    monkeypatch.setattr(
        adopting, "_rekey", lambda *a: rekey(*a) if next(seen, None) is not None else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        adopt(step.store, "s", 1, 2)
    monkeypatch.undo()
    assert list(step.store.records()) == before
    assert step.store.runs()[-1].ended == "failed: ZeroDivisionError"
    verify(store_path)
    assert adopt(step.store, "s", 1, 2) == (n, 0)
    verify(store_path)


@pytest.mark.parametrize("key", [None, "id", ("id", "text")], ids=str)
@pytest.mark.parametrize("duplicates", ["share", "separate"])
def test_adopt_keeps_identity(store_path, key, duplicates):
    """Whatever the key recipe, and with n-th equal rows, each row finds its own result."""
    calls = []

    def draw(row):
        calls.append(row)
        return len(calls)

    rows = [{"id": i % 4, "text": "é" * (i % 2), "t": (i % 4, None)} for i in range(12)]
    old = ckpt.step(store_path, version="a", key=key, duplicates=duplicates)(draw)
    expected = list(old.run(rows))
    adopt(old.store, "draw", "a", "b")
    new = ckpt.step(old.store, version="b", key=key, duplicates=duplicates)(draw)
    made = len(calls)
    assert list(new.run(rows)) == expected
    assert len(calls) == made


def test_adopt_says_what_it_cannot_do(store_path):
    """An unknown step or version names those there are; a key made by a function cannot be made
    anew; the same version is wrong use."""
    step = ckpt.step(store_path, version=1, name="s", key=lambda row: row)(int)
    list(step.run([1]))
    with pytest.raises(StoreError, match="no step 's' version 7; there are: 's' version 1"):
        adopt(step.store, "s", 7, 8)
    with pytest.raises(StoreError, match=r"by the function .*use the step itself"):
        adopt(step.store, "s", 1, 2)
    with pytest.raises(ValueError, match="both version 1"):
        adopt(step.store, "s", 1, 1)
    assert counts(step.store) == {("s", 1): (1, 0, 1)}


# --- forget


@pytest.fixture
def filled(store_path, paid):
    """A store of two steps; one has failures and a second version."""
    rows = paid.rows(10, {2: "boom", 7: "boom"})
    store = Store(store_path)
    for version in (1, 2):
        step = ckpt.step(store, version=version)(label)
        list(step.run(rows, on_error="record"))
    list(ckpt.step(store, version=1, name="other")(label).run(rows, on_error="record"))
    return store


@pytest.mark.parametrize(
    ("choice", "gone"),
    [
        ({"step": "label"}, 20),
        ({"step": "label", "version": 2}, 10),
        ({"failed": True}, 6),
        ({"step": "other", "failed": True}, 2),
        ({"where": "input ->> 'n' >= 8"}, 6),
        ({"where": "error_type = 'ValueError' and message like '%row 7'"}, 3),
        ({"step": "label", "version": 1, "where": "position < 2 or position > 7"}, 4),
        ({"step": "nobody"}, 0),
    ],
    ids=str,
)
def test_forget_deletes_what_was_chosen_and_nothing_else(filled, choice, gone):
    """A dry run counts and changes nothing; then just those go, and the counters agree at once."""
    before = list(filled.records())
    held = counts(filled)
    assert filled.forget(**choice, dry_run=True) == gone
    assert list(filled.records()) == before
    assert filled.forget(**choice) == gone
    after = list(filled.records())
    assert len(after) == 30 - gone
    assert [r for r in before if r in after] == after
    assert filled.verify() == []
    for (name, version), (results, failures, _) in counts(filled).items():
        mine = [r for r in after if (r.step, r.version) == (name, version)]
        assert results == sum(r.error is None for r in mine)
        assert failures == sum(r.error is not None for r in mine)
    assert counts(filled).keys() == held.keys()
    assert filled.forget(**choice, dry_run=True) == 0


def test_forgotten_rows_are_computed_again_and_only_they(store_path, filled, paid):
    """After forget the next run calls the step for just those rows."""
    step = ckpt.step(filled, version=1)(label)
    filled.forget("label", version=1, where="input ->> 'n' in (4, 5)")
    before = len(paid.calls)
    rows = [row for row in paid.rows(10) if row["n"] not in (2, 7)]
    assert [r["n"] for r in step.run(rows)] == [row["n"] for row in rows]
    assert sorted(paid.calls[before:]) == [4, 5]


def test_forget_takes_the_history_too(store_path, paid):
    """All records of a chosen key go, superseded ones as well; retries of others stay."""
    step = ckpt.step(store_path, version=1)(label)
    rows = paid.rows(2, {0: "boom ok", 1: "boom ok"})
    list(step.run(rows, on_error="record"))
    list(step.run(rows, on_error="record"))
    assert step.store.forget(where="input ->> 'n' = 0") == 1
    assert counts(step.store) == {("label", 1): (1, 0, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, TAIL + 10_000])
def test_forget_in_a_store_of_any_size(store_path, n):
    """Rows in the index and rows in the tail: both go, and what stays is found."""
    step = ckpt.step(store_path, version=1, name="s", durability="process")(int)
    list(step.run(range(n)))
    assert step.store.forget("s", where="position % 2 = 0") == n // 2
    assert counts(step.store) == {("s", 1): (n // 2, 0, n // 2)}
    run = step.run(range(n))
    assert list(run) == list(range(n))
    assert (run.report.hits, run.report.computed) == (n // 2, n // 2)


def test_forget_needs_a_choice(filled):
    """Nothing to choose by is wrong use; so is a condition that is none, which changes nothing."""
    with pytest.raises(ValueError, match="forget needs a choice"):
        filled.forget()
    with pytest.raises(ValueError, match="forget needs a choice"):
        filled.forget(version=1)
    for where in ("nonsense", "1; delete from records", "1) or (select", "''';"):
        with pytest.raises(ValueError, match="is not a condition on a record's columns"):
            filled.forget("label", where=where)
    assert len(list(filled.records())) == 30


def test_what_is_forgotten_is_not_in_the_file(store_path):
    """Secrets: after forget and close, no byte of the row or its result is left in any file.

    Its key is, so that a merge does not bring it back.
    """
    row = "patient 4711: Zorro"
    step = ckpt.step(store_path, version=1, name="s")(
        lambda row: "diagnosis: Q99.9" if row else "kept"
    )
    list(step.run([row, ""]))
    assert any(b"Zorro" in data for data in files_beside(store_path).values())
    assert step.store.forget(where=f"input = '\"{row}\"'") == 1
    step.store.close()
    for data in files_beside(store_path).values():
        assert b"Zorro" not in data
        assert b"Q99.9" not in data
    assert any(b"kept" in data for data in files_beside(store_path).values())


def test_forget_is_refused_while_another_process_runs(store_path, filled):
    """Another process's open run: nothing is changed, and the message names it; once it is gone
    forget works."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            import checkpointdb as ckpt
            step = ckpt.step({store_path!r}, version=1, name="slow", save=ckpt.every(rows=1))(int)
            run = step.run(range(10))
            next(run)
            print("ready", flush=True)
            input()
        """)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(
            StoreError, match=rf"run 4 of step 'slow' \(process {child.pid}\) is open"
        ):
            filled.forget("label")
        assert len(list(filled.records())) == 31
        assert filled.forget("label", dry_run=True) == 20
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    assert filled.forget("label") == 20


def test_forget_is_refused_while_another_handle_runs(store_path, filled):
    """The same in one process: a run on another handle of the store."""
    with Store(store_path) as other:
        run = ckpt.step(other, version=1, name="x")(int).run(range(3))
        next(run)
        with pytest.raises(StoreError, match="is open"):
            filled.forget("label")
        run.close()
        assert filled.forget("label") == 20


def test_forget_commits_what_is_pending_first(store_path):
    """A result that is pending when its row is forgotten goes too; others are saved."""
    step = ckpt.step(store_path, version=1, name="s", save=ckpt.on_exit())(int)
    for n in range(4):
        step(n)
    assert step.store.forget(where="position = 2") == 1
    assert [r.result for r in step.store.records()] == [0, 1, 3]
    assert step(2) == 2


def test_a_forget_that_fails_changes_nothing(filled, monkeypatch):
    """An error in the middle of it rolls everything back, the counters and the index too."""
    before, held = list(filled.records()), counts(filled)

    def fail(writer):
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr("checkpointdb.file.delete._uncount", fail)
    with pytest.raises(ckpt.StoreFullError):
        filled.forget("label")
    monkeypatch.undo()
    assert (list(filled.records()), counts(filled)) == (before, held)
    assert filled.verify() == []
    assert filled.forget("label") == 20


# --- what other handles see of it


def test_new_results_are_found_after_the_newest_were_forgotten(store_path, monkeypatch):
    """Ids are never used again, so nothing new is hidden by what the index says of the old."""
    monkeypatch.setattr(key_index, "TAIL", 20)
    calls = []

    def go(rows):
        del calls[:]
        with Store(store_path) as store:
            fn = ckpt.step(store, version=1, name="s")(lambda row: calls.append(row) or row)
            assert list(fn.run(rows)) == list(rows)
        return len(calls)

    assert go(range(50)) == 50
    with Store(store_path) as store:
        assert store.forget(where="position >= 25") == 25
    assert [go(range(1000, 1010)) for _ in range(3)] == [10, 0, 0]


@pytest.mark.parametrize("tail", [5, 1000], ids=["indexed", "in the tail"])
@pytest.mark.parametrize("how", ["run", "call"])
def test_an_idle_handle_learns_of_a_forget_elsewhere(store_path, monkeypatch, tail, how):
    """A notebook that has the store open computes what was deleted, and finds the rest."""
    monkeypatch.setattr(key_index, "TAIL", tail)
    calls = []

    def double(row):
        calls.append(row)
        return row * 2

    with Store(store_path) as idle:
        step = ckpt.step(idle, version=1, name="s", save=ckpt.every(rows=4))(double)
        assert list(step.run(range(40))) == [n * 2 for n in range(40)]
        with Store(store_path) as other:
            assert other.forget(where="position % 2 = 1") == 20
            step_there = ckpt.step(other, version=1, name="s")(double)
            assert list(step_there.run([1, 3])) == [2, 6]
        del calls[:]
        rows = range(39, -1, -1)
        results = list(step.run(rows)) if how == "run" else [step(row) for row in rows]
        assert results == [row * 2 for row in rows]
        assert sorted(calls) == list(range(5, 40, 2))
        del calls[:]
        assert list(step.run(range(40))) == [n * 2 for n in range(40)]
        assert calls == []
        idle.flush()
        assert idle.verify() == []


def test_rows_deleted_between_the_look_up_and_the_fetch_are_misses(store_path):
    """Whoever reads at that very moment is not told that the file is damaged."""
    with Store(store_path) as store, Store(store_path) as other:
        step = ckpt.step(store, version=1, name="s")(lambda row: row)
        list(step.run(range(10)))
        finder = store.log._finder
        keys = [bytes.fromhex(ckpt.key_of("s", 1, row)) for row in range(10)]
        fetch, finder._next = finder._fetch, 0

        def delete_first(ids):
            del finder._fetch
            other.forget(where="position < 5")
            return fetch(ids)

        finder._fetch = delete_first
        found = finder.find(keys)
        assert [f and f.result for f in found] == [None] * 5 + [str(n) for n in range(5, 10)]
