"""The proxy under load: 256 clients, 10,000 requests of 5 ms, against going direct.

    python -m benchmarks.proxy [--requests 10000] [--clients 256]

Provider, proxy and clients are processes of their own. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import httpx

SECONDS = 0.005
ANSWER = json.dumps(
    {
        "id": "c", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
    }
).encode()  # fmt: skip
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]


async def provider(scope: Any, receive: Any, send: Any) -> None:
    """Answer after 5 ms; an application for uvicorn."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


async def asked(url: str, requests: int, clients: int) -> list[float]:
    """Send the requests; return how long each took, sorted."""
    numbers, took = iter(range(requests)), list[float]()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:

        async def one() -> None:
            for n in numbers:
                start = time.perf_counter()
                body = {"model": "m", "messages": [{"role": "user", "content": f"row {n}"}]}
                (await client.post(f"{url}/v1/chat/completions", json=body)).raise_for_status()
                took.append(time.perf_counter() - start)

        await asyncio.gather(*(one() for _ in range(clients)))
    return sorted(took)


def measured(url: str, requests: int, clients: int) -> dict[str, float]:
    """Return wall time and percentiles of a pass."""
    start = time.perf_counter()
    took = asyncio.run(asked(url, requests, clients))
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2), "a_request_ms": round(1e3 * seconds / requests, 3),
        "median_ms": round(1e3 * took[len(took) // 2], 1),
        "p99_ms": round(1e3 * took[len(took) * 99 // 100], 1),
    }  # fmt: skip


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    """Measure direct, first and repeated requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=256)
    given = parser.parse_args()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.proxy:provider", "--port", "8799"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*command, "--log-level", "critical"]) as upstream,
    ):
        direct = "http://127.0.0.1:8799"
        proxy = subprocess.Popen(
            [sys.executable, "-m", "checkpointdb", "proxy", os.path.join(folder, "load.ckpt"),
             "--to", direct, "--port", "0"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert proxy.stderr is not None
        url = proxy.stderr.readline().split()[0].removesuffix("/v1")
        few = given.requests // 10
        done: dict[str, Any] = {"requests": given.requests, "clients": given.clients}
        measured(direct, few, given.clients)
        done["direct"] = measured(direct, given.requests, given.clients)
        done["first tenth"] = measured(url, few, given.clients)
        done["memory after a tenth, MB"] = memory_mb(proxy.pid)
        done["first"] = measured(url, given.requests, given.clients)
        done["memory after all, MB"] = memory_mb(proxy.pid)
        done["hits"] = measured(url, given.requests, given.clients)
        done["memory after hits, MB"] = memory_mb(proxy.pid)
        print(json.dumps(done, indent=2))
        proxy.terminate()
        proxy.communicate()
        upstream.terminate()


if __name__ == "__main__":
    main()
