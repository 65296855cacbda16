"""Batches as batches: their results are kept together, counted exactly, and the policy holds."""

from __future__ import annotations

import pytest
from drivers import each_driver

import checkpointdb as ckpt
from benchmarks import batches

pytestmark = pytest.mark.loops


@pytest.mark.parametrize("size", [1, 7, 64])
def test_calls_hits_duplicates_and_refused_results_count_exactly(size, tmp_path, monkeypatch):
    """Half of the rows are saved, each eighth is equal to another, each call has one refused."""
    monkeypatch.chdir(tmp_path)
    figures = batches.counted(2048, size)
    assert figures["calls"] == -(-768 // size)
    assert figures["results"] == 1024 + 768 - figures["calls"]


def tenfold(rows):
    return [row * 10 for row in rows]


@each_driver
@pytest.mark.parametrize("size", [3, 8])
def test_no_more_than_the_policy_says_is_given_out_and_not_saved(driver, size, store_path):
    """Under every(rows=5) at most four results of batches; a batch that is due is saved whole."""
    step = driver.step(
        lambda rows: [row * 10 for row in rows], store_path, name="s", save=ckpt.every(rows=5)
    )
    given, unsaved = [], []

    def look(result):
        given.append(result)
        with ckpt.Store(store_path, readonly=True) as store:
            saved = {record.result for record in store.records()}
        unsaved.append(len(set(given) - saved))

    run = driver.start(step, range(40), batch_size=size)
    driver.consume(run, each=look)
    assert sorted(given) == [row * 10 for row in range(40)] and max(unsaved) <= 4
    assert run.report.commits <= -(-40 // max(size, 5))


def test_a_policy_is_asked_once_for_a_batch(store_path):
    """With all its results pending."""
    seen = []

    class Watch:
        seconds = None

        def due(self, pending):
            seen.append(pending.rows)
            return False

    step = ckpt.step(store_path, version=1, name="s", save=Watch())(lambda rows: list(rows))
    assert list(step.run(range(10), batch_size=4)) == list(range(10))
    assert seen == [4, 8, 10]
    step.store.close()


def test_what_valid_raises_comes_after_all_of_the_batch_is_kept(store_path):
    """Even Ctrl-C, which goes before a result that was refused."""

    def judge(result):
        if result == 2:
            raise KeyboardInterrupt
        return result != 1

    step = ckpt.step(store_path, version=1, name="s", valid=judge)(lambda rows: list(rows))
    with pytest.raises(KeyboardInterrupt):
        list(step.run(range(6), batch_size=6))
    assert list(step.results(range(6))) == [0, ckpt.MISS, ckpt.MISS, 3, 4, 5]
    step.store.close()
