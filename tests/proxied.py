"""A proxy in front of a provider on loopback: in a thread of the test, or a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from pathlib import Path

import httpx
from cli_helpers import start, wait_for

from checkpointdb.file.read import Reader
from checkpointdb.integrations.httpx import Checkpointed
from checkpointdb.integrations.peers import Door
from checkpointdb.integrations.proxy import Relay, listen, server_of
from checkpointdb.integrations.upstream import Upstream

SECRET = "sk-never-on-disk-0123456789"
ASK = {"model": "m-1", "messages": [{"role": "user", "content": "hello"}]}
STREAMED = ASK | {"stream": True}
CHAT = "/v1/chat/completions"
STREAMS = {
    "chat": (CHAT, STREAMED),
    "responses": ("/v1/responses", {"model": "m-1", "input": "hello", "stream": True}),
    "anthropic": ("/v1/messages", STREAMED | {"max_tokens": 9}),
    "gemini": ("/v1beta/models/g-1:streamGenerateContent?alt=sse", {"contents": []}),
}
WHOLE = {
    "chat": (CHAT, ASK),
    "responses": ("/v1/responses", {"model": "m-1", "input": "hello"}),
    "embeddings": ("/v1/embeddings", {"model": "e-1", "input": ["hello"]}),
    "anthropic": ("/v1/messages", ASK | {"max_tokens": 9}),
    "gemini": (f"/v1beta/models/g-1:generateContent?key={SECRET}", {"contents": []}),
}


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
        async with contextlib.aclosing(Upstream()) as upstream:
            relay = Relay(*self._given, upstream, *self._last)
            self._servers.append(server_of(relay, self._transport.aclose))
            await self._servers[0].serve([self._listening])

    def stop(self):
        """Can be repeated."""
        self._servers[0].should_exit = True
        self._thread.join()
        self._listening.close()


@contextlib.contextmanager
def proxies(provider, store_path):
    """Give what starts a proxy in this process; each ends with the block."""
    begun = []

    def proxy(store=store_path, **options):
        begun.append(Proxy(provider, store, **options))
        return begun[-1]

    yield proxy
    provider.gate.set()
    for each in begun:
        each.stop()


@contextlib.contextmanager
def processes(provider, store_path, folder):
    """Give what starts `ckpt proxy` in a process of its own; each ends with the block."""
    begun = []

    def process(*options, **more):
        command = "proxy", store_path, "--to", provider.origin, "--port", "0", *options
        process = start(*command, cwd=folder, **more)
        begun.append(process)
        said = process.stderr.readline()
        assert said.startswith("http"), said + process.stderr.read()
        process.url = said.split()[0].removesuffix("/v1")
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
