"""Tables and numbers as Markdown."""

from __future__ import annotations

NOT_SAID = "–"


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    """Lay out a Markdown table."""
    bars = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, bars, *lines))


def number(value: float | None) -> str:
    """Show a number with as many digits as it deserves."""
    if value is None:
        return NOT_SAID
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
