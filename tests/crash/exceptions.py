"""Experiment: an exception at every line of the file's code, and SQLite without memory."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import apsw

import checkpointdb as ckpt
from checkpointdb import file

from . import checkers, faults, lives, power

HERE = os.path.dirname(file.__file__)


class Exceptions(faults.Faults):
    """Raise at a place of a life, let it begin again, and count."""

    name = "exceptions"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.lines = self.limits = 0

    def at_every_line(
        self, options: lives.Options, every: int, first: int = 1, files: tuple[str, ...] = (HERE,)
    ) -> None:
        """Raise MemoryError at one in `every` lines of some files; stop at the tenth violation."""
        lines = self._noted(options, lambda life: _note(life, _traced(life, 0, files)))
        for n in range(first, lines + 1, every):
            if len(self.violations) == 10:
                return
            self.lines += 1
            self.try_once(options, lambda life, n=n: _raising(life, n, files), {"line": n})

    def at_limits(self, options: lives.Options, every: int, first: int = 0) -> None:
        """Leave SQLite only so many more bytes than it has, from none to enough for the life."""
        room, used = first, self._noted(options, _measuring)
        while room < used:
            self.limits += 1
            self.try_once(options, lambda life, room=room: _starving(life, room), {"bytes": room})
            room += every

    def try_once(self, options: lives.Options, live: Callable[[Any], object], where: Any) -> None:
        """Live with what may come, then check as after any fault."""
        try:
            recording = power.record(options, live=live)
        except checkers.Broken as error:
            self.violations.append(power.Violation(self.name, options, where, str(error)))
            return
        self.end(recording, where)

    def _noted(self, options: lives.Options, live: Callable[[Any], object]) -> int:
        recording = power.record(options, live=live)
        return next(values[0] for kind, *values in recording.operations if kind == "note")

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "faults": self.lines + self.limits, "lines": self.lines, "heap_limits": self.limits,
        }  # fmt: skip


def _note(life: lives.Life, value: Any) -> None:
    life.heal.__self__.journal.add("note", value)  # type: ignore[attr-defined]


def _traced(life: lives.Life, at: int, files: tuple[str, ...]) -> int:
    """Live, and raise MemoryError at line `at` of the file's code; return how many there were."""
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(files):
            return None
        if event == "line":
            count += 1
            if count == at:
                raise MemoryError(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return trace

    sys.settrace(trace)
    try:
        life.live()
    finally:
        sys.settrace(None)
    return count


def _raising(life: lives.Life, at: int, files: tuple[str, ...]) -> None:
    def look(path: str) -> None:
        sys.settrace(None)
        checkers.unlocked(path)

    life.at_rest = look
    with _noted_memory_error(life):
        _traced(life, at, files)
        return
    life.live()  # with the exception gone, and what its frames held


def _measuring(life: lives.Life) -> None:
    before = apsw.memory_used()
    apsw.memory_high_water(True)
    life.live()
    _note(life, apsw.memory_high_water() - before)


def _starving(life: lives.Life, room: int) -> None:
    life.heal = lambda: apsw.hard_heap_limit(0)
    life.at_rest = lambda _: life.heal()
    apsw.hard_heap_limit(apsw.memory_used() + room)
    with contextlib.suppress(MemoryError, ckpt.CheckpointError):
        life.live()
        return
    life.heal()
    life.live()


@contextlib.contextmanager
def _noted_memory_error(life: lives.Life) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        _note(life, str(error))
