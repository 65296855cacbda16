"""A session of the laboratory: a share of the states to each experiment, all from one seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from . import disk, exceptions, faults, lives, power, rot
from .report import Report

EACH = 60  # cuts of a recorded life, and images of a life that began with what a cut left

Experiment = Callable[[int, int], power.Power]


def _powers(seed: int, states: int, kinds: list[str], modes: Any, **fixed: Any) -> power.Power:
    lab = power.Power(seed)
    while lab.images < states:
        options = lives.draw(lab.chance, kinds, **fixed)
        _study(lab, options, modes)
    return lab


def _study(lab: power.Power, options: lives.Options, modes: tuple[str, ...]) -> None:
    left = lab.study(power.record(options), EACH, modes)
    for files in left[:1]:  # the power comes back, and fails again while the store recovers
        again = msgspec.structs.replace(options, processes=1, loop="sequential")
        lab.study(power.record(again, files, _resume), EACH, modes)


def _resume(life: lives.Life) -> None:
    with lives.small_limits(life.options):
        lives.resume(life)


def _power(seed: int, states: int) -> power.Power:
    quick = [kind for kind in lives.KINDS if kind not in lives.SHARED]
    return _powers(seed, states, quick, disk.SEVEN)


def _sharing(seed: int, states: int) -> power.Power:
    return _powers(seed, states, [*lives.SHARED, "two handles"], disk.SEVEN, rows=6)


def _sectors(seed: int, states: int) -> power.Power:
    kinds = ["one run", "two steps", "failures"]
    return _powers(seed, states, kinds, ("sectors",), sector=512, durability="power")


def _syncs(seed: int, states: int) -> power.Power:
    """Each sync of a life fails in turn, creation included; then the power is cut."""
    lab = faults.Faults(seed)
    while lab.images < states:
        options = lives.draw(lab.chance, ["creation", "one run", "calls", "ledger"], rows=6)
        syncs = lab.operations(options, ("sync",))
        at = lab.chance.randint(1, syncs)
        lasting = lab.chance.random() < 0.3
        lab.point(options, faults.Fault(at, "EIO", lasting, ("sync",)), cuts=EACH // 2)
    return lab


def _faults(seed: int, states: int) -> power.Power:
    lab = faults.Faults(seed)
    while lab.points < states:
        kind = lab.chance.choice([it for it in lives.KINDS if it != "workers"])
        options = lives.draw(lab.chance, [kind], rows=6, size=100)
        operations = lab.operations(options)
        for at in lab.chance.sample(range(1, operations + 1), min(12, operations)):
            error, lasting = lab.chance.choice(["EIO", "ENOSPC"]), lab.chance.random() < 0.5
            lab.point(options, faults.Fault(at, error, lasting))
    return lab


def _exceptions(seed: int, states: int) -> power.Power:
    lab = exceptions.Exceptions(seed)
    options = lives.Options("one run", policy="every(rows=3)", rows=4, tail=3)
    lab.at_every_line(options, max(1, 6_000 // states), lab.chance.randint(1, 40))
    lab.at_limits(options, max(64, 1_000_000 // states), lab.chance.randint(0, 4_000))
    return lab


def _rot(seed: int, states: int) -> power.Power:
    lab = rot.Rot(seed)
    for size in (1, 3_000):
        options = lives.Options("one run", size=size, tail=lab.chance.choice([5, 50_000]))
        lab.flip(options, states // 2)
    return lab


# name -> what runs it, and which share of the states it is asked for
EXPERIMENTS: dict[str, tuple[Experiment, float]] = {
    "power": (_power, 0.6),
    "sharing": (_sharing, 0.1),
    "sectors": (_sectors, 0.1),
    "syncs": (_syncs, 0.1),
    "faults": (_faults, 0.05),
    "exceptions": (_exceptions, 0.02),
    "rot": (_rot, 0.05),
}


def run(
    seed: int, states: int, only: tuple[str, ...], done: Callable[[str, Report], object]
) -> Report:
    """Run the experiments, or `only` these, and return the report.

    Args:
        seed: of every choice.
        states: images, points and flips in all, about.
        only: names of experiments; all of them if empty.
        done: takes the name of each, and the report so far, when it is done.
    """
    report = Report(seed, states)
    for name, (experiment, share) in EXPERIMENTS.items():
        if only and name not in only:
            continue
        start = time.monotonic()
        lab = experiment(seed, max(10, round(states * (1 if only else share))))
        counts = lab.counts() | {"seconds": round(time.monotonic() - start, 1)}
        report.add(name, counts, lab.violations)
        done(name, report)
    return report
