"""batchledger: a ledger in SQLite, one row after the other."""

import batchledger

SAVES, ROWS, IMPORTS = "1 row", 5_000, "batchledger"
HOW = "`ledger.map`: two commits a row, each with an fsync (begun, done); it has no option"


def run(rows, step):
    """Map the step over the rows."""
    with batchledger.Ledger("ledger.sqlite", namespace="label", version="1") as ledger:
        for _ in ledger.map(step, rows):
            pass
