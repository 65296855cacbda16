"""Money: what results cost is saved with them, and a budget holds over all runs of a step."""

from __future__ import annotations

import math
import random
import time

import pytest
from drivers import SEQUENTIAL
from paid import EVERY_DRIVER, Paid, context, each_kind, every_driver, label, result_of, saved

import checkpointdb as ckpt
from checkpointdb import BudgetExceeded, Store, every, interrupts, on_exit
from checkpointdb.loops.sync import WATCH_EVERY


@pytest.fixture
def paid(tmp_path):
    return Paid(str(tmp_path / "paid.log"))


def usd(result):
    return result["usd"]


def spent(path):
    """Dollars in all, as the step's counters have them and as the records do."""
    with Store(path, create=False) as store:
        total = sum(record.cost or 0 for record in store.records())
        return store.steps()[0].cost, total


@pytest.mark.slow
@every_driver
def test_the_cost_of_a_result_is_saved_with_it(store_path, paid, driver):
    """cost= is asked once for each computed result, saved in its record, and counted in the run;
    hits cost nothing."""
    step = driver.step(label, store_path)
    run = driver.start(step, paid.rows(10), cost=usd)
    driver.results(run)
    assert run.report.cost == pytest.approx(0.10)
    step.flush()
    assert {record.cost for record in saved(store_path).values()} == {0.01}
    assert spent(store_path) == pytest.approx((0.10, 0.10))
    again = driver.start(step, paid.rows(12), cost=usd)
    driver.results(again)
    assert again.report.cost == pytest.approx(0.02)
    with Store(store_path) as store:
        assert [run.report.cost for run in store.runs()] == pytest.approx([0.10, 0.02])


@every_driver
def test_a_budget_stops_the_run_once_it_is_spent(store_path, paid, driver):
    """No call begins when the budget is spent: at most the calls in flight go over it, and what
    they return is saved."""
    step = driver.step(label, store_path, save=on_exit())
    with pytest.raises(BudgetExceeded, match=r"\$0.1.*raise max_cost=") as caught:
        driver.run(step, paid.rows(60), cost=usd, max_cost=0.095)
    in_flight = {"sequential": 1, "async": 1, "bridged": 1}.get(driver.name, 4)
    assert 10 <= len(paid.calls) < 10 + in_flight
    assert saved(store_path).keys() == set(paid.calls)
    assert caught.value.budget == 0.095
    assert caught.value.spent >= 0.095
    assert f"{len(paid.calls)} results" in caught.value.__notes__[-1]


@every_driver
def test_a_budget_counts_all_runs_of_the_step(store_path, paid, driver):
    """max_cost= survives restarts: the same budget buys nothing more, a higher one the rest."""
    rows = paid.rows(60)
    for budget in (0.095, 0.095, 0.295, 0.295):
        step = driver.step(label, store_path)
        with pytest.raises(BudgetExceeded):
            driver.run(step, rows, cost=usd, max_cost=budget)
        step.store.close()
        calls = len(paid.calls)
        assert math.ceil(budget / 0.01) <= calls < math.ceil(budget / 0.01) + 4
        assert spent(store_path) == pytest.approx((calls * 0.01, calls * 0.01))
    step = driver.step(label, store_path)
    assert driver.run(step, rows, cost=usd, max_cost=1) == [result_of(n) for n in range(60)]
    assert sorted(paid.calls) == list(range(60))


@each_kind
def test_a_spent_budget_does_not_stop_hits(store_path, paid, driver):
    """Rows that are saved are given out however little is left."""
    step = driver.step(label, store_path)
    driver.run(step, paid.rows(5), cost=usd)
    assert len(driver.run(step, paid.rows(5), cost=usd, max_cost=0)) == 5


def test_another_version_has_a_budget_of_its_own(store_path, paid):
    """The budget is the step's at its version: what an old version spent does not count."""
    for version in (1, 2):
        step = ckpt.step(store_path, version=version)(label)
        assert len(list(step.run(paid.rows(5), cost=usd, max_cost=0.06))) == 5
        step.store.close()


def test_refused_and_superseded_results_count(store_path, paid):
    """What valid= refuses was paid for: it counts against the budget, each time."""
    step = ckpt.step(store_path, version=1)(label)
    rows = paid.rows(1, {0: "empty"})
    options = {"cost": usd, "on_error": "record", "valid": lambda result: result["text"]}
    for n in (1, 2, 3):
        list(step.run(rows, **options))
        with Store(store_path) as store:
            assert store.steps()[0].cost == pytest.approx(n * 0.01)
    with pytest.raises(BudgetExceeded):
        list(step.run(rows, **options, max_cost=0.03))
    assert paid.calls == [0, 0, 0]


@pytest.mark.parametrize("killed_at", [6, 22])
def test_money_spent_before_a_kill_counts(store_path, paid, killed_at):
    """After SIGKILL the budget goes on from what is saved."""
    rows = paid.rows(100, {killed_at: "kill ok"})
    process = context.Process(target=spend, args=(store_path, rows))
    process.start()
    process.join()
    assert process.exitcode == -9
    process.close()
    assert saved(store_path).keys() == set(range(killed_at))
    step = ckpt.step(store_path, version=1)(label)
    with pytest.raises(BudgetExceeded):
        list(step.run(rows, cost=usd, max_cost=0.295))
    assert len(saved(store_path)) == 30


def spend(path, rows):
    """Be a process that pays for rows until it is killed."""
    list(ckpt.step(path, version=1, save=every(rows=1))(label).run(rows, cost=usd))


@pytest.mark.parametrize("driver", [d for d in EVERY_DRIVER if d.name != "processes"], ids=str)
@pytest.mark.parametrize("cost", [-0.01, math.nan, math.inf, "0.01", None, [1]], ids=repr)
def test_a_cost_that_is_no_cost_ends_the_run(store_path, driver, cost):
    """A negative cost, NaN, or no number is an error that shows it; the result is saved first."""
    step = driver.step(lambda row: row, store_path, name="label")
    with pytest.raises(ValueError, match=r"cost= returned .*the result is saved"):
        driver.run(step, [1], cost=lambda result: cost, on_error="record")
    with Store(store_path) as store:
        (record,) = store.records()
        assert (record.result, record.cost) == (1, None)
        assert store.steps()[0].cost == 0


def test_what_cost_raises_of_the_last_row_is_waited_for(store_path, monkeypatch):
    """Its row is settled, and could be given out, some time before the error is here."""
    land = interrupts.land

    def late(call):
        time.sleep(2 * WATCH_EVERY)
        land(call)

    monkeypatch.setattr(interrupts, "land", late)

    @ckpt.step(store_path, version=1)
    async def step(row):
        return row

    with pytest.raises(ValueError, match="cost= returned -1"):
        list(step.run([1], concurrency=4, cost=lambda result: -1, on_error="record"))


def test_a_cost_function_that_raises_ends_the_run(store_path):
    """What cost= raises is the user's to see, once the result is saved."""

    @ckpt.step(store_path, version=1)
    def step(row):
        return row

    with pytest.raises(TypeError, match=r"string indices|not subscriptable"):
        list(step.run([1], cost=usd))
    with Store(store_path) as store:
        assert [record.result for record in store.records()] == [1]


@pytest.mark.slow
@each_kind
def test_a_policy_can_count_money(store_path, paid, driver):
    """every(cost=) commits when that much is pending, and names it as the loss window."""
    step = driver.step(label, store_path, save=every(cost=0.045))
    events = []
    driver.run(step, paid.rows(25), cost=usd, on_event=events.append)
    commits = [event.rows for event in events if isinstance(event, ckpt.events.Committed)]
    assert sum(commits) == 25
    if driver.concurrency == 1:  # else a row may come during a commit: it goes with the next
        assert commits == [5] * 5
    assert events[0].loss_window == "$0.045"


def test_costs_add_up_to_the_cent(store_path):
    """Over random costs the step's counter, the run's and the records' sum are one number."""
    chance = random.Random(5)
    costs = [chance.random() for _ in range(3000)]
    step = SEQUENTIAL.step(lambda row: costs[row], store_path, name="label")
    run = step.run(range(3000), cost=lambda result: result)
    list(run)
    assert run.report.cost == pytest.approx(sum(costs))
    assert spent(store_path) == pytest.approx((sum(costs), sum(costs)))


def test_a_budget_holds_for_runs_side_by_side(store_path, paid):
    """Under shared=True the budget is one: what another worker pays counts once saved."""
    first, second = (
        ckpt.step(Store(store_path), version=1, save=every(rows=1))(label) for _ in range(2)
    )
    options = {"cost": usd, "max_cost": 0.095, "shared": True}
    run = first.run(paid.rows(30), **options)
    for _ in range(3):
        next(run)
    with pytest.raises(BudgetExceeded):
        list(second.run(paid.rows(60)[30:], **options))
    with pytest.raises(BudgetExceeded):
        list(run)
    assert len(paid.calls) <= 13
