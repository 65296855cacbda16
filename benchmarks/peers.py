"""The same work with what a user would pick instead."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from . import data
from .adapters import PEERS, load, said
from .harness import Case, Figures, Killed, child, folder_bytes

QUESTION = "What would another tool cost for the same rows?"
QUICK_DIVIDE = 10
MILLION = ("checkpointdb_power", "apsw_log", "lmdb_store", "jsonl_fsync")
SLOW_TO_START = ("datasets_map", "cachier_files", "dbos_sqlite")
RESUME_LIMIT = 30  # seconds after a kill until a run counts as hung; none needs a third of it


def cases(quick: bool) -> list[Case]:
    """Return the peers that start fast."""
    return _cases([name for name in PEERS if name not in SLOW_TO_START], quick)


def frameworks(quick: bool) -> list[Case]:
    """Return the peers that take seconds to start, beside ours."""
    return _cases(["checkpointdb_power", *SLOW_TO_START], quick)


def _cases(names: list[str], quick: bool) -> list[Case]:
    found = []
    for name in filter(is_there, names):
        rows = said(name)["ROWS"] // (QUICK_DIVIDE if quick else 1)
        parameters = {"adapter": name, "rows": max(rows, 200)}
        found.append(Case(name, measure_speed, parameters))
        found.append(Case(f"{name} counts", measure_counts, parameters, repeats=1))
    return found


def is_there(name: str) -> bool:
    """Tell whether the packages that an adapter needs are installed."""
    return all(importlib.util.find_spec(module) for module in said(name)["IMPORTS"].split(", "))


def million(quick: bool) -> list[Case]:
    """Return the fast peers at a million rows; in the quick run at 20,000."""
    rows = 20_000 if quick else 1_000_000
    return [Case(name, measure_speed, {"adapter": name, "rows": rows}) for name in MILLION]


def measure_counts(folder: str, adapter: str, rows: int) -> Figures:
    """Count the step's calls after half a run and after a kill; and time the import."""
    figures = {"half_calls": half(_inside(folder, "half"), adapter, rows)}
    figures |= after_kill(_inside(folder, "kill"), adapter, rows)
    needs = said(adapter)["IMPORTS"]
    figures["import_ms"] = import_ms(needs)
    if needs == "checkpointdb":
        figures["import_alone_ms"] = import_ms(needs, without="typing_extensions")
    return figures


def measure_speed(folder: str, adapter: str, rows: int) -> Figures:
    """Measure the first run and the resume."""
    folder = _inside(folder, "whole")
    first = child("peers:passed", folder, adapter=adapter, rows=rows)
    size, files = folder_bytes(folder)
    again = child("peers:passed", folder, adapter=adapter, rows=rows)
    return {
        "first_us": first["us_per_row"], "first_cpu_us": first["cpu_us_per_row"],
        "resume_us": again["us_per_row"], "resume_cpu_us": again["cpu_us_per_row"],
        "resume_calls": again["calls"], "bytes_per_row": size / rows, "files": files,
        "memory_mb": first["memory_mb"],
    }  # fmt: skip


def _inside(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    os.makedirs(path)
    return path


def half(folder: str, adapter: str, rows: int) -> int:
    """Return how often the step is called in a run over all rows after one over half of them."""
    child("peers:passed", folder, adapter=adapter, rows=rows // 2)
    return child("peers:passed", folder, adapter=adapter, rows=rows)["calls"]


def after_kill(folder: str, adapter: str, rows: int) -> Figures:
    """Kill a run at its worst moment and return how many rows that had returned are called again.

    The worst moment is in the call after which it would have saved.
    """
    worst = rows // 2 // 1000 * 1000 or rows // 2
    with contextlib.suppress(Killed):
        child("peers:passed", folder, adapter=adapter, rows=rows, kill_in=worst)
        return {}
    try:
        again = child("peers:passed", folder, limit=RESUME_LIMIT, adapter=adapter, rows=rows)
    except subprocess.TimeoutExpired:
        return {"after_kill": "hung"}
    return {"kill_lost": again["calls"] - (rows - (worst - 1)), "after_kill": "went on"}


def import_ms(modules: str, without: str = "") -> float:
    """Return the median processor time of an import in a fresh interpreter.

    `without` names a module that is hidden, as if it were not installed: msgspec imports
    `typing_extensions` if it is there, and other packages of this environment bring it.
    """
    code = (
        f"import sys, time; sys.modules.update(dict.fromkeys({without.split()}))\n"
        "began = time.process_time()\n"
        f"import {modules}\nprint((time.process_time() - began) * 1e3)"
    )
    command = [sys.executable, "-c", code]
    _printed(command)  # compiles, once, what was never imported
    return statistics.median(float(_printed(command)) for _ in range(3))


def _printed(command: list[str]) -> str:
    compiling = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    options = {"capture_output": True, "text": True, "check": True, "timeout": RESUME_LIMIT}
    return subprocess.run(command, env=compiling, **options).stdout


# --- in the child


calls = 0
kill_in = 0


def label(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row's result; the step."""
    global calls
    calls += 1
    if calls == kill_in:
        os.kill(os.getpid(), signal.SIGKILL)
    return data.answer(row)


def passed(adapter: str, rows: int, kill_in: int = 0) -> Figures:
    """Pass the step over the rows; return the time beyond the bare loop, and the calls.

    Where nothing is called, in a resume, the bare loop is that which makes the rows.
    """
    peer = load(adapter)
    globals()["kill_in"] = kill_in
    items = peer.prepare(data.rows(rows)) if hasattr(peer, "prepare") else data.rows(rows)
    took = timed(peer.run, items, label)
    if hasattr(peer, "finish"):
        peer.finish()
    bare = (0.0, 0.0) if adapter == "bare_loop" else timed(_bare, rows, calls > 0)
    seconds, cpu = (a - b for a, b in zip(took, bare, strict=True))
    return {"us_per_row": seconds / rows * 1e6, "cpu_us_per_row": cpu / rows * 1e6, "calls": calls}


def _bare(rows: int, called: bool) -> None:
    for row in data.rows(rows):
        if called:
            data.answer(row)


def timed(function: Any, *arguments: Any) -> tuple[float, float]:
    """Call a function; return the seconds it took, and those of the processor."""
    began, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - began, time.process_time() - cpu
