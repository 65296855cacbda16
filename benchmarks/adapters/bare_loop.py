"""The loop without saving: what everything is compared with."""

SAVES, ROWS, IMPORTS = "never", 100_000, "json"
HOW = "nothing is kept"


def run(rows, step):
    """Pass the step over the rows and keep nothing."""
    for row in rows:
        step(row)
