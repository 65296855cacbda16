"""One life of a program that labels rows with the real OpenAI SDK, to be killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import openai

import checkpointdb as ckpt
from checkpointdb import every

MODEL = "paid-1"
DOLLARS_A_TOKEN = 0.0001


class QuotaSpentError(Exception):
    """The account has no money left: nothing to wait for, unlike a rate limit."""


def dollars(result: dict[str, Any]) -> float:
    """What an answer cost, by the usage that the provider reports."""
    return result["tokens"] * DOLLARS_A_TOKEN


def result_of(completion: Any) -> dict[str, Any]:
    """Keep of an answer what the user needs."""
    text = completion.choices[0].message.content
    return {"text": text, "tokens": completion.usage.total_tokens}


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the SDK's call for a row."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": json.dumps(row)}],
        "extra_headers": {"Idempotency-Key": ckpt.current_key()},
    }


def options(url: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of the SDK's clients; no retries unless asked for."""
    return {"base_url": url, "api_key": "none", "max_retries": 0, "timeout": 5.0} | more


def sync_step(client: openai.OpenAI, store: str, **step_options: Any) -> Any:
    """Make a step over the synchronous client."""

    @ckpt.step(store, version=1, **step_options)
    def label(row: dict) -> dict:
        try:
            return result_of(client.chat.completions.create(**asked(row)))
        except openai.RateLimitError as error:
            raise _judged(error) from error

    return label


def async_step(client: openai.AsyncOpenAI, store: str, **step_options: Any) -> Any:
    """Make a step over the asynchronous client."""

    @ckpt.step(store, version=1, **step_options)
    async def label(row: dict) -> dict:
        try:
            return result_of(await client.chat.completions.create(**asked(row)))
        except openai.RateLimitError as error:
            raise _judged(error) from error

    return label


def _judged(error: openai.RateLimitError) -> Exception:
    return QuotaSpentError(str(error)) if error.code == "insufficient_quota" else error


def consume(
    kind: str, url: str, store: str, rows: list[Any], client_options: Any, step_options: Any,
    each: Any = id, **run_options: Any,
) -> Any:  # fmt: skip
    """Run over the rows and call `each` with the results; return the report."""
    if kind == "sync":
        with openai.OpenAI(**options(url, **client_options)) as client:
            run = sync_step(client, store, **step_options).run(rows, **run_options)
            for result in run:
                each(result)
            return run.report
    return asyncio.run(_aconsume(url, store, rows, client_options, step_options, each, run_options))


async def _aconsume(url, store, rows, client_options, step_options, each, run_options):
    async with openai.AsyncOpenAI(**options(url, **client_options)) as client:
        run = async_step(client, store, **step_options).arun(rows, **run_options)
        async for result in run:
            each(result)
        return run.report


def live(kind: str, url: str, store: str, rows: list[Any], save_rows: int, **run: Any) -> None:
    """Be a process that runs to the end, or is killed."""
    consume(kind, url, store, rows, {}, {"save": every(rows=save_rows)}, **run)
    os._exit(0)
