"""Label reviews with the OpenAI SDK: a file to copy. Run it again and it goes on where it stopped.

pip install checkpointdb openai aiolimiter stamina
python openai_job.py reviews.jsonl labelled.jsonl

What is what:
- the SDK makes no retries of its own: stamina retries what may pass (a broken connection, a 500);
- `pause_on=` has ALL calls wait when one of them is told "rate limit, come back after N s";
- aiolimiter keeps below the limit that you know of, so that this is rare;
- `insufficient_quota` is a rate limit to the SDK, but no waiting helps: `stop_on=` ends the run;
- each answer's tokens are saved with it, `usage=`; its cost comes from them, and `max_cost=` is the
  budget over all runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import openai
import stamina
from aiolimiter import AsyncLimiter

import checkpointdb as ckpt

MODEL = "gpt-4o-mini"
PROMPT = "Answer with one word: is this review positive, negative or mixed?"
DOLLARS_A_TOKEN = {"prompt_tokens": 0.15e-6, "completion_tokens": 0.60e-6}
BUDGET = 5.00  # dollars, over all runs
AT_ONCE = 32
A_MINUTE = 3000  # requests that the account may make

MAY_PASS = (openai.APIConnectionError, openai.InternalServerError)


class QuotaSpentError(Exception):
    """The account has no money left: nothing to wait for, unlike a rate limit."""


def cost(result: dict[str, Any]) -> float:
    """Return what an answer cost, in dollars."""
    return sum(result["usage"][kind] * DOLLARS_A_TOKEN[kind] for kind in DOLLARS_A_TOKEN)


@ckpt.step(
    "reviews.ckpt",
    version=1,
    depends={"model": MODEL, "prompt": PROMPT},  # another prompt: other answers
    using=("client", "limiter"),  # neither in the key nor stored
    cost=cost,
    usage="usage",  # the field of the result that has the token counts
    pause_on=openai.RateLimitError,
)
@stamina.retry(on=MAY_PASS, attempts=4, wait_initial=0.5)
async def label(
    row: dict[str, Any], client: openai.AsyncOpenAI, limiter: AsyncLimiter
) -> dict[str, Any]:
    """Ask the model about one review."""
    async with limiter:
        try:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[
                    {"role": "system", "content": PROMPT},
                    {"role": "user", "content": json.dumps(row)},
                ],
                extra_headers={"Idempotency-Key": ckpt.current_key()},
            )
        except openai.RateLimitError as error:
            if error.code == "insufficient_quota":
                raise QuotaSpentError(str(error)) from error
            raise
    assert answer.usage is not None
    return {"label": answer.choices[0].message.content, "usage": answer.usage.model_dump()}


def rows_of(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


async def main(source: str, target: str) -> ckpt.Report:
    """Label the rows of a file, and write those that have a label to another."""
    # to try it offline, OPENAI_BASE_URL names a server of your own: the SDK reads it
    async with openai.AsyncOpenAI(max_retries=0, timeout=60) as client:
        run = label.arun(
            rows_of(source),
            using={"client": client, "limiter": AsyncLimiter(A_MINUTE, 60)},
            concurrency=AT_ONCE,
            on_error="record",  # one bad row does not end the night's work
            stop_on=(QuotaSpentError, openai.AuthenticationError),
            max_cost=float(os.environ.get("BUDGET", BUDGET)),
            progress=True,
        )
        with open(target, "w", encoding="utf-8") as file:
            async for row, result in run.items():
                if not isinstance(result, ckpt.Failed):
                    file.write(json.dumps(row | result) + "\n")
    return run.report


if __name__ == "__main__":
    try:
        print(asyncio.run(main(*sys.argv[1:])))
    except (QuotaSpentError, ckpt.BudgetExceeded) as ended:
        sys.exit(f"stopped: {ended}\n" + "\n".join(getattr(ended, "__notes__", [])))
