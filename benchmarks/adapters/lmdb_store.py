"""LMDB: key to result, a transaction every 1,000 rows."""

import lmdb
import msgspec

from ..data import fast_key

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "lmdb"
HOW = "a transaction of 1,000 rows, committed with an fsync"


def run(rows, step, **options):
    """Look each row up in the open transaction, put the missing ones."""
    env = lmdb.open("results.lmdb", map_size=16 << 30, **options)
    transaction = env.begin(write=True)
    pending = 0
    for row in rows:
        key = fast_key(row)
        found = transaction.get(key)
        if found is not None:
            msgspec.json.decode(found)
            continue
        transaction.put(key, msgspec.json.encode(step(row)))
        pending += 1
        if pending == 1000:
            transaction.commit()
            transaction, pending = env.begin(write=True), 0
    transaction.commit()
    env.close()
