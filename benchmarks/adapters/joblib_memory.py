"""joblib.Memory: a folder of two files for each result."""

import joblib

SAVES, ROWS, IMPORTS = "1 row", 2_000, "joblib"
HOW = "two files for each result; it cannot be told otherwise"


def run(rows, step):
    """Call the cached function for each row."""
    cached = joblib.Memory("cache", verbose=0).cache(step)
    for row in rows:
        cached(row)
