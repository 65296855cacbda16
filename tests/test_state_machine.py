"""A store under any sequence of what can be done with it, the power cut between, against a dict."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import random
import shutil
import tempfile
import threading
import warnings

import hypothesis
import pytest
from conftest import close_all, verify
from crash import disk, journal, power, recorder
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import checkpointdb as ckpt
from checkpointdb.adopt import adopt
from checkpointdb.file import key_index, pragmas

ROWS = st.integers(0, 5)
VERSIONS = st.sampled_from([1, 2])
POLICIES = {ckpt.every(rows=1): 1, ckpt.every(rows=3): 3, ckpt.on_exit(): None}
LOOPS = {
    "sequential": {}, "threads": {"concurrency": 3},
    "unordered": {"concurrency": 3, "ordered": False},
    "tasks": {"concurrency": 3}, "arun": {"concurrency": 3}, "batches": {"batch_size": 4},
    "shared": {"shared": True}, "shared threads": {"shared": True, "concurrency": 3},
    "ledger": {"ledger": True}, "shared ledger": {"shared": True, "ledger": True},
}  # fmt: skip
KINDS = {"tasks": "task", "arun": "task", "batches": "batch"}  # of the step; else it is plain


class NoLuck(Exception):
    """What the provider raises for a row that it cannot do today."""


class Provider:
    """What the steps call: it counts, and has rows that fail."""

    def __init__(self):
        self.lock = threading.Lock()
        self.calls, self.broken = 0, set()

    def call(self, rows):
        with self.lock:
            self.calls += len(rows)
            last = self.calls
        if self.broken.intersection(rows):
            raise NoLuck
        return [{"row": row, "call": last - n} for n, row in enumerate(rows)]


PROVIDER = Provider()


def plain(row):
    return PROVIDER.call([row])[0]


@functools.wraps(plain)  # the same code, as far as the store can see
async def task(row):
    await asyncio.sleep(0)
    return PROVIDER.call([row])[0]


@functools.wraps(plain)
def batch(rows):
    return PROVIDER.call(rows)


class Handle:
    """An open store with its steps; `pending` is what its direct calls have not committed."""

    def __init__(self, path, vfs, durability, policy):
        self.store = ckpt.Store(path, durability=durability, vfs=vfs)
        self.limit = POLICIES[policy]
        self.steps = {
            (version, kind): ckpt.step(
                self.store, version=version, name="label", save=policy, on_error="record",
                on_change="reuse", ignore=("PROVIDER",),
            )(fn)
            for version in (1, 2)
            for kind, fn in (("plain", plain), ("task", task), ("batch", batch))
        }  # fmt: skip
        self.pending = {}  # (version, kind of step) -> its entries: a run of direct calls for each


FAILED = "failed"


def is_good(outcome):
    return isinstance(outcome, dict)


class StoreMachine(RuleBasedStateMachine):
    """`saved` is what any reader finds: (version, row) -> a result, or that it failed.

    `past` is how it was after each operation since the last one that is on the disk, `forgotten`
    what was deleted, and `there` what another store has.
    """

    @initialize(
        tail=st.integers(1, 12), pages=st.sampled_from([4, 5_000]),
        durability=st.sampled_from(["power", "process"]), policy=st.sampled_from(list(POLICIES)),
    )  # fmt: skip
    def begin(self, tail, pages, durability, policy):
        self.limits = key_index.TAIL, pragmas.WAL_PAGES
        key_index.TAIL, pragmas.WAL_PAGES = tail, pages
        PROVIDER.calls, PROVIDER.broken = 0, {1, 4}
        self.worlds, self.saved, self.durability = [], {}, durability
        self.forgotten, self.there = set(), {}
        self.elsewhere = tempfile.mkdtemp(prefix="ckpt-machine-", dir=power.MEMORY)
        self.lay({}, policy)

    def lay(self, files, policy):
        """Go on in a directory of its own, under a recorder, with two handles."""
        directory = os.path.realpath(tempfile.mkdtemp(prefix="ckpt-machine-", dir=power.MEMORY))
        self.path = os.path.join(directory, "rows.ckpt")
        self.journal = journal.Journal(os.path.join(directory, "..", f"{directory}.journal"))
        self.worlds.append((directory, self.journal.path))
        for name, data in files.items():
            self.journal.add("file", name, data)
            with open(os.path.join(directory, name), "wb") as file:
                file.write(data)
        self.recording = contextlib.ExitStack()
        self.vfs = recorder.Recorder(self.journal)
        self.recording.enter_context(recorder.file_calls(self.journal, directory))
        self.handles = [None, None]
        for n in range(2):
            self.open(n, policy)
        self.past, self.unsynced = [dict(self.saved)], set()

    def open(self, n, policy):
        self.handles[n] = Handle(self.path, self.vfs.name, self.durability, policy)

    # --- the model

    def known(self, handle, version, row):
        """What a look-up through a handle finds: a result wherever it is, else a failure."""
        key, pending = (version, row), [it for part in handle.pending.values() for it in part]
        outcomes = [self.saved.get(key), *(outcome for k, outcome in pending if k == key)]
        good = [outcome for outcome in outcomes if is_good(outcome)]
        return good[-1] if good else FAILED if FAILED in outcomes else None

    def save(self, handle, entries):
        """Commit entries; a failure takes no result away that somebody else has saved."""
        for key, outcome in entries:
            if is_good(outcome) or not is_good(self.saved.get(key)):
                self.saved[key] = outcome
        if entries:
            self.unsynced.add(handle)
            self.note()

    def note(self):
        """Remember what may be on the disk from now on, and forget what must not be any more."""
        self.past.append(dict(self.saved))
        if self.durability == "power" or not self.unsynced:
            self.past = self.past[-1:]

    def commit(self, handle):
        for kind in list(handle.pending):
            self.save(handle, handle.pending.pop(kind))

    def synced(self, handle):
        self.unsynced.discard(handle)
        self.note()

    def outcome(self, handle, version, result, calls, broken):
        """Check a result against what was known; return its row, and its entry if it is new."""
        row = result.row if isinstance(result, ckpt.Failed) else result["row"]
        known = self.known(handle, version, row)
        if is_good(known):
            assert result == known, "a saved result is given out as it is"
            return row, None
        if isinstance(result, ckpt.Failed):
            assert row in PROVIDER.broken or broken, "a row failed that the provider can do"
            assert result.error_type == "NoLuck" and (result.attempts > 1) == (known == FAILED)
            return row, ((version, row), FAILED)
        assert result["call"] > calls and row not in PROVIDER.broken
        return row, ((version, row), result)

    def of(self, version):
        return {row: outcome for (v, row), outcome in self.saved.items() if v == version}

    # --- what can be done

    @rule(rows=st.sets(ROWS, max_size=4))
    def the_provider_changes(self, rows):
        PROVIDER.broken = rows

    @rule(n=st.integers(0, 1), version=VERSIONS, row=ROWS, kind=st.sampled_from(["plain", "task"]))
    def call(self, n, version, row, kind):
        handle, calls = self.handles[n], PROVIDER.calls
        known = self.known(handle, version, row)
        step = handle.steps[version, kind]
        part = handle.pending.setdefault((version, kind), [])
        try:
            result = asyncio.run(step(row)) if kind == "task" else step(row)
        except NoLuck:
            assert row in PROVIDER.broken and not is_good(known)
            part.append(((version, row), FAILED))
        else:
            _, new = self.outcome(handle, version, result, calls, False)
            part += [new] if new else []
        assert PROVIDER.calls == calls + (not is_good(known)), "paid as often as it was not known"
        if handle.limit is not None and len(part) >= handle.limit:
            self.save(handle, handle.pending.pop((version, kind)))

    @rule(
        n=st.integers(0, 1), version=VERSIONS, rows=st.lists(ROWS, max_size=14),
        loop=st.sampled_from(list(LOOPS)), retry=st.booleans(),
    )  # fmt: skip
    def run(self, n, version, rows, loop, retry):
        handle, calls = self.handles[n], PROVIDER.calls
        known = {row: self.known(handle, version, row) for row in rows}
        options = LOOPS[loop] | {"retry_failed": retry, "on_error": "record"}
        step = handle.steps[version, KINDS.get(loop, "plain")]
        if loop == "arun":
            results = asyncio.run(collected(step.arun(rows, **options)))
        else:
            results = list(step.run(rows, **options))
        broken = loop == "batches" and PROVIDER.broken.intersection(rows)
        new, given = {}, []
        for result in results:
            row = result.row if isinstance(result, ckpt.Failed) else result["row"]
            given.append(row)
            if not retry and known[row] is not None and not is_good(known[row]):
                assert isinstance(result, ckpt.Failed), "a failure that is not tried again"
            elif row not in new:
                _, entry = self.outcome(handle, version, result, calls, broken)
                new |= {row: entry} if entry else {}
        assert sorted(given) == sorted(rows) if "unordered" in loop else given == rows
        assert PROVIDER.calls == calls + len(new)
        self.save(handle, list(new.values()))

    @rule(
        n=st.integers(0, 1), version=VERSIONS, rows=st.lists(ROWS, max_size=8),
        taken=st.integers(0, 8),
    )  # fmt: skip
    def run_and_stop(self, n, version, rows, taken):
        """The loop is left early, or an error ends it: what returned is saved."""
        handle, calls, results = self.handles[n], PROVIDER.calls, []
        with contextlib.suppress(NoLuck), handle.steps[version, "plain"].run(
            rows, on_error="raise"
        ) as run:  # fmt: skip
            results.extend(result for _, result in zip(range(taken), run, strict=False))
        new = {}
        for row, result in zip(rows, results, strict=False):
            if row not in new:
                same, entry = self.outcome(handle, version, result, calls, False)
                assert same == row
                new |= {row: entry} if entry else {}
        self.save(handle, list(new.values()))

    @rule(n=st.integers(0, 1))
    def flush(self, n):
        self.handles[n].store.flush()
        self.commit(self.handles[n])
        self.synced(self.handles[n])

    @rule(n=st.integers(0, 1), policy=st.sampled_from(list(POLICIES)))
    def close_and_open(self, n, policy):
        handle = self.handles[n]
        handle.store.close()
        self.commit(handle)
        self.synced(handle)
        self.open(n, policy)

    @rule(
        n=st.integers(0, 1), version=VERSIONS, what=st.sampled_from(["all", "failed", "where"]),
        row=ROWS, dry_run=st.booleans(),
    )  # fmt: skip
    def forget(self, n, version, what, row, dry_run):
        handle = self.handles[n]
        choices = {"all": {}, "failed": {"failed": True}, "where": {"where": f"input = '{row}'"}}
        self.commit(handle)  # which it does first, whatever comes
        chosen = [
            key
            for key, outcome in self.saved.items()
            if key[0] == version and (what != "failed" or not is_good(outcome))
            and (what != "where" or key[1] == row)
        ]  # fmt: skip
        try:
            count = handle.store.forget("label", version=version, dry_run=dry_run, **choices[what])
        except ckpt.StoreError as error:
            assert "is open: nothing was changed" in str(error)
            assert chosen and not dry_run
            return
        assert count == len(chosen)
        if not dry_run:
            for key in chosen:
                del self.saved[key]
            self.forgotten.update(chosen)
            self.note()
            if chosen:
                self.synced(handle)

    @rule(n=st.integers(0, 1), dry_run=st.booleans())
    def adopt(self, n, dry_run):
        handle = self.handles[n]
        good = {row: it for row, it in self.of(1).items() if is_good(it)}
        fresh = {row: it for row, it in good.items() if not is_good(self.known(handle, 2, row))}
        if not any(info.version == 1 for info in handle.store.steps()):
            with pytest.raises(ckpt.StoreError, match="no step"):
                adopt(handle.store, "label", 1, 2, dry_run=dry_run)
            return
        copied = adopt(handle.store, "label", 1, 2, dry_run=dry_run)
        assert copied == (len(fresh), len(good) - len(fresh))
        if not dry_run:
            self.save(handle, [((2, row), it) for row, it in fresh.items()])

    @rule(n=st.integers(0, 1), keep=st.integers(1, 2), dry_run=st.booleans())
    def compact(self, n, keep, dry_run):
        """What is superseded goes, and nothing else; not beside a run that is open."""
        handle = self.handles[n]
        self.commit(handle)  # which it does first, whatever comes
        try:
            handle.store.compact(keep=keep, dry_run=dry_run)
        except ckpt.StoreError as error:
            assert "is open" in str(error)
        else:
            self.synced(handle)

    @rule(n=st.integers(0, 1))
    def back_up(self, n):
        """A copy has all that is committed, and what is pending here is committed first."""
        handle, path = self.handles[n], self.path + ".copy"
        handle.store.backup(path, force=True)
        self.commit(handle)
        with ckpt.Store(path) as copy:
            assert self.found(copy) == self.saved
            assert copy.verify() == []

    @rule(n=st.integers(0, 1), version=VERSIONS, rows=st.lists(ROWS, max_size=4))
    def merge(self, n, version, rows):
        """What was computed elsewhere comes here, and takes the place of failures alone; what was
        forgotten stays away."""
        handle = self.handles[n]
        path = os.path.join(self.elsewhere, "rows.ckpt")
        there = Handle(path, None, "power", ckpt.every(rows=1))
        for result in there.steps[version, "plain"].run(rows, on_error="record"):
            failed = isinstance(result, ckpt.Failed)
            row = result.row if failed else result["row"]
            self.there[version, row] = FAILED if failed else result
        there.store.close()
        self.commit(handle)  # which it does first
        handle.store.merge(path)
        for key, outcome in self.there.items():
            is_better = is_good(outcome) and not is_good(self.saved.get(key))
            if key not in self.forgotten and (key not in self.saved or is_better):
                self.saved[key] = outcome
        self.note()
        self.synced(handle)

    @rule(n=st.integers(0, 1), version=VERSIONS, undo=st.booleans())
    def accept(self, n, version, undo):
        """Whose code a result is of changes nothing of it."""
        self.handles[n].steps[version, "plain"].accept(undo)

    @rule(n=st.integers(0, 1), version=VERSIONS, rows=st.lists(ROWS, max_size=6))
    def ask(self, n, version, rows):
        """What is said before paying is what is saved."""
        step = self.handles[n].steps[version, "plain"]
        outcomes = [self.saved.get((version, row)) for row in set(rows)]
        plan = step.plan(rows)
        assert (plan.rows, plan.duplicates) == (len(rows), len(rows) - len(set(rows)))
        assert plan.hits == sum(map(is_good, outcomes))
        assert plan.misses == outcomes.count(None)
        for row in rows:
            outcome = self.saved.get((version, row))
            wanted = "hit" if is_good(outcome) else "miss" if outcome is None else "failed"
            assert step.why(row).status == wanted
            record = self.handles[n].store.get(ckpt.key_of("label", version, row))
            assert (record and (record.result or FAILED)) == outcome

    @rule(
        mode=st.sampled_from([*disk.SEVEN, "kill"]), seed=st.integers(0, 1 << 32),
        policy=st.sampled_from(list(POLICIES)),
    )  # fmt: skip
    def cut(self, mode, seed, policy):
        """The power is cut, or the process killed; what was pending is gone, nothing else is."""
        replay = disk.Disk(journal.read(self.journal.path))
        replay.advance(len(replay.operations))
        files = replay.now() if mode == "kill" else replay.cut(mode, random.Random(seed))
        past = self.past[-1:] if mode == "kill" else self.past
        self.leave()
        with warnings.catch_warnings():
            if mode != "kill":  # commits that were never synced, left in part, look like rot
                warnings.filterwarnings("ignore", ".*SQLite reads nothing after it", UserWarning)
            self.lay(files, policy)
        self.saved = self.found()
        assert any(map(self.is_between, past, [*past[1:], past[-1]])), (self.saved, past)
        self.past, self.forgotten = [dict(self.saved)], self.tombstones()
        assert self.handles[0].store.verify() == []

    def tombstones(self):
        sql = "select distinct lower(hex(key)) from system_forgotten"
        there = {key for (key,) in self.handles[0].store.log._reader.execute(sql)}
        keys = itertools.product((1, 2), range(6))
        return {it for it in keys if ckpt.key_of("label", *it) in there}

    def is_between(self, before, after):
        """Tell whether what was found is what was saved between two operations, or inside one."""
        keys = before.keys() | after.keys() | self.saved.keys()
        return all(self.saved.get(k) in (before.get(k), after.get(k)) for k in keys)

    def found(self, store=None):
        return {
            (record.version, record.input): record.result or FAILED
            for record in (store or self.handles[0].store).records()
        }

    @invariant()
    def what_is_saved_is_found(self):
        if hasattr(self, "saved"):
            assert self.found() == self.saved
            for info in self.handles[1].store.steps():
                outcomes = self.of(info.version).values()
                good = sum(map(is_good, outcomes))
                assert (info.results, info.failures) == (good, len(outcomes) - good)

    def leave(self):
        """Close what is open here; what that writes is in no image any more."""
        self.recording.close()
        for handle in self.handles:
            handle.store.close()
        self.journal.close()

    def teardown(self):
        if hasattr(self, "saved"):
            try:
                for handle in self.handles:
                    self.commit(handle)
                self.leave()
                verify(self.path)
            finally:
                close_all(force=True)
                key_index.TAIL, pragmas.WAL_PAGES = self.limits
                shutil.rmtree(self.elsewhere)
                for directory, log in self.worlds:
                    shutil.rmtree(directory)
                    os.unlink(log)


async def collected(run):
    return [result async for result in run]


SMALL = hypothesis.settings(max_examples=12, stateful_step_count=20, derandomize=True)
StoreMachine.TestCase.settings = SMALL
TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)


@pytest.mark.soak
def test_the_store_machine_for_some_minutes():
    """New seeds each time; the default lane keeps its own, so that only a change makes it red."""
    run_state_machine_as_test(
        StoreMachine, settings=hypothesis.settings(max_examples=1_000, stateful_step_count=30)
    )
