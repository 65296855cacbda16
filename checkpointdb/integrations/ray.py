"""A step over a data set of Ray: `ds.map_batches(Checkpointed, fn_constructor_args=(…))`.

Ray makes an object of the class in each actor, calls it with batches, and drops it when the actor
ends; an actor that was killed it starts again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Any, Unpack

from .. import RunOptions, SavePolicy, Step, every
from ..frames.one_pass import Columns
from . import folder as folders
from .bucketed import Bucketed, merge_in
from .segments import Segmented

__all__ = ["Checkpointed", "merge_segments"]


class Checkpointed:
    """Pass a step over the batches that an actor of Ray Data gets; the results are new columns.

    Each row whose result some actor, of this job or an earlier one, has shipped is a hit. The rest
    is computed and saved by this actor on its node, and shipped as `ship=` says.
    Promise: a lost node costs what was not shipped yet; a killed actor, or a killed job, whose node
    lives on costs what the step's save policy says.

    Args:
        step: made by `ckpt.step`; its own store plays no part.
        folder: a path that all nodes see, or the URL of a bucket: `s3://bucket/prefix`, as
            `Store.push` takes it (extra `cloud`). Of a bucket each node has one copy, on its disk.
        ship: when to ship; each 30 s unless given.
        scratch: a directory on the node; among the system's temporary files unless given.
        columns: which of the batch make a row, as `Step.map` takes it.
        prefix: of the names of the added columns.
        error_column: as `Step.map` takes it.
        **options: as `Step.map` takes them; a batch is a run.

    Raises:
        TypeError: an option that counts one run, of which there are many here.
        ValueError: the step has `duplicates="separate"`, or `remote=`; not a URL of a bucket.
        StoreError: the folder cannot be used, or a file in it is no store of ours.
        BucketError: the bucket cannot be used, or is no one of ours.
        ImportError: a bucket, and the extra `cloud` is not installed.
    """

    def __init__(
        self,
        step: Step[Any, Any],
        folder: str | os.PathLike[str],
        *,
        ship: SavePolicy | None = None,
        scratch: str | None = None,
        columns: Columns = None,
        prefix: str = "",
        error_column: str = "error",
        **options: Unpack[RunOptions],
    ) -> None:
        for name in ("max_cost", "pilot"):
            if options.get(name) is not None:
                raise TypeError(f"{name}= counts one run, and each batch is a run of its own here")
        _check(step)
        where, ship = os.fspath(folder), ship or every(seconds=30)
        self._step: Bucketed | Segmented
        if _is_url(where):
            self._step = Bucketed(step, where, ship, scratch)
        else:
            self._step = Segmented(step, where, ship, scratch, _is_restarted())
        self._how: Any = {"columns": columns, "prefix": prefix, "error_column": error_column}
        self._how |= options

    def __call__(self, batch: Any) -> Any:
        """Return the batch with the results as further columns, of the same kind."""
        return self._step.map(batch, **self._how)

    def __del__(self) -> None:  # Ray's way to say that the actor ends
        with contextlib.suppress(AttributeError):  # it was never made
            self._step.close()


def merge_segments(folder: str | os.PathLike[str]) -> int:
    """Merge the small segments of a folder or a bucket and return how many are left.

    Promise: records of large ones are not written anew each time; whatever is killed, nothing is
    lost; jobs may go on meanwhile. In a bucket those of one actor become one, those of two do not.

    Args:
        folder: as it was given to the jobs.

    Raises:
        StoreError: one of them is not a store, or damaged; nothing was deleted.
        BucketError: the bucket cannot be used.
    """
    where = os.fspath(folder)
    return merge_in(where) if _is_url(where) else folders.merge_segments(where)


def _is_url(where: str) -> bool:
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", where) is not None


def _check(step: Step[Any, Any]) -> None:
    if step._settings.duplicates == "separate":
        raise ValueError(
            f"step {step.name!r} has duplicates='separate', and equal rows of several "
            "processes have no common count: put a number into the row instead"
        )
    if step._settings.remote is not None:
        raise ValueError(
            f"step {step.name!r} has remote=, which ships the store of one process. Leave it out "
            f"and give that URL to Checkpointed instead of a folder: {step._settings.remote!r}"
        )


def _is_restarted() -> bool:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return bool(context.get_actor_id() and context.was_current_actor_reconstructed)
