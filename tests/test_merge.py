"""A merge is a union by key: nothing lost, nothing doubled, in any order, after any kill."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import msgspec
import pytest
from cli_helpers import ckpt
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stores import ERROR, Log, entry, key

from checkpointdb import (
    KeyCollisionError,
    Store,
    StoreCorruptError,
    StoreError,
    every,
    on_exit,
    step,
)


def triple(row):
    return row * 3


def rows_of(path):
    """Return position and result, or error, of the newest record of each key."""
    with Store(path) as store:
        return {
            (record.step, record.input["row"] if type(record.input) is dict else record.input): (
                record.result if record.error is None else record.error["type"]
            )
            for record in store.records()
        }


def filled(path, *entries, name="label"):
    with Store(path) as store:
        Log(store, name).add(*entries)
    return path


def merge(into, *sources):
    with Store(into) as store:
        return [store.merge(source) for source in sources]


def test_rows_of_both_are_hits_afterwards(at):
    """What either store paid for is paid for in the merged one."""
    for name, rows in ("a", range(50)), ("b", range(30, 90)):
        list(step(at(name), version=1, save=every(rows=7))(triple).run(rows))
    (merged,) = merge(at("a"), at("b"))
    assert (merged.added, merged.same, merged.history) == (40, 20, 0)
    run = step(at("a"), version=1)(triple).run(range(100))
    assert list(run) == [n * 3 for n in range(100)]
    assert (run.report.hits, run.report.computed) == (90, 10)


def test_a_commit_tells_which_records_it_wrote_even_if_it_supersedes_others(at):
    """To note what is superseded writes to another table: its ids are not those of records."""
    with Store(at("a")) as store:
        log = Log(store)
        log.add(*(entry(n, error=ERROR) for n in range(5)))
        tried = entry(2, result='"good"')
        tried.replaces = 3
        wrote = store.log.append(log.step, log.run, [tried])
        assert (wrote.first_id, wrote.last_id) == (6, 6)


def test_again_is_nothing(at):
    filled(at("a"), 1, 2, 3)
    filled(at("b"), 3, 4)
    merge(at("a"), at("b"))
    before = rows_of(at("a"))
    (again,) = merge(at("a"), at("b"))
    assert (again.read, again.added, again.history) == (0, 0, 0)
    assert rows_of(at("a")) == before


def test_what_was_written_since_is_brought_by_the_next_merge(at):
    with Store(at("b")) as store:
        log = Log(store)
        log.add(*range(5))
        merge(at("a"), at("b"))
        log.add(*range(5, 9))
        (merged,) = merge(at("a"), store)
    assert (merged.read, merged.added) == (4, 4)


@pytest.mark.parametrize("failed_first", [True, False])
def test_a_success_beats_a_failure(at, failed_first):
    names = ("a", "b") if failed_first else ("b", "a")
    filled(at(names[0]), entry(1, error=ERROR))
    filled(at(names[1]), entry(1, result='"good"'))
    merge(at("a"), at("b"))
    assert rows_of(at("a")) == {("label", 1): "good"}


def test_between_successes_what_is_there_stays_and_the_other_is_history(at):
    filled(at("a"), entry(1, result='"first"', cost=1.0))
    filled(at("b"), entry(1, result='"second"', cost=2.0))
    filled(at("c"), entry(1, result='"third"', cost=4.0))
    second, third = merge(at("a"), at("b"), at("c"))
    assert rows_of(at("a")) == {("label", 1): "first"}
    assert (second.different, third.different) == (1, 1)
    with Store(at("a")) as store:
        assert store.steps()[0].cost == 7.0  # all of it was paid
        assert store.steps()[0].results == 1
    with contextlib.closing(sqlite3.connect(at("a"))) as db:
        told = second.conflicts[0]
        sql = "select result from records where id = ?"
        assert db.execute(sql, (told.kept,)).fetchone() == ('"first"',)
        assert db.execute(sql, (told.other,)).fetchone() == ('"second"',)
        assert db.execute("select result from results").fetchall() == [('"first"',)]
        assert db.execute("select count(*) from records").fetchone() == (5,)


def test_what_is_pending_here_is_here(at):
    """It is committed first: what the other store has of that row is history."""
    list(step(at("b"), version=1, name="label")(lambda row: "theirs").run([1]))
    with Store(at("a")) as store:
        label = step(store, version=1, name="label", save=on_exit())(lambda row: "ours")
        assert label(1) == "ours"
        merged = store.merge(at("b"))
        assert (merged.added, merged.different) == (0, 1)
        assert label.get(1) == "ours"


def test_the_newest_of_one_origin_wins_even_if_it_comes_later(at):
    """What was recomputed is not buried under what it replaced."""
    with Store(at("b")) as store:
        log = Log(store)
        log.add(1)
        merge(at("a"), at("b"))
        log.add(entry(1, result='"again"'))
    (merged,) = merge(at("a"), at("b"))
    assert merged.replaced == 1
    assert rows_of(at("a")) == {("label", 1): "again"}


def test_by_two_ways_is_once(at):
    """B came by itself, then inside of C; and an older copy of it comes last."""
    filled(at("b"), 1, 2)
    shutil.copy(at("b"), at("old"))
    with Store(at("b")) as store:
        Log(store).add(entry(2, result='"again"'), 3)
    merge(at("c"), at("b"))
    merge(at("a"), at("b"), at("c"), at("old"))
    with contextlib.closing(sqlite3.connect(at("a"))) as db:
        assert db.execute("select count(*) from records").fetchone() == (4,)
    assert rows_of(at("a"))["label", 2] == "again"


def test_copies_of_one_store_that_went_on_by_themselves_are_united(at):
    """Both number their records from where they parted."""
    filled(at("a"), *range(5))
    shutil.copy(at("a"), at("copy"))
    filled(at("a"), *range(5, 9))
    filled(at("copy"), *range(7, 20))
    merge(at("new"), at("a"))
    (merged,) = merge(at("new"), at("copy"))
    assert (merged.added, merged.same) == (11, 2)
    (back,) = merge(at("a"), at("copy"))
    assert back.added == 11
    assert set(rows_of(at("a"))) == set(rows_of(at("new"))) == {("label", n) for n in range(20)}


def test_a_backup_that_was_put_back_gets_what_it_lacks(at):
    filled(at("a"), *range(5))
    with Store(at("a")) as store:
        log = Log(store)
        log.add(5)
        store.backup(at("backup"))
        log.add(6, 7)
    (merged,) = merge(at("backup"), at("a"))
    assert merged.added == 2
    assert merge(at("backup"), at("a"))[0].read == 0


def test_what_a_compaction_dropped_does_not_come_back(at):
    """Neither from an older copy, nor from a store that had merged this one."""
    filled(at("a"), 1)
    filled(at("a"), entry(1, result='"again"'))
    shutil.copy(at("a"), at("copy"))
    merge(at("other"), at("a"))
    with Store(at("a")) as store:
        assert store.compact() == 1
        for source in "copy", "other":
            assert store.merge(at(source)).read == 0
        assert store.steps()[0].records == 1


class TestForget:
    def test_what_was_deleted_here_does_not_come_back(self, at):
        filled(at("a"), 1, 2)
        filled(at("b"), 1, 2, 3)
        with Store(at("a")) as store:
            store.forget(where="position = 1")
        (merged,) = merge(at("a"), at("b"))
        assert merged.forgotten == 1
        assert set(rows_of(at("a"))) == {("label", 2), ("label", 3)}

    def test_what_was_deleted_there_is_deleted_here(self, at):
        filled(at("b"), 1, 2)
        merge(at("a"), at("b"))
        with Store(at("b")) as store:
            store.forget(where="position = 1")
        (merged,) = merge(at("a"), at("b"))
        assert merged.deleted == 1
        assert set(rows_of(at("a"))) == {("label", 2)}

    def test_through_a_third_that_never_held_it(self, at):
        """The tombstone travels."""
        filled(at("a"), 1)
        filled(at("c"), 1)
        with Store(at("a")) as store:
            store.forget("label")
        merge(at("b"), at("a"))
        merge(at("c"), at("b"))
        assert rows_of(at("c")) == {}

    def test_what_is_computed_again_afterwards_counts(self, at):
        filled(at("b"), 1)
        merge(at("a"), at("b"))
        with Store(at("a")) as store:
            store.forget("label")
        merge(at("b"), at("a"))
        filled(at("b"), entry(1, result='"anew"'))
        merge(at("a"), at("b"))
        assert rows_of(at("a")) == {("label", 1): "anew"}

    def test_both_deleted_it_and_one_computed_it_again(self, at):
        """It knows nothing of the other's wish, so it is deleted: once both know, it may stay."""
        for name in "ab":
            filled(at(name), 1)
            with Store(at(name)) as store:
                store.forget("label")
        filled(at("b"), entry(1, result='"anew"'))
        (merged,) = merge(at("a"), at("b"))
        assert (merged.forgotten, rows_of(at("a"))) == (1, {})

    def test_an_open_run_is_not_robbed(self, at):
        filled(at("b"), 1)
        merge(at("a"), at("b"))
        with Store(at("b")) as store:
            store.forget("label")
        with Store(at("a")) as other, Store(at("a")) as store:
            Log(other)
            with pytest.raises(StoreError, match="is open: nothing was changed"):
                store.merge(at("b"))
        assert set(rows_of(at("a"))) == {("label", 1)}


def test_a_run_of_the_other_store_that_is_open_keeps_nobody_from_forgetting(at):
    with Store(at("b")) as other:
        Log(other).add(1)
        merge(at("a"), at("b"))
        with Store(at("a")) as store:
            assert store.forget("label") == 1


def test_runs_codes_and_counts_come_along(at):
    list(step(at("b"), version="x", meta={"model": "m"})(triple).run(range(5)))
    with Store(at("b")) as store:
        (there,) = store.runs()
    merge(at("a"), at("b"))
    merge(at("a"), at("b"))
    with Store(at("a")) as store:
        (here,) = store.runs()
    assert here.is_merged
    assert msgspec.structs.replace(here, id=1, is_merged=False) == there


def test_rows_that_keep_nothing_of_their_input_merge(at):
    for name, rows in ("a", range(3)), ("b", range(5)):
        list(step(at(name), version=1, input="none")(triple).run(rows))
    (merged,) = merge(at("a"), at("b"))
    assert merged.added == 2


def test_equal_rows_counted_apart_are_the_same_samples(at):
    """The n-th sample of a row is one row in both stores: what is there stays."""
    for name, count in ("a", 2), ("b", 3):
        made = step(at(name), version=1, name="s", duplicates="separate")(lambda row: [name, row])
        list(made.run(["x"] * count))
    (merged,) = merge(at("a"), at("b"))
    assert (merged.added, merged.different) == (1, 2)


def test_two_rows_with_one_key_are_an_error(at):
    filled(at("a"), 1)
    filled(at("b"), 5, msgspec.structs.replace(entry(1), identity=b"x" * 16))
    with pytest.raises(KeyCollisionError, match="two different rows"):
        merge(at("a"), at("b"))
    assert set(rows_of(at("a"))) == {("label", 1)}


def test_into_itself_and_out_of_nowhere(at, tmp_path):
    filled(at("a"), 1)
    os.link(at("a"), at("link"))
    with Store(at("a")) as store:
        with pytest.raises(ValueError, match="into itself"):
            store.merge(store)
        with pytest.raises(StoreError):
            store.merge(at("nowhere"))
    os.unlink(at("link"))
    assert not os.path.exists(at("nowhere"))


def test_a_damaged_record_stops_it_and_is_named(at, tmp_path):
    filled(at("a"), 0)
    bad = str(tmp_path / "bad.store")
    filled(bad, 1, 2, 3)
    with contextlib.closing(sqlite3.connect(bad)) as db, db:
        db.execute("update records set result = '\"other\"' where id = 2")
    with pytest.raises(StoreCorruptError, match="record 2"):
        merge(at("a"), bad)


class TestCommand:
    def test_several_into_a_new_one(self, at, tmp_path):
        filled(at("a"), 1, 2)
        filled(at("b"), entry(2, result='"else"'), 3)
        done = ckpt("merge", at("all"), at("a"), at("b"), cwd=tmp_path)
        assert done.returncode == 0
        assert "2 rows added" in done.stderr
        assert "1 kept as history, 1 of them different" in done.stderr
        assert len(rows_of(at("all"))) == 3

    def test_nothing_is_made_if_one_is_no_store(self, at, tmp_path):
        filled(at("a"), 1)
        done = ckpt("merge", at("all"), at("a"), at("nowhere"), cwd=tmp_path)
        assert done.returncode == 1
        assert not os.path.exists(at("all"))


LIFE = """
import sys
from checkpointdb import Store
from checkpointdb.file import incoming
incoming.PAGE = 3
print("ready", flush=True)
with Store(sys.argv[1]) as store:
    for source in sys.argv[2:]:
        store.merge(source, on_progress=lambda what, share: print(share, flush=True))
"""


@pytest.mark.parametrize("seed", range(2))
def test_killed_anywhere_it_goes_on(at, seed):
    """Nothing is lost, nothing is there twice, after kills at random pages."""
    rng = random.Random(seed)
    filled(at("a"), *range(0, 60, 2))
    filled(at("b"), *(entry(n, result=f'"b {n}"') for n in range(40)))
    with Store(at("b")) as store:
        Log(store).add(*(entry(n, result=f'"b again {n}"') for n in range(20)))
    for _ in range(3):
        command = [sys.executable, "-c", LIFE, at("into"), at("a"), at("b")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            for _ in range(rng.randrange(1, 12)):
                child.stdout.readline()
            time.sleep(rng.random() * 0.002)
            child.send_signal(signal.SIGKILL)
    merge(at("into"), at("a"), at("b"))
    merge(at("whole"), at("a"), at("b"))
    assert rows_of(at("into")) == rows_of(at("whole"))
    with contextlib.closing(sqlite3.connect(at("into"))) as db:
        sql = "select uid, coalesce(origin_id, records.id), count(*) from records join runs"
        sql += " on runs.id = run where records.seconds > 0 group by 1, 2 having count(*) > 1"
        assert db.execute(sql).fetchall() == []


PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # each example opens files: no shrinking
OUTCOMES = st.tuples(st.integers(0, 5), st.sampled_from(["x", "y", "z", None]))
ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 2), OUTCOMES),
    st.tuples(st.just("merge"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.just("forget"), st.integers(0, 2), st.integers(0, 5)),
)


def act(stores, kind, n, what):
    """Write to a store, delete in it, or merge another into it."""
    if kind == "write":
        row, result = what
        made = entry(row, error=ERROR) if result is None else entry(row, f'"{result}"')
        log = Log(stores[n])
        log.add(made)
        stores[n].log.end_run(log.run, {"rows": 1}, "finished")
    elif kind == "forget":
        stores[n].forget(where=f"position = {what}")
    elif n != what:
        stores[n].merge(stores[what])


@settings(max_examples=10, phases=PHASES)
@given(actions=st.lists(ACTIONS, max_size=14))
def test_stores_that_have_all_merged_each_other_agree_on_what_is_there(tmp_path_factory, actions):
    """Whatever was written, merged and deleted before: the same keys, each a success if any is."""
    folder = tmp_path_factory.mktemp("merge")
    stores = [Store(str(folder / f"{n}.ckpt")) for n in range(3)]
    try:
        for action in actions:
            act(stores, *action)
        for into, other in [*itertools.permutations(stores, 2)] * 2:
            into.merge(other)
        views = [{r.key: r.error is None for r in store.records()} for store in stores]
        assert views[0] == views[1] == views[2]
        for store in stores:
            assert store.verify() == []
            found = store.log.find([key(n) for n in range(6)])  # the index agrees with the log
            assert sum(it is not None for it in found) == len(views[0])
    finally:
        for store in stores:
            store.close()
