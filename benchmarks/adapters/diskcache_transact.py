"""diskcache inside `transact`: 1,000 rows a transaction, nothing evicted."""

import itertools

import diskcache

from ..data import hand_key

SAVES, ROWS, IMPORTS = "1,000 rows", 20_000, "diskcache"
HOW = "`cache.transact()` around 1,000 rows, `eviction_policy='none'`; SQLite's `NORMAL`"


def run(rows, step):
    """Look each row up, set the missing ones."""
    rows = iter(rows)
    with diskcache.Cache("cache", eviction_policy="none", size_limit=1 << 40) as cache:
        while chunk := list(itertools.islice(rows, 1000)):
            with cache.transact():
                for row in chunk:
                    key = hand_key(row)
                    if cache.get(key) is None:
                        cache.set(key, step(row))
