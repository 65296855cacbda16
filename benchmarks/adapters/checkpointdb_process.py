"""checkpointdb with `durability="process"`: a commit survives the death of the process."""

import checkpointdb as ckpt

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "checkpointdb"
HOW = "`every(rows=1000)`, `durability='process'`: no fsync"


def run(rows, step):
    """Pass the step over the rows."""
    save = ckpt.every(rows=1000)
    label = ckpt.step("rows.ckpt", version=1, save=save, durability="process")(step)
    for _ in label.run(rows):
        pass
    label.store.close()
