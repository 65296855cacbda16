"""What all guards together cost a first run: the same run with them and without, in pairs.

Without: no checksum, no identity against collisions, no look whether a row was mutated or a result
comes back equal, no look whether the file is still there, no function that signals wait for. A
store made so is good for nothing; no option of checkpointdb does this.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from .harness import Case, Figures, child

QUESTION = "What do all guards together cost?"
PAIRS = 7


def cases(quick: bool) -> list[Case]:
    """Return a run of small rows with the guards, and one without."""
    rows = 30_000 if quick else 300_000
    return [
        Case(name, measure, {"guarded": name == "with", "rows": rows}, repeats=PAIRS)
        for name in ("with", "without")
    ]


def measure(folder: str, **parameters: Any) -> Figures:
    """Measure in a fresh process."""
    return child("guards:first_run", folder, **parameters)


# --- in the child


def first_run(guarded: bool, rows: int) -> Figures:
    """Run a step that does nothing over small rows, 1,000 a commit; return µs a row."""
    if guarded:
        return _timed(rows)
    with without_guards():
        return _timed(rows)


def _timed(rows: int) -> Figures:
    import checkpointdb as ckpt

    step = ckpt.step("bench.ckpt", version=1, save=ckpt.every(rows=1000))(_label)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in step.run([{"id": n} for n in range(rows)]):
        pass
    step.store.close()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"us": wall / rows * 1e6, "cpu_us": cpu / rows * 1e6}


def _label(row: dict[str, int]) -> int:
    return row["id"]


def _zero(_entry: Any) -> int:
    return 0


def _yes(*_: Any, **__: Any) -> bool:
    return True


class _NoDigest:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def digest(self) -> bytes:
        return bytes(16)


@contextlib.contextmanager
def without_guards() -> Iterator[None]:
    """Replace the guards by nothing, in this process."""
    from checkpointdb.file import append, find, log_file
    from checkpointdb.values import keys

    log = log_file.LogFile
    with (
        mock.patch.object(append, "checksum", _zero),
        mock.patch.object(find, "is_intact", _yes),
        mock.patch.object(keys, "blake2b", _NoDigest),
        mock.patch.object(keys.Keyer, "is_unchanged", _yes),
        mock.patch.multiple(log, check=lambda self: None, check_replaced=lambda self: None),
        contextlib.ExitStack() as stack,
    ):
        for of, name, bare in _deferring():
            stack.enter_context(mock.patch.object(of, name, bare))
        yield


def _deferring() -> list[tuple[type, str, Any]]:
    """Return the methods that signals wait for, each with what it is without."""
    from checkpointdb import interrupts

    codes = interrupts._whole | interrupts._calls
    modules = [it for name, it in sys.modules.items() if name.startswith("checkpointdb.")]
    classes = {it for module in modules for it in vars(module).values() if isinstance(it, type)}
    return [
        (of, name, bare)
        for of in classes
        for name, value in vars(of).items()
        if getattr(bare := getattr(value, "__wrapped__", None), "__code__", None) in codes
    ]
