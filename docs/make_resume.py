"""Draws docs/pictures/resume.svg: what `ckpt demo` shows, as bars. `python docs/make_resume.py`."""

from __future__ import annotations

import os

ROWS, BEFORE = 300, 140  # of the demo: all rows, and those that were saved at the kill
WIDTH, LEFT = 720, 150
INK, KEPT, PAID, LOST = "#57606a", "#1a7f64", "#4a7fd6", "#d1553d"


def bar(y: int, start: int, rows: int, colour: str, text: str) -> str:
    """Return a bar of so many rows with its text."""
    scale = (WIDTH - LEFT - 10) / (ROWS + BEFORE)
    x, width = LEFT + start * scale, rows * scale - 2
    return (
        f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="34" rx="4" fill="{colour}"/>'
        f'<text x="{x + width / 2:.0f}" y="{y + 22}" fill="#fff" text-anchor="middle">{text}</text>'
    )


def label(y: int, text: str) -> str:
    """Return the text on the left of a bar."""
    return f'<text x="{LEFT - 12}" y="{y + 22}" fill="{INK}" text-anchor="end">{text}</text>'


def picture() -> str:
    """Return the picture as SVG."""
    shapes = [
        label(36, "without"),
        bar(36, 0, BEFORE, LOST, f"{BEFORE} calls, lost"),
        bar(36, BEFORE, ROWS, PAID, f"run again: {ROWS} calls"),
        label(86, "checkpointdb"),
        bar(86, 0, BEFORE, KEPT, f"{BEFORE} calls, kept"),
        bar(86, BEFORE, ROWS - BEFORE, PAID, f"run again: {ROWS - BEFORE} calls"),
    ]
    kill = LEFT + BEFORE * (WIDTH - LEFT - 10) / (ROWS + BEFORE) - 1
    shapes += [
        f'<path d="M{kill:.0f} 26V128" stroke="{INK}" stroke-width="2" stroke-dasharray="4 3"/>',
        f'<text x="{kill:.0f}" y="19" fill="{INK}" text-anchor="middle">kill -9</text>',
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 136" role="img" '
        f'font-family="sans-serif" font-size="15">'
        f"<title>Calls paid for {ROWS} rows, killed after {BEFORE}</title>\n"
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "pictures", "resume.svg"), "w", encoding="utf-8") as file:
        file.write(picture())
