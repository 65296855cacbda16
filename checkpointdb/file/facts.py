"""What a store is like, without anything that its users wrote. Knows SQL; no name and no value.

For a report that strangers read: numbers that SQLite or we made, and words out of lists that stand
here. A text of the file is never passed on, not even as a digest: a guess could be tested against
it.
"""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Iterable
from typing import Any

import apsw

from .sql import ERROR_TYPE, rows

TABLES = (
    *("steps", "step_code", "runs", "records", "sent_calls", "system_claims", "system_counters"),
    *("system_occurrences", "system_key_index", "system_superseded"),
)
_PRAGMAS = (
    *("application_id", "user_version", "schema_version", "page_size", "page_count"),
    *("freelist_count", "auto_vacuum"),
)
_WORDS = {
    "ended": ("finished", "closed", "interrupted", "failed"),
    "policy": ("every", "adaptive", "by_size", "on_exit", "adopt"),
    "durability": ("power", "process"),
}
_ERRORS = [
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
]
_OTHER = "another"


def facts(connection: apsw.Connection) -> dict[str, Any]:
    """Return counts, sizes and settings of a store; reads all records once."""
    return {
        "settings": {name: _number(connection.pragma(name)) for name in _PRAGMAS}
        | {"encoding": _word(connection.pragma("encoding"), ("UTF-8", "UTF-16le", "UTF-16be"))},
        "rows": {table: _one(connection, f"select count(*) from {table}") for table in TABLES},
        "runs": {name: _counted(connection, "runs", name, words) for name, words in _WORDS.items()},
        "records": _records(connection),
        "failures": _counted(connection, "records", ERROR_TYPE, _ERRORS),
        "steps": [
            dict(zip(("results", "failures", "records"), map(_number, counts), strict=True))
            for counts in rows(connection, "select results, failures, records from steps")
        ],
    }


def _records(connection: apsw.Connection) -> dict[str, int]:
    (found,) = rows(
        connection,
        """
        select sum(typeof(result) = 'text'), sum(typeof(result) = 'blob'), max(length(result)),
               sum(input is null), max(length(input)), max(length(error)), max(attempts),
               sum(occurrence > 0), sum(cost is not null)
          from records
        """,
    )
    names = (
        *("results as JSON", "results as MessagePack", "longest result", "without input"),
        *("longest input", "longest error", "most attempts", "equal rows apart", "with a cost"),
    )
    return dict(zip(names, map(_number, found), strict=True))


def _counted(
    connection: apsw.Connection, table: str, column: str, words: Iterable[str]
) -> dict[str, int]:
    """Count rows by a text of theirs, as far as it begins with one of our own words."""
    short = f"substr({column}, 1, 40)"
    sql = f"select {short}, count(*) from {table} where {column} is not null group by 1"
    counted: Counter[str] = Counter()
    for text, count in rows(connection, sql):
        counted[_word(str(text).partition("(")[0].partition(":")[0], tuple(words))] += count
    return dict(sorted(counted.items()))


def _word(text: Any, words: Iterable[str]) -> str:
    return next((word for word in words if word == text), _OTHER)


def _one(connection: apsw.Connection, sql: str) -> int:
    return _number(connection.execute(sql).get)


def _number(value: Any) -> int:
    """Return a number of the file; 0 for anything else, which might be a user's text."""
    return int(value) if type(value) is int else 0
