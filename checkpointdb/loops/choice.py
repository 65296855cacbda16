"""Which loop drives a run of sync code. Knows the options; drives nothing."""

from __future__ import annotations

import os
from typing import Any

from ..engine.options import Options
from . import sync


def loop_for(step: Any, is_async: bool, options: Options) -> sync.Loop:
    """Return the loop for a run of `step` with these options.

    Raises:
        TypeError, RuntimeError: it cannot be run so, or not here.
    """
    concurrency = options.concurrency
    if is_async:
        from .bridge import bridged

        refuse_executor(options)
        return bridged(step.name, options)
    if options.executor is not None:
        from .executors import in_executor

        return in_executor(step, options.executor, _workers(options))
    if concurrency > 1 or options.shared:
        return lambda run, signals: sync.threaded(run, signals, concurrency)
    return sync.sequential if options.batch_size is None else sync.batches


def refuse_executor(options: Options) -> None:
    """Raise if an async step is to run in an executor."""
    if options.executor is not None:
        raise TypeError("executor= is for a plain function; an async step runs in tasks: drop it")


def _workers(options: Options) -> int:
    known: int | None = getattr(options.executor, "_max_workers", None)
    return options.concurrency if options.concurrency > 1 else known or os.cpu_count() or 1
