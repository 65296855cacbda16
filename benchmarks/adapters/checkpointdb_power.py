"""checkpointdb as it comes: a commit survives a power cut."""

import checkpointdb as ckpt

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "checkpointdb"
HOW = "`every(rows=1000)`, each commit with an fsync"


def run(rows, step):
    """Pass the step over the rows."""
    label = ckpt.step("rows.ckpt", version=1, save=ckpt.every(rows=1000))(step)
    for _ in label.run(rows):
        pass
    label.store.close()
