"""Faults put into the store, or its disk, on purpose: the laboratory must catch each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import msgspec

from checkpointdb import interrupts, system
from checkpointdb.engine import sharing
from checkpointdb.file import append, connection, find, log, log_file, pragmas

from . import checkers, exceptions, faults, kinds, lives, power, recorder, rot, signals

COUNT = 120  # cuts of a life; each fault falls in the first few dozen


def _early() -> Any:
    """A commit is acknowledged, and made with the next one, or when the run ends."""
    commit, end = log.Log.append, log.Log.end_run
    waiting: list[Any] = []

    def late(self: Any, step: int, run: int, entries: Any, *args: Any, **more: Any) -> Any:
        done = [commit(self, *it, **other) for it, other in waiting]
        waiting[:] = [((step, run, list(entries), *args), more)]
        return done[0] if done else []

    def ending(self: Any, *args: Any) -> None:
        for it, other in waiting:
            commit(self, *it, **other)
        waiting.clear()
        end(self, *args)

    return _both(
        mock.patch.object(log.Log, "append", late), mock.patch.object(log.Log, "end_run", ending)
    )


@contextlib.contextmanager
def _both(*patches: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _unsynced() -> Any:
    def off(writer: Any, _durability: str) -> None:
        writer.pragma("synchronous", "off")

    return mock.patch.object(pragmas, "set_durability", off)


def _journal_in_memory() -> Any:
    def tune(writer: Any, durability: str) -> None:
        writer.pragma("journal_mode", "memory")
        pragmas.set_durability(writer, durability)

    return _both(
        mock.patch.object(pragmas, "tune_writer", tune),
        mock.patch.object(log_file.LogFile, "check", lambda self: None),  # it would notice
    )


class HalfSyncs(recorder.Recorder):
    """A disk that ignores every second sync."""

    ignores = False

    def sync(self, handle: str) -> None:
        self.ignores = not self.ignores
        if not self.ignores:
            super().sync(handle)


@contextlib.contextmanager
def _begun_outside(writer: Any) -> Iterator[None]:
    writer.execute("begin immediate")
    try:
        yield
        writer.execute("commit")
    except BaseException:
        writer.execute("rollback")
        raise


def _begin_outside() -> Any:
    return mock.patch.object(log, "transaction", _begun_outside)


def _marked_further() -> Any:
    def extend(writer: Any) -> None:
        append_index(writer)
        writer.execute("update system_state set value = value + 2 where name = 'indexed_to'")

    append_index = log.extend
    return mock.patch.object(log, "extend", extend)


def _forgotten_sync() -> Any:
    def begin_anew(self: Any) -> None:
        self.is_doubtful = False

    return mock.patch.object(log_file.LogFile, "begin_anew", begin_anew)


def cut(*lives_of: lives.Options, make: Any = recorder.Recorder) -> list[power.Violation]:
    """Look for a fault by cutting the power on some lives."""
    lab = power.Power(1)
    for options in lives_of:
        try:
            lab.study(power.record(options, make=make), COUNT, first=1)
        except checkers.Broken as error:  # already in life, before any power was cut
            lab.violations.append(power.Violation("life", options, None, str(error)))
    return lab.violations


def _rotten(options: lives.Options) -> list[power.Violation]:
    lab = rot.Rot(1)
    lab.flip(options, COUNT)
    return lab.violations


def _stopped() -> list[power.Violation]:
    lab = signals.Signals(1)
    lab.study("calls", count=12)
    return lab.violations


def _raised(options: lives.Options) -> list[power.Violation]:
    lab = exceptions.Exceptions(1)
    lab.at_every_line(options, every=1, files=(__file__,))
    return lab.violations


def _failed_syncs(options: lives.Options) -> list[power.Violation]:
    lab = faults.Faults(1)
    syncs = lab.operations(options, ("sync",))
    for at in range(1, syncs + 1):
        if not lab.violations:
            lab.point(options, faults.Fault(at, kinds=("sync",)), cuts=60)
    return lab.violations


def _recovered(options: lives.Options) -> list[power.Violation]:
    """Cut the power on lives that begin with what another cut has left in the log."""
    for seed in range(20):
        lab = power.Power(seed)
        for files in lab.study(power.record(options), COUNT // 2, ("sectors",)):
            again = power.record(options, files, kinds.resume_small)
            lab.study(again, COUNT // 2, ("sectors",), first=1)
        if lab.violations:
            break
    return lab.violations


class Planted(msgspec.Struct, frozen=True):
    """A fault, and the experiment that finds it.

    Attributes:
        plant: returns a context manager in which the fault is there.
        look: returns the violations that are found; none without the fault.
    """

    plant: Callable[[], Any]
    look: Callable[[], list[power.Violation]]


_RUN = lives.Options("one run")
_BATCHES = lives.Options("one run", policy="every(rows=3)", wal_pages=4)
_PROCESS = lives.Options("calls", durability="process", policy="every(rows=3)")
_SMALL_INDEX = lives.Options("two steps", tail=3)

PLANTED = {
    "acknowledges before it commits": Planted(_early, lambda: cut(_RUN)),
    "never syncs": Planted(_unsynced, lambda: cut(_BATCHES)),
    "a disk that ignores half of the syncs": Planted(
        contextlib.nullcontext, lambda: cut(_BATCHES, make=HalfSyncs)
    ),
    "keeps its journal in memory": Planted(_journal_in_memory, lambda: cut(_RUN)),
    "has no checksum of a record": Planted(
        lambda: mock.patch.object(find, "is_intact", lambda *_: True),
        lambda: _rotten(lives.Options("one run", size=3_000)),
    ),
    "flush does nothing": Planted(
        lambda: mock.patch.object(log.Log, "sync", lambda self: None), lambda: cut(_PROCESS)
    ),
    "begin is outside its try": Planted(
        _begin_outside,
        lambda: _raised(lives.Options("calls", policy="every(rows=3)", rows=4, tail=3)),
    ),
    "the index is marked further than it is": Planted(_marked_further, lambda: cut(_SMALL_INDEX)),
    # hidden by the first sync of a new -wal: seen before anything was committed
    "the directory is never synced": Planted(
        lambda: mock.patch.object(system, "sync_directory", lambda _: None),
        lambda: cut(lives.Options("creation")),
    ),
    "a failed sync is forgotten": Planted(_forgotten_sync, lambda: _failed_syncs(_PROCESS)),
    "what was recovered is written next to": Planted(
        lambda: mock.patch.object(connection, "_settle_log", id),
        lambda: _recovered(lives.Options("one run", rows=6, size=3_000, wal_pages=20, sector=512)),
    ),
    "a signal may come into a commit": Planted(
        lambda: _both(
            mock.patch.object(interrupts, "is_whole", lambda _: False),
            mock.patch.object(interrupts, "in_step", lambda _: None),
        ),
        _stopped,
    ),
    "claims are never given up": Planted(
        lambda: _both(
            mock.patch.object(sharing.Sharing, "_release", lambda self: None),
            mock.patch.object(log.Log, "_give_up_the_rest", lambda self: None),
        ),
        lambda: cut(lives.Options("stopped", rows=4)),
    ),
}
assert append.transaction is log.transaction
