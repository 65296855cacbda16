"""What became slower or faster since the last recorded results."""

from __future__ import annotations

from .results import Result

# Beyond the spread of both, and by more than this: below it a shared machine says nothing.
TOLERANCE = 0.15
MORE_IS_BETTER = ("per_second", "ratio")
NOT_COMPARED = ("rows_lost", "rows_lost_worst", "seconds_lost", "commits", "half_calls", "files")


def compare(question: str, before: Result | None, now: Result) -> str:
    """Return a line for each figure that left the spread of the last recorded results."""
    if before is None:
        return f"{question}: nothing recorded to compare with"
    lines = [
        line
        for case, measured in now["cases"].items()
        for name, figure in measured["figures"].items()
        if (line := _line(case, name, _recorded(before, case, name), figure))
    ]
    heading = f"{question}: {len(lines)} figures changed since {before['recorded_at']}"
    return "\n  ".join([heading, *lines])


def _recorded(before: Result, case: str, name: str) -> object:
    return before["cases"].get(case, {}).get("figures", {}).get(name)


def _line(case: str, name: str, before: object, now: object) -> str | None:
    if name == "failed":
        return f"FAILED: {case}: {now}"
    if name in NOT_COMPARED or not isinstance(before, dict) or not isinstance(now, dict):
        return None
    apart = now["low"] > before["high"] or now["high"] < before["low"]
    change = now["median"] / before["median"] - 1 if before["median"] else 0.0
    if not apart or abs(change) < TOLERANCE:
        return None
    better = (change > 0) == name.endswith(MORE_IS_BETTER)
    word = "better" if better else "WORSE"
    return f"{word}: {case}: {name} {before['median']:.4g} -> {now['median']:.4g} ({change:+.0%})"
