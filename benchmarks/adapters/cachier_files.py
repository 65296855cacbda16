"""cachier with its files: one for each result."""

import cachier

from ..data import hand_key

SAVES, ROWS, IMPORTS = "1 row", 500, "cachier"
HOW = "a file for each result (`separate_files`); it cannot be told otherwise"


def run(rows, step):
    """Call the cached function for each row."""
    cached = cachier.cachier(
        hash_func=lambda args, kwds: hand_key([args, kwds]),
        cache_dir="cache",
        separate_files=True,
    )(step)
    for row in rows:
        cached(row)
