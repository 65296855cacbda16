"""Lives of a store: runs of every kind, drawn from a seed, that say what they were told.

A life uses the public face alone. What it is told (a row arrives in the loop, `flush` returns, a
`Committed` event comes) goes to its outside log as facts; see `history`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

import checkpointdb as ckpt
from checkpointdb.file import key_index, pragmas

from .history import CREATED, FAILED, STORE, Facts, row_fact

POLICIES = {
    "every(rows=1)": ckpt.every(rows=1),
    "every(rows=3)": ckpt.every(rows=3),
    "adaptive()": ckpt.adaptive(),
    "on_exit()": ckpt.on_exit(),
}
FAILING = ("failures", "upkeep")  # kinds in which some rows fail
HEALED = "from here on no row fails"  # among the calls
LOOPS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "threads": {"concurrency": 3},
    "tasks": {"concurrency": 3},
    "batches": {"batch_size": 4},
}


KINDS: dict[str, Callable[[Life], None]] = {}  # by name; `kinds` has them


class Options(msgspec.Struct, frozen=True):
    """What a seed stands for; printed with it.

    Attributes:
        kind: which life.
        durability, policy, loop: of its runs.
        rows: of a run.
        size: of a result, in bytes.
        tail: rows after which the index on disk is extended.
        wal_pages: pages of the log after which SQLite copies it into the main file.
        sector: see `Recorder`.
        processes: how many live at the same time, on one store.
    """

    kind: str
    durability: str = "power"
    policy: str = "every(rows=1)"
    loop: str = "sequential"
    rows: int = 12
    size: int = 40
    tail: int = 50_000
    wal_pages: int = 5_000
    sector: int | None = None
    processes: int = 1


def draw(chance: random.Random, kinds: list[str], **fixed: Any) -> Options:
    """Draw the options of a life."""
    drawn: dict[str, Any] = {
        "kind": chance.choice(kinds),
        "durability": chance.choice(["power", "power", "process"]),
        "policy": chance.choice(list(POLICIES)),
        "loop": chance.choice(list(LOOPS)),
        "rows": chance.choice([1, 6, 14]),
        "size": chance.choice([1, 100, 3_000, 20_000]),
        "tail": chance.choice([3, 8, 50_000]),
        "wal_pages": chance.choice([4, 20, 5_000]),
    }
    drawn["processes"] = 2 if drawn["kind"] == "workers" else 1
    return Options(**drawn | fixed)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let a life's warnings and log lines pass: it fails and is killed on purpose."""
    log = logging.getLogger("checkpointdb")
    was = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        log.setLevel(was)


@contextlib.contextmanager
def small_limits(options: Options) -> Iterator[None]:
    """Have the index extended and the log copied after few rows, not after thousands."""
    was = key_index.TAIL, pragmas.WAL_PAGES
    key_index.TAIL, pragmas.WAL_PAGES = options.tail, options.wal_pages
    try:
        yield
    finally:
        key_index.TAIL, pragmas.WAL_PAGES = was


def result_of(name: str, row: Any, size: int) -> dict[str, Any]:
    """Return the result that a step has for a row."""
    return {"step": name, "row": row, "text": f"é{row}" * (size // 2 + 1)}


class Life:
    """One life of one store.

    Args:
        directory: of the store.
        options: what is run.
        tell: takes the facts that are acknowledged, as each is.
        vfs: of the store.
    """

    def __init__(
        self,
        directory: str,
        options: Options,
        tell: Callable[[Facts], object] = id,
        vfs: str | None = None,
    ) -> None:
        self.path, self.options, self.vfs = os.path.join(directory, STORE), options, vfs
        self.tell = tell
        self.called: list[str] = []  # facts of the rows for which a step was called
        self.at_rest: Callable[[str], object] = id  # looks at an open store after an exception
        self.heal: Callable[[], object] = lambda: None  # ends a fault that lasts
        self._untold: dict[int, list[list[str]]] = {}  # calls of a store's runs that did not end

    def live(self) -> None:
        """Live to the end."""
        with small_limits(self.options):
            KINDS[self.options.kind](self)

    @contextlib.contextmanager
    def store(self) -> Iterator[ckpt.Store]:
        """Open the store; what is told of it holds from here on."""
        store: Any = ckpt.Store(self.path, durability=self.options.durability, vfs=self.vfs)
        untold = self._untold[id(store)] = []
        try:
            self.tell({CREATED: True})
            yield store
        except MemoryError:  # may come between a call's return and its keeping
            untold.clear()
            self.at_rest(self.path)
            raise
        finally:
            self._close(store)
            for calls in untold:  # the run ended early, and closing saved what had returned
                self.tell(self._outcomes(calls))

    def _close(self, store: ckpt.Store) -> None:
        """Close a store; if it cannot be, whatever was wrong ends, and it is tried once more."""
        try:
            store.close()
        except (ckpt.CheckpointError, MemoryError):
            self.heal()
            store.close()

    def step(
        self, store: Any, name: str = "label", version: Any = 1, calls: Any = None,
        tell: Callable[[Any], object] = id, **more: Any,
    ) -> Any:  # fmt: skip
        """Make a step that notes its calls, in `calls` too; in `failures`, some fail."""
        calls = [] if calls is None else calls

        def result(row: Any) -> Any:
            tell(row)
            calls.append(row_fact(name, version, row))
            self.called.append(row_fact(name, version, row))
            if self._fails(row):
                raise ValueError("no luck")
            if more.get("ledger") and self.options.durability == "power":
                self.tell({f"sent {bytes.fromhex(ckpt.current_key()).hex()}": True})
            return result_of(name, row, self.options.size)

        def label(row: Any) -> Any:
            return result(row)

        async def label_task(row: Any) -> Any:
            return result(row)

        def label_batch(rows: list[Any]) -> list[Any]:
            return [result(row) for row in rows]

        made = {"tasks": label_task, "batches": label_batch}.get(self.options.loop, label)
        policy = POLICIES[self.options.policy]
        return ckpt.step(
            store, version=version, name=name, save=policy, on_change="reuse",
            ignore=("self", "more", "result", "calls", "tell"),
        )(made)  # fmt: skip

    def run(
        self, store: Any, rows: Any, name: str = "label", version: Any = 1, **more: Any
    ) -> None:
        """Run a step over rows, and tell what it acknowledges."""
        calls: list[str] = []
        step = self.step(store, name, version, calls, **more)
        untold = self._untold[id(store)]
        untold.append(calls)
        loop = LOOPS[self.options.loop]
        there, runs = 0, []
        is_durable = self.options.durability == "power"
        in_order = self.options.loop in ("sequential", "batches") and not more.get("shared")

        def committed(event: Any) -> None:
            nonlocal there
            if isinstance(event, ckpt.RunStarted):
                runs.append(event.run)
            if isinstance(event, ckpt.Committed) and in_order and is_durable:
                self.tell(self._outcomes(calls[there : there + event.rows]))
                there += event.rows

        more.setdefault("on_error", "record")
        at_once = is_durable and self.options.policy == "every(rows=1)" and not more.get("shared")
        with step.run(rows, on_event=committed, **loop, **more) as run:
            for result in run:
                if not isinstance(result, ckpt.Failed):
                    assert result == result_of(name, result["row"], self.options.size)
                    if at_once:
                        self.tell(self._outcomes([row_fact(name, version, result["row"])]))
        untold.remove(calls)
        self.tell(self._outcomes(calls) | {f"run {runs[0]} ended": "finished"})

    def _outcomes(self, facts: list[str]) -> Facts:
        """Return the facts of rows with what the step made of them."""
        return {fact: self.outcome(fact) for fact in facts}

    def flush(self, step: Any) -> None:
        """Flush; once more, on the same handle, if that fails."""
        try:
            step.flush()
        except ckpt.CheckpointError:
            self.heal()
            step.flush()

    def _fails(self, row: Any) -> bool:
        # no attribute: the store sees it if a step's captured values change
        return self.options.kind in FAILING and row % 3 == 1 and HEALED not in self.called

    def outcome(self, fact: str) -> str:
        """Return what is saved of a row, as `history.plain` has it."""
        name, _, row = fact.split("/")
        if self._fails(json.loads(row)):
            return FAILED
        result = result_of(name, json.loads(row), self.options.size)
        return json.dumps(result, sort_keys=True)
