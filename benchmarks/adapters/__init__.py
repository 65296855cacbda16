"""One file a peer: how a user would save the results of a loop with it.

Each has `run(rows, step)`, which passes the step over the rows, in the current folder, and keeps
what it returns; a second run finds what the first one kept. And `SAVES`, how often it saves;
`HOW`, how it was told to save as rarely as that; `ROWS`, how many rows are enough to measure it;
`IMPORTS`, what it needs. What `prepare(rows)` and `finish()` do, where they are, is not in the
time.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
from types import ModuleType
from typing import Any

PEERS = (
    "bare_loop", "checkpointdb_power", "checkpointdb_process", "apsw_log", "apsw_keyed",
    "jsonl_fsync", "jsonl_flush", "jsonl_tuned", "lmdb_store", "lmdb_writemap", "rocksdict_store",
    "duckdb_store", "sqlitedict_store", "diskcache_transact", "diskcache_plain",
    "batchledger_store", "async_batch_llm_sqlite", "datasets_map", "joblib_memory", "cachier_files",
    "dbos_sqlite",
)  # fmt: skip


def said(name: str) -> dict[str, Any]:
    """Return the constants of an adapter, without importing the package that it needs."""
    with open(os.path.join(os.path.dirname(__file__), f"{name}.py"), encoding="utf-8") as file:
        assigned = [node for node in ast.parse(file.read()).body if isinstance(node, ast.Assign)]
    found: dict[str, Any] = {}
    for node in assigned:
        with contextlib.suppress(ValueError):  # what is no constant
            names, value = ast.unparse(node.targets[0]).strip("()"), ast.literal_eval(node.value)
            pairs = zip(names.split(", "), value, strict=True) if "," in names else [(names, value)]
            found.update(pairs)
    return found


def load(name: str) -> ModuleType:
    """Return a peer's adapter."""
    return importlib.import_module(f"{__name__}.{name}")
