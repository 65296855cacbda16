"""Experiment: SIGKILL at random instants, whatever drives the run.

The step and the loop's body note what they did in a journal of their own, which no kill can tear.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec

import checkpointdb as ckpt
from checkpointdb import cli
from checkpointdb.file.read import Reader

from . import checkers, journal, lives, power, watch
from .history import STORE, row_fact

EACH = 8  # kills that a store lives through before it is run to its end
POOL = 2  # processes, or threads, that call the step
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_SPEED = 0.0003  # seconds of a call; else nearly every kill would find the run in a commit


class Driver(msgspec.Struct, frozen=True):
    """Something that drives a run.

    Attributes:
        drive: does so over rows; it calls its last argument with each result, if it is given any.
        in_flight: how many answered calls it may not yet have kept.
        processes: how many drive the same run at the same time.
        gives: whether it gives out results.
    """

    drive: Callable[[Any, int | None, Callable[[Any], object]], None]
    in_flight: int = 1
    processes: int = 1
    gives: bool = True


class Victim(msgspec.Struct, frozen=True):
    """What is killed; printed with the seed.

    Attributes:
        driver: a name in `DRIVERS`.
        save: commit every so many rows.
        durability: of commits.
    """

    driver: str
    save: int
    durability: str


_log: journal.Journal | None = None  # of this process, and of the workers that it forks


def label(row: int) -> dict[str, Any]:
    """The step. It is at the top of a module, so that it travels."""
    assert _log is not None
    _log.add("called", row)
    time.sleep(_SPEED)
    result = lives.result_of("label", row, 40)
    _log.add("answered", row)
    return result


async def label_task(row: int) -> dict[str, Any]:
    """The step, as a task."""
    return label(row)


def _step(victim: Victim, store: str, fn: Any = label) -> Any:
    return ckpt.step(
        store, version=1, name="label", durability=victim.durability,
        save=ckpt.every(rows=victim.save), on_change="reuse", ignore=("_log",),
    )(fn)  # fmt: skip


def _rows(n: int | None) -> Any:
    return range(1 << 40) if n is None else range(n)


def _looping(fn: Any = label, **options: Any) -> Any:
    def drive(step: Any, n: int | None, each: Callable[[Any], object]) -> None:
        for result in step(fn).run(iter(_rows(n)), **options):
            each(result)

    return drive


def _tasks(step: Any, n: int | None, each: Callable[[Any], object]) -> None:
    async def consume() -> None:
        async for result in step(label_task).arun(iter(_rows(n)), concurrency=POOL):
            each(result)

    asyncio.run(consume())


def _executor(step: Any, n: int | None, each: Callable[[Any], object]) -> None:
    with ProcessPoolExecutor(POOL) as pool:
        _looping(executor=pool)(step, n, each)


def _calls(step: Any, n: int | None, each: Callable[[Any], object]) -> None:
    call = step(label)
    for row in _rows(n):
        each(call(row))


def _command(step: Any, n: int | None, each: Callable[[Any], object]) -> None:
    made = step(label)
    rows = os.path.join(os.path.dirname(made.path), "rows.jsonl")
    with open(rows, "w") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in range(n or 3_000))
    with contextlib.suppress(SystemExit):
        cli.cli([
            "run", f"{__name__}:label", rows, "--store", made.path, "--version", "1",
            "--save", f"rows={made._settings.save.rows}", "--durability", made._settings.durability,
            "--no-progress",
        ])  # fmt: skip


DRIVERS = {
    "sequential": Driver(_looping()),
    "threads": Driver(_looping(concurrency=POOL), POOL),
    "tasks": Driver(_tasks, POOL),
    "bridged": Driver(_looping(label_task, concurrency=POOL), POOL),
    "executor": Driver(_executor, 2 * POOL),
    "shared": Driver(_looping(shared=True), processes=2),
    "calls": Driver(_calls),
    "command": Driver(_command, gives=False),
}


class Kills:
    """Kill victims, and count.

    Args:
        seed: of every choice but the instant, which is the machine's.
    """

    name = "kills"

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.kills = self.stores = self.children = self.recomputed = 0
        self.of: dict[str, int] = {}
        self.violations: list[power.Violation] = []

    def victims(self, names: Any = tuple(DRIVERS)) -> Iterator[Victim]:
        """Draw victims without end, of each driver as many."""
        while True:
            for name in names:
                yield Victim(
                    name, self.chance.choice([1, 5]), self.chance.choice(["power", "process"])
                )

    def study(self, victim: Victim, kills: int = EACH) -> None:
        """Kill a run again and again; then let it come to its end."""
        self.stores += 1
        _adopt_orphans()
        with power.scratch() as directory, power.scratch() as beside, lives.quiet():
            lived = _Lived(victim, directory, beside)
            try:
                for _ in range(kills):
                    lived.live_until_killed(self.chance)
                    self.kills += 1
                    self.of[victim.driver] = self.of.get(victim.driver, 0) + 1
                    lived.check()
                lived.live_to_the_end()
            except (checkers.Broken, watch.Hangs, ckpt.CheckpointError) as error:
                text = f"{type(error).__name__}: {error}"
                self.violations.append(power.Violation(self.name, victim, self.kills, text))
            self.children += lived.children
            self.recomputed += lived.recomputed

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "kills": self.kills, "stores": self.stores, "children": self.children,
            "recomputed": self.recomputed, "of": self.of,
        }  # fmt: skip


class _Lived:
    """The lives of one store, and what its journal says of them."""

    def __init__(self, victim: Victim, directory: str, beside: str) -> None:
        self.victim, self.driver = victim, DRIVERS[victim.driver]
        self.path = os.path.join(directory, STORE)
        self._journal, self._stacks = os.path.join(beside, "journal"), os.path.join(beside, "it")
        self._read = 0
        self.saved: set[int] = set()
        self.called: set[int] = set()
        self.children = self.recomputed = 0
        journal.Journal(self._journal).close()

    def live_until_killed(self, chance: random.Random) -> None:
        """Live, and be killed: one in four while the store is opened, the others once rows come."""
        pids = [self._fork(None) for _ in range(self.driver.processes)]
        if chance.random() < 0.25:
            time.sleep(chance.uniform(0.0, 0.02))
        else:
            more = self._size() + chance.randrange(1, 3_000)
            watch.until(lambda: self._size() >= more, pids, self._stacks)
            time.sleep(chance.uniform(0.0, 0.003))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        self._end_orphans()

    def _end_orphans(self) -> None:
        """Liveness: the workers of a killed driver end by themselves."""
        orphans = watch.children()
        self.children += len(orphans)
        watch.all_ended(orphans, self._stacks)

    def live_to_the_end(self) -> None:
        """Liveness: run again, and everything is there and nobody holds it."""
        n = max(self.called, default=0) + 5
        pids = [self._fork(n) for _ in range(self.driver.processes)]
        if any(statuses := watch.all_ended(pids, self._stacks)):
            raise checkers.Broken(f"exit status {statuses}: {self._notes()}")
        self.check(is_ended=True)
        if not self.saved >= set(range(n)):
            raise checkers.Broken(f"not all was computed: {sorted(set(range(n)) - self.saved)[:9]}")
        checkers.released(self.path)

    def check(self, is_ended: bool = False) -> None:
        """Safety: what was lost is within the loss window; nothing saved was paid for again."""
        now = self._happened()
        before, saved = self.saved, self._in_store()
        if again := before & now["called"]:
            raise checkers.Broken(f"saved rows were computed again: {sorted(again)[:5]}")
        if gone := before - saved:
            raise checkers.Broken(f"saved rows are gone: {sorted(gone)[:5]}")
        window = 0 if is_ended else self.victim.save - 1
        many = self.driver.processes
        for kind, most in ("given", window), ("answered", window + self.driver.in_flight):
            lost = now[kind] - saved
            if len(lost) > most * many and not (is_ended and not lost):
                raise checkers.Broken(f"{len(lost)} rows that were {kind} are lost, {most} may be")
            self.recomputed += len(lost) if kind == "answered" else 0
        self.saved = saved
        self.called |= now["called"]

    def _in_store(self) -> set[int]:
        if not os.path.exists(self.path):
            return set()
        saved = set()
        with Reader(self.path) as reader:  # which leaves the log for the next life to recover
            if wrong := reader.verify():
                raise checkers.Broken(f"verify: {wrong}")
            for record in reader.records():
                if record.result != lives.result_of("label", record.input, 40):
                    raise checkers.Broken(f"a wrong answer: {row_fact('label', 1, record.input)}")
                saved.add(record.input)
        return saved

    def _happened(self) -> dict[str, set[int]]:
        operations = journal.read(self._journal, self._read)
        self._read = self._size()
        now: dict[str, set[int]] = {"called": set(), "answered": set(), "given": set()}
        for kind, row in operations:
            now.setdefault(kind, set()).add(row)
        return now

    def _size(self) -> int:
        return os.path.getsize(self._journal)

    def _notes(self) -> list[Any]:
        return [row for kind, row in journal.read(self._journal) if kind == "note"]

    def _fork(self, n: int | None) -> int:
        child = power.fork()
        if not child:
            status = 1
            try:
                self._live(n)
                status = 0
            except BaseException:
                assert _log is not None
                _log.add("note", traceback.format_exc())
            finally:
                os._exit(status)
        return child

    def _live(self, n: int | None) -> None:
        global _log
        _log = log = journal.Journal(self._journal)
        watch.shows_stacks(self._stacks)

        def given(result: dict[str, Any]) -> None:
            log.add("given", result["row"])

        def step(fn: Any) -> Any:
            return _step(self.victim, self.path, fn)

        self.driver.drive(step, n, given)
        for store in list(ckpt.file.lifetime._open):  # as an exit does
            store.close()


def _adopt_orphans() -> None:
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
