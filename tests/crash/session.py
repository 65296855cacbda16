"""A session of the laboratory: a share of the states to each experiment, all from one seed.

An experiment is done in parts, each in a process of its own and with a seed of its own, so that a
part can be done again by itself, and what kills or hangs the laboratory is a violation too.
"""

from __future__ import annotations

import itertools
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from typing import Any

import msgspec

from . import clocks, disk, exceptions, faults, kills, kinds, lives, power, processes, rot, signals
from .report import Report

PART = 600  # states, at least, and in a long session ten times as many at most

Experiment = Callable[[int, int], Any]


def _powers(seed: int, states: int, names: list[str], modes: Any, **fixed: Any) -> power.Power:
    lab = power.Power(seed)
    each = max(60, states // 20)  # cuts of one life
    while lab.images < states:
        options = lives.draw(lab.chance, names, **fixed)
        _study(lab, options, modes, min(each, states))
    return lab


def _study(lab: power.Power, options: lives.Options, modes: tuple[str, ...], each: int) -> None:
    left = lab.study(power.record(options), each, modes)
    for files in left[:1]:  # the power comes back, and fails again while the store recovers
        again = msgspec.structs.replace(options, processes=1, loop="sequential")
        lab.study(power.record(again, files, kinds.resume_small), each, modes)


def _power(seed: int, states: int) -> power.Power:
    quick = [kind for kind in kinds.KINDS if kind not in kinds.SHARED]
    return _powers(seed, states, quick, disk.SEVEN)


def _sharing(seed: int, states: int) -> power.Power:
    return _powers(seed, states, [*kinds.SHARED, "two handles"], disk.SEVEN, rows=6)


def _sectors(seed: int, states: int) -> power.Power:
    quick = [kind for kind in kinds.KINDS if kind not in kinds.SHARED]
    return _powers(seed, states, quick, ("sectors",), sector=512, durability="power")


def _syncs(seed: int, states: int) -> power.Power:
    """Each sync of a life fails in turn, creation included; then the power is cut."""
    lab = faults.Faults(seed)
    while lab.images < states:
        options = lives.draw(lab.chance, ["creation", "one run", "calls", "ledger"], rows=6)
        syncs = lab.operations(options, ("sync",))
        at = lab.chance.randint(1, syncs)
        lasting = lab.chance.random() < 0.3
        lab.point(options, faults.Fault(at, "EIO", lasting, ("sync",)), cuts=max(30, states // 20))
    return lab


def _faults(seed: int, states: int) -> power.Power:
    lab = faults.Faults(seed)
    while lab.points < states:
        kind = lab.chance.choice(kinds.ALONE)
        options = lives.draw(lab.chance, [kind], rows=6, size=100)
        operations = lab.operations(options)
        for at in lab.chance.sample(range(1, operations + 1), min(12, operations)):
            error, lasting = lab.chance.choice(["EIO", "ENOSPC"]), lab.chance.random() < 0.5
            lab.point(options, faults.Fault(at, error, lasting))
    return lab


def _everywhere(seed: int, kind: str) -> power.Power:
    """Each operation of a small life fails in turn, with each error, once and from then on."""
    lab = faults.Faults(seed)
    options = lives.draw(lab.chance, [kind], rows=2, size=100)
    places = range(1, lab.operations(options) + 1)
    for at, error, lasting in itertools.product(places, ("EIO", "ENOSPC"), (False, True)):
        lab.point(options, faults.Fault(at, error, lasting))
    return lab


LINES, BYTES = 2_500, 400_000  # of the life that follows, about


def _exceptions(seed: int, states: int) -> power.Power:
    lab = exceptions.Exceptions(seed)
    options = lives.Options("one run", policy="every(rows=3)", rows=4, tail=3)
    every = max(1, 2 * LINES // states)
    lab.at_every_line(options, every, lab.chance.randint(1, every))
    room = max(64, 2 * BYTES // states)
    lab.at_limits(options, room, lab.chance.randrange(room))
    return lab


def _rot(seed: int, states: int) -> power.Power:
    lab = rot.Rot(seed)
    for size in (1, 3_000):
        options = lives.Options("one run", size=size, tail=lab.chance.choice([5, 50_000]))
        lab.flip(options, states // 2)
    return lab


def _kills(seed: int, states: int) -> kills.Kills:
    lab = kills.Kills(seed)
    for victim in lab.victims():
        if lab.kills >= states:
            return lab
        lab.study(victim, min(kills.EACH, states))
    raise AssertionError


def _signals(seed: int, states: int) -> signals.Signals:
    lab = signals.Signals(seed)
    for what in signals.LIVES:
        lab.study(what, max(1, states // len(signals.LIVES)))
    return lab


def _clocks(seed: int, states: int) -> power.Power:
    lab = clocks.Clocks(seed)
    while lab.images < states and not lab.violations:
        lab.try_once(lives.draw(lab.chance, kinds.ALONE, rows=6, size=100), min(20, states))
    return lab


def _processes(seed: int, states: int) -> processes.Processes:
    """So many processes; with 20 or more, also a long run of eight, and a log of 64 MiB."""
    lab = processes.Processes(seed)
    is_long = states >= 20
    lab.read_long(64 << 20 if is_long else 1 << 20)
    if is_long:
        lab.try_once(processes.Job("fork", workers=8, rows=5_000, disjoint=True))
    for method in processes.METHODS:
        lab.try_once(lab.draw(method, workers=min(4, max(2, states // 4))))
    while lab.processes < states:
        lab.try_once(lab.draw(lab.chance.choice(processes.METHODS)))
    return lab


# name -> what runs it, which share of the states it is asked for, and how many are enough
EXPERIMENTS: dict[str, tuple[Experiment, float, int]] = {
    "power": (_power, 0.45, 1 << 60),
    "sharing": (_sharing, 0.1, 1 << 60),
    "sectors": (_sectors, 0.1, 1 << 60),
    "syncs": (_syncs, 0.1, 1 << 60),
    "clocks": (_clocks, 0.01, 1 << 60),
    "faults": (_faults, 0.08, 8_000),
    "exceptions": (_exceptions, 0.06, 5_000),
    "rot": (_rot, 0.04, 1 << 60),
    "kills": (_kills, 0.02, 6_000),
    "signals": (_signals, 0.06, 8_000),
    "processes": (_processes, 0.002, 100),
}


class Part(msgspec.Struct, frozen=True):
    """A part of an experiment, which can be done again by itself.

    Attributes:
        name: of the experiment.
        seed: of every choice.
        states: about how many.
        everywhere: instead, a kind of life in which each operation fails in turn.
    """

    name: str
    seed: int
    states: int
    everywhere: str = ""

    def do(self) -> tuple[dict[str, Any], list[Any]]:
        """Return what was counted, and what was broken."""
        start = time.monotonic()
        if self.everywhere:
            lab = _everywhere(self.seed, self.everywhere)
        else:
            lab = EXPERIMENTS[self.name][0](self.seed, self.states)
        return lab.counts() | {"seconds": round(time.monotonic() - start, 1)}, lab.violations


def parts(seed: int, states: int, only: tuple[str, ...]) -> Iterator[Part]:
    """Yield the parts of a session, each experiment's in turn."""
    chosen = {name: it for name, it in EXPERIMENTS.items() if not only or name in only}
    shares = sum(share for _, share, _ in chosen.values())
    left = {
        name: min(most, max(4, round(states * share / shares)))
        for name, (_, share, most) in chosen.items()
    }
    size = {name: min(10 * PART, max(PART, many // 8)) for name, many in left.items()}
    while left:
        for name in list(left):
            part = min(left[name], size[name])
            yield Part(name, seed, part)
            left[name] -= part
            if left[name] <= 0:
                del left[name]
        seed += 1


def run(
    seed: int,
    states: int,
    only: tuple[str, ...],
    done: Callable[[Part, Report], object],
    jobs: int = 1,
    everywhere: Sequence[str] = (),
) -> Report:
    """Run the experiments, or `only` these, and return the report.

    Args:
        seed: of every choice.
        states: images, faults, kills and flips in all, about.
        only: names of experiments; all of them if empty.
        done: takes each part, and the report so far, when it is done.
        jobs: how many parts are done at the same time.
        everywhere: kinds of lives; do nothing but let each of their operations fail.
    """
    report, running = Report(seed, states, list(everywhere)), dict[int, Any]()
    each = (Part("faults", seed, 0, kind) for kind in everywhere)
    waiting = each if everywhere else parts(seed, states, only)
    with power.scratch() as directory:
        while True:
            while len(running) < jobs and (part := next(waiting, None)) is not None:
                running[_begin(part, directory)] = part
            if not running:
                return report
            pid, status = os.wait()
            if pid in running:
                part = running.pop(pid)
                counts, violations = _result(pid, status, directory, part)
                report.add(part.name, counts, violations)
                done(part, report)


def _begin(part: Part, directory: str) -> int:
    child = power.fork()
    if not child:
        _own_fork_server()
        path = os.path.join(directory, str(os.getpid()))
        try:
            result: Any = part.do()
        except BaseException:
            broken = power.Violation(part.name, part, None, traceback.format_exc())
            result = {"seconds": 0.0}, [broken]
        with open(path, "wb") as file:
            file.write(msgspec.msgpack.encode(result))
        os._exit(0)
    return child


def _own_fork_server() -> None:
    # multiprocessing waits for its fork server as for a child, which the parent's is not here
    forkserver._forkserver._forkserver_pid = None  # type: ignore[attr-defined]


def _result(pid: int, status: int, directory: str, part: Part) -> tuple[dict[str, Any], list[Any]]:
    if status:
        text = f"the laboratory ended with {os.waitstatus_to_exitcode(status)}"
        return {"seconds": 0.0}, [msgspec.to_builtins(power.Violation(part.name, part, None, text))]
    with open(os.path.join(directory, str(pid)), "rb") as file:
        counts, violations = msgspec.msgpack.decode(file.read())
    what = f"--states {part.states} --only {part.name}"
    if part.everywhere:
        what = f"--everywhere '{part.everywhere}'"
    again = f"--seed {part.seed} {what}"
    return counts, [violation | {"again": again} for violation in violations]
