"""SQLite by hand, append only: resumes by position, so rows must come in the same order."""

import apsw
import msgspec

from ..data import fast_key

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "apsw, msgspec, xxhash"
HOW = "a transaction of 1,000 rows, SQLite's `FULL`; found by position"


def run(rows, step):
    """Skip as many rows as are there, then append 1,000 at a time."""
    db = apsw.Connection("log.db")
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "full")
    db.execute("create table if not exists log (id integer primary key, key, input, result)")
    rows = iter(rows)
    for (result,) in db.execute("select result from log order by id"):
        next(rows)
        msgspec.json.decode(result)
    pending = []
    for row in rows:
        result = msgspec.json.encode(step(row))
        pending.append((fast_key(row), msgspec.json.encode(row), result))
        if len(pending) == 1000:
            save(db, pending)
            pending = []
    save(db, pending)
    db.close()


def save(db, pending):
    """Append in one transaction."""
    with db:
        db.executemany("insert into log (key, input, result) values (?, ?, ?)", pending)
