"""usage=: the token counts of a result are saved with it, and summed wherever dollars are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from typing import Any

import msgspec
import prometheus_client
import pytest
from cli_helpers import invoke
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from stores import ERROR, Log, entry

import checkpointdb as ckpt
from checkpointdb import Store, every
from checkpointdb.engine import paid
from checkpointdb.file import key_index
from checkpointdb.otel import Telemetry

EACH = {"input_tokens": 12, "output_tokens": 40}


def ask(row):
    return {"text": f"to {row}", "usage": EACH}


async def aask(row):
    await asyncio.sleep(0)
    return ask(row)


def total(n):
    return {name: count * n for name, count in EACH.items()}


def sums(path):
    """Return the token counts of the store's only step, of its runs, and of its records."""
    with Store(path, create=False) as store:
        assert store.verify() == []
        (step,) = store.steps()
        runs = [run.report.usage for run in store.runs()]
        return step.usage, runs, [record.usage for record in store.records()]


@pytest.mark.parametrize("fn", [ask, aask])
@pytest.mark.parametrize("usage", ["usage", lambda result: result["usage"]])
def test_counts_are_saved_with_their_result_and_summed(store_path, fn, usage):
    """A function of the result or the name of its field; hits use nothing."""
    step = ckpt.step(store_path, version=1, save=every(rows=3))(fn)
    run = step.run(range(10), usage=usage, concurrency=4)
    list(run)
    assert run.report.usage == total(10)
    again = step.run(range(12), usage=usage)
    list(again)
    assert again.report.usage == total(2)
    step.store.close()
    assert sums(store_path) == (total(12), [total(10), total(2)], [EACH] * 12)
    with contextlib.closing(sqlite3.connect(store_path)) as db:
        sql = "select usage ->> 'output_tokens' from results"
        assert db.execute(sql).fetchall() == [(40,)] * 12


class Details(msgspec.Struct):
    cached_tokens: int
    audio_tokens: int | None = None


class Usage(msgspec.Struct):
    """As providers' SDKs have it: counts, counts within them, labels."""

    prompt_tokens: int
    prompt_tokens_details: Details | None
    service_tier: str = "default"


def test_a_provider_s_usage_object_is_taken_as_it_is():
    """Counts within a count have both names; labels and what is not there are left out."""
    said = {"usage": Usage(7, Details(3))}
    assert paid.usage_of("usage", said) == {
        "prompt_tokens": 7,
        "prompt_tokens_details.cached_tokens": 3,
    }
    assert paid.usage_of("usage", {"usage": None}) == {}
    openai = pytest.importorskip("openai.types")
    real = openai.CompletionUsage(prompt_tokens=7, completion_tokens=2, total_tokens=9)
    counts = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert paid.usage_of(lambda _: real, None) == counts


BAD: list[Any] = [
    {"input_tokens": -1},
    {"input_tokens": 1.5},
    {"input_tokens": 2**53},
    {"input_tokens": float("nan")},
    {"within": {"tokens": -1}},
    [12, 40],
    7,
    {str(n): n for n in range(101)},
    {"\ud800": 1},
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_what_is_no_count_is_an_error_and_the_result_is_saved(store_path, bad):
    """The row is settled: the run ends with a clear error, and the next one has its result."""
    step = ckpt.step(store_path, version=1, cost=lambda _: 0.5)(ask)
    run = step.run(range(3), usage=lambda _: bad)
    with pytest.raises(ValueError, match=r"usage= returned .*; the result is saved"):
        list(run)
    assert (run.report.computed, run.report.cost, run.report.usage) == (1, 0.5, {})
    with pytest.raises(ValueError, match="usage is"):
        step.put(7, ask(7), usage=bad)
    assert not step.get(7)
    rest = step.run(range(3))
    assert [result["text"] for result in rest] == ["to 0", "to 1", "to 2"]
    assert rest.report.hits == 1


def test_a_usage_that_raises_takes_nothing_from_the_cost(store_path):
    """Nor the cost from the usage: the budget and the sums count what is known."""

    def boom(_):
        raise KeyError("boom")

    step = ckpt.step(store_path, version=1)(ask)
    with pytest.raises(KeyError, match="boom"):
        list(step.run([1], usage=boom, cost=lambda _: 0.25))
    with pytest.raises(KeyError, match="boom"):
        list(step.run([2], usage="usage", cost=boom))
    with pytest.raises(ValueError, match="usage='tokens' names a field that the result does not"):
        list(step.run([3], usage="tokens"))
    step.store.close()
    used, runs, records = sums(store_path)
    assert (used, runs, records) == (EACH, [{}, EACH, {}], [{}, EACH, {}])


def test_direct_calls_batches_put_and_refused_results_count(store_path):
    """A refused result was paid for; `usage=` of put comes before that of the step."""
    step = ckpt.step(store_path, version=1, usage="usage", save=every(rows=1))(ask)
    step(1)
    step.put(2, ask(2))
    step.put(3, ask(3), usage={"input_tokens": 5})
    list(step.run([4], valid=lambda _: False, on_error="record"))
    step.store.close()
    counts = [EACH, EACH, {"input_tokens": 5}, EACH]
    used, _, records = sums(store_path)
    assert sorted(map(str, records)) == sorted(map(str, counts))
    assert used == {"input_tokens": 41, "output_tokens": 120}


def test_usage_must_be_a_function_or_a_name(store_path):
    with pytest.raises(TypeError, match="usage must be a function or a field's name, got 7"):
        ckpt.step(store_path, version=1, usage=7)(ask)


KILLED = """
import os, signal, sys
import checkpointdb as ckpt

@ckpt.step(sys.argv[1], version=1, save=ckpt.every(rows=1), usage="usage")
def ask(row):
    if row == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"usage": {"input_tokens": 12, "output_tokens": 40}}

list(ask.run(range(9)))
"""


def test_what_was_used_survives_a_kill(store_path):
    """The counts are as durable as the record; the step's sums are those of its records."""
    killed = subprocess.run([sys.executable, "-c", KILLED, store_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    used, _, records = sums(store_path)
    assert (used, records) == (total(5), [EACH] * 5)


AS_JSON = json.dumps(EACH)


def test_the_sums_stay_right_when_records_move(tmp_path, monkeypatch):
    """Extending the index, retries, forget, compact, backup, merge and salvage: `verify` finds
    the step's sums to be those of its records, and of what a compaction dropped."""
    monkeypatch.setattr(key_index, "TAIL", 4)
    one, two = tmp_path / "one.ckpt", tmp_path / "two.ckpt"
    with Store(one) as store:
        log = Log(store)
        log.add(*[entry(n, error=ERROR, usage=AS_JSON) for n in range(6)])
        log.add(*[entry(n, attempts=2, usage=AS_JSON) for n in range(6)])
        log.add(*range(6, 9))
        store.log.end_run(log.run, {"rows": 9, "usage": AS_JSON}, "finished")
        assert store.steps()[0].usage == total(12)
        assert store.verify() == []
        assert store.forget(where="position = 0 and usage ->> 'input_tokens' = 12") == 1
        assert store.steps()[0].usage == total(10)
        assert store.verify() == []
        assert store.compact() == 5
        assert store.steps()[0].usage == total(10), "what was used stays in the sums"
        assert store.verify() == []
        store.backup(two)
        log.add(entry(20, usage=AS_JSON))
    with Store(two) as store:
        assert store.steps()[0].usage == total(10)
        store.merge(one)
        assert store.steps()[0].usage == total(11)
        assert store.verify() == []
        records = [record.usage for record in store.records()]
    ckpt.salvage(two, tmp_path / "new.ckpt")
    with Store(tmp_path / "new.ckpt") as store:
        assert [record.usage for record in store.records()] == records
        assert store.steps()[0].usage == total(11)
        assert store.verify() == []


def test_a_result_that_loses_a_merge_counts_once(tmp_path):
    """The winner is written again after it, and its tokens are not."""
    for name, text in ("a", '"first"'), ("b", '"second"'):
        with Store(tmp_path / name) as store:
            Log(store).add(entry(1, result=text, usage=AS_JSON))
    with Store(tmp_path / "a") as store:
        store.merge(tmp_path / "b")
        assert store.steps()[0].usage == total(2)
        assert store.verify() == []


@pytest.mark.parametrize("rotten", ["{", "[1]", '{"a":"b"}', '{"a":1.5}', "\x00", 7])
def test_counts_that_rotted_are_named_and_stop_no_run(store_path, rotten):
    """They are in no key and no checksum: runs go on, the index is extended, `verify` says it."""
    step = ckpt.step(store_path, version=1, usage="usage", save=every(rows=1))(ask)
    list(step.run(range(3)))
    step.store.close()
    with contextlib.closing(sqlite3.connect(store_path, isolation_level=None)) as db:
        db.execute("update records set usage = ? where id = 2", (rotten,))
    list(step.run(range(5)))
    step.store.close()
    with Store(store_path, create=False) as store:
        (problem,) = store.verify()
        assert "record 2: its token counts" in problem.what
        assert store.steps()[0].usage == total(4)
    with contextlib.suppress(FileNotFoundError):
        os.remove(store_path)


STEP = """
import checkpointdb as ckpt

@ckpt.step("rows.ckpt", version=1)
def ask(row):
    return {"usage": {"input_tokens": 1200, "output_tokens": 40, "details": {"cached": 7}}}

def used(result):
    return result["usage"]
"""


@pytest.mark.parametrize("name", ["used", "usage"])
def test_the_command_line_says_what_was_used(tmp_path, monkeypatch, name):
    """run, plan, inspect, watch and report; a count within another is left to --json."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"asks_{name}.py").write_text(STEP)
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    step = f"asks_{name}.py:ask"
    words = "2,400 input tokens, 80 output tokens"
    ran = invoke("run", step, "rows.jsonl", "--usage", name, "--limit", "2")
    assert f"2 computed, {words} paid" in ran.output
    assert (
        "usage about 1,200 input tokens, 40 output tokens"
        in invoke("plan", step, "rows.jsonl").output
    )
    planned = json.loads(invoke("plan", step, "rows.jsonl", "--json").output)["plan"]
    assert planned["usage"] == {"input_tokens": 1200, "output_tokens": 40, "details.cached": 7}
    assert invoke("inspect", "rows.ckpt").output.count(words) == 2
    assert "1,200 input tokens" in invoke("inspect", "rows.ckpt", "--record", "1").output
    seen = json.loads(invoke("inspect", "rows.ckpt", "--json").output)
    counts = {"input_tokens": 2400, "output_tokens": 80, "details.cached": 14}
    assert [of["usage"] for of in (*seen["steps"], *seen["runs"])] == [counts, counts]
    assert f"usage {words}" in invoke("watch", "rows.ckpt", "--until-end").output
    assert invoke("report", "rows.ckpt", "-o", "page.html").exit_code == 0
    assert words in (tmp_path / "page.html").read_text()


def test_prometheus_counts_tokens_by_type(store_path):
    """Up to date while a run goes on; over runs that ended too."""
    meters = MeterProvider([PrometheusMetricReader()])
    telemetry = Telemetry(meter_provider=meters)

    def counted():
        return {
            sample.labels["gen_ai_token_type"]: sample.value
            for metric in prometheus_client.REGISTRY.collect()
            for sample in metric.samples
            if sample.name == "checkpointdb_usage_total"
        }

    step = ckpt.step(store_path, version=1, usage="usage", on_event=telemetry)(ask)
    results = iter(step.run(range(5)))
    next(results)
    assert counted()["output"] >= 40
    list(results)
    list(step.run(range(7)))
    assert counted() == {"input": 84, "output": 280}
    meters.shutdown()
