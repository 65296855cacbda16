"""Providers' own formats on loopback, streams and all; the log of what was asked is the oracle."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from loopback import Loopback
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = ["one", " two", " three", " four", " five", " six"]
USAGE = {"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26}


class Provider(Loopback):
    """Answer like OpenAI, Anthropic and Gemini, and keep the books.

    Attributes:
        asked: path and body of each request, in order.
        headers: of each request.
        clients: the other end of each request's connection.
        answered: how many answers came to their end, which is what is billed.
        faults: status codes and words ("cut", "error", "failed", "reset") for the next requests.
        gate: requests and streams wait for it, once "gate" is among `faults` or `gated` is set.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.clients: list[Any] = []
        self.answered = 0
        self.faults: list[Any] = []
        self.begun = 0  # answers, the gate aside
        super().__init__([Route("/{path:path}", self._serve, methods=["GET", "POST"])])
        self.gate.set()

    async def _serve(self, request: Request) -> Response:
        content = await request.body()
        body = json.loads(content) if content[:1] == b"{" else content
        self.asked.append((request.url.path, body))
        self.headers.append(dict(request.headers))
        self.clients.append(request.client)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            return JSONResponse({"error": {"message": f"fault {fault}"}}, fault, {"x-own": "yes"})
        n = len(self.asked)
        self.begun += 1
        if request.method == "GET" or not isinstance(body, dict):
            return Response(content or b"listed", media_type="text/plain", headers={"x-own": "yes"})
        if body.get("stream") or ":stream" in request.url.path:
            events = self._events(request.url.path, body, n)
            return StreamingResponse(
                self._streamed(events, fault), media_type="text/event-stream",
                headers={"x-request-id": f"r{n}"},
            )  # fmt: skip
        await self._passes_gate()
        self.answered += 1
        text = json.dumps(whole(request.url.path, body, n), indent=2) + "\n"
        return Response(
            text, media_type="application/json",
            headers={"x-request-id": f"r{n}", "set-cookie": "session=secret-cookie"},
        )  # fmt: skip

    async def _passes_gate(self) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.005)

    async def _streamed(self, events: list[str], fault: Any) -> Any:
        for n, event in enumerate(events):
            if n == 4:
                await self._passes_gate()
                if fault == "cut":
                    return
                if fault == "reset":
                    raise ConnectionResetError
                if fault in ("error", "failed"):
                    yield b'event: error\ndata: {"type": "error", "error": {"message": "busy"}}\n\n'
                    if fault == "failed":
                        yield events[-1].encode()
                    return
            if n == len(events) - 1:
                self.answered += 1
            yield event.encode()
            await asyncio.sleep(0)

    def _events(self, path: str, body: dict[str, Any], n: int) -> list[str]:
        if path.endswith("/messages"):
            return anthropic_events(body, n)
        if path.endswith("/responses"):
            return responses_events(body, n)
        if "GenerateContent" in path:
            return gemini_events(n)
        return chat_events(body, n)


def text_of(n: int) -> str:
    """What the model says to the n-th request."""
    return f"{''.join(WORDS)} #{n}"


def whole(path: str, body: dict[str, Any], n: int) -> dict[str, Any]:
    """Return an answer that is no stream."""
    model = body.get("model", "m")
    if path.endswith("/embeddings"):
        vector = {"object": "embedding", "index": 0, "embedding": [0.1, -2.5e-07, 1.0, float(n)]}
        return {"object": "list", "model": model, "data": [vector], "usage": USAGE}
    if path.endswith("/messages"):
        return message(model, n) | {"content": [{"type": "text", "text": text_of(n)}]}
    if path.endswith("/responses"):
        return response(model, n, "completed")
    if ":generateContent" in path:
        return {"candidates": [candidate(text_of(n), "STOP")], "usageMetadata": GEMINI_USAGE}
    answer = {"role": "assistant", "content": text_of(n), "refusal": None}
    choice = {"index": 0, "message": answer, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": f"chatcmpl-{n}", "object": "chat.completion", "created": 1_700_000_000,
        "model": model, "choices": [choice], "usage": USAGE,
    }  # fmt: skip


def chat_events(body: dict[str, Any], n: int) -> list[str]:
    """Return the stream of a chat completion, usage and end included."""
    base = {
        "id": f"chatcmpl-{n}", "object": "chat.completion.chunk", "created": 1_700_000_000,
        "model": body["model"],
    }  # fmt: skip
    chunks = [
        base | {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in [*WORDS, f" #{n}"]
    ]
    chunks.append(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append(base | {"choices": [], "usage": USAGE})
    return [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]


def response(model: str, n: int, status: str) -> dict[str, Any]:
    """Return the object of OpenAI's responses."""
    part = {"type": "output_text", "text": text_of(n), "annotations": []}
    item = {
        "type": "message", "id": "msg", "role": "assistant", "status": status, "content": [part],
    }  # fmt: skip
    usage = {
        "input_tokens": 20, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 26,
    }  # fmt: skip
    return {
        "id": f"resp-{n}", "object": "response", "created_at": 1_700_000_000, "model": model,
        "status": status, "output": [item], "usage": usage, "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [],
    }  # fmt: skip


def responses_events(body: dict[str, Any], n: int) -> list[str]:
    """Return the stream of a response."""
    begun = response(body["model"], n, "in_progress") | {"output": []}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    where = {"item_id": "msg", "output_index": 0, "content_index": 0, "logprobs": []}
    events += [
        {"type": "response.output_text.delta", "delta": word} | where for word in [*WORDS, f" #{n}"]
    ]
    events.append(
        {"type": "response.completed", "response": response(body["model"], n, "completed")}
    )
    return [named(each | {"sequence_number": i}) for i, each in enumerate(events)]


def message(model: str, n: int) -> dict[str, Any]:
    """Return the object of Anthropic's messages, without its content."""
    return {
        "id": f"msg-{n}", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 20, "output_tokens": 6, "cache_read_input_tokens": 10},
    }  # fmt: skip


def anthropic_events(body: dict[str, Any], n: int) -> list[str]:
    """Return the stream of a message."""
    start = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message(body["model"], n)}, start, {"type": "ping"},
    ]  # fmt: skip
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
        for word in [*WORDS, f" #{n}"]
    ]
    events += [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta", "usage": {"output_tokens": 6},
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        },
        {"type": "message_stop"},
    ]  # fmt: skip
    return [named(event) for event in events]


GEMINI_USAGE = {"promptTokenCount": 20, "candidatesTokenCount": 6, "totalTokenCount": 26}


def candidate(text: str, finish: str | None = None) -> dict[str, Any]:
    """Return one of Gemini's candidates."""
    found = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return found | ({"finishReason": finish} if finish else {})


def gemini_events(n: int) -> list[str]:
    """Return a stream of Gemini's, with `alt=sse`."""
    chunks: list[dict[str, Any]] = [{"candidates": [candidate(word)]} for word in WORDS]
    chunks.append({"candidates": [candidate(f" #{n}", "STOP")], "usageMetadata": GEMINI_USAGE})
    return [f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks]


def named(event: dict[str, Any]) -> str:
    """Return an event with its name."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
