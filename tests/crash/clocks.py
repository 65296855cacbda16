"""Experiment: the wall clock jumps, forward and back, while a store is in use.

Leases and save policies go by clocks that nobody can set. What is left of the wall clock are times
that are shown; nothing may be lost, held or computed again because of them.
"""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import click

import checkpointdb as ckpt
from checkpointdb import cli

from . import lives, power, recorder

DAY = 86_400.0
JUMPS = (0.0, 1.0, -1.0, 3_600.0, -3_600.0, 30 * DAY, -30 * DAY, 3_650 * DAY, -3_650 * DAY)
_JULIAN_1970 = 2_440_587.5  # SQLite counts days from noon in 4714 BC


class _Jumping:
    """A wall clock that somebody sets, again and again; some set it to 1970."""

    def __init__(self, seed: int) -> None:
        self._chance, self._time, self.jumps = random.Random(seed), time.time, 0
        self._offset = 0.0

    def __call__(self) -> float:
        if self._chance.random() < 0.3:
            self.jumps += 1
            self._offset = self._chance.choice((*JUMPS, 1.0 - self._time()))
        return self._time() + self._offset


class _Disk(recorder.Recorder):
    """A recorder whose SQLite goes by the clock that jumps."""

    def xCurrentTimeInt64(self) -> int:
        return int((_JULIAN_1970 * DAY + time.time()) * 1000)


class Clocks(power.Power):
    """Live with clocks that jump, cut the power, and count."""

    name = "clocks"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.jumps = 0

    def try_once(self, options: lives.Options, cuts: int) -> None:
        """Live, cut the power on it, and look at it as people do, by a clock that jumps again."""
        seed = self.chance.getrandbits(32)
        try:
            recording = power.record(options, live=lambda it: _live(it, seed), make=_Disk)
        except power.Broken as error:
            self.violations.append(power.Violation(self.name, options, seed, str(error)))
            return
        self.jumps += sum(it[1] for it in recording.operations if it[0] == "note")
        with _jumps(seed):
            self.study(recording, cuts)

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return super().counts() | {"jumps": self.jumps}


def _live(life: lives.Life, seed: int) -> None:
    with _jumps(seed) as clock:
        life.live()
        _look(life.path)
    life.heal.__self__.journal.add("note", clock.jumps)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _jumps(seed: int) -> Iterator[_Jumping]:
    clock = _Jumping(seed)
    with mock.patch.object(time, "time", clock):
        yield clock


def _look(path: str) -> None:
    """Show what is in a store, by every command that shows times."""
    with ckpt.Store(path) as store:
        store.runs(), store.steps(), list(store.records())
    for command in (
        ["inspect", path],
        ["inspect", path, "--runs"],
        ["watch", path, "--json", "--until-end"],
    ):
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            try:
                cli.cli.main(command, standalone_mode=False)
            except click.ClickException as error:
                raise power.Broken(f"ckpt {command}: {error.message}") from error
        if not shown.getvalue():
            raise power.Broken(f"ckpt {command} shows nothing")
