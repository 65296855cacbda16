"""The parts of the rows are all of them, once; stores of parts merge into one."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_helpers import CKPT, ckpt

import checkpointdb as ck
from checkpointdb import Store, step

ROWS = [{"id": n, "text": f"review {n}"} for n in range(90)]
SLURM = Path(__file__).parent.parent / "examples" / "slurm.sh"


def label(row):
    return row["id"] * 2


async def alabel(row):
    return row["id"] * 2


@pytest.mark.parametrize("key", [None, "id"])
def test_the_parts_are_all_rows_once(tmp_path, key):
    made = step(str(tmp_path / "rows.ckpt"), version=1, key=key)(label)
    parts = [list(made.run(iter(ROWS), shard=(i, 4))) for i in range(4)]
    assert sorted(itertools.chain(*parts)) == [row["id"] * 2 for row in ROWS]
    assert all(len(part) > 5 for part in parts)
    assert list(made.run(ROWS, shard=(0, 1))) == [row["id"] * 2 for row in ROWS]


def test_equal_rows_and_arguments_that_are_given_fall_to_one_part(tmp_path):
    @step(str(tmp_path / "rows.ckpt"), version=1)
    def scaled(row, by):
        return row["id"] * by

    twice = [*ROWS[:20], *ROWS[:20]]
    parts = [list(scaled.run(twice, given={"by": 3}, shard=(i, 3))) for i in range(3)]
    assert sorted(itertools.chain(*parts)) == sorted(row["id"] * 3 for row in twice)
    assert sum(info.results for info in scaled.store.steps()) == 20


def test_async_rows(tmp_path):
    made = step(str(tmp_path / "rows.ckpt"), version=1)(alabel)

    async def rows():
        for row in ROWS:
            yield row

    async def part(i):
        return [result async for result in made.arun(rows(), shard=(i, 2), concurrency=4)]

    parts = [asyncio.run(part(i)) for i in range(2)]
    assert sorted(itertools.chain(*parts)) == [row["id"] * 2 for row in ROWS]


@pytest.mark.parametrize("shard", [(8, 8), (-1, 4), (0, 0), (0, -1)])
def test_a_part_that_is_none_says_which_there_are(tmp_path, shard):
    with pytest.raises(ValueError, match="the parts of"):
        ck.run(label, ROWS, store=str(tmp_path / "rows.ckpt"), version=1, shard=shard)


@pytest.mark.parametrize("shard", [3, "3/8", (1.0, 2), (True, 2), (1, 2, 3)])
def test_what_is_no_part(tmp_path, shard):
    with pytest.raises(TypeError, match=r"shard must be \(i, n\)"):
        ck.run(label, ROWS, store=str(tmp_path / "rows.ckpt"), version=1, shard=shard)


@pytest.mark.parametrize("shard", ["8/8", "3", "a/b", "0/0"])
def test_the_command_says_it_too(tmp_path, shard):
    done = ckpt("run", "x:y", "rows.jsonl", "--shard", shard, cwd=tmp_path)
    assert done.returncode == 2
    assert "--shard" in done.stderr


def test_a_row_without_a_key_is_passed_over_by_no_part(tmp_path):
    made = step(str(tmp_path / "rows.ckpt"), version=1)(label)
    for i in range(3):
        with pytest.raises(ck.EncodeError):
            list(made.run([object()], shard=(i, 3)))


SOURCE = """
import time


def label(row):
    with open("calls.log", "a") as log:
        log.write(f"{row['id']}\\n")
    time.sleep(0.005)
    return row["id"]
"""


@pytest.mark.slow
def test_a_job_array_on_separate_folders_one_task_killed(tmp_path):
    """Three tasks, as the example for Slurm starts them; each has a folder that no other sees."""
    lines = "".join(f'{{"id": {n}}}\n' for n in range(60))
    environment = {"STEP": "label.py:label", "ROWS": "rows.jsonl", "SLURM_ARRAY_TASK_COUNT": "3"}
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "ckpt").write_text(f'#!/bin/sh\nexec {" ".join(CKPT)} "$@"\n')
    (bin / "ckpt").chmod(0o755)
    environment["PATH"] = f"{bin}{os.pathsep}{os.environ['PATH']}"

    def task(i):
        folder = tmp_path / f"node{i}"
        folder.mkdir(exist_ok=True)
        (folder / "rows.jsonl").write_text(lines)
        (folder / "label.py").write_text(SOURCE)
        more = {**os.environ, **environment, "SLURM_ARRAY_TASK_ID": str(i)}
        quiet = subprocess.DEVNULL
        return subprocess.Popen(["bash", str(SLURM)], cwd=folder, env=more, stderr=quiet)

    tasks = [task(i) for i in range(3)]
    calls = tmp_path / "node1" / "calls.log"
    while not calls.exists() or calls.stat().st_size < 6:
        assert tasks[1].poll() is None
    tasks[1].kill()
    assert [it.wait(60) for it in tasks][::2] == [0, 0]
    assert task(1).wait(60) == 0  # submitted again
    stores = [str(tmp_path / f"node{i}" / "parts" / f"{i}.ckpt") for i in range(3)]
    assert ckpt("merge", "all.ckpt", *stores, cwd=tmp_path).returncode == 0
    with Store(str(tmp_path / "all.ckpt")) as store:
        assert sorted(record.result for record in store.records()) == list(range(60))
    shutil.copy(tmp_path / "node0" / "label.py", tmp_path)
    (tmp_path / "rows.jsonl").write_text(lines)
    more = ["--store", "all.ckpt", "--version", "1", "--json"]
    done = ckpt("run", "label.py:label", "rows.jsonl", *more, cwd=tmp_path)
    assert json.loads(done.stdout)["report"]["hits"] == 60
