"""A frame half done stays half done: killed by SIGKILL, resumed, counted by the server's log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from frames_life import ROWS, run, steps
from test_http import Server

from checkpointdb import Store

LIFE = os.path.join(os.path.dirname(__file__), "frames_life.py")
MIDDLE = 25
# calls that a kill may cost: in flight, or returned and not yet committed
SEQUENTIAL, THREADS, WORKERS, BATCHES = 1, 4, 2, 4
WAYS = {
    "pandas map": SEQUENTIAL, "pandas threads": THREADS, "pandas apply": SEQUENTIAL,
    "pandas Series.map": SEQUENTIAL, "polars map": SEQUENTIAL, "polars map_elements": SEQUENTIAL,
    "pyarrow map": SEQUENTIAL, "pyarrow reader": SEQUENTIAL, "duckdb map": SEQUENTIAL,
    "datasets step.map": SEQUENTIAL, "datasets iterable": SEQUENTIAL, "datasets map": SEQUENTIAL,
    "datasets iterable.map": SEQUENTIAL, "datasets map num_proc=2": WORKERS,
    "datasets map batched": BATCHES,
}  # fmt: skip
FAST = ("pyarrow reader",)  # in the default run: the others import their library three times


@pytest.fixture
def server():
    server = Server()
    server.delay = 0.02
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with contextlib.closing(server.socket):
        yield server
        server.shutdown()


def start(way, server, folder, name, out):
    os.makedirs(folder / "tmp", exist_ok=True)
    environment = os.environ | {
        "HF_HOME": str(folder / "hf"), "HF_DATASETS_OFFLINE": "1", "TMPDIR": str(folder / "tmp")
    }  # fmt: skip
    words = [sys.executable, LIFE, way, str(folder / name), server.url, str(folder / out)]
    return subprocess.Popen(
        words, start_new_session=True, env=environment, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way in FAST else pytest.mark.soak) for way in WAYS]
)
def test_a_frame_that_was_killed_half_way_goes_on_there(way, server, tmp_path):
    """Killed with its workers at call 25 of 60: the second run calls for the rest, and for no more
    than was in flight; the frame is the one of a run that nobody killed."""
    pytest.importorskip(way.partition(" ")[0])
    killed = start(way, server, tmp_path, "rows.ckpt", "killed.jsonl")
    while len(server.paid) < MIDDLE and killed.poll() is None:
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed.jsonl").exists()
    if not way.startswith("datasets"):  # nothing of ours stays behind
        assert os.listdir(tmp_path / "tmp") == []
    first = len(server.paid)
    if way in FAST:
        rows = run(way, *steps(str(tmp_path / "rows.ckpt"), server.url))
    else:
        finish(start(way, server, tmp_path, "rows.ckpt", "resumed.jsonl"))
        rows = (tmp_path / "resumed.jsonl").read_text().splitlines()
    second = len(server.paid) - first
    assert len(rows) == len(ROWS)
    assert len(ROWS) <= first + second <= len(ROWS) + WAYS[way]
    if way not in FAST:
        server.delay = 0
        finish(start(way, server, tmp_path, "whole.ckpt", "whole.jsonl"))
        assert rows == (tmp_path / "whole.jsonl").read_text().splitlines()
    with Store(tmp_path / "rows.ckpt") as store:
        assert not store.verify()
    print(f"\n| {way} | {first} | {second} | {first + second - len(ROWS)} |")
