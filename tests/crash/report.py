"""What a session of the laboratory counted: for people, and as JSON for docs/promises.md."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import apsw
import msgspec

import checkpointdb


class Report(msgspec.Struct):
    """One session.

    Attributes:
        seed: of every choice.
        states: how many were asked for.
        experiments: by name, what was counted, and the seconds it took.
        violations: broken promises.
        versions: what it ran on.
        at: when it ended, in seconds since 1970.
    """

    seed: int
    states: int
    experiments: dict[str, dict[str, Any]] = {}
    violations: list[Any] = []
    versions: dict[str, str] = msgspec.field(
        default_factory=lambda: {
            "checkpointdb": checkpointdb.__version__,
            "SQLite": apsw.sqlite_lib_version(),
            "apsw": apsw.apsw_version(),
            "Python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        }
    )
    at: float = msgspec.field(default_factory=time.time)

    def write(self, path: str) -> None:
        """Write it as JSON."""
        data = msgspec.json.format(msgspec.json.encode(self), indent=2)
        with open(path + ".new", "wb") as file:
            file.write(data + b"\n")
        os.replace(path + ".new", path)


def line(name: str, counts: dict[str, Any]) -> str:
    """Return what an experiment counted, in a line."""
    numbers = ", ".join(f"{value:,} {it}" for it, value in counts.items() if type(value) is int)
    return f"{name:>11}: {numbers}, {counts['seconds']:.1f} s"
