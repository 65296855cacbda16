"""What a row of a batch step costs, beside single calls; and that a million rows count exactly."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from .harness import Case, Figures, child

QUESTION = "What does a row of a batch cost?"
SIZE = 256
PAIRS = 5
COUNTED_LIMIT = 1200  # seconds


def cases(quick: bool) -> list[Case]:
    """Return single calls and batches of cheap rows, in turn; and the count, once."""
    rows = 20_000 if quick else 100_000
    found = [
        Case(name, measure, {"size": size, "rows": rows}, repeats=PAIRS)
        for name, size in (("single calls", 0), ("batches of 1", 1), (f"batches of {SIZE}", SIZE))
    ]
    return [*found, Case("counted", count, {"rows": 20_480 if quick else 1_024_000}, repeats=1)]


def measure(folder: str, size: int, rows: int) -> Figures:
    """Measure a first run and a resume, each in a fresh process; processor time."""
    return {
        f"{name}_cpu_us": child("batches:passed", folder, size=size, rows=rows)["cpu_us"]
        for name in ("first", "resume")
    }


def count(folder: str, rows: int) -> Figures:
    """Pass rows of which half are saved, and check all counts."""
    return child("batches:counted", folder, rows=rows, size=SIZE, limit=COUNTED_LIMIT)


# --- in the child


def passed(size: int, rows: int) -> Figures:
    """Pass all rows; the time is that beyond the step over the same rows, if it is called."""
    from . import data, ours
    from .scale import timed_cpu

    source, report = list(data.rows(rows)), []
    options = {"batch_size": size} if size else {}
    step = ours.step(answers if size else data.answer, "every(rows=1000)")
    took = timed_cpu(lambda: report.append(ours.timed_run(step, iter(source), **options)[1]))[1]
    if report[0].computed:
        took -= timed_cpu(ours.bare, data.answer, source)[1]
    return {"cpu_us": took / rows * 1e6}


def answers(rows: list[Any]) -> list[Any]:
    """Return the results of a batch: the step without its cost."""
    from . import data

    return [data.answer(row) for row in rows]


def counted(rows: int, size: int) -> Figures:
    """Compute half of the rows, then pass all in batches, twice; return the counts, checked.

    Of each eight rows four are saved, three are new and one is equal to a new one. `valid=` refuses
    the first result of each batch.

    Raises:
        AssertionError: a count or a result is not what it must be.
    """
    import checkpointdb as ckpt

    batches: list[int] = []

    def refusing(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        batches.append(len(given))
        return [{"id": row["id"], "ok": n > 0} for n, row in enumerate(given)]

    def accepting(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"id": row["id"], "ok": True} for row in given]

    options: Any = {"batch_size": size, "store": "bench.ckpt", "version": 1, "name": "counted"}
    options |= {"save": ckpt.every(rows=1000), "valid": _is_ok, "on_error": "record"}
    saved = ckpt.run(accepting, ({"id": n} for n in range(0, rows, 2)), **options)
    assert sum(1 for _ in saved) == saved.report.computed == rows // 2
    options |= {"on_change": "reuse"}
    first = ckpt.run(refusing, _eighths(rows), **options)
    refused = _checked(first.items())
    again = ckpt.run(refusing, _eighths(rows), retry_failed=False, **options)
    assert _checked(again.items()) == refused
    new = rows // 8 * 3
    assert len(batches) == -(-new // size)
    assert sum(batches) == new
    assert set(batches[:-1]) <= {size}
    return _counts(first.report, again.report, rows, len(batches), refused)


def _counts(first: Any, again: Any, rows: int, calls: int, refused: int) -> Figures:
    """Check what two runs and the store have counted; return it."""
    import checkpointdb as ckpt

    new = rows // 8 * 3
    assert (first.rows, first.failed) == (rows, calls)
    assert (first.hits, first.computed) == (rows // 8 * 5, new - calls)
    assert (again.rows, again.computed) == (rows, 0)
    assert (again.hits, again.failed) == (rows - refused, refused)
    with ckpt.Store("bench.ckpt") as store:
        (info,) = store.steps()
        results, failed = info.results, info.failures
    assert (results, failed) == (rows // 2 + new - calls, calls)
    return {
        "calls": calls, "hits": first.hits, "computed": first.computed,
        "refused": first.failed, "given_as_failed": refused, "results": results,
    }  # fmt: skip


def _is_ok(result: dict[str, Any]) -> bool:
    return result["ok"]


def _eighths(rows: int) -> Iterator[dict[str, Any]]:
    return ({"id": n - 2 if n % 8 == 7 else n} for n in range(rows))


def _checked(pairs: Any) -> int:
    """Check that each row has its own result, in order; return how many had failed."""
    import checkpointdb as ckpt

    failed = 0
    for n, (row, result) in zip(itertools.count(), pairs, strict=False):
        assert row["id"] == (n - 2 if n % 8 == 7 else n)
        if isinstance(result, ckpt.Failed):
            assert (result.row, result.error_type) == (row, "invalid")
            failed += 1
        else:
            assert result == {"id": row["id"], "ok": True}
    return failed
