"""Which rows are in which of a provider's batches, durably. Knows no provider and no rows.

Each fact is a record of a step beside the user's own, on the same store. Submissions are numbered,
and a number is taken by one process (single-flight), which has read all before it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..engine.follow import ITS_CODE
from ..loops.direct import MISS
from ..policy import every
from ..step import Step

NOT_SUBMITTED = "not submitted"


class Intent(msgspec.Struct, frozen=True, tag=True):
    """What is about to be submitted.

    Attributes:
        id: ours, which the provider's batch carries.
        at: Unix time.
        requests: a digest of what is asked for each row, by the row's key.
    """

    id: str
    at: float
    requests: dict[str, str]


class Sent(msgspec.Struct, frozen=True, tag=True):
    """What came of an intent: the provider's id of the batch, "" if there is none."""

    batch: str


class Taken(msgspec.Struct, frozen=True, tag=True):
    """How a batch ended, and the keys whose answers are still to be taken from it."""

    status: str
    left: list[str]


class Submission:
    """One submission as it was when it was read last.

    Attributes:
        batch: the provider's id; None before it is known.
        status: how it ended; "" before that.
        left: keys of rows that are in this batch, their answers not taken yet.
        passes: how many times answers were taken.
    """

    def __init__(self, n: int, intent: Intent) -> None:
        self.n, self.id, self.at, self.rows = n, intent.id, intent.at, len(intent.requests)
        self.batch: str | None = None
        self.status, self.left, self.passes = "", set(intent.requests), 0

    @property
    def is_open(self) -> bool:
        """Whether it is not known to have ended."""
        return not self.status


class Submissions:
    """Submit rows once, among all processes on the store.

    Promise: a row is in one open submission at most. An intent is on the disk before anything is
    submitted, the provider's id before anybody waits, the answers before they count as taken.

    Args:
        step: the user's.
    """

    def __init__(self, step: Step[..., Any]) -> None:
        self._store = step.store
        self._facts: Step[..., Any] = Step(
            _fact, self._store, name=f"{step.name}/batches", version=step.version,
            save=every(rows=1), shared=True, ledger=True, using=("act",), on_change="reuse",
            ignore=(ITS_CODE,),
        )  # fmt: skip
        self._all = list[Submission]()

    def read(self) -> list[Submission]:
        """Return all submissions as they are now."""
        self._read_new()
        for it in self._all:
            self._update(it)
        return list(self._all)

    def count_open(self) -> int:
        """Return how many of those read so far are not known to have ended."""
        return sum(it.is_open for it in self._all)

    def send(
        self,
        requests: Mapping[str, str],
        create: Callable[[Intent], str],
        find: Callable[[Intent], str],
    ) -> tuple[Submission | None, set[str]]:
        """Submit rows that are in no submission read so far, unless another one comes first.

        Args:
            requests: a digest of what is asked for each row, by the row's key.
            create: submits them; returns the provider's id.
            find: as of `resume`.

        Returns:
            What was submitted, None if another process was first; and the keys in submissions that
            were not read before.
        """
        n, ours = len(self._all), uuid.uuid4().hex

        def act() -> Sent:
            intent = self._fact(["intent", n], lambda: Intent(ours, time.time(), dict(requests)))
            self._store.flush()  # under durability="process" too
            return Sent((create if intent.id == ours else find)(intent))

        self._fact(["sent", n], act)  # others wait for it meanwhile, and then read the number
        others = self._read_new()
        it = self._all[n]
        return (it, others - it.left) if it.id == ours else (None, others)

    def resume(self, it: Submission, find: Callable[[Intent], str]) -> None:
        """Settle what became of a submission whose process died; wait for one that lives.

        Args:
            it: without an id of the provider's.
            find: asks the provider for it; returns its id, "" if it has none, and then the rows are
                free again.
        """
        if it.batch is None:
            intent: Any = self._facts.get(["intent", it.n])
            self._fact(["sent", it.n], lambda: Sent(find(intent)))
            self._update(it)

    def take(self, it: Submission, act: Callable[[], Taken]) -> None:
        """Take answers from a batch that ended; of two processes one does it, the other waits."""
        self._fact(["taken", it.n, it.passes], act)
        self._update(it)

    def digests(self, it: Submission) -> dict[str, str]:
        """Return the digests that a submission was made with."""
        intent: Any = self._facts.get(["intent", it.n])
        return dict(intent.requests)

    def _read_new(self) -> set[str]:
        keys = set[str]()
        while (intent := self._facts.get(["intent", len(self._all)])) is not MISS:
            keys.update(intent.requests)
            self._all.append(Submission(len(self._all), intent))
            self._update(self._all[-1])
        return keys

    def _update(self, it: Submission) -> None:
        if it.batch is None and (sent := self._facts.get(["sent", it.n])) is not MISS:
            it.batch = sent.batch
            if not it.batch:
                it.status, it.left = NOT_SUBMITTED, set()
        while it.left and (taken := self._facts.get(["taken", it.n, it.passes])) is not MISS:
            it.status, it.left, it.passes = taken.status, set(taken.left), it.passes + 1

    def _fact(self, row: list[Any], act: Callable[[], Any]) -> Any:
        """Return a fact, made by `act` if it is not known: by one process at a time."""
        return self._facts(row, act=act)


def _fact(row: list[Any], act: Callable[[], Any]) -> Intent | Sent | Taken:  # noqa: ARG001 - the key
    fact: Intent | Sent | Taken = act()
    return fact
