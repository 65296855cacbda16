"""Cases, each in fresh processes and a fresh folder, interleaved; medians and spread."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRATCH = os.path.join(ROOT, "benchmarks", ".scratch")  # not /tmp, which is memory on many machines
REPEATS = 3
LIMIT_SECONDS = 180  # of one child; more is a hang

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing measured: a function of a fresh folder and these parameters."""

    name: str
    measure: Callable[..., Figures]
    parameters: dict[str, Any]
    repeats: int = REPEATS


class Killed(Exception):
    """The child was killed, as was asked; `said` is the last it said."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


def child(
    function: str, folder: str, limit: float = LIMIT_SECONDS, at: str = "", **arguments: Any
) -> Figures:
    """Run `module:name` of this package in a fresh process; return its figures.

    `at` names a commit: the process then imports checkpointdb as it was there.
    """
    command = [sys.executable, "-m", "benchmarks.child", f"benchmarks.{function}"]
    done = subprocess.run(
        [*command, json.dumps(arguments)],
        cwd=folder,
        env=_environment(folder, at),
        capture_output=True,
        text=True,
        timeout=limit,
    )
    if done.returncode == -9:
        raise Killed(done.stdout.rpartition("said:")[2].strip())
    if done.returncode or "figures:" not in done.stdout:
        raise RuntimeError(f"{function} {arguments} failed:\n{done.stdout}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.rpartition("figures:")[2])


def _environment(folder: str, at: str = "") -> dict[str, str]:
    offline = {"HF_HOME": folder, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    path = os.pathsep.join([checkout(at), ROOT] if at else [ROOT])
    return os.environ | offline | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}


def checkout(commit: str) -> str:
    """Lay checkpointdb as it was at a commit into a folder, once; return the folder."""
    folder = os.path.join(SCRATCH, f"at-{commit}")
    if not os.path.exists(folder):
        asked = ["git", "-C", ROOT, "archive", commit, "checkpointdb"]
        packed = subprocess.run(asked, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
    return folder


@contextlib.contextmanager
def fresh_folder() -> Iterator[str]:
    """Make a folder on the disk of the repository and remove it."""
    os.makedirs(SCRATCH, exist_ok=True)
    folder = tempfile.mkdtemp(dir=SCRATCH)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(cases: list[Case], repeats: int | None = None) -> dict[str, Any]:
    """Measure all cases in turn, then all again; return medians and spread by name.

    A case that fails or hangs says so among its figures, is not tried again and stops no other.
    """
    if repeats is not None:
        cases = [dataclasses.replace(case, repeats=min(case.repeats, repeats)) for case in cases]
    runs: dict[str, list[Figures]] = {case.name: [] for case in cases}
    for turn in range(max(case.repeats for case in cases)):
        for case in cases:
            so_far = runs[case.name]
            if turn < case.repeats and not any("failed" in run for run in so_far):
                so_far.append(_once(case, turn))
    return {
        case.name: {"parameters": case.parameters, "figures": summary(runs[case.name])}
        for case in cases
    }


def _once(case: Case, turn: int) -> Figures:
    began = time.perf_counter()
    with fresh_folder() as folder:
        try:
            figures = case.measure(folder, **case.parameters)
        except Exception as error:
            figures = {"failed": _why(error)}
    seconds = time.perf_counter() - began
    shown = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
    print(f"[{turn + 1}] {case.name}  ({seconds:.1f} s)  {shown}", file=sys.stderr, flush=True)
    return figures


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"hung: killed after {error.timeout:g} s"
    if isinstance(error, Killed):
        return "killed, and not by the suite"  # as the system does when memory runs out
    last = str(error).strip().rpartition("\n")[2]
    return (last or repr(error)).replace(ROOT, "")[:200]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def summary(runs: list[Figures]) -> dict[str, Any]:
    """Return each figure's median, lowest and highest; what is no number as it was last."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: _spread([run[name] for run in runs if name in run]) for name in names}


def _spread(values: list[Any]) -> Any:
    if not all(isinstance(value, int | float) for value in values):
        return values[-1]
    low, high = min(values), max(values)
    middle = statistics.median(values)
    spread = {"median": middle, "low": low, "high": high}
    return {name: float(f"{value:.6g}") for name, value in spread.items()} | {"runs": len(values)}


def folder_bytes(folder: str) -> tuple[int, int]:
    """Return the bytes on disk of all files in a folder, and how many files there are."""
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    return sum(os.stat(file).st_blocks * 512 for file in files), len(files)
