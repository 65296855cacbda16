"""Does the cost stay flat as the store grows? From 10⁴ rows to 10⁷."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from .harness import LIMIT_SECONDS, Case, Figures, child

QUESTION = "Does the cost stay flat as the store grows?"
SAVE = "every(rows=1000)"
HUGE_LIMIT = 1200  # seconds of one child; ten million rows are minutes


def cases(quick: bool) -> list[Case]:
    """Return ours and bare SQLite at each size."""
    found = []
    for rows in (10_000, 50_000) if quick else (10_000, 100_000):
        found.append(Case(f"bare {rows:,}", measure_bare, {"rows": rows}))
        found.append(Case(f"checkpointdb {rows:,}", measure_ours, {"rows": rows}))
    return found


def huge(quick: bool) -> list[Case]:
    """Return a million and ten million rows, once, beside a hundred thousand."""
    sizes = (10_000,) if quick else (100_000, 1_000_000, 10_000_000)
    return [Case(f"checkpointdb {n:,}", measure_ours, {"rows": n}, repeats=1) for n in sizes]


def measure_ours(folder: str, rows: int) -> Figures:
    """Measure a first run, resumes, opening and `ckpt inspect` of one store."""
    figures = child("scale:first", folder, rows=rows, limit=HUGE_LIMIT)
    for order in ("rows", "shuffled"):
        again = child("scale:resume", folder, rows=rows, order=order, limit=HUGE_LIMIT)
        figures[f"resume_{order}_us"] = again["us"]
        figures[f"resume_{order}_cpu_us"] = again["cpu_us"]
        figures[f"resume_{order}_memory_mb"] = again["memory_mb"]
    figures["open_ms"] = child("scale:opened", folder)["open_ms"]
    return figures | {"inspect_ms": _inspect(folder)}


def _inspect(folder: str) -> float:
    command = [sys.executable, "-m", "checkpointdb", "inspect", "bench.ckpt"]
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=LIMIT_SECONDS)
    return (time.perf_counter() - began) * 1e3


def measure_bare(folder: str, rows: int) -> Figures:
    """Measure what bare SQLite takes for the same bytes, and for a point select each."""
    figures = child("scale:bare_append", folder, rows=rows)
    for order in ("rows", "shuffled"):
        selected = child("scale:bare_select", folder, rows=rows, order=order)
        figures[f"select_{order}_us"] = selected["us"]
        figures[f"select_{order}_cpu_us"] = selected["cpu_us"]
    return figures


# --- in the child


def first(rows: int) -> Figures:
    """Run over new rows; the time is that beyond the bare loop."""
    from . import data, ours

    figures, report = _timed(rows, "rows", data.answer)
    assert report.computed == rows
    size = ours.stored_bytes()
    payload = sum(16 + len(a) + len(b) for _, a, b in data.same_bytes(1000)) / 1000
    return figures | {"bytes_per_row": size / rows, "size_ratio": size / rows / payload}


def resume(rows: int, order: str) -> Figures:
    """Run again, in this order; the time is that beyond making the rows: nothing is called."""
    figures, report = _timed(rows, order, lambda _: None)
    assert report.computed == 0
    return figures


def _timed(rows: int, order: str, without: Any) -> tuple[Figures, Any]:
    from . import data, ours

    source = getattr(data, order)
    bare = timed_cpu(ours.bare, without, source(rows))
    step = ours.step(data.answer, SAVE)
    reports: list[Any] = []
    took = timed_cpu(lambda: reports.append(ours.timed_run(step, source(rows))[1]))
    wall, cpu = (a - b for a, b in zip(took, bare, strict=True))
    return {"us": wall / rows * 1e6, "cpu_us": cpu / rows * 1e6}, reports[0]


def timed_cpu(function: Any, *arguments: Any) -> tuple[float, float]:
    """Call a function; return the seconds it took, and those of the processor."""
    began, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - began, time.process_time() - cpu


def opened() -> Figures:
    """Open and close the store."""
    import checkpointdb as ckpt

    began = time.perf_counter()
    with ckpt.Store("bench.ckpt"):
        took = time.perf_counter() - began
    return {"open_ms": took * 1e3}


def _database() -> Any:
    import apsw

    db = apsw.Connection("bare.db")
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "full")
    return db


def bare_append(rows: int) -> Figures:
    """Append keys, inputs and results that are bytes already, 1,000 rows a commit."""
    db = _database()
    db.execute("create table log (id integer primary key, key, input, result)")
    wall = cpu = 0.0
    for at in range(0, rows, 1000):
        chunk = _bytes(at, min(rows, at + 1000))
        more = timed_cpu(_append, db, chunk)
        wall, cpu = wall + more[0], cpu + more[1]
    more = timed_cpu(db.close)
    size = os.path.getsize("bare.db") / rows
    wall, cpu = wall + more[0], cpu + more[1]
    return {"us": wall / rows * 1e6, "cpu_us": cpu / rows * 1e6, "bytes_per_row": size}


def _bytes(first: int, last: int) -> list[tuple[bytes, bytes, bytes]]:
    from . import data

    encode, rows = data.encode, map(data.row, range(first, last))
    return [(data.fast_key(r), encode(r), encode(data.answer(r))) for r in rows]


def _append(db: Any, chunk: list[tuple[bytes, bytes, bytes]]) -> None:
    with db:
        db.executemany("insert into log (key, input, result) values (?, ?, ?)", chunk)


def bare_select(rows: int, order: str) -> Figures:
    """Select each row's result by its key, one statement a row, keys made beforehand."""
    from . import data

    db = _database()
    db.execute("create unique index if not exists by_key on log (key)")
    keys = [data.fast_key(row) for row in getattr(data, order)(rows)]
    wall, cpu = timed_cpu(_select, db, keys)
    return {"us": wall / rows * 1e6, "cpu_us": cpu / rows * 1e6}


def _select(db: Any, keys: list[bytes]) -> None:
    for key in keys:
        db.execute("select result from log where key = ?", (key,)).fetchone()
