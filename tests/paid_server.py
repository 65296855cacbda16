"""An OpenAI-compatible server on loopback whose own log is the oracle of what was paid for.

Starlette under uvicorn, in a thread. Faults are by plan; the clients are the real SDK's.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import socket
import struct
from typing import Any

from loopback import Loopback
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

QUOTA = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
LIMIT = {"message": "Rate limit reached", "code": "rate_limit_exceeded"}
BROKEN = {"message": "The server had an error", "code": None}


class PaidServer(Loopback):
    """Serve chat completions and keep the books.

    Attributes:
        calls: every call that came in: (row, idempotency key), in order.
        paid: rows of the calls that were answered, which is what the provider bills.
        faults: what goes wrong, a list of words for each row, used up call by call: "limit",
            "500", "reset", "hang", "truncated", "empty"; "ok" is no fault.
        said: the headers of a rate limit.
        quota: number of answers after which the quota is spent; None: never.
        seconds: how long an answer takes.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []
        self.paid: list[int] = []
        self.faults: dict[int, list[str]] = collections.defaultdict(list)
        self.quota: int | None = None
        self.said = {"retry-after-ms": "5"}
        self.seconds = 0.0
        self.in_flight = self.most_in_flight = 0
        self._transports: dict[Any, Any] = {}
        routes = [Route("/v1/chat/completions", self._complete, methods=["POST"])]
        super().__init__(routes, http=self._protocol())
        self.url = f"{self.origin}/v1"

    def paid_more_than_once(self) -> int:
        """How many answers were paid for a row that had been paid for."""
        return len(self.paid) - len(set(self.paid))

    def _protocol(self) -> type[H11Protocol]:
        transports = self._transports

        class Protocol(H11Protocol):
            """Remembers its transport, so that an answer can be a connection reset."""

            def connection_made(self, transport: Any) -> None:
                transports[transport.get_extra_info("peername")] = transport
                accepted = transport.get_extra_info("socket")  # else 40 ms a call
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                transports.pop(self.transport.get_extra_info("peername"), None)
                super().connection_lost(exc)

        return Protocol

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        row = json.loads(body["messages"][-1]["content"])["n"]
        self.calls.append((row, request.headers.get("idempotency-key", "")))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(request, row, body["model"])
        finally:
            self.in_flight -= 1

    async def _answer(self, request: Request, row: int, model: str) -> Response:
        fault = self.faults[row].pop(0) if self.faults[row] else "ok"
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.quota is not None and len(self.paid) >= self.quota:
            return JSONResponse({"error": QUOTA | {"type": "insufficient_quota"}}, 429)
        if fault == "limit":
            return JSONResponse({"error": LIMIT}, 429, self.said)
        if fault == "500":
            return JSONResponse({"error": BROKEN}, 500)
        if fault == "reset":
            self._reset(request)
        if fault == "hang":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3.0)
        self.paid.append(row)
        text = json.dumps(completion(row, model, "" if fault == "empty" else answer(row)))
        if fault == "truncated":
            text = text[: len(text) // 2]
        return Response(text, media_type="application/json")

    def _reset(self, request: Request) -> None:
        transport = self._transports[tuple(request.client or ())]
        linger = struct.pack("ii", 1, 0)  # closing sends RST
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()


def answer(row: int) -> str:
    """What the model says to row `row`."""
    return ["positive", "negative", "mixed"][row % 3]


def completion(row: int, model: str, text: str) -> dict[str, Any]:
    """Return the body of a chat completion; 20 tokens in, 5 out."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": f"chatcmpl-{row}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
    }
