"""`ckpt proxy`, in front of providers on loopback: their log is the oracle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

import httpx
import pytest
from cli_helpers import wait_for
from provider import text_of
from proxied import ASK, SECRET, STREAMS, bytes_on_disk, post, records


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


def test_a_stop_waits_for_calls_that_nobody_waits_for(provider, process, store_path):
    """SIGTERM, and no connection is open any more: the call is awaited and saved still."""
    process = process()
    provider.gate.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(process.url + "/v1/chat/completions", json=ASK, timeout=1)
    wait_for(lambda: provider.begun == 1)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    provider.gate.set()
    assert process.wait(timeout=30) == -signal.SIGTERM
    assert len(records(store_path, "ok")) == 1


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
    other = ASK | {"seed": 1}
    assert post(shown + path, other, **{"x-checkpointdb-token": "0123456789"}).status_code == 200
    assert len(provider.asked) == 2 and "x-checkpointdb-token" not in provider.headers[-1]
    big = ASK | {"user": "x" * 2000}
    assert post(f"{shown}/token/0123456789{path}", big).status_code == 413


def test_a_body_may_have_so_many_bytes(provider, process, store_path):
    """Of a request that would be saved: it is read whole. What passes through is not limited."""
    url = process("--max-body", "0.001").url
    assert post(url + "/v1/chat/completions", ASK).status_code == 200
    refused = post(url + "/v1/chat/completions", ASK | {"user": "x" * 1000})
    assert refused.status_code == 413 and "1,000 bytes" in refused.json()["error"]["message"]
    assert httpx.post(url + "/v1/files", content=b"x" * 5000).status_code == 200
    assert len(provider.asked) == 2 and len(records(store_path)) == 1


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
