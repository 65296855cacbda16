"""OpenAI's files and batches, for a driver that may be killed. Knows no step and no store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import openai

from .stand_in import Chunk, Line
from .submissions import Intent, Submission

OURS = "checkpointdb"  # in a batch's metadata: the id of our intent
ENDED = ("completed", "expired", "cancelled", "failed")
_UNSURE = (openai.APIConnectionError, openai.InternalServerError)  # it may have been done
_DAY = 86_400.0  # seconds by which the provider's clock may differ from ours


class Endpoints:
    """Make, find and read batches.

    Args:
        client: of the SDK.
        name: of the step.
        settle: seconds after which a batch that was asked for is in the provider's list.
    """

    def __init__(self, client: Any, name: str, settle: float) -> None:
        self._client, self._name, self._settle = _sync(client), name, settle

    def create(self, chunk: Chunk, intent: Intent) -> str:
        """Make a batch that carries an intent's id; return the provider's id of it."""
        with tempfile.TemporaryFile() as file:
            file.writelines(chunk.lines.values())
            file.seek(0)
            name = f"{intent.id}.jsonl"
            uploaded = self._client.files.create(file=(name, file), purpose="batch")
        once: Any = self._client.with_options(max_retries=0)
        for attempt in range(self._client.max_retries + 1):
            try:
                batch = once.batches.create(
                    input_file_id=uploaded.id, endpoint=chunk.path, completion_window="24h",
                    metadata={OURS: intent.id, "step": self._name[:512]},
                )  # fmt: skip
                return str(batch.id)
            except _UNSURE:
                if found := self.find(intent):
                    return found
                if attempt == self._client.max_retries:
                    raise
        raise AssertionError

    def find(self, intent: Intent) -> str:
        """Return the id of the batch that carries an intent's id, "" if there is none."""
        for wait in (0.0, self._settle):  # what was asked for a moment ago may still come
            time.sleep(wait)
            for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(OURS) == intent.id:
                    return batch.id
                if batch.created_at < intent.at - _DAY:  # the newest come first
                    break
        return ""

    def retrieve(self, it: Submission) -> Any:
        """Return a batch as the provider has it now."""
        with self._says_which(it.batch):
            return self._client.batches.retrieve(it.batch or "")

    def lines(self, batch: Any) -> Iterator[Line]:
        """Yield what a batch that ended gives back, in no order."""
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            with (
                self._says_which(batch.id),
                self._client.files.with_streaming_response.content(file) as content,
            ):
                for line in filter(None, content.iter_lines()):
                    yield msgspec.json.decode(line, type=Line)

    @contextmanager
    def _says_which(self, batch: str | None) -> Iterator[None]:
        try:
            yield
        except openai.NotFoundError as error:
            error.add_note(
                f"rows of step {self._name!r} are in batch {batch}: is this a client of the same "
                "account and project? If the batch or its files are gone, its rows are free after "
                f"`ckpt forget STORE --step {self._name}/batches`"
            )
            raise


def _sync(client: Any) -> openai.OpenAI:
    """Return the client, or a sync one like it: batches are few."""
    if isinstance(client, openai.OpenAI):
        return client
    return openai.OpenAI(
        api_key=client.api_key, organization=client.organization, project=client.project,
        base_url=client.base_url, timeout=client.timeout, max_retries=client.max_retries,
        default_headers=client._custom_headers,
    )  # fmt: skip
