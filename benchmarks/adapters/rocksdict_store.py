"""rocksdict (RocksDB): a write batch of 1,000 rows."""

import msgspec
import rocksdict

from ..data import fast_key

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "rocksdict"
HOW = "a `WriteBatch` of 1,000 rows with `sync`: one write and one fsync of its log"


def run(rows, step):
    """Look each row up, write the missing ones 1,000 at a time."""
    db = rocksdict.Rdict("results.rocks", rocksdict.Options(raw_mode=True))
    synced = rocksdict.WriteOptions()
    synced.sync = True
    batch = rocksdict.WriteBatch(raw_mode=True)
    for row in rows:
        key = fast_key(row)
        found = db.get(key)
        if found is not None:
            msgspec.json.decode(found)
            continue
        batch.put(key, msgspec.json.encode(step(row)))
        if batch.len() == 1000:
            db.write(batch, synced)
            batch = rocksdict.WriteBatch(raw_mode=True)
    db.write(batch, synced)
    db.close()
