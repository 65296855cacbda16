"""What the figures were measured on: versions, machine, file system, the cost of an fsync."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from typing import Any

import apsw

from .harness import ROOT, fresh_folder

PACKAGES = (
    "checkpointdb", "apsw", "msgspec", "xxhash", "lmdb", "sqlitedict", "diskcache", "joblib",
    "datasets", "cachier", "dbos", "rocksdict", "duckdb", "batchledger", "async-batch-llm",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    with fresh_folder() as folder:
        fsync = fsync_ms(os.path.join(folder, "fsync"))
        kind = file_system(folder)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "cpu": cpu(),
        "file_system": kind,
        "fsync_4k_ms": fsync,
        "sqlite": apsw.sqlite_lib_version(),
        "commit": commit(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def fsync_ms(path: str) -> float:
    """Return the median cost of appending 4 KiB and an fsync."""
    took = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(100):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1e3, 3)


def cpu() -> str:
    """Return the processor's name, if the system says it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def file_system(folder: str) -> str:
    """Return the kind of file system a folder is on."""
    done = subprocess.run(
        ["df", "--output=fstype", folder],
        capture_output=True,
        text=True,
    )
    return done.stdout.split()[-1] if done.returncode == 0 else "unknown"


def commit() -> str:
    """Return the commit of the code that was measured."""
    done = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"


def load() -> float:
    """Return how many processes wanted the processor in the last minute."""
    return round(os.getloadavg()[0], 2)
