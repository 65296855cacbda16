"""LMDB with a writable map and no fsync: a power cut may break the file."""

from . import lmdb_store

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "lmdb"
HOW = "a transaction of 1,000 rows with `writemap=True, sync=False`: the kernel writes when it will"


def run(rows, step):
    """Look each row up in the open transaction, put the missing ones."""
    lmdb_store.run(rows, step, writemap=True, sync=False)
