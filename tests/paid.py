"""A paid step whose log file says what was paid for, and the drivers that can run it.

`label` is a plain function at the top level, so that it travels to the workers of a process pool;
what it shall do is in the row. Its log outlives any kill and is the oracle of every test.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from drivers import ASYNC, BRIDGED, BRIDGED_TASKS, SEQUENTIAL, TASKS, THREADS, Driver
from forkserver import context as context
from forkserver import preload

from checkpointdb import Store

preload("openai")


class QuotaSpent(Exception):
    """What a provider says when there is no money left."""


class Paid:
    """The log of a step, and the rows that make it write there."""

    def __init__(self, path: str) -> None:
        self.path = path
        open(path, "w").close()

    def rows(self, n: int, scripts: dict[int, str] | None = None) -> list[dict[str, Any]]:
        """Return rows 0 to n - 1.

        Args:
            n: how many.
            scripts: what the step does for a row, a word for each time that it is called, the last
                for all later times: "ok", "boom", "quota", "empty", "slow", "kill".
        """
        scripts = scripts or {}
        return [{"n": i, "script": scripts.get(i, "ok"), "log": self.path} for i in range(n)]

    @property
    def calls(self) -> list[int]:
        """The rows that the step was called for, in the order of the calls."""
        return lines(self.path)


def label(row: dict[str, Any]) -> dict[str, Any]:
    """Do what the row's script says, once the call is in the log."""
    script = row["script"].split()
    before = lines(row["log"]).count(row["n"]) if len(script) > 1 else 0
    note(row["log"], row["n"])
    what = script[min(before, len(script) - 1)]
    if what == "boom":
        raise ValueError(f"no luck with row {row['n']}")
    if what == "quota":
        raise QuotaSpent("insufficient_quota")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "slow":
        time.sleep(0.3)
    return result_of(row["n"], "" if what == "empty" else None)


def lines(path: str) -> list[int]:
    """Return the numbers in a log."""
    with open(path) as file:
        return [int(line) for line in file.read().split()]


def note(path: str, n: int) -> None:
    """Append a line to a log, in one write that no kill can tear."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{n}\n".encode())
    finally:
        os.close(descriptor)


def result_of(n: int, text: str | None = None) -> dict[str, Any]:
    """What the step returns for row `n`."""
    return {"n": n, "text": ["good", "bad", "ugly"][n % 3] if text is None else text, "usd": 0.01}


@functools.cache
def pool() -> ProcessPoolExecutor:
    """Two worker processes that serve all tests."""
    return ProcessPoolExecutor(2, mp_context=context)


class PoolDriver(Driver):
    """Run the step in other processes."""

    def start(self, step: Any, rows: Any, **options: Any) -> Any:
        """Return a run that nobody has asked for a result yet."""
        return step.run(rows, **({"executor": pool()} | options))


PROCESSES = PoolDriver("processes")
EVERY_DRIVER = (SEQUENTIAL, THREADS, ASYNC, BRIDGED, TASKS, BRIDGED_TASKS, PROCESSES)
every_driver = pytest.mark.parametrize("driver", EVERY_DRIVER, ids=str)
# one of each kind, for laws that are slow to test
KINDS = (SEQUENTIAL, THREADS, TASKS, PROCESSES)
each_kind = pytest.mark.parametrize("driver", KINDS, ids=str)


def saved(path: str) -> dict[int, Any]:
    """Return the newest record of each row on disk, by the row's number."""
    with contextlib.closing(Store(path, create=False)) as store:
        return {record.input["n"]: record for record in store.records()}
