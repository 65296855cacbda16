"""A job over a Dask cluster: the calls are made by its workers, the results are kept here.

    python examples/dask_job.py reviews.jsonl                       # a cluster on this machine
    python examples/dask_job.py reviews.jsonl tcp://scheduler:8786  # or one that is there

Kill it, or a worker, and run it again: what is saved is not computed again.
"""

from __future__ import annotations

import json
import sys
import time

from distributed import Client, LocalCluster

import checkpointdb as ckpt


@ckpt.step("reviews.ckpt", version=1)
def label(row: dict) -> dict:
    """Compute one row, in a worker."""
    time.sleep(0.1)  # a model, a parser, a solver: whatever takes the time
    return {"length": len(row["text"])}


def main() -> None:
    """Pass the step over the rows of a file; print each with its result."""
    with open(sys.argv[1]) as file:
        rows = [json.loads(line) for line in file]
    where = sys.argv[2:] or [LocalCluster(n_workers=2, threads_per_worker=2)]
    with Client(*where) as client, client.get_executor() as executor:
        run = label.run(rows, executor=executor, concurrency=2 * sum(client.nthreads().values()))
        for row, result in run.items():
            print(json.dumps(row | result))
    print(run.report, file=sys.stderr)


if __name__ == "__main__":  # Dask's workers import this file
    main()
