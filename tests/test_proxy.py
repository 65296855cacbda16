"""`ckpt proxy` and the transport, in front of providers on loopback: their log is the oracle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import httpx2
import openai
import pytest
from cli_helpers import start, wait_for
from provider import Provider, text_of

import checkpointdb as ckpt
from checkpointdb.file.read import Reader
from checkpointdb.integrations.httpx import Checkpointed
from checkpointdb.integrations.peers import Door
from checkpointdb.integrations.prices import Price, Prices, Tokens, tokens_of
from checkpointdb.integrations.proxy import Relay, listen, server_of

SECRET = "sk-never-on-disk-0123456789"
ASK = {"model": "m-1", "messages": [{"role": "user", "content": "hello"}]}
STREAMED = ASK | {"stream": True}

STREAMS = {
    "chat": ("/v1/chat/completions", STREAMED),
    "responses": ("/v1/responses", {"model": "m-1", "input": "hello", "stream": True}),
    "anthropic": ("/v1/messages", STREAMED | {"max_tokens": 9}),
    "gemini": ("/v1beta/models/g-1:streamGenerateContent?alt=sse", {"contents": []}),
}
WHOLE = {
    "chat": ("/v1/chat/completions", ASK),
    "responses": ("/v1/responses", {"model": "m-1", "input": "hello"}),
    "embeddings": ("/v1/embeddings", {"model": "e-1", "input": ["hello"]}),
    "anthropic": ("/v1/messages", ASK | {"max_tokens": 9}),
    "gemini": (f"/v1beta/models/g-1:generateContent?key={SECRET}", {"contents": []}),
}


@pytest.fixture
def provider():
    with Provider() as provider:
        yield provider


class Proxy:
    """A proxy in a thread of this process, with the options of the transport."""

    def __init__(self, provider, store, token=None, most=1 << 20, to=None, **options):
        self._transport = Checkpointed(store, version=1, **options)
        self._listening, self._servers = listen("127.0.0.1", 0), []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._given = to or provider.origin, self._transport
        self._last = Door(token), most
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        wait_for(lambda: self._servers and self._servers[0].started)

    async def _serve(self):
        async with httpx.AsyncClient() as client:
            relay = Relay(*self._given, client, *self._last)
            self._servers.append(server_of(relay, self._transport.aclose))
            await self._servers[0].serve([self._listening])

    def stop(self):
        """Can be repeated."""
        self._servers[0].should_exit = True
        self._thread.join()
        self._listening.close()


@pytest.fixture
def proxy(provider, store_path):
    """Start a proxy in this process; each ends with the test."""
    begun = []

    def proxy(store=store_path, **options):
        begun.append(Proxy(provider, store, **options))
        return begun[-1]

    yield proxy
    provider.gate.set()
    for each in begun:
        each.stop()


@pytest.fixture
def process(provider, store_path, tmp_path):
    """Start `ckpt proxy` in a process of its own; each ends with the test."""
    begun = []

    def process(*options):
        process = start(
            "proxy", store_path, "--to", provider.origin, "--port", "0", *options, cwd=tmp_path
        )
        begun.append(process)
        said = process.stderr.readline()
        process.url = said.split()[0].removesuffix("/v1")
        assert process.url.startswith("http"), said + process.stderr.read()
        return process

    yield process
    for each in begun:
        stop(each)


def stop(process, number=signal.SIGTERM):
    if process.poll() is None:
        process.send_signal(number)
    process.wait(timeout=30)
    process.stdout.close()
    process.stderr.close()
    return process.returncode


def post(url, body, **headers):
    given = {"authorization": f"Bearer {SECRET}", "cookie": f"c={SECRET}"} | headers
    return httpx.post(url, json=body, headers=given, timeout=30)


def records(path, status=None):
    with Reader(path) as reader:
        return list(reader.records(status=status))


def bytes_on_disk(path):
    files = [Path(path + end) for end in ("", "-wal")]
    return b"".join(file.read_bytes() for file in files if file.exists())


# --- the transport


def clients(store, **options):
    """Every client that there is: a function that asks, and its close."""
    for package in (httpx, httpx2):
        yield package.Client(transport=Checkpointed(store, version=1, **options))


@pytest.mark.parametrize("kind", WHOLE)
def test_an_answer_is_paid_once_by_all_clients(provider, store_path, kind):
    """httpx and httpx2, sync and async: one call, the same bytes, no secret on the disk."""
    path, body = WHOLE[kind]
    headers = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET}
    answers = []
    for client in clients(store_path):
        with client:
            answers += [client.post(provider.origin + path, json=body, headers=headers)] * 2

    async def later():
        for package in (httpx, httpx2):
            transport = Checkpointed(store_path, version=1)
            async with package.AsyncClient(transport=transport) as client:
                answers.append(await client.post(provider.origin + path, json=body))

    asyncio.run(later())
    assert {answer.content for answer in answers} == {answers[0].content}
    assert [answer.headers["x-checkpointdb"] for answer in answers].count("miss") == 2  # one, twice
    assert {answer.headers["x-request-id"] for answer in answers} == {"r1"}
    assert len(provider.asked) == 1
    (record,) = records(store_path)
    assert record.result["body"] == answers[0].json()
    assert SECRET.encode() not in bytes_on_disk(store_path)
    assert b"secret-cookie" not in bytes_on_disk(store_path)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_is_saved_whole_and_replayed(provider, store_path, kind):
    path, body = STREAMS[kind]
    for client in clients(store_path):
        with client, client.stream("POST", provider.origin + path, json=body) as answer:
            first = b"".join(answer.iter_raw())
        assert first.count(b"data:") >= 7
        (record,) = records(store_path)
        assert record.result["body"].encode() == first
    assert len(provider.asked) == 1


@pytest.mark.parametrize("fault", ["cut", "error", "reset"])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_broken_stream_is_no_result(provider, store_path, kind, fault):
    """The client sees how it broke; the next one pays for a whole one."""
    path, body = STREAMS[kind]
    provider.faults = [fault]
    with httpx.Client(transport=Checkpointed(store_path, version=1)) as client:
        try:
            with client.stream("POST", provider.origin + path, json=body) as answer:
                seen = b"".join(answer.iter_raw())
            assert seen.count(b"data:") == (5 if fault == "error" else 4)
        except httpx.TransportError:
            assert fault == "reset"
        wait_for(lambda: len(records(store_path, "error")) == 1)
        with client.stream("POST", provider.origin + path, json=body) as answer:
            assert answer.headers["x-checkpointdb"] == "miss"
            assert b"#2" in b"".join(answer.iter_raw())
    assert len(records(store_path, "ok")) == 1


def test_identity(provider, store_path):
    """What changes an answer is identity; bookkeeping, credentials and how numbers are written
    are not."""
    url = provider.origin + "/v1/chat/completions"
    base = {"json": ASK | {"temperature": 1}}
    same = [
        {"json": {"temperature": 1.0, **ASK}},
        {"json": ASK | {"temperature": 1, "metadata": {"trace": "x"}}},
        base | {"headers": {"authorization": "other"}},
        base | {"params": {"key": "other"}},
    ]
    other = [
        {"json": ASK | {"temperature": True}},
        {"json": ASK | {"temperature": 1, "seed": 2}},
        base | {"headers": {"openai-beta": "x"}},
        base | {"params": {"api-version": "2"}},
    ]
    with httpx.Client(transport=Checkpointed(store_path, version=1)) as client:
        client.post(url, **base)
        for more in same:
            assert client.post(url, **more).headers["x-checkpointdb"] == "hit", more
        for more in other:
            assert client.post(url, **more).headers["x-checkpointdb"] == "miss", more
    with httpx.Client(transport=Checkpointed(store_path, version=2)) as client:
        assert client.post(url, **base).headers["x-checkpointdb"] == "miss"


def test_what_creates_something_passes_through(provider, store_path):
    cases = [
        ("POST", "/v1/responses", {"model": "m", "input": "x", "background": True}),
        ("POST", "/v1/responses", {"model": "m", "input": "x", "conversation": "c"}),
        ("POST", "/v1/threads/t/messages", {"content": "x"}),
        ("POST", "/v1/files", {"a": 1}),
        ("POST", "/v1/chat/completions", ["no object"]),
        ("GET", "/v1/models", None),
    ]
    with httpx.Client(transport=Checkpointed(store_path, version=1)) as client:
        for method, path, body in cases * 2:
            answer = client.request(method, provider.origin + path, json=body)
            assert answer.status_code == 200
            assert "x-checkpointdb" not in answer.headers
    assert len(provider.asked) == 12
    assert not os.path.exists(store_path) or records(store_path) == []


@pytest.mark.parametrize("is_async", [False, True])
def test_the_sdk(provider, store_path, is_async):
    """OpenAI's own client: chat, responses, embeddings, streams, an error; all once."""

    def options():
        transport = Checkpointed(store_path, version=1)
        package = httpx2 if openai.VERSION >= "3" else httpx
        make = package.AsyncClient if is_async else package.Client
        return {"base_url": f"{provider.origin}/v1", "api_key": SECRET,
                "http_client": make(transport=transport)}  # fmt: skip

    def all_of(client):
        yield client.chat.completions.create(**ASK)
        yield client.responses.create(model="m-1", input="hello")
        yield client.embeddings.create(model="e-1", input=["hello"])
        yield client.chat.completions.create(**STREAMED)
        yield client.responses.create(model="m-1", input="hello", stream=True)

    def live():
        with openai.OpenAI(**options()) as client:
            return [
                [each.model_dump() for each in it] if isinstance(it, openai.Stream)
                else it.model_dump()
                for it in all_of(client)
            ]  # fmt: skip

    async def alive():
        async with openai.AsyncOpenAI(**options()) as client:
            done = [await it for it in all_of(client)]
            return [
                [each.model_dump() async for each in it] if isinstance(it, openai.AsyncStream)
                else it.model_dump()
                for it in done
            ]  # fmt: skip

    first, second = (asyncio.run(alive()) if is_async else live() for _ in range(2))
    assert first == second
    assert first[0]["choices"][0]["message"]["content"] == text_of(1)
    assert len(first[3]) == 8 and len(first[4]) == 9
    assert len(provider.asked) == 5


def test_a_task_that_is_cancelled_loses_nothing(provider, store_path):
    """A stream that its reader leaves is read to its end, and an answer awaited; joined by equal
    requests meanwhile."""
    url = provider.origin + "/v1/chat/completions"
    provider.gate.clear()

    async def live():
        async with httpx.AsyncClient(transport=Checkpointed(store_path, version=1)) as client:
            left = asyncio.create_task(client.post(url, json=ASK))
            while not provider.begun:
                await asyncio.sleep(0.005)
            left.cancel()
            async with client.stream("POST", url, json=STREAMED) as answer:
                async for _ in answer.aiter_lines():
                    break
            joined = asyncio.create_task(client.post(url, json=ASK))
            await asyncio.sleep(0)
            provider.gate.set()
            assert (await joined).headers["x-checkpointdb"] in ("joined", "hit")

    asyncio.run(live())
    assert len(provider.asked) == 2
    assert len(records(store_path, "ok")) == 2


# --- money


def test_prices():
    """Each provider's usage is counted; what is cached has its own price."""
    prices = Prices({"m-1": Price(1, 10, 0.1)})
    body = {"usage": {"prompt_tokens": 100, "completion_tokens": 10,
                      "prompt_tokens_details": {"cached_tokens": 60}}}  # fmt: skip
    answer = {"headers": {}, "body": body, "form": "compact", "model": "m-1-2025-01-31"}
    assert tokens_of(answer) == Tokens(40, 10, 60)
    assert prices.cost(answer) == pytest.approx((40 + 100 + 6) / 1e6)
    assert prices.knows("m-1-20250131") and not prices.knows("m-1-mini")
    with pytest.raises(ValueError, match=r"\$\[\.\.\.\]"):
        Prices.read(b'{"m": {"inputs": 1}}')


@pytest.mark.parametrize("kind", [*STREAMS, *WHOLE])
def test_usage_is_found(provider, store_path, kind):
    path, body = (STREAMS | WHOLE)[kind] if kind in WHOLE else STREAMS[kind]
    with httpx.Client(transport=Checkpointed(store_path, version=1)) as client:
        client.post(provider.origin + path, json=body)
    (record,) = records(store_path)
    cached = 10 if kind == "anthropic" else 0
    assert tokens_of(record.result) == Tokens(20, 6, cached)
    assert {20, 6} <= set(record.usage.values())


# --- the proxy


def test_equal_requests_of_any_program_are_paid_once(provider, process, store_path):
    """16 at once are one call; what is answered survives a kill of the proxy."""
    url = (first := process()).url + "/v1/chat/completions"
    provider.gate.clear()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(post(url, ASK))) for _ in range(16)]
    for thread in threads:
        thread.start()
    wait_for(lambda: provider.begun)
    provider.gate.set()
    for thread in threads:
        thread.join()
    first.kill()
    again = post(process().url + "/v1/chat/completions", ASK)
    assert {answer.content for answer in [*answers, again]} == {again.content}
    assert again.headers["x-checkpointdb"] == "hit"
    assert len(provider.asked) == 1
    assert provider.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert SECRET.encode() not in bytes_on_disk(store_path)


def test_errors_pass_through_and_are_no_results(provider, proxy, store_path, tmp_path):
    url = proxy().url + "/v1/chat/completions"
    provider.faults = [429]
    bad, good = post(url, ASK), post(url, ASK)
    assert (bad.status_code, bad.json()) == (429, {"error": {"message": "fault 429"}})
    assert bad.headers["x-own"] == "yes"
    assert good.headers["x-checkpointdb"] == "miss"
    provider.faults = [500]
    assert post(url, ASK | {"seed": 1}).status_code == 500
    shown = subprocess.run(
        ["ckpt", "inspect", store_path, "--failures"], capture_output=True, text=True,
        env=os.environ | {"PATH": os.path.dirname(os.sys.executable) + ":" + os.environ["PATH"]},
    )  # fmt: skip
    assert "HTTP 500" in shown.stdout and "UpstreamError" in shown.stdout


def test_everything_else_passes_through_untouched(provider, proxy):
    url = proxy().url
    big = os.urandom(3 << 20)
    answer = httpx.post(url + "/v1/files", content=big)
    assert answer.content == big and answer.headers["x-own"] == "yes"
    assert httpx.get(url + "/v1/models?a=%2F").content == b"listed"
    assert "x-checkpointdb" not in answer.headers
    assert provider.asked[0] == ("/v1/files", big)


def test_curl_is_killed_in_the_middle(provider, proxy, tmp_path):
    """Its answer is awaited and saved, and there when it asks again."""
    url = proxy().url + "/v1/chat/completions"
    command = ["curl", "-s", url, "-H", "content-type: application/json", "-d", json.dumps(ASK)]
    provider.gate.clear()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
        wait_for(lambda: provider.begun)
        killed.kill()
    provider.gate.set()
    again = subprocess.run(command, capture_output=True, timeout=30)
    assert json.loads(again.stdout)["choices"][0]["message"]["content"] == text_of(1)
    assert len(provider.asked) == 1


@pytest.mark.parametrize("kind", ["chat", "responses", "anthropic"])
def test_a_client_leaves_after_the_third_event(provider, proxy, store_path, kind):
    """One call, the whole stream saved, and replayed event by event."""
    path, body = STREAMS[kind]
    url = proxy().url + path
    provider.gate.clear()
    with httpx.stream("POST", url, json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        seen = [next(line for line in lines if line.startswith("data:")) for _ in range(3)]
    provider.gate.set()
    wait_for(lambda: os.path.exists(store_path) and len(records(store_path, "ok")) == 1)
    with httpx.stream("POST", url, json=body, timeout=30) as answer:
        assert answer.headers["x-checkpointdb"] == "hit"
        replayed = answer.read()
    with httpx.stream("POST", provider.origin + path, json=body, timeout=30) as answer:
        direct = answer.read()
    assert [line for line in replayed.decode().splitlines() if line.startswith("data:")][:3] == seen
    assert replayed == direct.replace(b"#2", b"#1").replace(b"-2", b"-1")
    assert len(provider.asked) == 2  # one of them was the direct one


def test_a_stop_waits_for_calls_in_flight(provider, process, store_path):
    """SIGTERM: whoever waits gets its answer, and what nobody waits for is saved."""
    process = process()
    url = process.url + "/v1/chat/completions"
    provider.gate.clear()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(post(url, ASK)))
    waiting.start()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=ASK | {"seed": 1}, timeout=1)
    wait_for(lambda: provider.begun == 2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    provider.gate.set()
    waiting.join()
    assert answers[0].status_code == 200
    assert process.wait(timeout=30) == -signal.SIGTERM
    assert len(records(store_path, "ok")) == 2


# --- samples


def sample(url, *path, body=ASK, **headers):
    answer = post("/".join((url, "run", *path, "v1/chat/completions")), body, **headers)
    answer.raise_for_status()
    return answer.json()["choices"][0]["message"]["content"].partition("#")[2]


def test_samples_of_an_attempt(provider, proxy):
    """The n-th equal request is its own; another attempt gets the same; a name has its own."""
    url = proxy().url
    assert [sample(url, "a", "1") for _ in range(3)] == ["1", "2", "3"]
    assert [sample(url, "a", "2") for _ in range(4)] == ["1", "2", "3", "4"]
    assert [sample(url, "b", "1") for _ in range(2)] == ["5", "6"]
    assert sample(url, "a", "2", body=ASK | {"seed": 1}) == "7"


def test_a_count_survives_the_proxy(provider, process):
    """A proxy that is killed goes on counting; of the call that was in flight nobody had the
    answer, so it is the next one."""
    first = process()
    assert [sample(first.url, "a", "1") for _ in range(2)] == ["1", "2"]
    provider.gate.clear()

    def leave():
        with pytest.raises(httpx.TransportError):
            sample(first.url, "a", "1")

    left = threading.Thread(target=leave)
    left.start()
    wait_for(lambda: provider.begun == 3)
    first.kill()
    left.join()
    provider.gate.set()
    second = process()
    assert sample(second.url, "a", "1", **{"x-stainless-retry-count": "1"}) == "4"
    assert sample(second.url, "a", "1") == "5"
    assert [sample(second.url, "a", "2") for _ in range(4)] == ["1", "2", "4", "5"]


def test_who_left_unanswered_is_joined(provider, proxy):
    url = proxy().url
    provider.gate.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/run/a/1/v1/chat/completions", json=ASK, timeout=1)
    again = []
    waiting = threading.Thread(target=lambda: again.append(sample(url, "a", "1")))
    waiting.start()
    time.sleep(0.1)
    provider.gate.set()
    waiting.join()
    assert again == ["1"]
    assert sample(url, "a", "1") == "2"
    assert len(provider.asked) == 2


def test_an_error_frees_its_number(provider, proxy):
    url = proxy().url
    assert sample(url, "a", "1") == "1"
    provider.faults = [500]
    with pytest.raises(httpx.HTTPStatusError):
        sample(url, "a", "1")
    assert sample(url, "a", "1") == "3"  # whoever asks next
    assert [sample(url, "a", "2") for _ in range(2)] == ["1", "3"]


def test_streamed_samples(provider, proxy):
    url = proxy().url

    def streamed(attempt):
        target = f"{url}/run/a/{attempt}/v1/chat/completions"
        return post(target, STREAMED).text

    one, two = streamed(1), streamed(1)
    assert "#1" in one and "#2" in two
    assert [streamed(2), streamed(2)] == [one, two]


def test_a_run_without_an_attempt(provider, proxy):
    """Requests within a minute are of one attempt, over a restart of the proxy too."""
    url = proxy().url
    assert [sample(url, "a"), sample(url, "a")] == ["1", "2"]
    assert sample(proxy().url, "a") == "3"


# --- money, replay, doors


def test_a_budget(provider, process):
    """402 when it is spent, over restarts; what is saved is given out still."""
    options = ("--max-cost", "0.05", "--cost-per-token", "0.001")
    url = process(*options).url + "/v1/chat/completions"
    asked = [post(url, ASK | {"seed": seed}).status_code for seed in range(3)]
    assert asked == [200, 200, 402]
    url = process(*options).url + "/v1/chat/completions"
    refused = post(url, ASK | {"seed": 2})
    assert refused.status_code == 402
    assert "$0.052 of the budget of $0.05" in refused.json()["error"]["message"]
    assert post(url, ASK | {"seed": 1}).headers["x-checkpointdb"] == "hit"
    assert len(provider.asked) == 2


def test_a_model_without_a_price(provider, process, tmp_path):
    (tmp_path / "prices.json").write_text('{"m-1": {"input": 1000, "output": 2000}}')
    url = process("--prices", "prices.json", "--max-cost", "1").url + "/v1/chat/completions"
    assert post(url, ASK).status_code == 200
    refused = post(url, ASK | {"model": "m-2"})
    assert refused.status_code == 402 and "m-2" in refused.json()["error"]["message"]


def test_read_only_and_record(provider, proxy, store_path):
    url = (recording := proxy()).url + "/v1/chat/completions"
    saved = post(url, ASK)
    recording.stop()
    before = bytes_on_disk(store_path)
    url = (replay := proxy(replay=True)).url + "/v1/chat/completions"
    assert post(url, ASK).content == saved.content
    missing = post(url, ASK | {"seed": 1})
    assert missing.status_code == 404 and "seed" in missing.json()["error"]["message"]
    assert httpx.get(replay.url + "/v1/models").status_code == 404
    replay.stop()
    assert len(provider.asked) == 1 and bytes_on_disk(store_path) == before
    again = post(proxy(record=True).url + "/v1/chat/completions", ASK)
    assert len(provider.asked) == 2 and again.content != saved.content
    assert post(proxy().url + "/v1/chat/completions", ASK).content == again.content


def test_who_is_let_in(provider, proxy):
    url = proxy().url + "/v1/chat/completions"
    assert post(url, ASK).status_code == 200
    assert post(url, ASK, host="evil.example").status_code == 403
    assert post(url, ASK, origin="https://evil.example").status_code == 403
    if os.getuid() == 0:
        command = ["curl", "-s", url, "-d", json.dumps(ASK)]
        done = subprocess.run(command, user=65534, capture_output=True, text=True, cwd="/")
        assert "another user's" in done.stdout
    shown = proxy(token="0123456789", most=1000).url
    path = "/v1/chat/completions"
    assert post(shown + path, ASK).status_code == 403
    assert post(shown + path, ASK, **{"x-checkpointdb-token": "0123456780"}).status_code == 403
    assert post(shown + path, ASK, **{"x-checkpointdb-token": "0123456789"}).status_code == 200
    assert post(f"{shown}/token/0123456789{path}", ASK).status_code == 200
    assert "x-checkpointdb-token" not in provider.headers[-1]
    big = ASK | {"user": "x" * 2000}
    assert post(f"{shown}/token/0123456789{path}", big).status_code == 413


def test_a_provider_that_is_not_there(proxy):
    url = proxy(to="http://127.0.0.1:9").url
    assert post(url + "/v1/chat/completions", ASK).status_code == 502
    assert httpx.get(url + "/v1/models").status_code == 502


def test_the_path_of_the_provider_is_not_doubled(provider, proxy):
    url = proxy(paths=("/v1/rerank",), to=provider.origin + "/v1").url
    assert post(url + "/v1/chat/completions", ASK).status_code == 200
    assert post(url + "/v1/rerank", {"model": "r"}).headers["x-checkpointdb"] == "miss"
    assert [path for path, _ in provider.asked] == ["/v1/chat/completions", "/v1/rerank"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--host", "0.0.0.0"), "give --token"),
        (("--max-cost", "1"), "needs --cost-per-token"),
        (("--read-only", "--record"), "give one of them"),
        (("--path", "rerank"), "must begin with /"),
        (("--token", "short"), "8 characters"),
        (("--to", "example.com"), "must be an address"),
    ],
)
def test_wrong_use(store_path, options, says):
    from cli_helpers import invoke

    done = invoke("proxy", store_path, "--to", "https://api.example", *options)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not os.path.exists(store_path)


def test_keys_of_the_transport_are_those_of_the_api(provider, store_path):
    """Whoever knows the row can look it up."""
    with httpx.Client(transport=Checkpointed(store_path, version=1)) as client:
        client.post(provider.origin + "/v1/chat/completions", json=ASK)
    (record,) = records(store_path)
    path = "/v1/chat/completions"
    row = {"origin": provider.origin, "method": "POST", "path": path, "body": ASK}
    assert record.input == row
    assert record.key == ckpt.key_of("m-1 /v1/chat/completions", 1, row)
