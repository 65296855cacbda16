"""Experiment: an I/O operation fails, at each place of a life in turn; then its disk is cut too."""

from __future__ import annotations

import random
from typing import Any

import apsw
import msgspec

from . import checkers, disk, history, journal, kinds, lives, power, recorder

KINDS = ("open", "read", "write", "truncate", "sync", "delete", "link")


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a disk.

    Attributes:
        at: the number of the first operation that fails.
        error: `EIO` or `ENOSPC` (which only operations that need room have).
        lasting: whether all others fail too from then on, until the user has seen to it.
        kinds: operations that are counted, and fail.
    """

    at: int
    error: str = "EIO"
    lasting: bool = False
    kinds: tuple[str, ...] = KINDS


class Broken(recorder.Recorder):
    """A disk with a fault. A sync that fails takes what it did not write for written, as Linux."""

    def __init__(self, log: journal.Journal, sector: int | None, fault: Fault) -> None:
        self.fault, self.count, self.healed = fault, 0, False
        super().__init__(log, sector)

    def check(self, kind: str) -> None:
        if kind not in self.fault.kinds:
            return
        self.count += 1
        fails = self.count >= self.fault.at if self.fault.lasting else self.count == self.fault.at
        if not fails or self.healed:
            return
        self.journal.add("note", f"{kind} fails")
        if self.fault.error == "ENOSPC" and kind in ("write", "open", "link"):
            raise (apsw.CantOpenError if kind == "open" else apsw.FullError)("no room")
        raise _error_of(kind)

    def sync(self, handle: str) -> None:
        try:
            self.check("sync")
        except apsw.IOError:
            self.journal.add("badsync", handle)
            raise
        super().sync(handle)

    def heal(self) -> None:
        self.healed = True


def _error_of(kind: str) -> Exception:
    """Return the error that SQLite's own VFS has for an operation that failed."""
    error = apsw.IOError(f"the disk failed: {kind}")
    error.extendedresult = {
        "read": apsw.SQLITE_IOERR_READ, "write": apsw.SQLITE_IOERR_WRITE,
        "truncate": apsw.SQLITE_IOERR_TRUNCATE, "sync": apsw.SQLITE_IOERR_FSYNC,
        "delete": apsw.SQLITE_IOERR_DELETE, "open": apsw.SQLITE_CANTOPEN,
        "link": apsw.SQLITE_IOERR_ACCESS,
    }[kind]  # fmt: skip
    return apsw.CantOpenError("the disk failed: open") if kind == "open" else error


class Faults(power.Power):
    """Let operations of recorded lives fail, and count."""

    name = "faults"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.points = self.hit = 0
        self.errors: dict[str, int] = {}

    def operations(self, options: lives.Options, kinds: tuple[str, ...] = KINDS) -> int:
        """Return how many operations that can fail a life has."""
        never = Fault(at=1 << 60, kinds=kinds)
        counted = power.record(options, live=_counting, make=_disk_with(never))
        return next(values[0] for kind, *values in counted.operations if kind == "note")

    def point(self, options: lives.Options, fault: Fault, cuts: int = 0) -> None:
        """Live with a fault; then everything that was acknowledged is there, and life goes on."""
        self.points += 1
        self.errors[fault.error] = self.errors.get(fault.error, 0) + 1
        try:
            recording = power.record(options, live=kinds.stubborn, make=_disk_with(fault))
        except checkers.Broken as error:
            self.violations.append(power.Violation(self.name, options, fault, str(error)))
            return
        self.hit += any(kind == "note" for kind, *_ in recording.operations)
        if cuts:
            self.study(msgspec.structs.replace(recording, fault=fault), cuts)
        self.end(recording, fault)

    def end(self, recording: power.Recording, where: Any) -> None:
        """Check the disk as a life left it against all that the life was told."""
        told: history.Facts = {}
        for kind, *values in recording.operations:
            if kind == "ack":
                told |= values[0]
        replay = disk.Disk(recording.operations)
        replay.advance(len(recording.operations))
        try:
            with power.scratch() as directory, lives.quiet():
                files = replay.now()
                state = power.examine(recording.options, files, directory, random.Random(0))
            lost = [
                fact
                for fact, value in told.items()
                if state.facts.get(fact) != value and not fact.startswith("sent ")  # answered
            ]
            if lost:
                raise checkers.Broken(f"acknowledged and not there: {lost[:5]}")
        except checkers.Broken as error:
            self.violations.append(power.Violation(self.name, recording.options, where, str(error)))

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return super().counts() | self.errors | {
            "faults": self.points, "hit": self.hit, "left_out": self.left_out,
        }  # fmt: skip


def _disk_with(fault: Fault) -> Any:
    return lambda log, sector: Broken(log, sector, fault)


def _counting(life: lives.Life) -> None:
    life.live()
    vfs = life.heal.__self__  # type: ignore[attr-defined]
    vfs.journal.add("note", vfs.count)
