"""A server on loopback that speaks OpenAI's files and batches; its log of batches is the oracle."""

from __future__ import annotations

import asyncio
import collections
import json
import time
from collections.abc import Callable
from typing import Any

from loopback import Loopback
from provider import whole
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TERMINAL = ("completed", "expired", "cancelled", "failed")
BROKEN = {"error": {"message": "The server had an error", "code": None}}
WORD = "great"


class BatchServer(Loopback):
    """Keep files and batches; answer each request of a batch once.

    Attributes:
        batches: all that were made, oldest first.
        submitted: how many batches a custom id was in.
        answered: how often it was answered, which is what is billed.
        doubled: ids that were in a live batch when another one with them was made.
        files: contents by id.
        looks: how many times a batch is looked at before it ends.
        ends: how the next batches end: "completed" (unless given), "half", "nothing", "cancelled",
            "failed"; "gaps": completed, with no line for some.
        faults: what goes wrong with the next requests to make a batch: "refuse", "500", "made 500",
            "late" (cut off, and made after the next list), "hold" (not made). One that holds is
            answered when `gate` is opened: "made hold", "late hold".
        bad: statuses of single rows by `n`; 0 is an error without a response.
        upload_faults: the same of uploads: "500", "hold", "wait hold" (good once `gate` is open).
        page: most batches on a page of the list.
        seconds: how long a part of an answer takes.
        on_request: called with the kind of each request before anything is done.
    """

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.submitted = collections.Counter[str]()
        self.answered = collections.Counter[str]()
        self.doubled: list[str] = []
        self.files: dict[str, bytes] = {}
        self.looks, self.page = 0, 2
        self.ends: list[str] = []
        self.faults: list[str] = []
        self.upload_faults: list[str] = []
        self.bad: dict[int, int] = {}
        self.requests: list[str] = []
        self.on_request: Callable[[str], object] = id
        self.seconds = 0.0
        self._late: list[dict[str, Any]] = []
        self._plans: dict[str, str] = {}
        self._looks: dict[str, int] = {}
        routes = [
            Route("/v1/files", self._upload, methods=["POST"]),
            Route("/v1/files/{id}/content", self._content),
            Route("/v1/batches", self._create, methods=["POST"]),
            Route("/v1/batches", self._list),
            Route("/v1/batches/{id}", self._retrieve),
            Route("/v1/batches/{id}/cancel", self._cancel, methods=["POST"]),
            Route("/v1/chat/completions", self._live, methods=["POST"]),
        ]
        super().__init__(routes)
        self.url = f"{self.origin}/v1"

    def live(self) -> list[dict[str, Any]]:
        """Return the batches that have not ended."""
        return [it for it in self.batches if it["status"] not in TERMINAL]

    def lines(self, file: str) -> list[dict[str, Any]]:
        """Return the lines of a file."""
        return [json.loads(line) for line in self.files[file].splitlines()]

    def _note(self, kind: str) -> None:
        self.on_request(kind)
        self.requests.append(kind)

    # --- files

    async def _upload(self, request: Request) -> Response:
        content = await request.body()
        self._note("upload")
        await asyncio.sleep(self.seconds)
        if self.upload_faults:
            fault = self.upload_faults.pop(0)
            await self._passes_gate(fault)
            if "wait" not in fault:
                return JSONResponse(BROKEN, 500)
        boundary = request.headers["content-type"].partition("boundary=")[2].encode()
        parts = [part for part in content.split(b"--" + boundary) if b'name="file"' in part]
        id = self._keep(parts[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
        return JSONResponse(
            {
                "id": id, "object": "file", "bytes": len(self.files[id]), "created_at": 1,
                "filename": "rows.jsonl", "purpose": "batch", "status": "processed",
            }
        )  # fmt: skip

    async def _passes_gate(self, fault: str) -> None:
        while "hold" in fault and not self.gate.is_set():
            await asyncio.sleep(0.002)

    def _keep(self, content: bytes) -> str:
        id = f"file-{len(self.files)}"
        self.files[id] = content
        return id

    async def _content(self, request: Request) -> Response:
        self._note("content")
        content = self.files.get(request.path_params["id"])
        if content is None:
            return JSONResponse({"error": {"message": "No such File object", "code": None}}, 404)

        async def chunks():
            for i in range(0, len(content), 1000):
                yield content[i : i + 1000]
                await asyncio.sleep(self.seconds)

        return StreamingResponse(chunks(), media_type="application/octet-stream")

    # --- batches

    async def _create(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        self._note("create")
        fault = self.faults.pop(0) if self.faults else "ok"
        if fault == "refuse":
            error = {"message": "no", "code": "billing_hard_limit_reached", "type": "x"}
            return JSONResponse({"error": error}, 400)
        if fault in ("500", "hold"):
            await self._passes_gate(fault)
            return JSONResponse(BROKEN, 500)
        if "late" in fault:
            await self._passes_gate(fault)
            self._late.append(asked)
            return Response(b"{", headers={"content-length": "100"})
        await asyncio.sleep(self.seconds)
        batch = self._make(asked)  # whether its client is there or not
        await asyncio.sleep(self.seconds)
        if fault in ("made 500", "made hold"):
            await self._passes_gate(fault)
            return JSONResponse(BROKEN, 500)
        return JSONResponse(batch)

    def _make(self, asked: dict[str, Any]) -> dict[str, Any]:
        id = f"batch-{len(self.batches)}"
        keys = [line["custom_id"] for line in self.lines(asked["input_file_id"])]
        for other in self.live():
            taken = {line["custom_id"] for line in self.lines(other["input_file_id"])}
            self.doubled += taken & set(keys)
        self.submitted.update(keys)
        batch = {
            "id": id, "object": "batch", "status": "validating", "created_at": int(time.time()),
            "errors": None, "output_file_id": None, "error_file_id": None,
            "request_counts": {"total": len(keys), "completed": 0, "failed": 0}, **asked,
        }  # fmt: skip
        self.batches.append(batch)
        self._plans[id] = self.ends.pop(0) if self.ends else "completed"
        self._looks[id] = self.looks
        return batch

    async def _list(self, request: Request) -> Response:
        self._note("list")
        newest = self.batches[::-1]
        after = request.query_params.get("after")
        start = [it["id"] for it in newest].index(after) + 1 if after else 0
        page = newest[start : start + min(self.page, int(request.query_params["limit"]))]
        more = start + len(page) < len(newest)
        found = {"object": "list", "data": page, "has_more": more}
        if page:
            found |= {"first_id": page[0]["id"], "last_id": page[-1]["id"]}
        while self._late:
            self._make(self._late.pop())
        return JSONResponse(found)

    def _find(self, request: Request) -> dict[str, Any]:
        return next(it for it in self.batches if it["id"] == request.path_params["id"])

    async def _retrieve(self, request: Request) -> Response:
        self._note("retrieve")
        try:
            batch = self._find(request)
        except StopIteration:
            return JSONResponse({"error": {"message": "No such Batch", "code": None}}, 404)
        if batch["status"] not in TERMINAL:
            batch["status"] = "in_progress"
            self._looks[batch["id"]] -= 1
            if self._looks[batch["id"]] < 0:
                self.end(batch, self._plans[batch["id"]])
        return JSONResponse(batch)

    async def _cancel(self, request: Request) -> Response:
        batch = self._find(request)
        self.end(batch, "cancelled")
        return JSONResponse(batch)

    def end(self, batch: dict[str, Any], how: str) -> None:
        """End a batch: answer what is to be answered."""
        asked = self.lines(batch["input_file_id"])
        if how == "failed":
            error = {"code": "token_limit_exceeded", "message": "too much is enqueued", "line": 3}
            batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
            return
        done = asked[: len(asked) // 2] if how in ("half", "cancelled") else asked
        done = [] if how == "nothing" else done[::2] if how == "gaps" else done
        status = {"half": "expired", "nothing": "expired", "gaps": "completed"}.get(how, how)
        lines = [self._answered(line) for line in done]
        good = [it for it in lines if (it["response"] or {}).get("status_code") == 200]
        bad = [it for it in lines if it not in good]
        if status == "expired":
            error = {"code": "batch_expired", "message": "This request could not be executed"}
            bad += [
                {"id": "x", "custom_id": it["custom_id"], "response": None, "error": error}
                for it in asked if it not in done
            ]  # fmt: skip
        batch |= {
            "status": status,
            "output_file_id": self._keep(jsonl(good)) if good else None,
            "error_file_id": self._keep(jsonl(bad)) if bad else None,
            "request_counts": {"total": len(asked), "completed": len(good), "failed": len(bad)},
        }

    def _answered(self, line: dict[str, Any]) -> dict[str, Any]:
        self.answered[line["custom_id"]] += 1
        base = {"id": "batch_req", "custom_id": line["custom_id"], "response": None, "error": None}
        status = self.bad.get(n_of(line["body"]), 200) if self.bad else 200
        if status == 0:
            return base | {"error": {"code": "worker_lost", "message": "no worker was left"}}
        is_chat = "chat" in line["url"]
        body = completion(line["body"]) if is_chat else whole(line["url"], line["body"], 0)
        if status != 200:
            body = {"error": {"message": f"status {status}", "code": "bad", "type": "x"}}
        response = {"status_code": status, "request_id": "r", "body": body}
        return base | {"response": response}

    async def _live(self, request: Request) -> Response:
        self._note("live")
        return JSONResponse(completion(json.loads(await request.body())))


def n_of(body: dict[str, Any]) -> int:
    """Return the number of the row that a request is about."""
    return json.loads(body["messages"][-1]["content"])["n"]


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request: its text says which row it is for."""
    text = json.dumps({"n": n_of(body)}) if "response_format" in body else f"{WORD} {n_of(body)}"
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "chatcmpl", "object": "chat.completion", "created": 1_700_000_000,
        "model": body["model"], "choices": [choice],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
    }  # fmt: skip


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    """Return the content of a file of lines."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
