"""The targets of the suite, each a ratio or a bound, looked up in the recorded results."""

from __future__ import annotations

import dataclasses
from typing import Any

from .results import Result, best

STEPS = (1, 10, 300)  # ms


@dataclasses.dataclass(frozen=True)
class Bound:
    """`figure` of `case`, over or minus the same of another case, and what it should be at most.

    `at_least` turns it round. `cpu` names the same figure in processor time, which other work on
    the machine disturbs less.
    """

    what: str
    question: str
    case: str
    figure: str
    bound: float
    over: str | None = None
    over_figure: str | None = None
    unit: str = "×"
    at_least: bool = False
    minus: bool = False
    cpu: tuple[str, str] | None = None


def _scale(rows: str, what: str, figure: str, bound: float, over: str, over_figure: str) -> Bound:
    cpu = (figure.replace("us", "cpu_us"), over_figure.replace("us", "cpu_us"))
    return Bound(
        what, "scale", f"checkpointdb {rows}", figure, bound, f"{over} {rows}", over_figure, cpu=cpu
    )


def _faster(peer: str, times: float, question: str = "peers") -> Bound:
    return Bound(
        f"first run: {peer} takes how many times ours", question, peer, "first_us", times,
        "checkpointdb_power", "first_us", at_least=True, cpu=("first_cpu_us", "first_cpu_us"),
    )  # fmt: skip


def bounds(rows: str) -> list[Bound]:
    """Return the targets; `rows` says how many rows the first ones were measured with."""
    ten, small = "checkpointdb 10,000,000", "checkpointdb 100,000"
    return [
        _scale(rows, f"first run, {rows} rows, every(rows=1000), over bare apsw", "us", 1.7, "bare",
               "us"),
        _faster("sqlitedict_store", 10), _faster("diskcache_store", 15),
        _faster("joblib_memory", 50), _faster("lmdb_store", 1, "million"),
        _faster("jsonl_fsync", 1, "million"),
        Bound("µs a row at 10,000,000 rows over 100,000", "huge", ten, "us", 1.3, small, "us",
              cpu=("cpu_us", "cpu_us")),
        _scale(rows, "resume in order, over a point select a row", "resume_rows_us", 0.5, "bare",
               "select_rows_us"),
        _scale(rows, "resume shuffled, over a point select a row", "resume_shuffled_us", 0.9,
               "bare", "select_shuffled_us"),
        Bound("resume in order, over bare apsw with key, point select and decoding", "peers",
              "checkpointdb_power", "resume_us", 0.5, "apsw_keyed", "resume_us",
              cpu=("resume_cpu_us", "resume_cpu_us")),
        *(_adaptive(ms, "share of the run in commits", "commit_share_pct", 1) for ms in STEPS),
        *(_adaptive(ms, "the whole slow-down", "overhead_pct", 2) for ms in STEPS),
        Bound("commit of 1,000 rows beside a busy thread, over alone", "concurrency",
              "commits of 1,000 rows", "ratio", 3),
        Bound("peak memory at 10,000,000 rows beyond 100,000", "huge", ten, "memory_mb", 100, small,
              "memory_mb", unit="MB", minus=True),
        Bound("open a store of 10,000,000 records", "huge", ten, "open_ms", 50, unit="ms"),
        Bound("`ckpt inspect` on it, whole process", "huge", ten, "inspect_ms", 1000, unit="ms"),
        _import("without typing_extensions, as installed by itself", "import_alone_ms"),
        _import("with it, which msgspec then imports", "import_ms"),
        Bound("file size over the bytes of keys, inputs, results", "scale",
              f"checkpointdb {rows}", "size_ratio", 1.25),
        Bound("1 MB results, throughput over a bare file with fsync", "large",
              "1 MB text, every(rows=1)", "ratio", 0.5, at_least=True),
    ]  # fmt: skip


def _adaptive(ms: int, what: str, figure: str, bound: float) -> Bound:
    case = f"adaptive() power 300 B {ms} ms"
    return Bound(f"adaptive(), step of {ms} ms: {what}", "tradeoff", case, figure, bound, unit="%")


def _import(how: str, figure: str) -> Bound:
    what = f"import checkpointdb in a fresh process, processor time, {how}"
    return Bound(what, "peers", "checkpointdb_power counts", figure, 60, unit="ms")


def table() -> list[list[str]]:
    """Return the rows of the table: what, target, measured, quietest, processor, verdict."""
    scale = best("scale")
    rows = "100,000" if scale and scale["mode"] == "full" else "50,000"
    return [_line(bound) for bound in bounds(rows)]


def _line(bound: Bound) -> list[str]:
    result = best(bound.question)
    if bound.question == "huge" and result and result["mode"] == "quick":
        result = None  # a few rows say nothing of ten million
    target = f"{'≥' if bound.at_least else '≤'} {bound.bound:g} {bound.unit}"
    measured = _value(result, bound, "median")
    if measured is None:
        return [bound.what, target, "–", "–", "–", "not measured"]
    quick = f" (`--quick {bound.question}`)" if result and result["mode"] == "quick" else ""
    quietest = _value(result, bound, "low")
    processor = _processor(result, bound)
    return [
        bound.what + quick, target, _shown(measured, bound), _shown(quietest, bound),
        _shown(processor, bound), _verdict(measured, bound),
    ]  # fmt: skip


def _processor(result: Result | None, bound: Bound) -> float | None:
    if bound.cpu is None:
        return None
    same = dataclasses.replace(bound, figure=bound.cpu[0], over_figure=bound.cpu[1])
    return _value(result, same, "median")


def _verdict(measured: float, bound: Bound) -> str:
    by = bound.bound / measured if bound.at_least else measured / bound.bound
    return "met" if by <= 1 else f"missed, {by:.2f} times the target"


def _shown(value: float | None, bound: Bound) -> str:
    return "–" if value is None else f"{value:.3g} {bound.unit}"


def _value(result: Result | None, bound: Bound, which: str) -> float | None:
    first = _figure(result, bound.case, bound.figure, which)
    if first is None or bound.over is None or bound.over_figure is None:
        return first
    other = _figure(result, bound.over, bound.over_figure, which)
    if other is None:
        return None
    return first - other if bound.minus else first / other


def _figure(result: Result | None, case: str, name: str, which: str) -> float | None:
    found: Any = (result or {"cases": {}})["cases"].get(case, {}).get("figures", {}).get(name)
    return found[which] if isinstance(found, dict) else None
