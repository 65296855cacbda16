"""Targets against the recorded results: tables of what was measured, and why what is missed is."""

from __future__ import annotations

import dataclasses
from typing import Any

from .bounds import Bound, others, restated
from .markdown import NOT_SAID, number
from .results import Result, best, figure
from .since import NOW, THEN

HEADS = ["what", "target", "before", "now", "quietest run", "in processor time", "verdict"]


def tables() -> list[list[list[str]]]:
    """Return the lines of both tables: what, target, before, now, quietest, processor, verdict."""
    return [[_line(bound) for bound in bounds] for bounds in _bounds()]


def misses() -> list[str]:
    """Return, for each target that is missed, by how much and why."""
    return [
        f"- **{_upper(bound.what)}**: {verdict}. {bound.why}".rstrip()
        for bounds in _bounds()
        for bound in bounds
        if (verdict := _line(bound)[-1]).startswith("missed")
    ]


def _bounds() -> list[list[Bound]]:
    scale = best("scale")
    rows = "100,000" if scale and scale["mode"] == "full" else "50,000"
    return [restated(rows), others(rows)]


def _line(bound: Bound) -> list[str]:
    result = best(bound.question)
    if bound.question == "huge" and result and result["mode"] == "quick":
        result = None  # a few rows say nothing of ten million
    target = f"{'≥' if bound.at_least else '≤'} {bound.bound:g} {bound.unit}"
    measured = _value(result, bound, "median")
    before = _before(result, bound)
    if measured is None:
        return [bound.what, target, before, *[NOT_SAID] * 3, "not measured"]
    quick = f" (`--quick {bound.question}`)" if result and result["mode"] == "quick" else ""
    return [
        bound.what + quick, target, before, _shown(measured, bound) + _loss(result, bound),
        _shown(_value(result, bound, "low"), bound), _shown(_processor(result, bound), bound),
        _verdict(measured, bound),
    ]  # fmt: skip


def _before(result: Result | None, bound: Bound) -> str:
    if bound.before is not None:
        return bound.before
    over = bound.over and bound.over.replace(NOW, THEN)
    then = dataclasses.replace(bound, case=bound.case.replace(NOW, THEN), over=over)
    measured = _shown(_value(result, then, "median"), bound)
    processor = _shown(_processor(result, then), bound)
    return measured if processor == NOT_SAID else f"{measured}, processor {processor}"


def _loss(result: Result | None, bound: Bound) -> str:
    """Return what a kill loses of rows that had returned, where that belongs beside the cost."""
    if not bound.loses:
        return ""
    lost = figure(result, bound.case, "rows_lost")
    worst = figure(result, bound.case, "rows_lost_worst")
    at_worst = "" if worst is None else f", at worst {number(worst)}"
    return f"; a kill loses {number(lost)} rows{at_worst}"


def _processor(result: Result | None, bound: Bound) -> float | None:
    if bound.cpu is None:
        return None
    same = dataclasses.replace(bound, figure=bound.cpu[0], over_figure=bound.cpu[1])
    return _value(result, same, "median")


def _verdict(measured: float, bound: Bound) -> str:
    by = bound.bound / measured if bound.at_least else measured / bound.bound
    return "met" if by <= 1 else f"missed, {by:.2f} times the target"


def _shown(value: float | None, bound: Bound) -> str:
    return NOT_SAID if value is None else f"{value:.3g} {bound.unit}"


def _upper(text: str) -> str:
    return text if text.startswith(("adaptive", "`", "µ")) else text[0].upper() + text[1:]


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
