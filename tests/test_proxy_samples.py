"""Samples of one prompt through the proxy: which request gets which, whatever breaks."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
from cli_helpers import wait_for
from proxied import ASK, STREAMED, post


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
