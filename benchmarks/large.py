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
    figures["mb_per_second"] = ours["mb_per_second"]
    return figures | {"ratio": ours["mb_per_second"] / figures["files_mb_per_second"]}


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
    make, encode = values(kind)
    written, took = 0, 0.0
    with open("values", "wb", buffering=0) as file:
        for i in range(rows):
            value = make(i)
            began = time.perf_counter()
            written += file.write(encode(value))
            if (i + 1) % each == 0:
                os.fsync(file.fileno())
            took += time.perf_counter() - began
    return {"files_mb_per_second": written / took / 1e6}


def first(kind: str, rows: int, save: str) -> Figures:
    """Save values through a step; the time is that beyond making them."""
    return {"mb_per_second": _speed(kind, rows, save, called=True)}


def resume(kind: str, rows: int, save: str) -> Figures:
    """Read them again."""
    return {"mb_per_second": _speed(kind, rows, save, called=False)}


def _speed(kind: str, rows: int, save: str, called: bool) -> float:
    from . import ours

    make, encode = values(kind)
    bare = ours.bare(make, range(rows)) if called else 0.0
    took, _ = ours.timed_run(ours.step(_named(make), save), range(rows))
    return len(encode(make(0))) * rows / (took - bare) / 1e6


def _named(make: Callable[[int], Any]) -> Callable[[int], Any]:
    def bench(i: int) -> Any:
        return make(i)

    return bench
