"""diskcache as it comes: a transaction for each row, nothing evicted."""

import diskcache

from ..data import hand_key

SAVES, ROWS, IMPORTS = "1 row", 10_000, "diskcache"
HOW = "`cache.get` and `cache.set`, each its own transaction: it cannot be told otherwise"


def run(rows, step):
    """Look each row up, set the missing ones."""
    with diskcache.Cache("cache", eviction_policy="none", size_limit=1 << 40) as cache:
        for row in rows:
            key = hand_key(row)
            if cache.get(key) is None:
                cache.set(key, step(row))
