"""async-batch-llm with its SQLite checkpoints: a row waits until its commit is done."""

import asyncio
import json

import async_batch_llm as abl

from ..data import hand_key

SAVES, ROWS, IMPORTS = "1,000 rows", 2_000, "async_batch_llm"
HOW = (
    "`SqliteArtifactStore(commit_batch_size=1000, commit_interval_seconds=1)` and 1,000 calls in "
    "flight, since a row returns only after its commit; SQLite's `NORMAL`"
)
IN_FLIGHT = 1000


def run(rows, step):
    """Stream the rows through the step."""
    asyncio.run(_stream(rows, step))


async def _stream(rows, step):
    async def invoke(prompt, *, attempt, timeout, state):
        return abl.CallOutcome(step(json.loads(prompt)))

    identity = abl.ArtifactIdentity(provider="bench", model="label")
    store = abl.SqliteArtifactStore(
        "runs.sqlite", identity=identity, commit_batch_size=IN_FLIGHT, commit_interval_seconds=1
    )
    config = abl.ProcessorConfig(
        concurrency=IN_FLIGHT, max_queue_size=IN_FLIGHT, max_result_queue_size=IN_FLIGHT
    )
    prompts = ((hand_key(row), json.dumps(row)) for row in rows)
    async for result in abl.process_stream(
        abl.CallableStrategy(invoke, identity=identity), prompts, config=config,
        artifact_store=store, resume=abl.ResumePolicy.REUSE_SUCCESSES,
    ):  # fmt: skip
        assert result.success, result.error
    await store.close()
