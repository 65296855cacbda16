"""The transport, in front of providers on loopback: their log is the oracle."""

from __future__ import annotations

import asyncio
import os

import httpx
import httpx2
import openai
import pytest
from cli_helpers import wait_for
from provider import text_of
from proxied import ASK, SECRET, STREAMED, STREAMS, WHOLE, bytes_on_disk, records

import checkpointdb as ckpt
from checkpointdb.integrations.httpx import Checkpointed
from checkpointdb.integrations.prices import Price, Prices, Tokens, tokens_of


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


@pytest.mark.parametrize("fault", ["cut", "error", "failed", "reset"])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_broken_stream_is_no_result(provider, store_path, kind, fault):
    """The client sees how it broke; the next one pays for a whole one. "failed" has an error in its
    middle, and ends well."""
    path, body = STREAMS[kind]
    provider.faults = [fault]
    with httpx.Client(transport=Checkpointed(store_path, version=1)) as client:
        try:
            with client.stream("POST", provider.origin + path, json=body) as answer:
                seen = b"".join(answer.iter_raw())
            assert seen.count(b"data:") == {"error": 5, "failed": 6}.get(fault, 4)
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


def test_keys_of_the_transport_are_those_of_the_api(provider, store_path):
    """Whoever knows the row can look it up."""
    with httpx.Client(transport=Checkpointed(store_path, version=1)) as client:
        client.post(provider.origin + "/v1/chat/completions", json=ASK)
    (record,) = records(store_path)
    path = "/v1/chat/completions"
    row = {"origin": provider.origin, "method": "POST", "path": path, "body": ASK}
    assert record.input == row
    assert record.key == ckpt.key_of("m-1 /v1/chat/completions", 1, row)
