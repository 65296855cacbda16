"""Experiment: SIGINT and SIGTERM at each bytecode of a commit. Nothing answered is lost."""

from __future__ import annotations

import dis
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import msgspec

import checkpointdb as ckpt
from checkpointdb import file, interrupts
from checkpointdb.engine import committer
from checkpointdb.file import key_index

from . import checkers, history, journal, lives, power, watch

# What a commit runs through. The second one of a life also extends the index on disk.
COMMIT = (committer.__file__, interrupts.__file__, os.path.dirname(file.__file__))
BEGINS, WHICH = committer.Committer.commit_due.__code__, 2
ROWS = 5
# How a process may end that got the signal: never as if it had not come.
ENDINGS = {signal.SIGINT: (130,), signal.SIGTERM: (128 + 15, -15)}


class Stopped(msgspec.Struct, frozen=True):
    """What is stopped.

    Attributes:
        what: a name in `LIVES`.
        number: of the signal.
        at: the bytecode before which it comes.
    """

    what: str
    number: int
    at: int


def _run(step: Any) -> None:
    for _ in step.run(range(ROWS)):
        pass


def _shared(step: Any) -> None:
    for _ in step.run(range(ROWS), shared=True, ledger=True):
        pass


def _calls(step: Any) -> None:
    for row in range(ROWS):
        step(row)


# A shared run calls and commits in a thread, which no signal interrupts.
LIVES: dict[str, Callable[[Any], None]] = {"run": _run, "shared run": _shared, "calls": _calls}


class Signals:
    """Send signals, and count.

    Args:
        seed: of every choice.
    """

    name = "signals"

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.signals = self.bytecodes = self.too_short = 0
        self.of: dict[str, int] = {}
        self.violations: list[power.Violation] = []

    def study(self, what: str, count: int | None = None) -> None:
        """Stop a life before each bytecode of a commit, or before `count` of them."""
        with power.scratch() as directory:
            many = _Life(directory, Stopped(what, 0, -1)).live()
        self.bytecodes += many
        points = [(at, number) for at in range(many) for number in ENDINGS]
        if count is not None:
            points = self.chance.sample(points, min(count, len(points)))
        for at, number in points:
            self.stop(Stopped(what, int(number), at))

    def stop(self, stopped: Stopped) -> None:
        """Send one signal; then everything that was answered is there, and life goes on.

        A life whose threads took turns otherwise than the first one's may end before it.
        """
        with power.scratch() as directory:
            try:
                if 0 < _Life(directory, stopped).live() <= stopped.at:
                    self.too_short += 1
                    return
            except (checkers.Broken, watch.Hangs, ckpt.CheckpointError) as error:
                text = f"{type(error).__name__}: {error}"
                self.violations.append(power.Violation(self.name, stopped, stopped.at, text))
        self.signals += 1
        self.of[stopped.what] = self.of.get(stopped.what, 0) + 1

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "signals": self.signals, "bytecodes": self.bytecodes, "too_short": self.too_short,
            "of": self.of,
        }  # fmt: skip


class _Life:
    """One life of one store, in a process of its own."""

    def __init__(self, directory: str, stopped: Stopped) -> None:
        self._stopped = stopped
        self._path = os.path.join(directory, history.STORE)
        self._journal, self._stacks = self._path + ".journal", self._path + ".stacks"

    def live(self) -> int:
        """Live, and check; return how many bytecodes of commits there were."""
        child = power.fork()
        if not child:
            self._end_as(self._begin())
        (status,) = watch.all_ended([child], self._stacks)
        notes = journal.read(self._journal)
        seen: int = next((value for kind, value in notes if kind == "bytecodes"), 0)
        number, is_sent = self._stopped.number, not 0 < seen <= self._stopped.at
        if number and is_sent and status not in ENDINGS[signal.Signals(number)]:
            raise checkers.Broken(f"exit status {status}: {notes[-1]}")
        self._check({row for kind, row in notes if kind == "answered"})
        return seen

    def _begin(self) -> int:
        log = journal.Journal(self._journal)
        watch.shows_stacks(self._stacks)
        key_index.TAIL = 3
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before = [signal.getsignal(number) for number in ENDINGS]
        try:
            with lives.quiet():
                self._live(log)
        except KeyboardInterrupt:
            return 130 if before[0] is signal.getsignal(signal.SIGINT) else 1
        except SystemExit as end:
            return int(end.code or 0)
        except BaseException:
            log.add("note", traceback.format_exc())
            return 1
        return 0

    def _live(self, log: journal.Journal) -> None:
        def label(row: int) -> int:
            log.add("answered", row)
            return row

        with ckpt.Store(self._path) as store:
            step = _step(store, label)
            injected = _Injected(self._stopped.at, self._stopped.number)
            threading.settrace(injected.trace)
            sys.settrace(injected.trace)
            try:
                LIVES[self._stopped.what](step)
            finally:
                injected.end()
            log.add("bytecodes", injected.seen)

    def _end_as(self, status: int) -> None:
        os._exit(status)

    def _check(self, answered: set[int]) -> None:
        called: list[int] = []

        def label(row: int) -> int:
            called.append(row)
            return row

        with lives.quiet(), ckpt.Store(self._path) as store:
            if wrong := store.verify():
                raise checkers.Broken(f"verify: {wrong}")
            saved = {record.input for record in store.records()}
            if (records := sum(it.records for it in store.steps())) != len(saved):
                raise checkers.Broken(f"{records} records of {len(saved)} rows")
            if lost := answered - saved:
                raise checkers.Broken(f"answered, and lost: {sorted(lost)}")
            results = list(_step(store, label).run(range(ROWS)))
        if results != list(range(ROWS)) or saved.intersection(called):
            raise checkers.Broken(f"it does not go on: {results}, {called} called")
        checkers.released(self._path)


def _step(store: ckpt.Store, fn: Any) -> Any:
    return ckpt.step(
        store, version=1, name="label", save=ckpt.every(rows=2), on_change="reuse",
        ignore=("log", "called"),
    )(fn)  # fmt: skip


class _Injected:
    """Counts the bytecodes of a commit, and sends the signal before one of them.

    Inside what no signal may interrupt each counts. Outside of it Python looks for signals after a
    call, at a function's begin and at a loop's end, and so do we.
    """

    def __init__(self, at: int, number: int) -> None:
        self._at, self._number, self.seen = at, number, 0
        self._commits = 0
        self._commit: FrameType | None = None
        self._last: dict[FrameType, int] = {}

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """Trace; for `sys.settrace`."""
        if event == "call" and frame.f_code is BEGINS:
            self._commits += 1
            self._commit = frame if self._commits == WHICH else None
        if self._commit is None or not frame.f_code.co_filename.startswith(COMMIT):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            last, self._last[frame] = self._last.get(frame), frame.f_lasti
            if _looks(frame, last) or interrupts.is_whole(frame):
                self.seen += 1
                if self.seen - 1 == self._at:
                    self.end()
                    signal.raise_signal(self._number)
        elif event == "return":
            self._last.pop(frame, None)
            if frame is self._commit:
                self._commit = None
                self.end()
        return self.trace

    def end(self) -> None:
        """Trace no more."""
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def _looks(frame: FrameType, last: int | None) -> bool:
    """Tell whether Python looks for signals between the last bytecode and this one."""
    code = frame.f_code
    if last is None or not _name_at(code, last).startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
        return False
    return _handler(code, last) == _handler(code, frame.f_lasti)


_names: dict[CodeType, dict[int, str]] = {}


def _name_at(code: CodeType, offset: int) -> str:
    if code not in _names:
        _names[code] = {it.offset: it.opname for it in dis.get_instructions(code)}
    return _names[code].get(offset, "")


def _handler(code: CodeType, offset: int) -> int | None:
    """Return where an exception at a bytecode is handled."""
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    return next((it.target for it in entries if it.start <= offset < it.end), None)
