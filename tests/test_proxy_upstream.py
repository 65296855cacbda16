"""What the proxy does towards the provider: redirects, certificates, compression, time-outs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gzip
import http.server
import json
import os
import shutil
import socket
import socketserver
import subprocess
import threading
import time

import httpx
import openai
import pytest
from loopback import Loopback
from provider import whole
from proxied import ASK, CHAT, post, records
from starlette.responses import Response
from starlette.routing import Route

from checkpointdb.integrations import peers
from checkpointdb.integrations.peers import uid_of
from checkpointdb.integrations.upstream import Upstream

JSON = {"content-type": "application/json"}
ANSWER = json.dumps(whole(CHAT, ASK, 1)).encode()


@pytest.fixture
def answering(proxy):
    """Start a provider that answers in one way, and a proxy to it; give the proxy's address."""
    begun = []

    def answering(answer, **options):
        async def serve(request):
            await request.body()
            asked.append(request)
            return await answer() if asyncio.iscoroutinefunction(answer) else answer()

        asked = []
        provider = Loopback([Route("/{path:path}", serve, methods=["GET", "POST"])], **options)
        scheme = "https" if options else "http"
        begun.append((provider.__enter__(), proxy(to=provider.origin.replace("http", scheme))))
        return begun[-1][1].url, asked

    yield answering
    for provider, its in begun:
        its.stop()  # first: it has connections to the provider
        provider.__exit__()


def test_a_redirect_is_the_clients(answering):
    """It is passed on, and not followed: a credential goes to no other place."""
    url, asked = answering(lambda: Response(status_code=307, headers={"location": "/elsewhere"}))
    for answer in (post(url + CHAT, ASK), httpx.get(url + "/v1/models")):
        assert (answer.status_code, answer.headers["location"]) == (307, "/elsewhere")
    assert len(asked) == 2


def test_compressed_answers(answering, store_path):
    """What is saved is saved as it reads; what passes through keeps its bytes."""
    packed = gzip.compress(ANSWER)
    headers = JSON | {"content-encoding": "gzip"}
    url, asked = answering(lambda: Response(packed, headers=headers))
    for _ in range(2):
        saved = post(url + CHAT, ASK)
        assert saved.content == ANSWER and "content-encoding" not in saved.headers
    with httpx.stream("GET", url + "/v1/models", headers={"accept-encoding": "gzip, x"}) as passed:
        assert b"".join(passed.iter_raw()) == packed
    assert asked[0].headers["accept-encoding"] == "gzip"
    assert asked[1].headers["accept-encoding"] == "gzip, x"
    assert len(records(store_path, "ok")) == 1


def test_an_answer_that_cannot_be_decoded(answering, store_path):
    """It is no result, and its client is told."""
    headers = JSON | {"content-encoding": "gzip"}
    url, _ = answering(lambda: Response(ANSWER, headers=headers))
    answer = post(url + CHAT, ASK)
    assert answer.status_code == 502
    assert "DecodingError" in answer.json()["error"]["message"]
    assert records(store_path, "ok") == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate")
def test_the_certificate_is_checked(answering, tmp_path, monkeypatch):
    """One that nobody vouches for is refused; SSL_CERT_FILE says who else may."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    options = {"ssl_keyfile": key, "ssl_certfile": certificate}
    url, asked = answering(lambda: Response(ANSWER, headers=JSON), **options)
    refused = post(url + CHAT, ASK)
    assert refused.status_code == 502
    assert "certificate verify failed" in refused.json()["error"]["message"]
    assert asked == []
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    url, asked = answering(lambda: Response(ANSWER, headers=JSON), **options)
    assert post(url + CHAT, ASK).content == ANSWER


def test_the_way_out_is_the_environments(proxy, monkeypatch):
    """HTTP_PROXY and its like hold for what the proxy sends."""
    asked = []

    class Way(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Way) as way:
        way.timeout = 20
        serving = threading.Thread(target=way.handle_request)
        serving.start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{way.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        url = proxy(to="http://provider.example").url
        assert httpx.get(url + "/v1/models").status_code == 204
        serving.join()
    assert asked == ["http://provider.example/v1/models"]


class Breaking(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answer nothing to the first requests: the connection breaks."""

    daemon_threads = True

    def __init__(self, breaks):
        super().__init__(("127.0.0.1", 0), Broken)
        self.breaks, self.asked, self.gate = breaks, 0, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Broken(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked += 1
        n = self.server.asked
        self.server.gate.wait(20)
        if n <= self.server.breaks:
            return
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(whole(CHAT, ASK, n)).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def breaking():
    with Breaking(breaks=1) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.gate.set()
        server.shutdown()
        serving.join()


def ask(url, *path):
    """Ask with OpenAI's own client; return which answer of the provider it got."""
    with openai.OpenAI(base_url="/".join((url, *path, "v1")), api_key="k", max_retries=1) as client:
        said = client.chat.completions.create(**ASK).choices[0].message.content
        return said.partition("#")[2]


def test_an_sdk_asks_again_when_the_providers_connection_broke(breaking, proxy):
    """All who waited for the answer do, and share the next one."""
    url = proxy(to=breaking.url).url
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(ask, url) for _ in range(3)]
        time.sleep(0.5)
        breaking.gate.set()
        assert {answer.result() for answer in answers} == {"2"}
    assert breaking.asked == 2


def test_a_retry_after_a_broken_connection_is_of_the_same_sample(breaking, proxy):
    breaking.gate.set()
    url = proxy(to=breaking.url).url
    assert [ask(url, "run", "a", "1") for _ in range(2)] == ["2", "3"]
    assert [ask(url, "run", "a", "2") for _ in range(2)] == ["2", "3"]
    assert breaking.asked == 3


def test_what_would_be_refused_again_is_not_asked_again(provider, proxy):
    url = proxy(token="0123456789").url
    with pytest.raises(openai.PermissionDeniedError) as refused:
        ask(url)
    assert refused.value.response.headers["x-should-retry"] == "false"


@pytest.mark.slow
def test_a_model_may_think_for_long(answering):
    """A client's usual five seconds are no limit."""

    async def slow():
        await asyncio.sleep(6)
        return Response(ANSWER, headers=JSON)

    url, _ = answering(slow)
    assert post(url + CHAT, ASK).content == ANSWER


def test_few_clients_share_few_connections(provider, proxy):
    """One at a time, all use the same: each other one would be a handshake more."""
    url = proxy().url
    for seed in range(4):
        post(url + CHAT, ASK | {"seed": seed})
    assert len(set(provider.clients)) == 1
    upstream = Upstream()
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(upstream.pool()) for _ in range(40)]
        assert len({id(pool) for pool in pools}) == 3
    with upstream.pool() as first:
        assert first is pools[0]
    asyncio.run(upstream.aclose())


@pytest.mark.linux
@pytest.mark.parametrize("is_asked", [True, False])
def test_whose_the_other_end_is(is_asked, monkeypatch):
    """By the kernel's answer, and by its list; nobody's once it is closed: it says root then."""
    if not is_asked:
        monkeypatch.setattr(peers, "_SOCK_DIAG", 999)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for user in {os.getuid(), 65534 if os.getuid() == 0 else os.getuid()}:
            before = os.geteuid()
            os.seteuid(user)
            client = socket.create_connection(server.getsockname())
            os.seteuid(before)
            with server.accept()[0] as ours:
                ends = ours.getpeername(), ours.getsockname()
                assert uid_of(*ends) == user
                client.close()
                assert uid_of(*ends) is None
        assert uid_of(("127.0.0.1", 1), ends[1]) is None
