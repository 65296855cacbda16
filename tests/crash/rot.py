"""Experiment: bits that flip in a file at rest. Never a wrong answer, never a crash."""

from __future__ import annotations

from typing import Any

import checkpointdb as ckpt

from . import checkers, disk, history, lives, power, watch


class Rot(power.Power):
    """Flip one bit of a store that was closed, run the same again, and count."""

    name = "rot"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.flips = self.refused = self.repeated = 0

    def flip(self, options: lives.Options, count: int) -> None:
        """Flip one bit `count` times, each in the whole store that a life leaves."""
        recording = power.record(options)
        replay = disk.Disk(recording.operations)
        replay.advance(len(recording.operations))
        files = replay.now()
        with watch.ends() as done, lives.quiet():
            for _ in range(count):
                done()
                self._flip_one(recording, files)

    def _flip_one(self, recording: power.Recording, files: disk.Files) -> None:
        whole = files[history.STORE]
        at, bit = self.chance.randrange(len(whole)), 1 << self.chance.randrange(8)
        spoilt = bytearray(whole)
        spoilt[at] ^= bit
        self.flips += 1
        try:
            self._read(recording.options, files | {history.STORE: bytes(spoilt)})
        except checkers.Broken as error:
            where = {"byte": at, "bit": bit}
            self.violations.append(power.Violation(self.name, recording.options, where, str(error)))

    def _read(self, options: lives.Options, files: disk.Files) -> None:
        with power.scratch() as directory:
            path = history.lay(directory, files)
            life = lives.Life(directory, options)
            try:
                with lives.small_limits(options), ckpt.Store(path) as store:
                    said = store.verify()
                    step = life.step(store)
                    for row, result in enumerate(step.run(range(options.rows))):
                        if result != lives.result_of("label", row, options.size):
                            raise checkers.Broken(f"a wrong answer for row {row}: {result!r:.60}")
            except ckpt.CheckpointError:
                self.refused += 1
                return
            if life.called:
                self.repeated += 1
                if not said:
                    raise checkers.Broken(f"paid again, and verify is silent: {life.called}")

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return {"flips": self.flips, "refused": self.refused, "computed_again": self.repeated}
