"""What a user of each neighbour waits, pays twice after a kill, and finds on disk."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import statistics
import subprocess
import threading
import time
from typing import Any

from . import data
from .harness import Case, Figures, Killed, child, folder_bytes, fresh_folder
from .markdown import NOT_SAID, markdown, number
from .results import best, failure, figure
from .users import USERS

QUESTION = "What does a user of a neighbour wait, pay twice after a kill, and find on disk?"
CALL_SECONDS = 0.02
ROWS, QUICK_ROWS = 1_000, 200
KILLS = 3  # at moments spread evenly over a call, from the middle of the run on
LIMIT = 180  # seconds of a run; the slowest that goes on needs 25 on a quiet machine
LOG = "calls.log"  # outside of what a tool keeps: a line as each call begins, and as it returns


def cases(quick: bool) -> list[Case]:
    """Return each neighbour whose package is there: what it takes, and what a kill costs."""
    found, rows = [], QUICK_ROWS if quick else ROWS
    for name, (_, package, _) in USERS.items():
        if importlib.util.find_spec(package):
            asked = {"user": name, "rows": rows}
            found.append(Case(name, measure, asked))
            kills = 1 if quick else KILLS
            found.append(Case(f"{name}, killed", measure_kills, asked | {"kills": kills}, 1))
    return found


def measure(folder: str, user: str, rows: int) -> Figures:
    """Measure a whole process over new rows, then one over the same rows."""
    first = process(folder, user, rows)
    os.remove(os.path.join(folder, LOG))
    size, files = folder_bytes(folder)
    again = process(folder, user, rows)
    return {
        "seconds": first["seconds"], "run_seconds": first["run_seconds"],
        "cpu_seconds": first["cpu_seconds"], "again_seconds": again["seconds"],
        "again_calls": len(calls(folder, "began")), "bytes": size, "files": files,
        "memory_mb": first["memory_mb"],
    }  # fmt: skip


def measure_kills(folder: str, user: str, rows: int, kills: int) -> Figures:
    """Kill runs in their middle, run each again, and count the calls by the log."""
    lost = [_killed(user, rows, (kill + 0.5) / kills) for kill in range(kills)]
    told = {name: [run[name] for run in lost if name in run] for name in lost[0]}
    if "hung" in told:
        return {"after_kill": "hung"}
    figures = {name: statistics.mean(values) for name, values in told.items()}
    return figures | {"paid_twice_worst": max(told["paid_twice"])}


def _killed(user: str, rows: int, phase: float) -> Figures:
    with fresh_folder() as folder:
        try:
            process(folder, user, rows, kill_after=rows // 2, phase=phase)
            raise RuntimeError("the run ended before it was killed")
        except Killed:
            returned = set(calls(folder, "returned"))
            begun = len(calls(folder, "began"))
        try:
            again = process(folder, user, rows)
        except subprocess.TimeoutExpired:
            return {"hung": 1}
        twice = calls(folder, "began")[begun:]
        return {
            "paid_twice": len(twice) + begun - rows,
            "returned_twice": len(returned & set(twice)),
            "wrong": again["wrong"],
            "rerun_seconds": again["seconds"],
        }


def process(folder: str, user: str, rows: int, **killed: Any) -> Figures:
    """Run a whole process; return its figures and how long one waits for it."""
    began = time.perf_counter()
    figures = child("neighbours:passed", folder, limit=LIMIT, user=user, rows=rows, **killed)
    return figures | {"seconds": time.perf_counter() - began}


def calls(folder: str, what: str) -> list[int]:
    """Return the ids of the calls that began, or returned, as the log has them."""
    with open(os.path.join(folder, LOG)) as file:
        lines = [line.split() for line in file if line.endswith("\n")]
    return [int(row) for said, row in lines if said == what]


# --- in the child


class Paid:
    """A call of 20 ms that an outside log counts, however this process ends."""

    def __init__(self) -> None:
        self.returned = 0
        self._log = os.open(LOG, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def call(self, row: dict[str, Any]) -> Any:
        self._began(row)
        time.sleep(CALL_SECONDS)
        return self._answer(row)

    async def acall(self, row: dict[str, Any]) -> Any:
        self._began(row)
        await asyncio.sleep(CALL_SECONDS)
        return self._answer(row)

    def _began(self, row: dict[str, Any]) -> None:
        os.write(self._log, b"began %d\n" % row["id"])

    def _answer(self, row: dict[str, Any]) -> Any:
        os.write(self._log, b"returned %d\n" % row["id"])
        self.returned += 1
        return data.answer(row)


def passed(user: str, rows: int, kill_after: int = 0, phase: float = 0) -> Figures:
    """Do as this user does; compare the results with what the calls return."""
    paid, (run, _, is_async) = Paid(), USERS[user]
    items = list(data.rows(rows))
    if kill_after:
        threading.Thread(target=_kill, args=(paid, kill_after, phase), daemon=True).start()
    began, cpu = time.perf_counter(), time.process_time()
    results = run(items, _function(paid, is_async))
    took = {"run_seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    wrong = sum(data.answer(row) != got for row, got in zip(items, results, strict=True))
    return took | {"wrong": wrong}


def _function(paid: Paid, is_async: bool) -> Any:
    async def alabel(row: dict[str, Any]) -> Any:
        return await paid.acall(row)

    def label(row: dict[str, Any]) -> Any:
        return paid.call(row)

    return alabel if is_async else label


def _kill(paid: Paid, after: int, phase: float) -> None:
    while paid.returned < after:
        time.sleep(0.0005)
    time.sleep(phase * CALL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


# --- the table


def neighbours_table() -> str:
    """Return a line for each neighbour: the wait, what a kill costs, what is on disk."""
    result = best("neighbours")
    heads = [
        "what a user has", "waits, s", "(processor)", "run again, s", "paid twice after a kill",
        "of them had returned", "rerun after it, s", "kB on disk", "files",
    ]  # fmt: skip
    names = [name for name in USERS if result and name in result["cases"]]
    return markdown(heads, [_line(result, name) for name in names])


def _line(result: Any, name: str) -> list[str]:
    killed, size = f"{name}, killed", figure(result, name, "bytes")
    if why := failure(result, name):
        return [f"{name} ({why})", *[NOT_SAID] * 8]
    cells = [figure(result, name, f) for f in ("seconds", "cpu_seconds", "again_seconds")]
    return [
        name, *map(number, cells), *_after_kill(result, killed),
        number(size / 1000 if size is not None else None), number(figure(result, name, "files")),
    ]  # fmt: skip


def _after_kill(result: Any, case: str) -> list[str]:
    figures = result["cases"].get(case, {}).get("figures", {})
    if said := figures.get("after_kill") or figures.get("failed"):
        return [said, NOT_SAID, NOT_SAID]
    twice, worst = (figure(result, case, f) for f in ("paid_twice", "paid_twice_worst"))
    wrong = figure(result, case, "wrong")
    shown = number(twice) if twice == worst else f"{number(twice)}, at worst {number(worst)}"
    others = (figure(result, case, name) for name in ("returned_twice", "rerun_seconds"))
    return [shown + (f"; {number(wrong)} results wrong" if wrong else ""), *map(number, others)]
