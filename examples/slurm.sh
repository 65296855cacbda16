#!/bin/bash
# One job of eight tasks. Each computes its part of the rows into a store of its own. Submit it again
# after a time limit or a lost node: each task goes on where it stopped. A second job brings the
# stores together:
#
#     job=$(sbatch --parsable examples/slurm.sh)
#     sbatch --dependency=afterany:$job --wrap "ckpt merge labels.ckpt parts/*.ckpt"
#
#SBATCH --array=0-7
#SBATCH --time=04:00:00
set -euo pipefail
mkdir -p parts
exec ckpt run "${STEP:-label.py:label}" "${ROWS:-reviews.jsonl}" \
  --store "parts/$SLURM_ARRAY_TASK_ID.ckpt" --version 1 \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
