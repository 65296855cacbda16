"""A store under any sequence of runs, calls, flushes, crashes and other writers, against a dict."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile

import pytest
from conftest import close_all, verify
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from checkpointdb import Store, every, on_exit, step
from checkpointdb.file import key_index

ROWS = st.integers(0, 15)
POLICIES = {every(rows=1): 1, every(rows=3): 3, every(rows=8): 8, on_exit(): None}


class Boom(Exception):
    pass


class StoreMachine(RuleBasedStateMachine):
    """`saved` is what a new process would find, `pending` what a crash now may lose."""

    @initialize(tail=st.integers(1, 12), policy=st.sampled_from(list(POLICIES)))
    def begin(self, tail, policy):
        self.directory = tempfile.mkdtemp(prefix="ckpt-machine-")
        self.tail, key_index.TAIL = key_index.TAIL, tail
        self.saved, self.pending, self.calls, self.copies = {}, {}, 0, 0
        self.open(os.path.join(self.directory, "0.ckpt"), policy)

    def open(self, path, policy):
        self.path, self.policy = path, policy
        self.store = Store(path, durability="process")
        self.label = self.make(self.store, policy)

    def make(self, store, policy):
        @step(store, version=1, save=policy)
        def label(row):
            if row == "boom":
                raise Boom
            self.calls += 1
            return {"row": row, "call": self.calls}

        return label

    def expect(self, row, result, seen):
        """A row that is known has its result; a new one is called just now."""
        known = {**self.saved, **self.pending, **seen}.get(row)
        assert result == known if known else result["row"] == row
        seen.setdefault(row, result)

    @rule(row=ROWS)
    def call(self, row):
        seen, calls = {}, self.calls
        self.expect(row, self.label(row), seen)
        if self.calls > calls:
            assert self.calls == calls + 1
            self.pending.update(seen)
            limit = POLICIES[self.policy]
            if limit is not None and len(self.pending) >= limit:
                self.commit()

    @rule(rows=st.lists(ROWS, max_size=20), batch=st.sampled_from([None, 1, 4]))
    def run(self, rows, batch):
        if batch is None:
            results = list(self.label.run(rows))
        else:
            single = self.label.__wrapped__

            @functools.wraps(single)  # the same code, as far as the store can see
            def label(rows):
                return [single(row) for row in rows]

            batched = step(self.store, version=1, save=self.policy)(label)
            results = list(batched.run(rows, batch_size=batch))
        self.returned(rows, results)
        assert len(results) == len(rows)

    @rule(rows=st.lists(ROWS, max_size=12), taken=st.integers(0, 12))
    def run_and_stop_early(self, rows, taken):
        with self.label.run(rows) as run:
            results = [result for _, result in zip(range(taken), run, strict=False)]
        self.returned(rows, results)

    @rule(rows=st.lists(ROWS, max_size=12))
    def run_into_an_error(self, rows):
        results = []
        try:
            for result in self.label.run([*rows, "boom", 99]):
                results.append(result)  # noqa: PERF402 - what came before the error counts
        except Boom as error:
            assert "run the same again" in error.__notes__[0]
        assert len(results) == len(rows)
        self.returned(rows, results)

    def returned(self, rows, results):
        seen = {}
        for row, result in zip(rows, results, strict=False):
            self.expect(row, result, seen)
        for row, result in seen.items():
            if row not in self.pending:
                self.saved[row] = result

    @rule()
    def flush(self):
        self.label.flush()
        self.commit()

    def commit(self):
        self.saved.update(self.pending)
        self.pending.clear()

    @rule(policy=st.sampled_from(list(POLICIES)))
    def close_and_open(self, policy):
        self.store.close()
        self.commit()
        assert os.listdir(self.directory).count(os.path.basename(self.path)) == 1
        assert not os.path.exists(self.path + "-wal")
        self.open(self.path, policy)

    @rule(policy=st.sampled_from(list(POLICIES)), keep_shm=st.booleans())
    def crash(self, policy, keep_shm):
        """A copy of the files as they are now is what the next process would find."""
        self.copies += 1
        path = os.path.join(self.directory, f"{self.copies}.ckpt")
        for extension in ("", "-wal", "-shm")[: 3 if keep_shm else 2]:
            shutil.copy(self.path + extension, path + extension)
        self.store.close()
        self.pending.clear()
        self.open(path, policy)

    @precondition(lambda self: len(self.pending) < 16)
    @rule(rows=st.lists(ROWS, max_size=10))
    def another_handle_runs(self, rows):
        rows = [row for row in rows if row not in self.pending]
        with Store(self.path, durability="process") as store:
            self.returned(rows, list(self.make(store, every(rows=2)).run(rows)))

    @invariant()
    def what_is_saved_is_found(self):
        if not hasattr(self, "store"):
            return
        found = {record.input: record.result for record in self.store.records()}
        assert found == self.saved
        infos = self.store.steps()
        assert sum(info.results for info in infos) == len(self.saved)
        assert all(info.failures == 0 for info in infos)
        assert sum(info.records for info in infos) == len(self.saved), "a row was saved twice"

    def teardown(self):
        if hasattr(self, "store"):
            try:
                self.store.close()
                self.commit()
                with Store(self.path) as store:
                    assert {r.input: r.result for r in store.records()} == self.saved
                verify(self.path)
            finally:
                close_all(force=True)
                key_index.TAIL = self.tail
                shutil.rmtree(self.directory)


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)
