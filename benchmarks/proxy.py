"""The proxy under load: 256 clients, 10,000 requests of 5 ms, against going direct.

    python -m benchmarks.proxy [--requests 10000] [--clients 256] [--pairs 3]

Provider, proxy and clients are processes of their own; each speaks plain sockets where it is not
the one that is measured. Direct and through the proxy in turns, as pairs. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

SECONDS = 0.005
ANSWER = json.dumps(
    {
        "id": "c", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
    }
).encode()  # fmt: skip
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Message(asyncio.Protocol):
    """One end of a kept connection: bytes in, and each whole message of HTTP/1.1 given on."""

    def connection_made(self, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport, self._got = transport, b""

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = self._got[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            if len(self._got) < end + 4 + length:
                return
            self._got = self._got[end + 4 + length :]
            self.message(head)

    def message(self, head: bytes) -> None:
        """Take a message whose head is this."""
        raise NotImplementedError


class Served(Message):
    """A provider's end: answers after 5 ms."""

    def message(self, head: bytes) -> None:
        answer = HEAD % len(ANSWER) + ANSWER
        asyncio.get_running_loop().call_later(SECONDS, self.transport.write, answer)


class Client(Message):
    """A client's end: sends its next request when it has its answer."""

    def __init__(self, load: Load) -> None:
        self._load = load

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._next()

    def message(self, head: bytes) -> None:
        assert head.startswith(b"http/1.1 200"), head
        self._load.took.append(time.perf_counter() - self._start)
        self._next()

    def _next(self) -> None:
        n = next(self._load.numbers, None)
        if n is None:
            self.transport.close()
            self._load.left()
            return
        content = b'{"model":"m","messages":[{"role":"user","content":"row %d"}]}' % n
        self._start = time.perf_counter()
        self.transport.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer k\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(content), content)
        )


class Load:
    """Requests that some clients send, each to be had once."""

    def __init__(self, first: int, requests: int, clients: int) -> None:
        self.numbers, self.took = iter(range(first, first + requests)), list[float]()
        self._clients, self.over = clients, asyncio.Event()

    def left(self) -> None:
        """Have one client less."""
        self._clients -= 1
        if not self._clients:
            self.over.set()


async def provide() -> None:
    """Be the provider."""
    server = await asyncio.get_running_loop().create_server(Served, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def ask(port: int, first: int, requests: int, clients: int) -> None:
    """Be the clients; print wall time and percentiles."""
    load, loop, start = Load(first, requests, clients), asyncio.get_running_loop(), time.time()
    for _ in range(clients):
        await loop.create_connection(lambda: Client(load), "127.0.0.1", port)
    await load.over.wait()
    seconds, took = time.time() - start, sorted(load.took)
    assert len(took) == requests
    done = {
        "seconds": seconds, "median_ms": 1e3 * took[len(took) // 2],
        "p99_ms": 1e3 * took[len(took) * 99 // 100],
    }  # fmt: skip
    print(json.dumps(done))


def measured(port: int, first: int, given: Any, pid: int | None = None) -> dict[str, float]:
    """Return what a pass took: on the clock, and of the proxy's processor and memory."""
    before = processor_s(pid) if pid else 0.0
    command = [sys.executable, "-m", "benchmarks.proxy", "--ask", str(port), "--first", str(first)]
    command += ["--requests", str(given.requests), "--clients", str(given.clients)]
    done: dict[str, float] = json.loads(subprocess.check_output(command))
    done["a_request_ms"] = 1e3 * done["seconds"] / given.requests
    if pid:
        done["processor_ms"] = 1e3 * (processor_s(pid) - before) / given.requests
        done["memory_mb"] = memory_mb(pid)
    return {name: round(value, 3) for name, value in done.items()}


def processor_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def paired(direct: int, url: int, pid: int, given: Any) -> dict[str, Any]:
    """Measure direct and first requests in turns; then hits."""
    few = argparse.Namespace(requests=given.requests // 10, clients=given.clients)
    pairs, first = list[dict[str, Any]](), few.requests
    measured(direct, 0, few)
    begun = measured(url, 0, few, pid)
    for _ in range(given.pairs):
        each = {"direct": measured(direct, first, given)}
        each["proxy"] = measured(url, first, given, pid)
        pairs.append(each)
        first += given.requests
    over = [it["proxy"]["a_request_ms"] - it["direct"]["a_request_ms"] for it in pairs]
    ratio = [it["proxy"]["seconds"] / it["direct"]["seconds"] for it in pairs]
    return {
        "first tenth": begun, "pairs": pairs, "hits": measured(url, few.requests, given, pid),
        "overhead of a request, ms, median": round(statistics.median(over), 3),
        "wall time, times direct, median": round(statistics.median(ratio), 2),
    }  # fmt: skip


def started(*command: str, **streams: Any) -> subprocess.Popen[str]:
    """Start a process of Python's."""
    return subprocess.Popen([sys.executable, *command], text=True, **streams)


def main() -> None:
    """Measure, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--provide", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ask", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.provide:
        asyncio.run(provide())
    elif given.ask:
        asyncio.run(ask(given.ask, given.first, given.requests, given.clients))
    else:
        compare(given)


def compare(given: Any) -> None:
    """Start provider and proxy, and measure them."""
    upstream = started("-m", "benchmarks.proxy", "--provide", stdout=subprocess.PIPE)
    assert upstream.stdout is not None
    direct = int(upstream.stdout.readline())
    with tempfile.TemporaryDirectory() as folder:
        proxy = started(
            "-m", "checkpointdb", "proxy", os.path.join(folder, "load.ckpt"),
            "--to", f"http://127.0.0.1:{direct}", "--port", "0", stderr=subprocess.PIPE,
        )  # fmt: skip
        assert proxy.stderr is not None
        port = int(proxy.stderr.readline().split()[0].removesuffix("/v1").rpartition(":")[2])
        try:
            done = {"requests": given.requests, "clients": given.clients}
            print(json.dumps(done | paired(direct, port, proxy.pid, given), indent=2))
        finally:
            for process in (proxy, upstream):
                process.send_signal(signal.SIGTERM)
                process.communicate()


if __name__ == "__main__":
    main()
