"""How often each key came in this run. Knows keys and nothing else."""

from __future__ import annotations

import threading

import apsw

CACHE_KIB = 32 << 10


class Occurrences:
    """Count keys in bounded memory: past 32 MiB the counts spill into a private temporary file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a connection used by two threads at once raises
        self._connection = apsw.Connection("")
        self._connection.pragma("cache_size", -CACHE_KIB)
        self._connection.pragma("journal_mode", "off")
        self._connection.pragma("synchronous", "off")
        self._connection.execute(
            "create table seen (key blob primary key, n integer) without rowid"
        )

    def count(self, key: bytes) -> int:
        """Return how often `key` was counted before, and count it."""
        with self._lock:
            n: int = self._connection.execute(
                """
                insert into seen values (?, 0) on conflict (key) do update set n = n + 1 returning n
                """,
                (key,),
            ).get
        return n

    def uncount(self, key: bytes) -> None:
        """Take back one count of `key`."""
        with self._lock:
            self._connection.execute("update seen set n = n - 1 where key = ?", (key,))
