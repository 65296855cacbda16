"""Large results: text of 1 MB, embeddings, images; beside bare files with an fsync."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

from .harness import Case, Figures, child

QUESTION = "How fast are large results saved and read?"
KINDS = {"1 MB text": 60, "embedding of 1,536 floats": 1_000, "200 kB image": 200}
SAVES = {"every(rows=1)": 1, "every(rows=10)": 10}


def cases(quick: bool) -> list[Case]:
    """Return every kind, saved one by one and ten at a time."""
    return [
        Case(f"{kind}, {save}", measure, {"kind": kind, "save": save, "rows": rows // _part(quick)})
        for kind, rows in KINDS.items()
        for save in SAVES
    ]


def _part(quick: bool) -> int:
    return 3 if quick else 1


def measure(folder: str, kind: str, save: str, rows: int) -> Figures:
    """Measure bare files, then ours: first run and resume."""
    figures = child("large:files", folder, kind=kind, rows=rows, each=SAVES[save])
    ours = child("large:first", folder, kind=kind, rows=rows, save=save)
    again = child("large:resume", folder, kind=kind, rows=rows, save=save)
    figures |= {"memory_mb": ours["memory_mb"], "resume_mb_per_second": again["mb_per_second"]}
    figures |= {name: ours[name] for name in ("mb_per_second", "cpu_ms_per_mb")}
    return figures | {"ratio": ours["mb_per_second"] / figures["files_mb_per_second"]}


TRIED: dict[str, dict[str, Any]] = {
    "as it is: pages of 8 KiB, a log of 40 MB": {},
    "a log of 8 MB": {"log_bytes": 8 << 20},
    "a log of 160 MB": {"log_bytes": 160 << 20},
    "a log that is moved at the end only": {"log_bytes": 1 << 40},
    "pages of 32 KiB": {"page": 32768},
    "pages of 64 KiB": {"page": 65536},
    "pages of 64 KiB, moved at the end only": {"page": 65536, "log_bytes": 1 << 40},
    "64 MB of cache for writing": {"cache_mb": 64},
    "`durability='process'`": {"durability": "process"},
    "bare SQLite, a blob a row": {"bare": True},
    "a bare file written twice, each with an fsync": {"twice": True},
}


def tried(quick: bool) -> list[Case]:
    """Return 1 MB texts under other settings, each beside bare files in the same turn."""
    rows = 60 if quick else 120
    found = []
    for name, setting in TRIED.items():
        for each in (1, 10):
            asked = {"each": each, "rows": rows} | setting
            found.append(Case(f"{name}; every(rows={each})", measure_tried, asked, 5))
    return found


def measure_tried(folder: str, each: int, rows: int, **setting: Any) -> Figures:
    """Measure bare files, then ours with these settings."""
    asked = {"kind": "1 MB text", "rows": rows, "each": each}
    figures = child("large:files", folder, **asked)
    if setting.pop("twice", False):
        ours = child("large:files_twice", folder, **asked)
    elif setting.pop("bare", False):
        ours = child("large:bare_sqlite", folder, **asked)
    else:
        ours = child("large:with_settings", folder, **asked, **setting)
    figures |= ours | {"ratio": ours["mb_per_second"] / figures["files_mb_per_second"]}
    return figures


# --- in the child


def values(kind: str) -> tuple[Callable[[int], Any], Callable[[Any], bytes]]:
    """Return a function that makes the i-th value, and one that makes it bytes for a bare file."""
    import msgspec

    encode = msgspec.json.encode
    source = random.Random(1)
    if kind == "1 MB text":
        text = "A page of text as a crawler finds it. " * 27_000
        return (lambda i: f"{i} {text}"[:1_000_000]), encode
    if kind == "200 kB image":
        image = source.randbytes(200_000)
        return (lambda i: i.to_bytes(4, "big") + image), bytes
    floats = [source.uniform(-1, 1) for _ in range(1536)]
    return (lambda i: [*floats[1:], i / 7]), encode


def files(kind: str, rows: int, each: int) -> Figures:
    """Append values to a file, an fsync after so many."""
    _, encode = values(kind)
    with open("values", "wb", buffering=0) as file:

        def save(i: int, value: Any) -> None:
            file.write(encode(value))
            if (i + 1) % each == 0:
                os.fsync(file.fileno())

        return _each(kind, rows, save, "files_")


def files_twice(kind: str, rows: int, each: int) -> Figures:
    """Do as a log does: append to one file with an fsync; when 40 MB are there, copy them."""
    _, encode = values(kind)
    with open("log", "w+b", buffering=0) as log, open("copied", "wb", buffering=0) as file:

        def save(i: int, value: Any) -> None:
            log.write(encode(value))
            if (i + 1) % each == 0:
                os.fsync(log.fileno())
            if log.tell() > 40 << 20 or i + 1 == rows:
                left = log.tell()
                log.seek(0)
                while left:
                    left -= file.write(log.read(min(left, 1 << 20)))
                os.fsync(file.fileno())
                log.seek(0)

        return _each(kind, rows, save)


def bare_sqlite(kind: str, rows: int, each: int) -> Figures:
    """Append values to a table with the store's settings and nothing else."""
    import apsw

    from checkpointdb.file import pragmas

    _, encode = values(kind)
    db = apsw.Connection("bare.db")
    db.pragma("page_size", pragmas.PAGE_SIZE)
    pragmas.tune_writer(db, "power")
    db.execute("create table log (id integer primary key, result)")
    many: list[tuple[bytes]] = []

    def save(i: int, value: Any) -> None:
        many.append((encode(value),))
        if (i + 1) % each == 0:
            with db:
                db.executemany("insert into log (result) values (?)", many)
            many.clear()
        if i + 1 == rows:
            db.close()

    return _each(kind, rows, save)


def _each(kind: str, rows: int, save: Callable[[int, Any], None], named: str = "") -> Figures:
    """Save values one after the other; the time is that beyond making them."""
    make, encode = values(kind)
    wall, cpu, before = 0.0, 0.0, written()
    for i in range(rows):
        value = make(i)
        began, processor = time.perf_counter(), time.process_time()
        save(i, value)
        wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - processor
    return _figures(len(encode(make(0))) * rows, wall, cpu, written() - before, named)


def _figures(size: int, wall: float, cpu: float, written: int, named: str = "") -> Figures:
    return {
        f"{named}mb_per_second": size / wall / 1e6, f"{named}cpu_ms_per_mb": cpu * 1e9 / size,
        f"{named}written": written / size,
    }  # fmt: skip


def written() -> int:
    """Return the bytes that this process had written to disks; 0 where the system says nothing."""
    try:
        with open("/proc/self/io") as lines:
            return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])
    except OSError:
        return 0


def with_settings(
    kind: str, rows: int, each: int, page: int = 0, log_bytes: int = 0, cache_mb: int = 0,
    durability: str = "power",
) -> Figures:  # fmt: skip
    """Save values with other pages, another log or another cache than the store has."""
    from checkpointdb.file import pragmas

    if page:
        pragmas.PAGE_SIZE, pragmas.WAL_PAGES = page, pragmas.WAL_PAGES * 8192 // page
    if log_bytes:
        pragmas.WAL_PAGES = log_bytes // pragmas.PAGE_SIZE
        pragmas.WAL_BYTES = max(log_bytes, pragmas.WAL_BYTES)  # beyond it, it would warn
    if cache_mb:
        tune = pragmas.tune_writer

        def tuned(connection: Any, durability: str) -> None:
            tune(connection, durability)
            connection.pragma("cache_size", -cache_mb * 1024)

        pragmas.tune_writer = tuned
    return _speed(kind, rows, f"every(rows={each})", True, durability)


def first(kind: str, rows: int, save: str) -> Figures:
    """Save values through a step; the time is that beyond making them."""
    return _speed(kind, rows, save, called=True)


def resume(kind: str, rows: int, save: str) -> Figures:
    """Read them again."""
    return _speed(kind, rows, save, called=False)


def _speed(kind: str, rows: int, save: str, called: bool, durability: str = "power") -> Figures:
    from . import ours
    from .scale import timed_cpu

    make, encode = values(kind)
    bare = timed_cpu(ours.bare, make, range(rows)) if called else (0.0, 0.0)
    step, before = ours.step(_named(make), save, durability), written()
    took = timed_cpu(ours.timed_run, step, range(rows))
    wall, cpu = (a - b for a, b in zip(took, bare, strict=True))
    return _figures(len(encode(make(0))) * rows, wall, cpu, written() - before)


def _named(make: Callable[[int], Any]) -> Callable[[int], Any]:
    def bench(i: int) -> Any:
        return make(i)

    return bench
