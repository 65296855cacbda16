"""Batches of OpenAI's by its real SDK, against a server whose log of batches is the oracle."""

from __future__ import annotations

import json
import os
import random
import time

import msgspec
import openai
import pydantic
import pytest
import stamina
from batch_life import async_step, batches, client, cost, live, sync_step
from batch_server import WORD, BatchServer
from paid import context

import checkpointdb as ckpt
from checkpointdb import Failed, Store
from checkpointdb.file.read import Reader
from checkpointdb.integrations.openai_batch import Batches, BatchFailedError

both = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture
def server():
    with BatchServer() as server:
        yield server


def rows(n, start=0):
    return [{"n": i} for i in range(start, n)]


def right(given):
    return [{"text": f"{WORD} {row['n']}", "tokens": 25} for row in given]


def kinds(results):
    """Tell of each result whether it is one, or how its row failed."""
    return [it.error_type if isinstance(it, Failed) else "ok" for it in results]


def check_once(server, n):
    """Every one of n rows was in one batch, and no row in two live ones."""
    assert server.doubled == []
    assert len(server.submitted) == n
    assert set(server.submitted.values()) == {1}


# --- what a run does


@both
def test_a_run_submits_waits_and_collects(server, store_path, kind):
    """Each row is asked for once, under its key; results come in order, at half the price; the same
    again asks for nothing."""
    server.looks = 2
    given = [*rows(25), {"n": 3}]
    run = batches(kind, server.url, store_path).run(given, poll=0.001)
    assert list(run) == right(given)
    check_once(server, 25)
    assert [len(server.lines(it["input_file_id"])) for it in server.batches] == [10, 10, 5]
    assert {it["endpoint"] for it in server.batches} == {"/v1/chat/completions"}
    assert all(it["completion_window"] == "24h" for it in server.batches)
    with Store(store_path) as store:
        assert {it.key for it in store.records("label")} == server.submitted.keys()
        step = next(it for it in store.steps() if it.name == "label")
        assert step.cost == pytest.approx(25 * cost({"tokens": 25}) / 2)
    asked = len(server.requests)
    again = batches(kind, server.url, store_path).run(given, poll=0.001)
    assert list(again) == right(given)
    assert again.report.hits == 26
    assert len(server.requests) == asked


@both
def test_the_step_is_the_one_that_asks_live(server, store_path, kind):
    """Its results are hits of an ordinary run, and the other way round."""
    make = sync_step if kind == "sync" else async_step
    step, using = make(store_path), {"client": client(kind, server.url)}
    assert list(step.run(rows(3), using=using)) == right(rows(3))
    assert list(Batches(step, using, settle=0).run(rows(8), poll=0.001)) == right(rows(8))
    assert len(server.submitted) == 5
    assert list(step.run(rows(8), using=using)) == right(rows(8))
    assert server.requests.count("live") == 3


def test_rows_without_a_request_are_run_at_once(server, store_path):
    """What the step returns or raises by itself is its result or failure; the rest is submitted."""
    given = [{"say": "x"}, {"n": 1}, {"raise": "y"}]
    results = list(batches("sync", server.url, store_path).run(given, poll=0.001))
    assert results[:2] == [{"text": "x", "tokens": 0}, *right([{"n": 1}])]
    assert (results[2].error_type, results[2].message) == ("ValueError", "y")
    assert len(server.submitted) == 1


def test_a_step_that_catches_every_exception_asks_all_the_same(server, store_path):
    """What ends its call before the request is sent is no `Exception`."""

    @ckpt.step(store_path, version=1, using=("client",))
    def label(row, client):
        messages = [{"role": "user", "content": json.dumps(row)}]
        try:
            return client.chat.completions.create(model="m", messages=messages).id
        except Exception:
            return "sorry"

    run = Batches(label, {"client": client("sync", server.url)}).run(rows(1), poll=0.001)
    assert list(run) == ["chatcmpl"]


class Number(pydantic.BaseModel):
    """What a model answers by a schema."""

    n: int


def test_other_endpoints_and_parsed_answers(server, store_path):
    """What the SDK asks is what is submitted, and its own classes read the answer."""

    @ckpt.step(store_path, version=1, using=("client",))
    def embed(row, client):
        return client.embeddings.create(model="small", input=row).data[0].embedding

    @ckpt.step(store_path, version=1, using=("client",))
    def respond(row, client):
        return client.responses.create(model="large", input=row).output_text

    @ckpt.step(store_path, version=1, using=("client",))
    def parse(row, client):
        messages = [{"role": "user", "content": '{"n": 7}'}]
        answer = client.chat.completions.parse(model="m", messages=messages, response_format=Number)
        return answer.choices[0].message.parsed.n

    found = [
        list(Batches(step, {"client": client("sync", server.url)}).run(["a"], poll=0.001))
        for step in (embed, respond, parse)
    ]
    assert found == [[[0.1, -2.5e-07, 1.0, 0.0]], ["one two three four five six #0"], [7]]
    endpoints = ["/v1/embeddings", "/v1/responses", "/v1/chat/completions"]
    assert [it["endpoint"] for it in server.batches] == endpoints
    (line,) = server.lines(server.batches[0]["input_file_id"])
    assert (line["method"], line["url"], line["body"]["input"]) == ("POST", "/v1/embeddings", "a")


def test_each_fact_is_on_the_disk_before_what_follows_it(server, store_path):
    """The intent before anything is asked of the provider, its id before anybody waits, the results
    before the batch counts as collected, whatever the step's save policy."""
    seen = {}

    def look(kind):
        with Reader(store_path) as reader:
            facts = [it.input[0] for it in reader.records("label/batches")]
        seen.setdefault(kind, sorted(facts))

    server.on_request = look
    batch = batches("sync", server.url, store_path, step={"save": ckpt.on_exit()})
    batch.submit(rows(5))
    batch.collect(rows(5))
    assert seen["upload"] == seen["create"] == ["intent"]
    assert seen["retrieve"] == seen["content"] == ["intent", "sent"]
    with Reader(store_path) as reader:
        assert sum(1 for _ in reader.records("label", status="ok")) == 5


def test_rows_of_several_arguments_and_values_for_all_rows(server, store_path):
    """Keys are those of a live run with the same `given=` and `using=`."""

    @ckpt.step(store_path, version=1, using=("client", "tone"))
    def label(row, lang, client, tone):
        content = json.dumps({"n": row, "lang": lang, "tone": tone})
        messages = [{"role": "user", "content": content}]
        return (
            client.chat.completions.create(model="m", messages=messages).choices[0].message.content
        )

    using = {"client": client("sync", server.url), "tone": "kind"}
    german = Batches(label, using, given={"lang": "de"}).run([1, 2], poll=0.001)
    assert list(german) == [f"{WORD} 1", f"{WORD} 2"]
    named = [ckpt.args(2, lang="de"), ckpt.args(2, lang="fr")]
    assert list(Batches(label, using).run(named, poll=0.001)) == [f"{WORD} 2"] * 2
    assert list(label.results(named)) == [f"{WORD} 2"] * 2
    assert len(server.submitted) == 3
    (line,) = server.lines(server.batches[1]["input_file_id"])
    assert json.loads(line["body"]["messages"][0]["content"]) == {
        "n": 2,
        "lang": "fr",
        "tone": "kind",
    }


# --- limits


def test_batches_keep_to_their_limits(server, store_path):
    """A file has at most so many bytes; a request that is larger is an error that names its row."""
    batch = batches("sync", server.url, store_path, max_requests=1000, max_bytes=1000)
    assert batch.submit(rows(30)) == 30
    sizes = [len(server.files[it["input_file_id"]]) for it in server.batches]
    assert len(sizes) > 3
    assert max(sizes) <= 1000 < sum(sizes[:2])
    with pytest.raises(ValueError, match=r"key [0-9a-f]{32} has [\d,]+ bytes, .* at most 1,000"):
        batch.submit([{"n": 99, "text": "x" * 2000}])


def test_a_batch_is_of_one_model(server, store_path):
    given = [{"n": i, "model": f"m{i % 2}"} for i in range(6)]
    assert batches("sync", server.url, store_path).submit(given) == 6
    models = [
        {line["body"]["model"] for line in server.lines(it["input_file_id"])}
        for it in server.batches
    ]
    assert models == [{"m0"}, {"m1"}]


def test_no_more_batches_are_open_than_allowed(server, store_path):
    """The other rows wait for their turn."""
    server.looks = 2
    batch = batches("sync", server.url, store_path, max_open=1)
    assert batch.submit(rows(25)) == 10
    assert len(server.live()) == 1
    assert list(batch.run(rows(25), poll=0.001)) == right(rows(25))
    check_once(server, 25)


def test_a_stream_cannot_be_in_a_batch(server, store_path):
    @ckpt.step(store_path, version=1, using=("client",))
    def label(row, client):
        return list(client.chat.completions.create(model="m", messages=[row], stream=True))

    with pytest.raises(ValueError, match="asks /v1/chat/completions for a stream"):
        Batches(label, {"client": client("sync", server.url)}).submit([{"role": "user"}])
    assert server.batches == []


# --- what fails


@both
def test_failed_requests_are_failures_and_only_they_are_asked_again(server, store_path, kind):
    """An error status, an error without a response, a row that the provider forgot: each is the
    failure of its row; the run ends, and the next one submits just those."""
    server.bad = {3: 400, 5: 500, 7: 0}
    results = list(batches(kind, server.url, store_path).run(rows(10), poll=0.001))
    failed = {
        3: "BadRequestError",
        5: "InternalServerError",
        7: "BadRequestError",
    }
    assert {i: it for i, it in enumerate(kinds(results)) if it != "ok"} == failed
    assert "no worker was left" in results[7].message
    assert "status 400" in results[3].message
    with Store(store_path) as store:
        assert sum(1 for _ in store.records("label", "failed")) == 3
    server.bad = {}
    assert list(batches(kind, server.url, store_path).run(rows(10), poll=0.001)) == right(rows(10))
    assert sorted(server.submitted.values()) == [1] * 7 + [2] * 3
    assert server.doubled == []


def test_a_row_that_a_completed_batch_leaves_out_has_failed(server, store_path):
    server.ends = ["gaps"]
    results = list(batches("sync", server.url, store_path).run(rows(6), poll=0.001))
    assert kinds(results) == ["ok", "BadRequestError"] * 3
    assert "the batch has no answer for this row" in results[1].message
    assert list(batches("sync", server.url, store_path).run(rows(6), poll=0.001)) == right(rows(6))


@pytest.mark.parametrize("how", ["half", "nothing", "cancelled"])
def test_what_a_batch_left_undone_is_submitted_again(server, store_path, how):
    """Of a batch that expired or was cancelled the answers are kept, and none is a failure."""
    server.ends = [how, "completed", how]
    assert list(batches("sync", server.url, store_path).run(rows(20), poll=0.001)) == right(
        rows(20)
    )
    assert set(server.answered.values()) == {1}
    assert server.doubled == []
    with Store(store_path) as store:
        assert {it.attempts for it in store.records("label")} == {1}


def test_a_refused_batch_is_an_error_and_its_rows_are_free(server, store_path):
    """The other batches are collected first; nothing of it was paid."""
    server.ends = ["failed"]
    batch = batches("sync", server.url, store_path)
    with pytest.raises(
        BatchFailedError, match=r"token_limit.*too much.*line 3.*max_open"
    ) as caught:
        batch.run(rows(20), poll=0.001)
    assert caught.value.batch == "batch-0"
    assert len(server.answered) == 10
    assert list(batch.run(rows(20), poll=0.001)) == right(rows(20))
    assert set(server.answered.values()) == {1}


def test_a_step_that_tries_again_gets_no_second_answer(server, store_path, monkeypatch):
    """Its retries end at once, and the failure says what the answer was."""
    server.bad = {0: 500}
    retry = stamina.retry(on=openai.InternalServerError, wait_initial=0.001, attempts=50)

    @ckpt.step(store_path, version=1, using=("client",))
    @retry
    def label(row, client):
        client.chat.completions.create(model="m", messages=[{"role": "u", "content": '{"n": 0}'}])

    batch = Batches(label, {"client": client("sync", server.url)}, settle=0)
    (failed,) = batch.run([0], poll=0.001)
    assert failed.error_type == "BadRequestError"
    assert "a batch answers once, and its answer had status 500" in failed.message


def test_answers_to_another_question_are_told_of(server, store_path, monkeypatch):
    """If what is asked changed while a batch was on its way, its answers are kept, with a word."""

    @ckpt.step(store_path, version=1, using=("client",))
    def label(row, client):
        prompt = {"role": "system", "content": os.environ["PROMPT"]}
        messages = [prompt, {"role": "user", "content": '{"n": 0}'}]
        return client.chat.completions.create(model="m", messages=messages).id

    batch = Batches(label, {"client": client("sync", server.url)})
    monkeypatch.setenv("PROMPT", "good?")
    batch.submit([1, 2])
    monkeypatch.setenv("PROMPT", "bad?")
    with pytest.warns(ckpt.StaleResultsWarning, match="2 answers of batch batch-0 are to requests"):
        assert batch.collect([1, 2]) == 0
    assert list(label.results([1, 2])) == ["chatcmpl", "chatcmpl"]


# --- what the provider does


@pytest.mark.parametrize("fault", ["500", "made 500", "late"])
def test_a_batch_whose_making_is_unsure_is_looked_for(server, store_path, fault):
    """After an answer that says nothing the provider is asked, over all pages of its list, and only
    then is the batch made again."""
    server.faults = [fault]
    batch = batches("sync", server.url, store_path)
    for other in range(5):
        server._make({"input_file_id": server._keep(b""), "metadata": {"checkpointdb": str(other)}})
    assert batch.submit(rows(4)) == 4
    check_once(server, 4)
    assert server.requests.count("list") == {"500": 6, "made 500": 1, "late": 4}[fault]
    assert list(batch.run(rows(4), poll=0.001)) == right(rows(4))


def test_a_refused_request_leaves_nothing_behind(server, store_path):
    """The SDK's own error comes through; the rows are submitted by the next run."""
    server.faults = ["refuse"]
    batch = batches("sync", server.url, store_path)
    with pytest.raises(openai.BadRequestError):
        batch.run(rows(4), poll=0.001)
    assert batch.status()[0].status == "submitting"
    assert list(batch.run(rows(4), poll=0.001)) == right(rows(4))
    check_once(server, 4)
    assert [it.status for it in batch.status()] == ["not submitted", "completed"]


def test_status_says_where_the_rows_are(server, store_path):
    server.looks = 1
    batch = batches("sync", server.url, store_path)
    batch.submit(rows(15))
    metadata = [it["metadata"] for it in server.batches]
    assert [msgspec.structs.astuple(it) for it in batch.status()] == [
        (m["checkpointdb"], f"batch-{i}", "in_progress", n, n, 0, 0)
        for i, (m, n) in enumerate(zip(metadata, (10, 5), strict=True))
    ]
    assert {it["step"] for it in metadata} == {"label"}
    assert batch.collect(rows(15)) == 0
    assert [(it.status, it.rows, it.left) for it in batch.status()] == [
        ("completed", 10, 0), ("completed", 5, 0),
    ]  # fmt: skip


def test_answers_to_rows_that_are_not_given_stay_to_be_collected(server, store_path):
    """They are not submitted again meanwhile."""
    batch = batches("sync", server.url, store_path)
    batch.submit(rows(10))
    batch.collect(rows(4))
    assert batch.status()[0].left == 6
    again = batches("sync", server.url, store_path)
    assert again.submit(rows(10)) == 0
    assert list(again.run(rows(10), poll=0.001)) == right(rows(10))
    check_once(server, 10)
    assert again.status()[0].left == 0


def test_another_account_is_asked_for_a_batch_that_it_has_not(server, store_path):
    batches("sync", server.url, store_path).submit(rows(3))
    with BatchServer() as other, pytest.raises(openai.NotFoundError) as caught:
        batches("sync", other.url, store_path).run(rows(3))
    assert "rows of step 'label' are in batch batch-0" in caught.value.__notes__[-1]


def test_rows_of_a_batch_whose_answers_are_gone_can_be_freed(server, store_path):
    """Nothing is paid twice before the user says so, and the error says how."""
    batch = batches("sync", server.url, store_path)
    batch.submit(rows(3))
    server.end(server.batches[0], "completed")
    del server.files[server.batches[0]["output_file_id"]]
    for _ in range(2):
        with pytest.raises(openai.NotFoundError) as caught:
            batch.run(rows(3), poll=0.001)
    assert "`ckpt forget STORE --step label/batches`" in "".join(caught.value.__notes__)
    assert len(server.batches) == 1
    batch._step.store.close()
    with Store(store_path) as store:
        assert store.forget("label/batches") == 2
    assert list(batches("sync", server.url, store_path).run(rows(3), poll=0.001)) == right(rows(3))


# --- wrong use


def test_wrong_use_is_told_at_once(store_path):
    here = client("sync", "http://127.0.0.1:9/v1")
    with pytest.raises(TypeError, match="has no client of the openai package"):
        Batches(sync_step(store_path), {"client": 1})
    with pytest.raises(TypeError, match="no such parameter"):
        Batches(sync_step(store_path), {"klient": here})
    with pytest.raises(ValueError, match="put the number of the sample into the row"):
        Batches(sync_step(store_path, duplicates="separate"), {"client": here})
    with pytest.raises(ValueError, match="max_requests must be"):
        Batches(sync_step(store_path), {"client": here}, max_requests=0)
    with pytest.raises(TypeError, match="rows must be an iterable"):
        Batches(sync_step(store_path), {"client": here}).submit({"n": 1})


# --- killed, and several at once


def start(*arguments, **options):
    process = context.Process(target=live, args=arguments, kwargs=options)
    process.start()
    return process


def kill(process):
    process.kill()
    process.join()
    assert process.exitcode == -9
    process.close()


def until(is_so):
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("instant", ["upload", "create", "made", "in progress", "half collected"])
def test_a_killed_driver_is_gone_on_with(server, store_path, instant):
    """Killed while it uploads, between upload and batch, between batch and note, while it waits, in
    the middle of the answers: what is there is collected, the rest submitted."""
    if instant == "upload":
        server.upload_faults = ["hold"]
    elif instant in ("create", "made"):
        server.faults = ["hold" if instant == "create" else "made hold"]
    elif instant == "in progress":
        server.looks = 10**6
    else:
        server.seconds = 0.005
    process = start("sync", server.url, store_path, rows(10))
    awaited = {"made": "batches", "in progress": "retrieve", "half collected": "content"}
    what = awaited.get(instant, instant)
    until(lambda: server.batches if what == "batches" else what in server.requests)
    kill(process)
    server.gate.set()
    server.looks, server.seconds = 0, 0.0
    server._looks = dict.fromkeys(server._looks, 0)
    batch = batches("sync", server.url, store_path)
    assert list(batch.run(rows(10), poll=0.001)) == right(rows(10))
    check_once(server, 10)
    assert set(server.answered.values()) == {1}


@pytest.mark.slow
def test_a_batch_that_comes_late_is_waited_for(server, store_path):
    """The provider makes it after the process that asked for it was killed."""
    server.faults = ["late hold"]
    process = start("sync", server.url, store_path, rows(5))
    until(lambda: "create" in server.requests)
    kill(process)
    server.gate.set()
    until(lambda: server._late)
    batch = batches("sync", server.url, store_path)
    assert list(batch.run(rows(5), poll=0.001)) == right(rows(5))
    check_once(server, 5)


@pytest.mark.slow
def test_processes_that_submit_at_once_submit_a_row_once(server, store_path):
    """Their rows overlap; each has all its results."""
    server.looks, server.seconds = 3, 0.003
    given = [rows(30), rows(40, start=10)]
    processes = [start("sync", server.url, store_path, each) for each in given]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    check_once(server, 40)
    with Store(store_path) as store:
        assert {it.attempts for it in store.records("label")} == {1}
        assert sum(1 for _ in store.records("label", "ok")) == 40


@pytest.mark.slow
def test_a_process_that_is_submitting_is_waited_for(server, store_path):
    """Its rows are neither free nor submitted by another one, however long it takes."""
    server.upload_faults = ["wait hold"]
    processes = [start("sync", server.url, store_path, rows(10))]
    until(lambda: "upload" in server.requests)
    processes.append(start("sync", server.url, store_path, rows(10)))
    with Store(store_path) as store:
        until(lambda: len(store.runs("label/batches")) == 2)
    time.sleep(0.2)  # it would ask for the batch, find none and submit
    assert server.requests == ["upload"]
    server.gate.set()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    check_once(server, 10)


def kill_at_random(server, store_path, kills, seed):
    """Kill the driver at random instants; then let it end."""
    print(f"seed {seed}")
    chance, given = random.Random(seed), rows(8 * kills)
    server.looks, server.seconds = 2, 0.001
    for _ in range(kills):
        process = start("sync", server.url, store_path, given)
        last = len(server.requests) + chance.randrange(12)
        until(lambda: len(server.requests) > last or not process.is_alive())
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.join()
        print(f"killed after {server.requests[-1]}, {len(server.batches)} batches")
        process.close()
    batch = batches("sync", server.url, store_path)
    assert list(batch.run(given, poll=0.001)) == right(given)
    check_once(server, len(given))
    assert set(server.answered.values()) == {1}
    with Store(store_path) as store:
        assert {it.attempts for it in store.records("label")} == {1}
        assert store.verify() == []


@pytest.mark.slow
def test_two_kills_at_random_instants(server, store_path):
    """Every row is submitted once, by the provider's log."""
    kill_at_random(server, store_path, 2, random.randrange(10**6))


@pytest.mark.soak
def test_twenty_kills_at_random_instants(server, store_path):
    """Every row is submitted once, by the provider's log."""
    kill_at_random(server, store_path, 20, random.randrange(10**6))
