"""Run the laboratory: `python -m tests.crash --seed 7 --states 20000 --json report.json`."""

from __future__ import annotations

import argparse
import os
import random
import sys

from . import kinds, session
from .report import Report, line


def main() -> int:
    """Return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--states", type=int, default=5_000, help="disks and faults, about")
    parser.add_argument("--only", nargs="+", default=(), choices=session.EXPERIMENTS)
    parser.add_argument(
        "--everywhere", nargs="*", choices=kinds.ALONE, metavar="KIND",
        help="instead, let each operation of a small life fail in turn: of these kinds, or of all",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE", help="write the report there")
    asked = parser.parse_args()
    everywhere = kinds.ALONE if asked.everywhere == [] else asked.everywhere or ()
    what = "each operation" if everywhere else f"{asked.states:,} states"
    print(f"seed {asked.seed}, {what}", flush=True)

    def done(part: session.Part, report: Report) -> None:
        if sys.stderr.isatty() or asked.states > 100_000 or everywhere:
            print(f"{part}: {report.totals}", file=sys.stderr, flush=True)
        if asked.json:
            report.write(asked.json)

    report = session.run(asked.seed, asked.states, tuple(asked.only), done, asked.jobs, everywhere)
    for name, counts in report.experiments.items():
        print(line(name, counts))
    for violation in report.violations:
        print(f"\nBROKEN {violation['experiment']}: {violation['text']}")
        print(f"  {violation['where']}\n  {violation['options']}\n  {violation['again']}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
