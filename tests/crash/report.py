"""What a session of the laboratory counted: for people, and as JSON for docs/promises.md."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from typing import Any

import apsw
import msgspec

import checkpointdb

# What is summed over the experiments, in this order; each names what it counts as these do.
TOTALS = ("images", "faults", "kills", "signals", "flips", "violations")


class Report(msgspec.Struct):
    """One session.

    Attributes:
        seed: of every choice.
        states: how many were asked for.
        everywhere: instead, kinds of lives in which each operation failed in turn.
        experiments: by name, what was counted, and the seconds it took.
        totals: the same over all experiments.
        violations: broken promises.
        versions: what it ran on; `commit` is that of checkpointdb, with `+` if files had changed.
        at: when it ended, in seconds since 1970.
    """

    seed: int
    states: int
    everywhere: list[str] = []
    experiments: dict[str, dict[str, Any]] = {}
    totals: dict[str, int] = {}
    violations: list[Any] = []
    versions: dict[str, str] = msgspec.field(
        default_factory=lambda: {
            "checkpointdb": checkpointdb.__version__,
            "commit": _commit(),
            "SQLite": apsw.sqlite_lib_version(),
            "apsw": apsw.apsw_version(),
            "Python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        }
    )
    at: float = 0.0

    def add(self, name: str, counts: dict[str, Any], violations: list[Any]) -> None:
        """Add what a part of an experiment has counted."""
        counts = counts | {"violations": len(violations)}
        self.experiments[name] = _sum(self.experiments.get(name, {}), counts)
        self.violations += violations
        self.totals = {
            it: sum(counts.get(it, 0) for counts in self.experiments.values()) for it in TOTALS
        }
        self.at = time.time()

    def write(self, path: str) -> None:
        """Write it as JSON."""
        data = msgspec.json.format(msgspec.json.encode(self), indent=2)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path + ".new", "wb") as file:
            file.write(data + b"\n")
        os.replace(path + ".new", path)


def _sum(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Add counts by name; of the longest the longer one counts."""
    both = dict(one)
    for name, value in two.items():
        if isinstance(value, dict):
            both[name] = _sum(one.get(name, {}), value)
        elif name.startswith("longest"):
            both[name] = max(one.get(name, 0), value)
        else:
            both[name] = round(one.get(name, 0) + value, 1) if name in one else value
    return both


def _commit() -> str:
    here = os.path.dirname(__file__)
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(where: str, *command: str) -> str:
    done = subprocess.run(
        ["git", "-C", where, *command], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def line(name: str, counts: dict[str, Any]) -> str:
    """Return what an experiment counted, in a line."""
    numbers = ", ".join(
        f"{value:,} {it.replace('_', ' ')}" for it, value in counts.items() if type(value) is int
    )
    return f"{name:>11}: {numbers}, {counts['seconds']:.1f} s"
