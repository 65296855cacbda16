"""A step's rows by OpenAI's batch API: half the price, answers within a day. Knows its endpoints.

The step stays as it is: its function says what is asked, and what is kept of the answer.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import openai

from ..engine.callables import checked_rows
from ..engine.options import check_count
from ..engine.warn import warn
from ..errors import CheckpointError, StaleResultsWarning
from ..loops.direct import MISS
from ..loops.run_iterator import Run
from ..step import Step
from .endpoints import ENDED, Endpoints
from .stand_in import Answers, Asking, Chunk, chunks, client_like
from .submissions import Submission, Submissions, Taken

log = logging.getLogger("checkpointdb.batch")


class BatchFailedError(CheckpointError):
    """The provider refused a batch before it began; its rows are free for the next `submit`.

    Attributes:
        batch: the provider's id.
    """

    def __init__(self, message: str, batch: str) -> None:
        super().__init__(message)
        self.batch = batch


class Batch(msgspec.Struct, frozen=True):
    """A batch, as `Batches.status` gives it.

    Attributes:
        id: ours, in the batch's metadata.
        batch: the provider's; None while it is not known.
        status: in the provider's words; "submitting" before it has the batch, "not submitted" if it
            never got it.
        rows: how many are in it.
        left: of how many the answer is still to be collected.
        completed: requests that the provider has done.
        failed: requests that it could not do.
    """

    id: str
    batch: str | None
    status: str
    rows: int
    left: int
    completed: int = 0
    failed: int = 0


class Batches:
    """Pass a step over rows by batches: `Batches(label, using={"client": client}).run(rows)`.

    The step's function is called twice for a row: up to its request, to learn what it asks, and
    with the answer, to keep what it returns. Its results are those of any other run.

    Promise: no row is ever in two live batches, whatever is killed, however many processes submit.
    An intent is on the disk before a batch is made; the batch carries its id, by which it is looked
    for after a crash. Rows of a batch that expired or was cancelled are submitted again. For one
    thread; other threads and processes have their own.

    Args:
        step: makes one request for a row, by a client of the `openai` package.
        using: as `run` takes it; one of them is the client.
        given: as `run` takes it.
        discount: what a batch costs, as a share of what the step's `cost=` returns.
        max_requests: in one batch.
        max_bytes: of a batch's file; that much is in memory.
        max_open: batches that are open at once; the others wait. None for no limit.
        settle: seconds after which a batch that a dead process asked for is in the provider's list.
    """

    def __init__(
        self,
        step: Step[..., Any],
        using: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        discount: float = 0.5,
        max_requests: int = 50_000,
        max_bytes: int = 200_000_000,
        max_open: int | None = None,
        settle: float = 30.0,
    ) -> None:
        if step._settings.duplicates == "separate":
            raise ValueError(
                f'step {step.name!r} has duplicates="separate", and a batch has one request for '
                "each key: put the number of the sample into the row"
            )
        for name, limit in (("max_requests", max_requests), ("max_bytes", max_bytes)):
            check_count(name, limit)
        if max_open is not None:
            check_count("max_open", max_open)
        self._step, self._using, self._given = step, dict(using), given
        self._name, client = _client_in(self._using)
        self._means: Any = lambda client: self._using | {self._name: client}
        self._asking = Asking(step, client, self._means, given)
        self._like = functools.partial(client_like, client)
        self._endpoints = Endpoints(client, step.name, settle)
        self._discount, self._max_open = discount, max_open
        self._limits = max_requests, max_bytes

    @functools.cached_property
    def _submissions(self) -> Submissions:
        return Submissions(self._step)

    def submit(self, rows: Iterable[Any], *, retry_failed: bool = True) -> int:
        """Submit the rows that have no result and are in no open batch; return how many.

        What a process that died was about to submit is settled first. A row for which the step
        makes no request is run at once.

        Args:
            rows: any iterable; all of it is read first.
            retry_failed: False to leave out rows whose newest record is a failure.

        Raises:
            EncodeError: a row has no stable content; nothing is submitted.
            ValueError: a request cannot be in a batch; those before it may be submitted.
            openai.OpenAIError: the provider refused; run it again.
        """
        return self._submit(self._by_key(rows), retry_failed)[0]

    def status(self) -> list[Batch]:
        """Return all batches of this step and version, oldest first; asks for those still open."""
        return [self._described(it) for it in self._submissions.read()]

    def collect(self, rows: Iterable[Any]) -> int:
        """Save the answers of batches that have ended; return how many have not.

        A request that failed is a failure of its row. A kill loses nothing: the answers that were
        not saved are taken again.

        Args:
            rows: as given to `submit`; answers to other rows stay to be collected.

        Raises:
            BatchFailedError: a batch was refused; all others are collected first.
            openai.OpenAIError: the provider cannot be asked; what was saved stays.
        """
        return self._collect(self._by_key(rows))

    def run(self, rows: Iterable[Any], *, poll: float = 60.0) -> Run[Any]:
        """Submit, wait and collect until each row has a result or failed; return a run over them.

        The run gives out results in input order, a `Failed` for a row that failed, and calls
        nothing. A process that is killed while it waits loses nothing: call `run` again.

        Args:
            rows: any iterable; all of it is read first.
            poll: seconds between two looks at the open batches.

        Raises:
            BatchFailedError, ValueError, openai.OpenAIError: as `submit` and `collect` do.
        """
        rows = list(checked_rows(rows, Iterable))
        by_key = self._by_key(rows)
        _, waiting = self._submit(by_key, True)
        while waiting:
            if self._collect(by_key):
                time.sleep(poll)
            _, waiting = self._submit(by_key, False)
        return self._run(rows, Answers({}), retry_failed=False)

    # --- rows

    def _by_key(self, rows: Iterable[Any]) -> dict[str, Any]:
        return {self._asking.key(row): row for row in checked_rows(rows, Iterable)}

    def _unsaved(self, by_key: Mapping[str, Any]) -> dict[str, Any]:
        found = self._step.results(map(self._asking.content, by_key.values()))
        return {key: by_key[key] for key, it in zip(by_key, found, strict=True) if it is MISS}

    def _run(self, rows: Iterable[Any], answers: Answers, **options: Any) -> Run[Any]:
        """Run the step over rows whose requests are answered here, at a batch's price."""
        cost = self._step._settings.cost
        price = None if cost is None else lambda result: self._discount * cost(result)
        return self._step.run(
            rows, using=self._means(self._like(answers.handle)), given=self._given,
            on_error="record", cost=price, pause_on=(), **options,
        )  # fmt: skip

    # --- submit

    def _submit(self, by_key: dict[str, Any], retry_failed: bool) -> tuple[int, int]:
        """Submit rows; return how many, and how many are with the provider or wait for it."""
        taken = set[str]()
        for it in self._submissions.read():
            self._submissions.resume(it, self._endpoints.find)
            taken |= it.left
        rows = self._unsaved({key: row for key, row in by_key.items() if key not in taken})
        if not retry_failed:
            for key in self._failed():
                rows.pop(key, None)
        submitted = put_off = 0
        for chunk in chunks(self._requests(rows), *self._limits):
            if self._max_open is not None and self._submissions.count_open() >= self._max_open:
                put_off = len(chunk.lines)
                break
            submitted += self._send(chunk, taken)
        return submitted, submitted + put_off + len(taken & by_key.keys())

    def _failed(self) -> Iterator[str]:
        for record in self._step.store.records(self._step.name, "failed"):
            if record.version == self._step.version:
                yield record.key

    def _requests(self, rows: dict[str, Any]) -> Iterator[Any]:
        silent = list[Any]()
        for key, row in rows.items():
            request = self._asking.request(key, row)
            if request is None:
                silent.append(row)
            else:
                yield key, request
        if silent:
            for _ in self._run(silent, Answers({})):
                pass

    def _send(self, chunk: Chunk, taken: set[str]) -> int:
        """Submit those rows of a chunk that no other process takes first; return how many."""
        while True:
            for key in chunk.lines.keys() & taken:
                chunk.drop(key)
            if not chunk.lines:
                return 0
            create = functools.partial(self._endpoints.create, chunk)
            sent, others = self._submissions.send(chunk.digests, create, self._endpoints.find)
            taken |= others
            if sent is not None:
                log.info("%s: %d rows in batch %s", self._step.name, sent.rows, sent.batch)
                return sent.rows

    # --- collect

    def _collect(self, by_key: dict[str, Any]) -> int:
        problems, still_open = list[BatchFailedError](), 0
        for it in self._submissions.read():
            self._submissions.resume(it, self._endpoints.find)
            if not (it.is_open or it.left & by_key.keys()):
                continue
            batch = self._endpoints.retrieve(it)
            if batch.status not in ENDED:
                still_open += 1
                continue
            if batch.status == "failed":
                problems.append(_refusal(batch))
            self._submissions.take(it, functools.partial(self._take, it, batch, by_key))
            log.info("%s: batch %s is %s", self._step.name, batch.id, batch.status)
        if problems:
            raise problems[0]
        return still_open

    def _take(self, it: Submission, batch: Any, by_key: dict[str, Any]) -> Taken:
        """Run the step over the rows of a batch that ended, with its answers; make that durable."""
        mine = {key: by_key[key] for key in it.left & by_key.keys()}
        rows, answers = self._unsaved(mine), Answers(self._submissions.digests(it))
        for _ in self._run(self._answered(batch, rows, answers), answers):
            pass  # its end commits them all
        if answers.changed:
            warn(
                f"step {self._step.name!r}: {answers.changed} answers of batch {batch.id} are to "
                "requests that the step no longer makes for these rows; they are saved. If what is "
                "asked has changed, raise version= (or name the prompt in depends=)",
                StaleResultsWarning,
            )
        left = set[str]() if batch.status == "failed" else it.left - mine.keys()
        return Taken(batch.status, sorted(left))

    def _answered(self, batch: Any, rows: dict[str, Any], answers: Answers) -> Iterator[Any]:
        """Yield the rows that a batch has an answer for, once `answers` has it."""
        for line in self._endpoints.lines(batch) if rows else ():
            is_done = batch.status == "completed" or line.response is not None
            if line.custom_id in rows and is_done:
                answers.add(line)
                yield rows.pop(line.custom_id)
        if batch.status == "completed":
            yield from rows.values()  # no answer: a failure; in other batches they are free

    def _described(self, it: Submission) -> Batch:
        status, counts = it.status, None
        if it.is_open:
            batch = self._endpoints.retrieve(it) if it.batch else None
            status = "submitting" if batch is None else batch.status
            counts = None if batch is None else batch.request_counts
        done, failed = (counts.completed, counts.failed) if counts is not None else (0, 0)
        return Batch(it.id, it.batch, status, it.rows, len(it.left), done, failed)


def _client_in(using: Mapping[str, Any]) -> tuple[str, Any]:
    for name, value in using.items():
        if isinstance(value, openai.OpenAI | openai.AsyncOpenAI):
            return name, value
    raise TypeError(
        f"using={dict(using)!r} has no client of the openai package: give the one that the step "
        "takes, using={'client': openai.OpenAI()}"
    )


def _refusal(batch: Any) -> BatchFailedError:
    errors = (batch.errors.data if batch.errors is not None else None) or []
    said = "; ".join(
        f"{it.code}: {it.message}" + ("" if it.line is None else f" (line {it.line})")
        for it in errors[:3]
    )
    return BatchFailedError(
        f"batch {batch.id} was refused: {said or 'no reason was given'}. None of it was done, and "
        "its rows are submitted again by the next run; if too much is enqueued, give max_open=1",
        batch.id,
    )
