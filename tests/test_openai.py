"""The real OpenAI SDK under our decorator, against a server on loopback: its log is the oracle."""

from __future__ import annotations

import time

import openai
import pytest
from openai_life import QuotaSpentError, consume, dollars, live
from paid import context
from paid_server import PaidServer, answer

import checkpointdb as ckpt
from checkpointdb import Store, every
from checkpointdb.file.read import Reader

pytestmark = pytest.mark.loops

both = pytest.mark.parametrize("kind", ["sync", "async"])
at_each_concurrency = pytest.mark.parametrize("concurrency", [1, 8, 64])


@pytest.fixture
def server():
    with PaidServer() as server:
        yield server


def rows(n):
    return [{"n": i, "review": f"№ {i}"} for i in range(n)]


def stored(path):
    """Row to record, of those on disk."""
    with Reader(path) as reader:
        return {record.input["n"]: record for record in reader.records()}


def run(kind, server, path, n, client=None, step=None, **options):
    """Run over n rows; return results and report."""
    results = []
    report = consume(
        kind, server.url, path, rows(n), client or {}, step or {}, results.append, **options
    )
    return results, report


def texts(results):
    return [r["text"] if isinstance(r, dict) else r.error_type for r in results]


def right(n):
    return [answer(i) for i in range(n)]


def kill_after(answers, server, *arguments, **options):
    """Start a process that runs, kill it once the server has answered so many more calls."""
    until = len(server.paid) + answers
    process = context.Process(target=live, args=arguments, kwargs=options)
    process.start()
    deadline = time.monotonic() + 20
    while len(server.paid) < until and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -9
    process.close()
    while server.in_flight:  # the server finishes, and bills, what nobody waits for
        time.sleep(0.001)


# --- killed


@pytest.mark.slow
@both
@at_each_concurrency
def test_an_answer_is_paid_once_over_kills(server, store_path, kind, concurrency):
    """Two SIGKILLs in the middle cost the loss window and the calls in flight; the rest is paid
    once."""
    n, save_rows = 75 + 3 * concurrency, 5
    server.seconds = 0.002
    for _ in range(2):
        kill_after(
            25 + concurrency, server, kind, server.url, store_path, rows(n), save_rows,
            concurrency=concurrency,
        )  # fmt: skip
        lost = set(server.paid) - stored(store_path).keys()
        assert len(lost) <= save_rows - 1 + concurrency, "a kill cost more than the loss window"
    before, paid_before = stored(store_path).keys(), len(server.paid)
    results, report = run(kind, server, store_path, n, concurrency=concurrency)
    assert texts(results) == right(n)
    assert report.hits == len(before)
    assert not before & set(server.paid[paid_before:]), "a saved answer was paid for again"
    assert server.paid_more_than_once() <= 2 * (save_rows - 1 + concurrency)
    assert server.most_in_flight <= concurrency


@pytest.mark.slow
@both
@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_ledger_lists_the_calls_that_a_kill_left_open(server, store_path, kind, concurrency):
    """After SIGKILL the ledger is exactly the calls sent and not recorded, with the key that the
    provider saw."""
    server.seconds = 0.02
    kill_after(
        10, server, kind, server.url, store_path, rows(200), 4, concurrency=concurrency, ledger=True
    )  # fmt: skip
    saved = stored(store_path)
    with Reader(store_path) as reader:
        calls = {call.input["n"]: call for call in reader.calls()}
    sent = {row for row, _ in server.calls}
    open_ = calls.keys() - sent  # written down, and killed before the request went out
    assert len(open_) <= concurrency
    assert calls.keys() - open_ == sent - saved.keys()
    assert set(server.paid) - saved.keys() <= calls.keys(), "an answer was billed and is not listed"
    assert calls
    for row, key in server.calls:
        record = saved.get(row) or calls[row]
        assert record.key == key
    run(kind, server, store_path, 200, concurrency=16, ledger=True)
    keys = {}
    for row, key in server.calls:
        assert keys.setdefault(row, key) == key, "a row that is sent again has another key"
    with Reader(store_path) as reader:
        assert reader.calls() == []


# --- quotas


@pytest.mark.slow
@both
@at_each_concurrency
def test_a_spent_quota_ends_the_run_and_keeps_what_was_paid(server, store_path, kind, concurrency):
    """stop_on= ends the run at the quota, even under "record": every answer is saved, no call goes
    on, and with a new quota the rest is computed."""
    server.quota = 70
    with pytest.raises(QuotaSpentError) as caught:
        run(
            kind, server, store_path, 200, on_error="record", stop_on=QuotaSpentError,
            concurrency=concurrency, step={"save": every(rows=1000)},
        )  # fmt: skip
    assert "70 results of step 'label' are saved" in caught.value.__notes__[-1]
    assert "this run got to 70 of 200 rows" in caught.value.__notes__[-1]
    assert sorted(server.paid) == sorted(stored(store_path))
    assert len(server.calls) <= 70 + 2 * concurrency
    server.quota = None
    results, report = run(kind, server, store_path, 200, concurrency=concurrency)
    assert texts(results) == right(200)
    assert report.hits == 70
    assert server.paid_more_than_once() == 0


@both
def test_a_rate_limit_is_waited_for_by_the_sdk(server, store_path, kind):
    """429 with retry-after is retried inside the call: one record, one payment."""
    for row in range(0, 20, 3):
        server.faults[row] = ["limit", "limit"]
    results, report = run(kind, server, store_path, 20, {"max_retries": 3}, concurrency=8)
    assert texts(results) == right(20)
    assert (report.computed, report.failed) == (20, 0)
    assert sorted(server.paid) == list(range(20))
    assert {record.attempts for record in stored(store_path).values()} == {1}
    keys = {}
    for row, key in server.calls:
        assert keys.setdefault(row, key) == key


# --- failures


@both
@at_each_concurrency
def test_failures_are_records_and_only_they_are_tried_again(server, store_path, kind, concurrency):
    """A 500, a reset, a time-out, a truncated answer each take the place of one result; the next
    run calls just those."""
    bad = {3: "500", 5: "reset", 8: "hang", 13: "truncated", 21: "limit", 34: "500"}
    for row, fault in bad.items():
        server.faults[row] = [fault]
    results, report = run(
        kind, server, store_path, 40, {"timeout": 1.5}, on_error="record", concurrency=concurrency
    )  # fmt: skip
    kinds = {row: results[row].error_type for row in bad}
    assert kinds == {
        3: "InternalServerError", 5: "APIConnectionError", 8: "APITimeoutError",
        13: "JSONDecodeError", 21: "RateLimitError", 34: "InternalServerError",
    }  # fmt: skip
    assert report.failed == 6
    assert [i for i, r in enumerate(results) if isinstance(r, ckpt.Failed)] == list(bad)
    assert all(results[row].row == rows(40)[row] for row in bad)
    assert all("Traceback" in results[row].traceback for row in bad)

    called = len(server.calls)
    results, report = run(kind, server, store_path, 40, concurrency=concurrency)
    assert texts(results) == right(40)
    assert sorted(row for row, _ in server.calls[called:]) == list(bad)
    assert (report.hits, report.computed, report.failed) == (34, 6, 0)
    assert {stored(store_path)[row].attempts for row in bad} == {2}


@both
def test_an_empty_answer_is_refused_and_kept(server, store_path, kind):
    """valid= makes an empty answer a failure, saved with the answer and its cost: it was paid."""
    server.faults[2] = ["empty", "empty"]
    options = {"valid": lambda result: result["text"], "cost": dollars, "on_error": "record"}
    for attempts in (1, 2):
        results, report = run(kind, server, store_path, 5, **options)
        assert texts(results) == [*right(2), "invalid", *right(5)[3:]]
        assert report.failed == 1
        record = stored(store_path)[2]
        assert record.result == {"text": "", "tokens": 25}
        assert record.error["type"] == "invalid"
        assert record.cost == pytest.approx(0.0025)
        assert record.attempts == attempts
    assert texts(run(kind, server, store_path, 5, **options)[0]) == right(5)
    assert sorted(server.paid) == [0, 1, 2, 2, 2, 3, 4]


# --- money


@both
@at_each_concurrency
def test_a_budget_holds_over_restarts(server, store_path, kind, concurrency):
    """max_cost= stops at the budget, counted by the provider's usage over all runs; calls in
    flight are paid and saved."""
    with pytest.raises(ckpt.BudgetExceeded):
        run(kind, server, store_path, 200, cost=dollars, max_cost=0.05, concurrency=concurrency)
    first = len(server.paid)
    assert 20 <= first < 20 + concurrency
    assert sorted(server.paid) == sorted(stored(store_path))
    with pytest.raises(ckpt.BudgetExceeded) as caught:  # nothing is left of it
        run(kind, server, store_path, 200, cost=dollars, max_cost=0.05, concurrency=concurrency)
    assert len(server.paid) == first
    assert caught.value.spent == pytest.approx(first * 0.0025)
    with pytest.raises(ckpt.BudgetExceeded):  # a higher one goes on from what is spent
        run(kind, server, store_path, 200, cost=dollars, max_cost=0.25, concurrency=concurrency)
    assert 100 <= len(server.paid) < 100 + concurrency
    assert server.paid_more_than_once() == 0
    with Store(store_path) as store:
        assert store.steps()[0].cost == pytest.approx(len(server.paid) * 0.0025)


def test_the_sdks_own_exception_comes_through(server, store_path):
    """Under on_error="raise" the user gets the SDK's exception, the same object, with its body."""
    server.faults[1] = ["500"]
    with pytest.raises(openai.InternalServerError) as caught:
        run("sync", server, store_path, 3)
    assert caught.value.status_code == 500
    assert "1 results of step 'label' are saved" in caught.value.__notes__[-1]
