"""A job of Ray Data over two actors, each call logged. Run by test_ray.py, and killed."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import ray

import checkpointdb as ckpt
from checkpointdb.integrations.ray import Checkpointed

FOLDER, SCRATCH, LOG, ROWS, SECONDS = sys.argv[1:]


@ckpt.step("nowhere.ckpt", version=1, save=ckpt.every(rows=50))
def doubled(row: dict) -> dict:
    with open(LOG, "a") as log:
        log.write(f"{row['id']} {os.getpid()} {time.time()}\n")
    time.sleep(0.002)
    return {"twice": row["id"] * 2, "of": row["text"]}


if __name__ == "__main__":
    for _ in range(5):
        with contextlib.suppress(Exception):  # it gives itself too little time on a busy machine
            ray.init(
                "local", num_cpus=2, object_store_memory=200 << 20, include_dashboard=False,
                log_to_driver=False,
            )  # fmt: skip
            break
        ray.shutdown()
    data = ray.data.range(int(ROWS), override_num_blocks=20)
    data = data.map_batches(lambda batch: batch | {"text": [f"row {n}" for n in batch["id"]]})
    data = data.map_batches(
        Checkpointed,
        fn_constructor_args=(doubled, FOLDER),
        fn_constructor_kwargs={"ship": ckpt.every(seconds=float(SECONDS)), "scratch": SCRATCH},
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_size=500,
        num_cpus=0.5,  # the tasks that read need some too
    )
    found = sorted((row["id"], row["twice"], row["of"]) for row in data.take_all())
    assert found == [(n, n * 2, f"row {n}") for n in range(int(ROWS))], found[:3]
    print("done", flush=True)
    ray.shutdown()
