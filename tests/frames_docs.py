"""Runs the code of docs/frames.md, block after block, as a reader would paste it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "frames.md").read_text(), re.DOTALL)


def run_docs(folder, is_chosen):
    """Run the first block and those chosen, in one namespace; return how many."""
    space = {"call_a_paid_model": lambda row: row["text"].upper()}
    blocks = [block for n, block in enumerate(BLOCKS) if n == 0 or is_chosen(block)]
    for number, block in enumerate(blocks):
        path = folder / f"block_{number}.py"
        path.write_text(block)
        exec(compile(block, str(path), "exec"), space)
    return len(blocks)
