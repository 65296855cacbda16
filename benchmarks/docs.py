"""Write the recorded results into the docs, between markers, and draw the plots."""

from __future__ import annotations

import os
import re

from .harness import ROOT
from .tables import TABLES

PAGES = [
    os.path.join(ROOT, name)
    for name in ("README.md", "docs/saving.md", "docs/benchmarks.md", "docs/scale.md")
]
MARKED = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def write_docs() -> None:
    """Write every table, and the plots if matplotlib is there."""
    for page in PAGES:
        with open(page, encoding="utf-8") as file:
            text = file.read()
        with open(page, "w", encoding="utf-8") as file:
            file.write(filled(text))
    from .plots import draw

    draw()


def filled(text: str) -> str:
    """Return the page with its tables made anew."""
    return MARKED.sub(lambda found: _block(found.group(1)), text)


def _block(name: str) -> str:
    return f"<!-- table: {name} -->\n{TABLES[name]()}\n<!-- end -->"
