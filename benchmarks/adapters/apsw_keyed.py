"""SQLite by hand with the key as primary key: a point select for each row."""

import apsw
import msgspec

from ..data import fast_key

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "apsw"
HOW = "a transaction of 1,000 rows, SQLite's `FULL`"


def run(rows, step):
    """Look each row up, compute the missing ones, commit 1,000 at a time."""
    db = apsw.Connection("keyed.db")
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "full")
    db.execute("create table if not exists results (key blob primary key, input, result)")
    pending = []
    for row in rows:
        key = fast_key(row)
        found = db.execute("select result from results where key = ?", (key,)).get
        if found is not None:
            msgspec.json.decode(found)
            continue
        result = msgspec.json.encode(step(row))
        pending.append((key, msgspec.json.encode(row), result))
        if len(pending) == 1000:
            save(db, pending)
            pending = []
    save(db, pending)
    db.close()


def save(db, pending):
    """Insert in one transaction."""
    with db:
        db.executemany("insert into results values (?, ?, ?)", pending)
