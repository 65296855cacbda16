"""duckdb: 1,000 rows looked up by a join and inserted from an Arrow table."""

import itertools

import duckdb
import msgspec
import pyarrow

from ..data import fast_key

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "duckdb, pyarrow"
HOW = "an insert of 1,000 rows from an Arrow table, which is one transaction with an fsync"


def prepare(rows):
    """Let duckdb import pandas, where it is, which it does once at its first scan of a table."""
    lookup(duckdb.connect(), [b""], "select key, '{}' as result from wanted")
    return rows


def run(rows, step):
    """Look 1,000 rows up, compute the missing ones, insert them."""
    db = duckdb.connect("results.duckdb")
    db.execute("create table if not exists results (key blob primary key, result varchar)")
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, 1000)):
        keyed = {fast_key(row): row for row in chunk}
        done = lookup(db, list(keyed))
        missing = {key: step(row) for key, row in keyed.items() if key not in done}
        if missing:
            save(db, missing)
    db.close()


def lookup(db, keys, query="select key, result from results join wanted using (key)"):
    """Return the saved results of these keys."""
    db.register("wanted", pyarrow.table({"key": pyarrow.array(keys, pyarrow.binary())}))
    return {key: msgspec.json.decode(result) for key, result in db.execute(query).fetchall()}


def save(db, results):
    """Insert in one transaction."""
    encoded = [msgspec.json.encode(result).decode() for result in results.values()]
    keys = pyarrow.array(list(results), pyarrow.binary())
    db.register("new", pyarrow.table({"key": keys, "result": encoded}))
    db.execute("insert into results select * from new")
