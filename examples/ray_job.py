"""A job of Ray Data whose actors share what they compute, through a folder or a bucket.

    python examples/ray_job.py reviews.jsonl /shared/reviews out/
    python examples/ray_job.py reviews.jsonl s3://bucket/reviews out/

Kill it, or an actor, and run it again: what was shipped, or lies on a node that lives, is not
computed again. Afterwards, `ckpt merge reviews.ckpt /shared/reviews/*.ckpt`, or
`ckpt pull s3://bucket/reviews reviews.ckpt`, makes one store of all.
"""

from __future__ import annotations

import sys
import time

import ray

import checkpointdb as ckpt
from checkpointdb.integrations.ray import Checkpointed, merge_segments


@ckpt.step("reviews.ckpt", version=1)  # each actor has a store of its own, instead of this one
def label(row: dict) -> dict:
    """Compute one row, in an actor."""
    time.sleep(0.1)  # a model, a parser, a solver: whatever takes the time
    return {"length": len(row["text"])}


def main() -> None:
    """Read a file of rows, add the columns of the step, write Parquet."""
    source, shared, target = sys.argv[1:]
    merge_segments(shared)  # few files to look into, however often the job is run
    ray.data.read_json(source, lines=True).map_batches(
        Checkpointed,
        fn_constructor_args=(label, shared),
        fn_constructor_kwargs={"ship": ckpt.every(seconds=30), "columns": ["text"]},
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_size=64,
        num_cpus=0.5,
    ).write_parquet(target)


if __name__ == "__main__":
    main()
