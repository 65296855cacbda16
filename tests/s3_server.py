"""An S3 on loopback, moto's, in a process of its own, behind a proxy that has faults."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

PROXY = os.path.join(os.path.dirname(__file__), "faulty_proxy.py")


@contextlib.contextmanager
def process(*args, **options):
    with subprocess.Popen([sys.executable, *args], stderr=subprocess.DEVNULL, **options) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture(scope="module")
def s3():
    """The port of an S3 of moto's."""
    pytest.importorskip("moto", reason="moto is not installed: uv sync --group cloud")
    pytest.importorskip("flask", reason="flask is not installed: uv sync --group cloud")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with process("-m", "moto.server", "-H", "127.0.0.1", "-p", str(port), stdout=-3):
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port


@pytest.fixture(scope="module")
def s3_proxy(s3):
    with process(PROXY, str(s3), stdout=subprocess.PIPE, text=True) as started:
        yield int(started.stdout.readline())


def call(port, path, data=b""):
    url = f"http://127.0.0.1:{port}{path}"
    urllib.request.urlopen(urllib.request.Request(url, data, method="PUT"), timeout=30).close()


@pytest.fixture
def url(s3_proxy, request, monkeypatch):
    name = f"b{abs(hash(request.node.name)) % 10**9}"
    call(s3_proxy, f"/{name}")
    for variable, value in (
        ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_proxy}"), ("AWS_ALLOW_HTTP", "true"),
    ):  # fmt: skip
        monkeypatch.setenv(variable, value)
    return f"s3://{name}/a/prefix"
