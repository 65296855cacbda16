"""Experiment: record a life, cut the power at many points of it, open what is left."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import apsw
import msgspec
import xxhash

import checkpointdb as ckpt

from . import checkers, disk, history, journal, lives, recorder, watch
from .checkers import Broken

OPENED = 0.05  # of the images whose content is known: that the store itself opens
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Make an empty directory, in memory if that can be: thousands of files pass through it."""
    with tempfile.TemporaryDirectory(prefix="ckpt-crash-", dir=MEMORY) as directory:
        yield os.path.realpath(directory)


class Recording(msgspec.Struct, frozen=True):
    """A recorded life."""

    options: lives.Options
    operations: list[list[Any]]
    fault: Any = None


def record(
    options: lives.Options,
    base: disk.Files | None = None,
    live: Any = lives.Life.live,
    make: Any = recorder.Recorder,
) -> Recording:
    """Live once under the recorder, in processes that are gone when it returns what happened.

    Args:
        options: of the life.
        base: files that are there, and on the disk, when it begins.
        live: what is done with the life.
        make: makes the recorder; planted faults give another.

    Raises:
        Broken: a process ended in an error.
    """
    with scratch() as directory, scratch() as beside:
        log = journal.Journal(os.path.join(beside, "journal"))
        for name, data in (base or {}).items():
            log.add("file", name, data)
        history.lay(directory, base or {})
        stacks = os.path.join(beside, "stacks")
        started = [
            _start(live, directory, options, log, make, stacks) for _ in range(options.processes)
        ]
        try:
            ended = watch.all_ended(started, stacks)
        except watch.Hangs as error:
            raise Broken(str(error)) from error
        finally:
            log.close()
        operations = journal.read(log.path)
        if any(ended):
            notes = [it[1] for it in operations if it[0] == "note"]
            raise Broken(f"exit status {ended}: {notes}")
        return Recording(options, operations)


def _start(
    live: Any, directory: str, options: lives.Options, log: Any, make: Any, stacks: str
) -> int:
    """Fork a process that lives; return its pid."""
    if child := fork():
        return child
    status = 1
    try:
        watch.shows_stacks(stacks)
        vfs = make(log, options.sector)
        life = lives.Life(directory, options, lambda facts: log.add("ack", facts), vfs.name)
        life.heal = vfs.heal
        with recorder.file_calls(log, directory, vfs.check), lives.quiet():
            live(life)
            if options.processes == 1:
                checkers.released(life.path, files=type(vfs) is recorder.Recorder)
        status = 0
    except BaseException:
        log.add("note", traceback.format_exc())
    finally:
        os._exit(status)


def fork() -> int:
    """Fork."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: none is needed there
        return os.fork()


class Cut(msgspec.Struct, frozen=True):
    """A power cut: before which operation, in which mode, with which choices."""

    at: int
    mode: str
    seed: int


class Violation(msgspec.Struct, frozen=True):
    """A broken promise, with all that is needed to see it again."""

    experiment: str
    options: Any
    where: Any
    text: str


class Power:
    """Cut the power on recorded lives and count.

    Args:
        seed: of every choice.
    """

    name = "power"

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.images = self.distinct = self.opened = 0
        self.in_checkpoints = self.in_recoveries = 0
        self.recordings = self.acknowledgements = 0
        self.left_out = 0  # points between a sync that failed and the next of another file
        self.modes: dict[str, int] = {}
        self.violations: list[Violation] = []

    def cuts(self, recording: Recording, count: int, modes: tuple[str, ...]) -> list[Cut]:
        """Draw power cuts, in the order of their points; every point once, if there are enough."""
        first = sum(kind == "file" for kind, *_ in recording.operations)
        points = range(first, len(recording.operations) + 1)
        at = [self.chance.choice(points) for _ in range(count)]
        if count >= len(points):
            at[: len(points)] = points
        return sorted(
            (Cut(n, self.chance.choice(modes), self.chance.getrandbits(32)) for n in at),
            key=lambda cut: cut.at,
        )

    def study(
        self,
        recording: Recording,
        count: int,
        modes: tuple[str, ...] = disk.SEVEN,
        first: int | None = None,
    ) -> list[disk.Files]:
        """Cut the power `count` times, check each; return some of the images that had a log.

        Args:
            recording: of a life.
            count: of cuts.
            modes: drawn from.
            first: stop after so many violations.
        """
        self.recordings += 1
        with scratch() as directory, lives.quiet():
            try:
                past = history.History(recording.operations, directory)
            except history.NoSuchCommit as error:
                self._broken(recording, None, error)
                return []
            self.acknowledgements += sum(kind == "ack" for kind, *_ in recording.operations)
            return self._cut_all(recording, past, directory, count, modes, first)

    def _cut_all(
        self, recording: Recording, past: history.History, directory: str,
        count: int, modes: tuple[str, ...], first: int | None,
    ) -> list[disk.Files]:  # fmt: skip
        replay, kept = disk.Disk(recording.operations), list[disk.Files]()
        looked = _Looked(recording, directory)
        with watch.ends() as done:
            for cut in self.cuts(recording, count, modes):
                done()
                replay.advance(cut.at)
                if replay.is_doubtful:
                    self.left_out += 1
                    continue
                files = replay.cut(cut.mode, random.Random(cut.seed))
                self._count(cut, replay, recording)
                try:
                    if looked.at(files, random.Random(cut.seed)) and len(kept) < 3:
                        kept.append(files)
                    checkers.explained(looked.state, past, cut.at)
                except Broken as error:
                    self._broken(recording, cut, error)
                    if first is not None and len(self.violations) >= first:
                        break
        self.distinct, self.opened = self.distinct + looked.distinct, self.opened + looked.opened
        return kept

    def _count(self, cut: Cut, replay: disk.Disk, recording: Recording) -> None:
        self.images += 1
        self.modes[cut.mode] = self.modes.get(cut.mode, 0) + 1
        self.in_checkpoints += replay.is_copying(history.STORE)
        self.in_recoveries += recording.operations[0][0] == "file"

    def _broken(self, recording: Recording, cut: Cut | None, error: Exception) -> None:
        where = cut if recording.fault is None else [recording.fault, cut]
        violation = Violation(self.name, recording.options, where, str(error))
        self.violations.append(violation)

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "images": self.images, "distinct": self.distinct, "opened": self.opened,
            "in_checkpoints": self.in_checkpoints, "in_recoveries": self.in_recoveries,
            "recordings": self.recordings, "acknowledgements": self.acknowledgements,
        }  # fmt: skip


class _Looked:
    """Images of one life: each is read by plain SQL, and some are opened and gone on with.

    What plain SQL finds in an image is all that is in it. So the store itself has to open those
    alone whose content is new, and of the others some, for they are different in their bytes.
    """

    def __init__(self, recording: Recording, directory: str) -> None:
        self._recording, self._directory = recording, directory
        self.state = history.State("nothing yet", {})
        self.distinct = self.opened = 0
        self._of: dict[bytes, history.State] = {}
        self._contents: set[str] = set()

    def at(self, files: disk.Files, chance: random.Random) -> bool:
        """Have the state of an image; tell whether it is a new one, with a log to recover from."""
        mark = xxhash.xxh3_128_digest(msgspec.msgpack.encode(sorted(files.items())))
        if mark in self._of:
            self.state = self._of[mark]
            return False
        self.distinct += 1
        self.state = self._of[mark] = plainly(files, self._directory)
        if self.state.digest not in self._contents or chance.random() < OPENED:
            self._contents.add(self.state.digest)
            self.opened += 1
            found = examine(self._recording.options, files, self._directory, chance)
            if found.digest != self.state.digest:
                raise Broken("to open it changed it")
        return len(files.get(f"{history.STORE}-wal", b"")) > 0


def plainly(files: disk.Files, directory: str) -> history.State:
    """Safety: return what plain SQL finds in an image."""
    try:
        return history.read_state(history.lay(directory, files))
    except (apsw.Error, AssertionError) as error:
        raise Broken(f"SQLite finds it damaged: {error!r}") from error


def examine(
    options: lives.Options, files: disk.Files, directory: str, chance: random.Random
) -> history.State:
    """Open what is left as its owner would: safety, then liveness; return what was there."""
    path = history.lay(directory, files)
    if not os.path.exists(path):
        return history.read_state(path)
    if chance.random() < 0.3:  # whatever was mapped into memory need not be on the disk
        with open(path + "-shm", "wb") as file:
            file.write(chance.randbytes(chance.choice([0, 100, 32_768])))
    options = msgspec.structs.replace(options, loop="sequential", durability="power")
    life = lives.Life(directory, options)
    with checkers.broken_by(ckpt.CheckpointError):
        if chance.random() < 0.3:
            checkers.readable(path)
        with lives.small_limits(options):
            with ckpt.Store(path) as store:
                state = checkers.sound(store, path)
            checkers.resumes(life, state)
        checkers.released(path)
    return state
