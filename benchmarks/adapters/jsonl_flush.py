"""JSON lines by hand: a sha256 key, a flush after every row, all keys in memory."""

from . import jsonl_fsync

SAVES, ROWS, IMPORTS = "1 row", 100_000, "json"
HOW = "a write a row, no fsync; every result stays in memory"


def run(rows, step):
    """Read all lines, then append the missing ones."""
    jsonl_fsync.run(rows, step, every=1, sync=False)
