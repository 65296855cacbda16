"""The drivers that a run can have, behind one face, so that one suite of tests serves all of them.

A test writes its step as a plain function; a driver makes the step of it and consumes the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

import checkpointdb as ckpt


@dataclasses.dataclass(frozen=True)
class Driver:
    """A way to run a step: by `run` or `arun`, as a plain function or an `async def`."""

    name: str
    is_async: bool = False
    consumer: str = "run"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def concurrency(self) -> int:
        """How many calls may be in flight."""
        return self.options.get("concurrency", 1)

    def step(self, fn: Callable[..., Any], store: Any, *, version: Any = 1, **options: Any) -> Any:
        """Make a step of a plain function."""
        return ckpt.step(store, version=version, **options)(self.wrap(fn))

    def wrap(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return `fn`, or an `async def` that does the same and gives way before and after."""
        if not self.is_async:
            return fn

        @functools.wraps(fn)
        async def step(*args: Any) -> Any:
            await asyncio.sleep(0)
            result = fn(*args)
            await asyncio.sleep(0)
            return result

        return step

    def call(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the step for one row."""
        called = step(*args, **kwargs)
        return asyncio.run(_awaited(called)) if self.is_async else called

    def start(self, step: Any, rows: Any, **options: Any) -> ckpt.Run[Any]:
        """Return a run that nobody has asked for a result yet."""
        return getattr(step, self.consumer)(rows, **(self.options | options))

    def consume(
        self, run: ckpt.Run[Any], until: int | None = None, each: Callable[[Any], Any] = id
    ) -> None:
        """Iterate over the run; with `until`, close it after so many results.

        Args:
            run: from `start`.
            until: how many results to take; all of them unless given.
            each: the body of the loop, called with each result.
        """
        if self.consumer == "arun":
            asyncio.run(_aconsume(run, until, each))
            return
        with contextlib.closing(run):
            for n, result in enumerate(run, 1):
                each(result)
                if n == until:
                    break

    def run(self, step: Any, rows: Any, until: int | None = None, **options: Any) -> list[Any]:
        """Start and consume a run; return its results."""
        return self.results(self.start(step, rows, **options), until)

    def results(self, run: ckpt.Run[Any], until: int | None = None) -> list[Any]:
        """Consume a run; return its results."""
        results: list[Any] = []
        self.consume(run, until, results.append)
        return results


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _aconsume(run: Any, until: int | None, each: Callable[[Any], Any]) -> None:
    n = 0
    async with contextlib.aclosing(aiter(run)) as iterator:
        async for result in iterator:
            each(result)
            n += 1
            if n == until:
                break


SEQUENTIAL = Driver("sequential")
ASYNC = Driver("async", is_async=True, consumer="arun")
BRIDGED = Driver("bridged", is_async=True)
ONE_AT_A_TIME = (SEQUENTIAL, ASYNC, BRIDGED)
THREADS = Driver("threads", options={"concurrency": 4})
TASKS = Driver("tasks", is_async=True, consumer="arun", options={"concurrency": 4})
BRIDGED_TASKS = Driver("bridged tasks", is_async=True, options={"concurrency": 4})
SEVERAL_AT_A_TIME = (THREADS, TASKS, BRIDGED_TASKS)
DRIVERS = {driver.name: driver for driver in (*ONE_AT_A_TIME, *SEVERAL_AT_A_TIME)}

each_driver = pytest.mark.parametrize("driver", DRIVERS.values(), ids=str)
one_at_a_time = pytest.mark.parametrize("driver", ONE_AT_A_TIME, ids=str)
several_at_a_time = pytest.mark.parametrize("driver", SEVERAL_AT_A_TIME, ids=str)
