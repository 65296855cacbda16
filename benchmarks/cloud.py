"""What shipping costs: `python benchmarks/cloud.py`, against moto's S3 in a process of its own.

Needs `uv sync --group cloud`. Two figures, each of pairs measured one after the other, in turn:
throughput of `push` over that of a bare upload of the same bytes in the same objects, and the time
of a run of 1 ms a row with `remote=` over that without. The server takes a processor, too: on a
machine whose processors are all busy, what is cut beside a put gains nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import checkpointdb as ckpt
from checkpointdb.cloud.bucket import Bucket

ROWS, PAIRS = 60_000, 5
SLOW_ROWS, CADENCE = 5_000, 1.0


def label(row):
    return {"n": row["n"], "label": "positive", "why": "because " * 40}


def slow(n):
    time.sleep(0.001)
    return {"n": n, "why": "because " * 40}


def main():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    folder = tempfile.mkdtemp()
    try:
        endpoint = f"http://127.0.0.1:{port}"
        os.environ.update(
            AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_REGION="us-east-1",
            AWS_ENDPOINT_URL=endpoint, AWS_ALLOW_HTTP="true",
        )  # fmt: skip
        while True:
            try:
                request = urllib.request.Request(f"{endpoint}/bucket", method="PUT")
                urllib.request.urlopen(request).close()
                break
            except OSError:
                time.sleep(0.1)
        throughput(folder)
        beside_a_run(folder)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def throughput(folder):
    path = f"{folder}/push.ckpt"
    rows = [{"n": n, "text": "a review of some length " * 10} for n in range(ROWS)]
    list(ckpt.run(label, rows, store=path, version=1))
    ratios, speeds = [], []
    for n in range(PAIRS):
        begun = time.perf_counter()
        with ckpt.Store(path) as store:
            pushed = store.push(f"s3://bucket/push{n}")
        ours = time.perf_counter() - begun
        bucket = Bucket(f"s3://bucket/push{n}")
        datas = [(name, bucket.get(name)) for name in bucket.segments()]
        other = Bucket(f"s3://bucket/bare{n}")
        begun = time.perf_counter()
        for name, data in datas:
            other.put(name, data)
        bare = time.perf_counter() - begun
        ratios.append(bare / ours)
        speeds.append(pushed.bytes / ours / 1e6)
    print(
        f"push: {statistics.median(speeds):.0f} MB/s, {statistics.median(ratios):.2f} times a bare "
        f"upload ({min(ratios):.2f} to {max(ratios):.2f}; {pushed.segments} segments, "
        f"{pushed.bytes / 1e6:.0f} MB)"
    )


def beside_a_run(folder):
    walls, processors = [], []
    for n in range(PAIRS):
        times = {}
        for shipped in (False, True)[:: 1 if n % 2 else -1]:
            remote = {"remote": f"s3://bucket/run{n}", "ship": ckpt.every(seconds=CADENCE)}
            path = f"{folder}/run{n}{shipped}.ckpt"
            step = ckpt.step(path, version=1, **remote if shipped else {})(slow)
            begun = time.perf_counter(), time.process_time()
            list(step.run(range(SLOW_ROWS)))
            times[shipped] = time.perf_counter() - begun[0], time.process_time() - begun[1]
            step.store.close()
        walls.append(times[True][0] / times[False][0])
        processors.append((times[True][1] - times[False][1]) / SLOW_ROWS * 1e6)
    print(
        f"a run of {SLOW_ROWS} rows at 1 ms, shipped every {CADENCE:g} s: "
        f"{statistics.median(walls):.3f} times the run without ({min(walls):.3f} to "
        f"{max(walls):.3f}), and {statistics.median(processors):.0f} µs more of a processor a row "
        f"({min(processors):.0f} to {max(processors):.0f})"
    )


if __name__ == "__main__":
    main()
