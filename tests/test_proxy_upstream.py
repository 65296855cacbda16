"""What the proxy does towards the provider: redirects, certificates, compression, time-outs."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import json
import shutil
import subprocess
import threading

import httpx
import pytest
from loopback import Loopback
from provider import whole
from proxied import ASK, CHAT, post, records
from starlette.responses import Response
from starlette.routing import Route

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


@pytest.mark.slow
def test_a_model_may_think_for_long(answering):
    """A client's usual five seconds are no limit."""

    async def slow():
        await asyncio.sleep(6)
        return Response(ANSWER, headers=JSON)

    url, _ = answering(slow)
    assert post(url + CHAT, ASK).content == ANSWER
