"""Run `ckpt` for the tests: as a process of its own, or in this one where only the words matter."""

from __future__ import annotations

import contextlib
import importlib.resources
import inspect
import json
import os
import pty
import subprocess
import sys
import time

from click.testing import CliRunner

from checkpointdb.cli import cli

CKPT = [sys.executable, "-m", "checkpointdb"]

STEPS = """
from __future__ import annotations

import time
from dataclasses import dataclass

import checkpointdb as ckpt


def length(row):
    return {"n": len(str(row))}


def double(row):
    return row["n"] * 2


def slow(row):
    with open("calls.log", "a") as log:
        log.write(f"{row['n']}\\n")
    time.sleep(0.005)
    return row["n"] * 2


def spoil(row):
    n = row.pop("n")
    row["more"] = {"spoilt": True}
    return n


def refuse(row):
    if row["n"] == 7:
        raise KeyError("no seven")
    return row["n"]


def batch(rows):
    return [len(rows)] * len(rows)


async def later(row):
    return row["n"] + 1


@dataclass
class Label:
    text: str


def typed(row) -> Label:
    return Label(str(row["n"]))


@ckpt.step("decorated.ckpt", version=3, save=ckpt.every(rows=50))
def decorated(row):
    return -row["n"]
"""


def ckpt(*args, cwd, input=None, **options):
    """Run `ckpt` in a process of its own, to its end."""
    return subprocess.run(
        [*CKPT, *args], cwd=cwd, input=input, capture_output=True, text=True, timeout=60, **options
    )


def start(*args, cwd, **options):
    """Start `ckpt` in a process of its own."""
    environment = {**os.environ, **options.pop("env", {})}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide that something is not flushed
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*CKPT, *args], cwd=cwd, env=environment, text=True, **pipes, **options)


def invoke(*args, input=None):
    """Run `ckpt` in this process and the present folder."""
    before_8_2 = "mix_stderr" in inspect.signature(CliRunner).parameters
    apart = {"mix_stderr": False} if before_8_2 else {}
    return CliRunner(**apart).invoke(cli, args, input=input)


def on_terminal(*args, cwd):
    """Run `ckpt` with a terminal for its output, 100 columns wide; return what the terminal got."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    with subprocess.Popen(
        [*CKPT, *args], cwd=cwd, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while chunk := os.read(ours, 65536):
                said += chunk
        os.close(ours)
        process.wait(timeout=30)
    return said.decode()


def shipped_rows():
    """Return the 300 movies that ship with the package."""
    file = importlib.resources.files("checkpointdb.cli").joinpath("demo_movies.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def write_rows(path, rows):
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path):
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def calls(folder):
    """Return what the step has logged, from outside."""
    try:
        return (folder / "calls.log").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []


def wait_for(condition, seconds=20):
    """Wait until `condition()`; fail if that takes too long."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.005)
