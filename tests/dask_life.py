"""A run over Dask's workers, each call logged. Run by test_dask.py, and killed."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import dask
from distributed import Client, LocalCluster

import checkpointdb as ckpt

STORE, LOG, ROWS = sys.argv[1:]
AT_ONCE = 8


def doubled(row: int) -> int:
    with open(LOG, "a") as log:
        log.write(f"{row} {os.getpid()}\n")
    time.sleep(0.01)
    return row * 2


if __name__ == "__main__":
    dask.config.set({"distributed.admin.tick.limit": "30s"})
    where = {"host": "127.0.0.1", "dashboard_address": None}
    made = ckpt.step(STORE, version=1, save=ckpt.every(rows=20))(doubled)
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, **where) as cluster,
        Client(cluster) as client,
        client.get_executor() as executor,
    ):
        for _ in range(3):
            with contextlib.suppress(TypeError):  # of Dask's, in place of a result: see clusters.md
                found = list(made.run(range(int(ROWS)), executor=executor, concurrency=AT_ONCE))
                break
    assert found == [n * 2 for n in range(int(ROWS))]
    print("done", flush=True)
