"""One life of a program that labels rows by batches, to be killed in the middle."""

from __future__ import annotations

import json
import os
from typing import Any

import openai

import checkpointdb as ckpt
from checkpointdb.integrations.openai_batch import Batches

DOLLARS_A_TOKEN = 0.001


def cost(result: dict[str, Any]) -> float:
    """What an answer costs if it is asked for live."""
    return result["tokens"] * DOLLARS_A_TOKEN


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the SDK's call for a row."""
    return {
        "model": row.get("model", "paid-1"),
        "messages": [{"role": "user", "content": json.dumps(row)}],
        "extra_headers": {"Idempotency-Key": ckpt.current_key()},
    }


def kept(answer: Any) -> dict[str, Any]:
    """Return what is kept of an answer."""
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.total_tokens}


def sync_step(store: Any, **options: Any) -> Any:
    """Make a step that asks by the synchronous client."""

    def label(row: dict, client: openai.OpenAI) -> dict:
        if "say" in row:
            return {"text": row["say"], "tokens": 0}
        if "raise" in row:
            raise ValueError(row["raise"])
        return kept(client.chat.completions.create(**asked(row)))

    return ckpt.step(store, **{"version": 1, "using": ("client",), "cost": cost} | options)(label)


def async_step(store: Any, **options: Any) -> Any:
    """Make a step that asks by the asynchronous client."""

    async def label(row: dict, client: openai.AsyncOpenAI) -> dict:
        if "say" in row:
            return {"text": row["say"], "tokens": 0}
        if "raise" in row:
            raise ValueError(row["raise"])
        return kept(await client.chat.completions.create(**asked(row)))

    return ckpt.step(store, **{"version": 1, "using": ("client",), "cost": cost} | options)(label)


def client(kind: str, url: str, **options: Any) -> Any:
    """Return a client of the SDK."""
    make = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
    options = {
        "max_retries": 2,
        "timeout": 5.0,
        "default_headers": {"Connection": "close"},
    } | options
    return make(base_url=url, api_key="none", **options)


def batches(kind: str, url: str, store: Any, step: Any = None, **options: Any) -> Batches:
    """Return the batches of a step; nothing is waited for longer than a moment."""
    made = (sync_step if kind == "sync" else async_step)(store, **(step or {}))
    using = {"client": client(kind, url)}
    return Batches(made, using, **{"settle": 0.0, "max_requests": 10} | options)


def live(kind: str, url: str, store: str, rows: list[Any], **options: Any) -> None:
    """Be a process that runs to the end, or is killed."""
    results = list(batches(kind, url, store, **options).run(rows, poll=0.001))
    assert len(results) == len(rows)
    os._exit(0)
