"""Experiment: processes at once on one store, however they were started; a reader that stays."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import random
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import apsw
import msgspec

import checkpointdb as ckpt
from checkpointdb.file import pragmas

from . import checkers, journal, lives, power, watch
from .history import STORE

METHODS = ("fork", "spawn", "forkserver")
# While one worker waits, the others may compute so much of what there is: it takes its turn at a
# lock for which nobody queues, and then the machine's scheduler has its say as well.
LONGEST_WAIT = 0.25


class Job(msgspec.Struct, frozen=True):
    """Workers on one store; printed with the seed.

    Attributes:
        method: how they are started.
        workers: how many.
        rows: of each.
        disjoint: whether each has rows of its own; else they all have the same.
        loop: a name in `lives.LOOPS`.
        durability: of their commits.
    """

    method: str
    workers: int = 4
    rows: int = 50
    disjoint: bool = False
    loop: str = "sequential"
    durability: str = "power"


class Processes:
    """Start workers, and count.

    Args:
        seed: of every choice.
    """

    name = "processes"

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.processes = self.rows = self.longest_wait = self.readers = 0
        self.of: dict[str, int] = {}
        self.violations: list[power.Violation] = []

    def draw(self, method: str, **fixed: Any) -> Job:
        """Draw a job."""
        drawn: dict[str, Any] = {
            "disjoint": self.chance.random() < 0.5,
            "loop": self.chance.choice(list(lives.LOOPS)),
            "durability": self.chance.choice(["power", "process"]),
        }
        return Job(method, **drawn | fixed)

    def try_once(self, job: Job) -> None:
        """Let workers compute each row once, while this process has the store open too."""
        self._guarded(job, self._work)

    def read_long(self, limit: int) -> None:
        """Write while somebody reads: the log grows, that is said, and it shrinks again."""
        self.readers += 1
        self._guarded(limit, _outgrow)

    def _guarded(self, what: Any, work: Callable[[Any, str, str], None]) -> None:
        with power.scratch() as directory, power.scratch() as beside:
            try:
                work(what, os.path.join(directory, STORE), beside)
            except (checkers.Broken, watch.Hangs, ckpt.CheckpointError) as error:
                text = f"{type(error).__name__}: {error}"
                self.violations.append(power.Violation(self.name, what, None, text))

    def _work(self, job: Job, path: str, beside: str) -> None:
        log, stacks = os.path.join(beside, "journal"), os.path.join(beside, "stacks")
        journal.Journal(log).close()
        context = multiprocessing.get_context(job.method)
        with ckpt.Store(path):
            started: list[Any] = [
                context.Process(target=work, args=(path, log, stacks, n, job))
                for n in range(job.workers)
            ]
            for process in started:
                process.start()
            statuses = watch.joined(started, stacks)
        self.processes += job.workers
        self.of[job.method] = self.of.get(job.method, 0) + job.workers
        self._check(job, path, journal.read(log), statuses)

    def _check(self, job: Job, path: str, events: list[list[Any]], statuses: list[int]) -> None:
        if any(statuses):
            raise checkers.Broken(f"exit status {statuses}: {[it for it in events if len(it) < 3]}")
        rows = set().union(*(job_rows(job, n) for n in range(job.workers)))
        self.rows += len(rows)
        calls = Counter(row for kind, _, row in events if kind == "called")
        if again := [row for row, count in calls.items() if count > 1]:
            raise checkers.Broken(f"computed more than once: {again[:5]}")
        with ckpt.Store(path) as store:
            if wrong := store.verify():
                raise checkers.Broken(f"verify: {wrong}")
            saved = [record.input for record in store.records()]
        if len(saved) != len(rows) or set(saved) != rows:
            raise checkers.Broken(f"{len(rows)} rows, {len(saved)} saved")
        checkers.released(path)
        wait = longest_wait(events)
        self.longest_wait = max(self.longest_wait, wait)
        if len(rows) >= 1_000 and wait > LONGEST_WAIT * len(rows):
            raise checkers.Broken(f"one worker waited while others computed {wait} rows")

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "processes": self.processes, "rows": self.rows, "longest_wait": self.longest_wait,
            "long_readers": self.readers, "of": self.of,
        }  # fmt: skip


def job_rows(job: Job, n: int) -> set[int]:
    """Return the rows of a worker."""
    first = n * job.rows if job.disjoint else 0
    return set(range(first, first + job.rows))


def longest_wait(events: list[list[Any]]) -> int:
    """Return how many rows the others computed, at most, between two signs of life of a worker."""
    calls, last, longest = 0, dict[int, int](), 0
    for kind, worker, _ in events:
        if worker in last:
            longest = max(longest, calls - last[worker])
        calls += kind == "called"
        last[worker] = calls
    return longest


def work(path: str, log_path: str, stacks: str, n: int, job: Job) -> None:
    """Be one of the workers."""
    log = journal.Journal(log_path)
    watch.shows_stacks(stacks)
    life = lives.Life(os.path.dirname(path), lives.Options("workers", loop=job.loop))
    try:
        with lives.quiet(), ckpt.Store(path, durability=job.durability) as store:  # type: ignore[arg-type]
            step = life.step(store, tell=lambda row: log.add("called", n, row))
            rows = sorted(job_rows(job, n))
            for result in step.run(rows, shared=True, **lives.LOOPS[job.loop]):
                log.add("given", n, result["row"])
    except BaseException:
        log.add(traceback.format_exc())
        raise SystemExit(1) from None


def _outgrow(limit: int, path: str, beside: str) -> None:
    """Have a log grow above a limit under a reader, in a process of its own."""
    log, stacks = os.path.join(beside, "journal"), os.path.join(beside, "stacks")
    child = power.fork()
    if not child:
        watch.shows_stacks(stacks)
        status, notes = 1, journal.Journal(log)
        try:
            _write_beside_a_reader(limit, path)
            status = 0
        except BaseException:
            notes.add(traceback.format_exc())
        finally:
            os._exit(status)
    (status,) = watch.all_ended([child], stacks)
    if status:
        raise checkers.Broken(str(journal.read(log)))
    checkers.released(path)


def _write_beside_a_reader(limit: int, path: str) -> None:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("checkpointdb").addHandler(handler)
    pragmas.WAL_BYTES, pragmas.WAL_PAGES = limit, 50
    wal, rows = path + "-wal", 0
    with ckpt.Store(path) as store:
        step = ckpt.step(store, version=1, name="label", save=ckpt.every(rows=8))(_large)
        list(step.run(range(8)))
        with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as reader:
            reader.execute("begin")
            reader.execute("select count(*) from records").get
            while os.path.getsize(wal) < 1.5 * limit:
                rows += 64
                list(step.run(range(rows)))
        said = [it for it in heard if wal in it]
        assert len(said) == 1, f"said {len(said)} times: {heard}"
        list(step.run(range(rows + 64)))
        list(step.run(range(rows + 128)))
        assert os.path.getsize(wal) <= limit, f"the log keeps {os.path.getsize(wal):,} bytes"
        assert store.verify() == []


def _large(row: int) -> str:
    return f"{row} " + "x" * 20_000
