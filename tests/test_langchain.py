"""LangChain's own classes over our caches: what was answered is not asked again."""

from __future__ import annotations

import asyncio
import contextlib

import apsw
import pytest

pytest.importorskip("langchain_core", reason="uv sync --group langchain")

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage

import checkpointdb as ckpt
from checkpointdb.integrations.langchain import CheckpointByteStore, CheckpointCache

pytestmark = pytest.mark.filterwarnings("default")  # theirs


def chat(cache, *texts):
    """A chat model that has just these answers to give: one more call raises."""
    answers = iter(
        AIMessage(text, usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3})
        for text in texts
    )
    return GenericFakeChatModel(messages=answers, cache=cache)


def test_an_answer_is_durable_at_once_and_survives_the_process(store_path):
    first = chat(CheckpointCache(store_path, version=1), "four").invoke("2 + 2?")
    with contextlib.closing(apsw.Connection(store_path)) as connection:
        assert connection.execute("select count(*) from results").get == 1
    again = chat(CheckpointCache(store_path, version=1)).invoke("2 + 2?")
    assert again.content == first.content == "four"
    assert again.usage_metadata["output_tokens"] == 2


def test_async_models_too(store_path):
    cache = CheckpointCache(store_path, version=1)
    assert asyncio.run(chat(cache, "four").ainvoke("2 + 2?")).content == "four"
    assert asyncio.run(chat(cache).ainvoke("2 + 2?")).content == "four"


def test_another_version_or_prompt_or_model_is_another_answer(store_path):
    cache = CheckpointCache(store_path, version=1)
    assert FakeListLLM(responses=["a"], cache=cache).invoke("x") == "a"
    assert FakeListLLM(responses=["b"], cache=cache).invoke("y") == "b"
    assert FakeListLLM(responses=["c"], cache=cache).invoke("x") == "c"  # its text is another
    other = CheckpointCache(store_path, version=2)
    assert other.lookup("x", "llm") is None


def test_clear_forgets_this_version_alone(store_path):
    one, two = (CheckpointCache(store_path, version=n) for n in (1, 2))
    for cache in (one, two):
        chat(cache, "four").invoke("2 + 2?")
    two.step.store.close()
    one.clear()
    assert chat(two).invoke("2 + 2?").content == "four"
    assert chat(one, "five").invoke("2 + 2?").content == "five"


class Vectors(Embeddings):
    """Embeddings that count what they are asked."""

    def __init__(self):
        self.asked = []

    def embed_documents(self, texts):
        self.asked += texts
        return [[float(len(text)), 0.1] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def test_embeddings_are_paid_once(store_path):
    cached = pytest.importorskip("langchain_classic.embeddings").CacheBackedEmbeddings
    for texts, asked in (["a", "bb"], ["a", "bb"]), (["bb", "ccc", "a"], ["ccc"]):
        vectors = Vectors()
        store = CheckpointByteStore(store_path, version=1)
        found = cached.from_bytes_store(vectors, store, namespace="m", key_encoder="sha256")
        assert found.embed_documents(texts) == [[float(len(text)), 0.1] for text in texts]
        assert vectors.asked == asked


def test_the_byte_store_is_one(store_path):
    store = CheckpointByteStore(store_path, version=1)
    store.mset([("a'1", b"\x00"), ("a2", b"\xff"), ("b", b"")])
    store.mset([("a2", b"new")])
    assert store.mget(["b", "a2", "none", "a'1"]) == [b"", b"new", None, b"\x00"]
    assert sorted(store.yield_keys(prefix="a")) == ["a'1", "a2"]
    store.mdelete(["a'1", "b"])
    assert list(store.yield_keys()) == ["a2"]
    with ckpt.Store(store_path) as open_store:
        assert open_store.verify() == []
