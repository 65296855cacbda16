"""A step of many processes and machines: each computes into a store of its own and ships it.

What others shipped is looked up in a store that the processes of a machine share.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import Any

from ..cloud.bucket import Bucket
from ..cloud.compaction import compact
from ..decorator import Step
from ..errors import BucketError, StoreCorruptError
from ..policy import SavePolicy, check_policy
from ..store import Store
from .divided import Divided
from .mirror import Mirror
from .scratch import Scratch


class Bucketed(Divided):
    """A step that takes what is in a bucket, and ships the rest from a store of its own.

    Promise: what was committed is in the bucket when the policy is due, plus a second and an
    upload; if the machine lives on, what a killed process had committed is shipped by the next one
    that begins there.

    Args:
        step: of whatever store, which plays no part here.
        url: of the bucket, as `Store.push` takes it.
        ship: when; of what is committed.
        scratch: as of `Segmented`.

    Raises:
        ValueError: not a URL of a bucket.
        BucketError: it cannot be used.
        StoreError: `scratch` cannot be used.
    """

    def __init__(
        self, step: Step[Any, Any], url: str, ship: SavePolicy, scratch: str | None = None
    ) -> None:
        super().__init__(step)
        self._url, self._policy, self._lock = url, check_policy(ship, "ship"), threading.Lock()
        bucket = Bucket(url)
        self._scratch = Scratch(scratch, url)
        try:
            self._mirror = Mirror(bucket, self._scratch.shared(), step, self._ship_left)
        except BaseException:
            self._scratch.remove()
            raise
        self._own: Step[Any, Any] | None = None

    def _found(self, rows: list[Any]) -> list[Any]:
        return self._mirror.results(rows)

    def _computing(
        self, rows: list[Any], options: dict[str, Any]
    ) -> contextlib.AbstractContextManager[Any]:
        run: contextlib.AbstractContextManager[Any] = self._here().run(rows, **options)
        return run

    def _here(self) -> Step[Any, Any]:
        """Return the step with the store of this process, begun when it is first needed."""
        with self._lock:
            if self._own is None:
                path, durability = self._scratch.new(), self._settings.durability
                with Store(path, durability=durability) as store:
                    store.push(self._url)  # of nothing: now the bucket knows it
                store = Store(path, durability=durability, remote=self._url, ship=self._policy)
                assert store._shipper is not None
                store._shipper.only_by_policy = True
                self._own = self._step.replace(store=store)
            return self._own

    def _ship_left(self) -> None:
        self._scratch.empty_others(self._take)

    def _take(self, path: str) -> bool:
        """Ship what a process left here that was killed; return whether that was done."""
        try:
            with Store(path) as store:
                store.push(self._url)
        except (BucketError, StoreCorruptError) as error:
            warnings.warn(
                f"{path} was left by a process that was killed, and is not shipped now: {error}",
                stacklevel=2,
            )
            return False
        return True

    def close(self) -> None:
        """Ship what is left, and give back the room on this machine. Can be repeated."""
        own, self._own = self._own, None
        try:
            if own is not None:
                own.store.flush()
                own.store.push()
                own.store.close()
            self._scratch.remove()
        except BucketError as error:
            warnings.warn(
                f"{self._url}: what was computed last is not there ({error}). Nothing is lost: "
                f"the next job on this machine ships it from {own and own.path}",
                stacklevel=2,
            )
            if own is not None:
                own.store.close()
            self._scratch.release()
        self._mirror.close()


def merge_in(url: str) -> int:
    """Bring the segments of each writer together in a bucket; return how many are left."""
    bucket = Bucket(url)
    if bucket.manifest() is None:
        return 0
    compact(bucket, bucket.segments(), all=True)
    return len(bucket.segments())
