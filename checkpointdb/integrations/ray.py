"""A step over a data set of Ray: `ds.map_batches(Checkpointed, fn_constructor_args=(…))`.

Ray makes an object of the class in each actor, calls it with batches, and drops it when the actor
ends; an actor that was killed it starts again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, Unpack

from .. import RunOptions, SavePolicy, Step, every
from ..frames.one_pass import Columns
from .folder import merge_segments
from .segments import Segmented

__all__ = ["Checkpointed", "merge_segments"]


class Checkpointed:
    """Pass a step over the batches that an actor of Ray Data gets; the results are new columns.

    Each row whose result some actor, of this job or an earlier one, has shipped to the folder is a
    hit. The rest is computed and saved by this actor on its node, and shipped as `ship=` says.
    Promise: a lost node costs what was not shipped yet; a killed actor, or a killed job, whose node
    lives on costs what the step's save policy says.

    Args:
        step: made by `ckpt.step`; its own store plays no part.
        folder: a path that all nodes see.
        ship: when to ship; each 30 s unless given.
        scratch: a directory on the node; among the system's temporary files unless given.
        columns: which of the batch make a row, as `Step.map` takes it.
        prefix: of the names of the added columns.
        error_column: as `Step.map` takes it.
        **options: as `Step.map` takes them; a batch is a run.

    Raises:
        TypeError: an option that counts one run, of which there are many here.
        ValueError: the step has `duplicates="separate"`.
        StoreError: the folder cannot be used, or a file in it is no store of ours.
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
        ship = ship or every(seconds=30)
        self._step = Segmented(step, os.fspath(folder), ship, scratch, _is_restarted())
        self._how: Any = {"columns": columns, "prefix": prefix, "error_column": error_column}
        self._how |= options

    def __call__(self, batch: Any) -> Any:
        """Return the batch with the results as further columns, of the same kind."""
        return self._step.map(batch, **self._how)

    def __del__(self) -> None:  # Ray's way to say that the actor ends
        with contextlib.suppress(AttributeError):  # it was never made
            self._step.close()


def _is_restarted() -> bool:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return bool(context.get_actor_id() and context.was_current_actor_reconstructed)
