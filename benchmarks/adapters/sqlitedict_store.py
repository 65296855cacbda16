"""sqlitedict: a dict in SQLite, a commit every 1,000 rows."""

import json

from sqlitedict import SqliteDict

from ..data import hand_key

SAVES, ROWS, IMPORTS = "1,000 rows", 10_000, "sqlitedict"
HOW = "`commit()` every 1,000 rows; SQLite's `OFF`, its default"


def run(rows, step):
    """Look each row up, put the missing ones."""
    pending = 0
    with SqliteDict("results.sqlite", encode=json.dumps, decode=json.loads) as results:
        for row in rows:
            key = hand_key(row)
            if results.get(key) is not None:
                continue
            results[key] = step(row)
            pending += 1
            if pending % 1000 == 0:
                results.commit()
        results.commit()
