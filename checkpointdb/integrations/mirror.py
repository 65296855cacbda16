"""What is in a bucket, as the results of a step: one store on a machine, for all its processes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from .. import system
from ..cloud.bucket import Bucket
from ..cloud.pull import refresh
from ..decorator import Step
from ..errors import BucketError
from ..loops.direct import MISS
from ..store import Store
from .folder import LOOK_SHARE, saved

LOOK_SECONDS = 10.0  # between two looks into the bucket, at least; each is a request or more
POLL_SECONDS = 0.1


class Mirror:
    """The records of a bucket in a store on this machine, brought up to date by whoever asks.

    Promise: each segment is fetched once on a machine, and nothing of it is held in memory.

    Args:
        bucket: it is made one of ours if it is empty.
        directory: on a local disk, only this user's. The store stays there for the next job.
        step: whose results are looked up.
        ship_left: ships what killed processes left on this machine; done before the first look, and
            whoever begins meanwhile waits for it.

    Raises:
        BucketError: the bucket cannot be used: what it has would be paid for again.
    """

    def __init__(
        self,
        bucket: Bucket,
        directory: str,
        step: Step[Any, Any],
        ship_left: Callable[[], None],
    ) -> None:
        manifest = bucket.manifest(create=True)
        assert manifest is not None
        self._bucket, self._path = bucket, os.path.join(directory, f"{manifest.id}.ckpt")
        while not self._look(ship_left):
            time.sleep(POLL_SECONDS)
        self._step = step.replace(store=Store(self._path, readonly=True))

    def results(self, rows: list[Any]) -> list[Any]:
        """Return the result of each row, or `MISS`.

        Raises:
            BucketError: a segment is damaged or missing. While the bucket cannot be reached, what
                was there before counts.
        """
        found = saved(self._step, rows)
        missing = [i for i, result in enumerate(found) if result is MISS]
        if missing and time.monotonic() >= self._next_look and self._has_news():
            news = saved(self._step, [rows[i] for i in missing])
            for i, result in zip(missing, news, strict=True):
                found[i] = result
        return found

    def _has_news(self) -> bool:
        try:
            return self._look()
        except BucketError as error:
            if not error.passing:
                raise
            return False

    def _look(self, first: Callable[[], None] | None = None) -> bool:
        """Fetch what is new; False if another process does that now."""
        start = time.monotonic()
        try:
            with _locked(f"{self._path}.lock") as is_ours:
                if is_ours:
                    if first is not None:
                        first()
                    refresh(self._bucket, self._path)
                return is_ours
        finally:
            now = time.monotonic()
            self._next_look = now + max(LOOK_SECONDS, (now - start) / LOOK_SHARE)

    def close(self) -> None:
        """Close the store."""
        self._step.store.close()


@contextlib.contextmanager
def _locked(path: str) -> Iterator[bool]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield system.lock(descriptor)
    finally:
        os.close(descriptor)
