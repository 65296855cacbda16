"""Measure, record, write the docs: `uv run --group bench python -m benchmarks`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from . import (
    batches,
    bounds,
    concurrency,
    guards,
    in_flight,
    large,
    machine,
    neighbours,
    peers,
    scale,
    since,
    tradeoff,
    tricks,
    zstd,
)
from .compare import compare
from .docs import write_docs
from .harness import Case, measure
from .results import read, write

QUESTIONS: dict[str, Callable[[bool], list[Case]]] = {
    "since": since.cases,
    "tradeoff": tradeoff.cases,
    "in_flight": in_flight.cases,
    "peers": peers.cases,
    "frameworks": peers.frameworks,
    "million": peers.million,
    "neighbours": neighbours.cases,
    "scale": scale.cases,
    "huge": scale.huge,
    "concurrency": concurrency.cases,
    "batches": batches.cases,
    "large": large.cases,
    "large_tried": large.tried,
    "zstd": zstd.cases,
    "tricks": tricks.cases,
    "guards": guards.cases,
}

# Minutes each; in the quick run only by --only.
FULL_ONLY = ("since", "frameworks", "million", "neighbours", "huge", "large_tried", "zstd")


def main() -> None:
    """Answer the questions asked for, each in its own file."""
    options = arguments()
    mode = "quick" if options.quick else "full"
    for name in chosen(options):
        before = read(name, mode)
        now = answer(name, options.quick, options.repeats)
        if options.compare:
            print(compare(name, before, now))
        else:
            write(name, mode, now)
    if not options.compare:
        write_docs()


def chosen(options: argparse.Namespace) -> list[str]:
    """Return the questions that are asked, in the order of the page."""
    if options.docs:
        return []
    if options.targets:
        asked = {bound.question for bound in bounds.restated("100,000")}
        return [question for question in QUESTIONS if question in asked]
    return options.only or [q for q in QUESTIONS if not (options.quick and q in FULL_ONLY)]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 3 minutes; no 10⁷ rows")
    parser.add_argument("--repeats", type=int, help="instead of three; the results say how many")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, metavar="NAME")
    parser.add_argument("--targets", action="store_true", help="those of the first table")
    parser.add_argument(
        "--compare", action="store_true", help="compare with the recorded results, record nothing"
    )
    parser.add_argument("--docs", action="store_true", help="only write the docs anew")
    return parser.parse_args()


def answer(name: str, quick: bool, repeats: int | None = None) -> dict[str, Any]:
    """Measure one question's cases; return them with what they were measured on."""
    began, load = time.time(), machine.load()
    described = machine.describe()
    cases = measure(QUESTIONS[name](quick), repeats)
    return {
        "question": name,
        "mode": "quick" if quick else "full",
        "recorded_at": time.strftime("%Y-%m-%d %H:%M", time.localtime(began)),
        "seconds": round(time.time() - began),
        "load_average": [load, machine.load()],
        "machine": described,
        "cases": cases,
    }


if __name__ == "__main__":
    main()
