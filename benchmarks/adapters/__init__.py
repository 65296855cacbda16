"""One file a peer: how a user would save the results of a loop with it.

Each has `run(rows, step)`, which passes the step over the rows, in the current folder, and keeps
what it returns; a second run finds what the first one kept. And `SAVES`, how often it saves;
`ROWS`, how many rows are enough to measure it; `IMPORTS`, what it needs. What `prepare(rows)` and
`finish()` do, where they are, is not in the time.
"""

from __future__ import annotations

import importlib
from types import ModuleType

PEERS = (
    "bare_loop", "checkpointdb_power", "checkpointdb_process", "apsw_log", "apsw_keyed",
    "jsonl_fsync", "jsonl_flush", "lmdb_store", "sqlitedict_store", "diskcache_store",
    "datasets_map", "joblib_memory", "cachier_files", "dbos_sqlite",
)  # fmt: skip


def load(name: str) -> ModuleType:
    """Return a peer's adapter."""
    return importlib.import_module(f"{__name__}.{name}")
