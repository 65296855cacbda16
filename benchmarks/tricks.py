"""What the store's tricks gain, each on bare SQLite with the same bytes: with it and without."""

from __future__ import annotations

import threading
import time
from typing import Any

from .harness import REPEATS, Case, Figures, child

QUESTION = "What does each trick of the store gain?"
PLAIN = {"page": 8192, "log_pages": 5000, "index": "none", "statement": "one", "busy": False}
CHANGES: dict[str, dict[str, Any]] = {
    "as the store does it, without its index": {},
    "pages of 4 KiB instead of 8": {"page": 4096},
    "a log of 1,000 pages instead of 5,000": {"log_pages": 1000},
    "a unique index on the key": {"index": "unique"},
    "an index extended in sorted bulk": {"index": "bulk"},
    "executemany instead of one statement": {"statement": "many"},
    "one statement, beside a busy thread": {"busy": True},
    "executemany, beside a busy thread": {"statement": "many", "busy": True},
}


SLOW = "executemany, beside a busy thread"  # up to a minute, and no doubt about which is faster


def cases(quick: bool) -> list[Case]:
    """Return each change by itself."""
    rows = 60_000 if quick else 200_000
    return [
        Case(
            name,
            measure,
            PLAIN | change | {"rows": rows // 10 if "busy" in change else rows},
            repeats=1 if name == SLOW else REPEATS,
        )
        for name, change in CHANGES.items()
    ]


def measure(folder: str, **parameters: Any) -> Figures:
    """Measure in a fresh process."""
    return child("tricks:append", folder, **parameters)


# --- in the child


def append(page: int, log_pages: int, index: str, statement: str, busy: bool, rows: int) -> Figures:
    """Append rows, 1,000 a commit, `synchronous=NORMAL`; return µs a row."""
    from .scale import _bytes, timed_cpu

    db = _database(page, log_pages, index)
    save = _one if statement == "one" else _many
    stop = threading.Event()
    if busy:
        threading.Thread(target=_compute, args=(stop,)).start()
    wall = cpu = 0.0
    for at in range(0, rows, 1000):
        took = timed_cpu(save, db, _bytes(at, at + 1000))
        wall, cpu = wall + took[0], cpu + took[1]
        if index == "bulk" and (at + 1000) % 50_000 == 0:
            took = timed_cpu(_extend, db, at - 49_000)
            wall, cpu = wall + took[0], cpu + took[1]
    stop.set()
    figures = {"us": wall / rows * 1e6}
    return figures if busy else figures | {"cpu_us": cpu / rows * 1e6}


def _database(page: int, log_pages: int, index: str) -> Any:
    import apsw

    db = apsw.Connection("tricks.db")
    db.pragma("page_size", page)
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "normal")
    db.pragma("wal_autocheckpoint", log_pages)
    db.execute("create table log (id integer primary key, key, input, result)")
    db.execute("create table key_index (key blob primary key, id) without rowid")
    if index == "unique":
        db.execute("create unique index by_key on log (key)")
    return db


def _one(db: Any, chunk: list[tuple[bytes, bytes, bytes]]) -> None:
    places = ",".join(["(?,?,?)"] * len(chunk))
    values = [value for row in chunk for value in row]
    db.execute(f"insert into log (key, input, result) values {places}", values)


def _many(db: Any, chunk: list[tuple[bytes, bytes, bytes]]) -> None:
    with db:
        db.executemany("insert into log (key, input, result) values (?, ?, ?)", chunk)


def _extend(db: Any, after: int) -> None:
    db.execute("insert into key_index select key, id from log where id > ? order by key", (after,))


def _compute(stop: threading.Event) -> None:
    began = time.perf_counter()
    while not stop.is_set() and time.perf_counter() - began < 120:
        sum(range(1000))
