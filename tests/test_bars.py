"""The progress bar as a terminal shows it: never broken by what else is written to it."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import textwrap

import pyte
import pytest

pytestmark = pytest.mark.loops

LONG = "classify_the_customer_reviews_of_all_the_shops_by_their_sentiment"

PROGRAM = """
import logging, sys, time
import checkpointdb as ckpt
from rich.logging import RichHandler

kind = sys.argv[1]
if kind == "logging":
    logging.basicConfig(format="%(levelname)s %(message)s")
if kind == "rich":
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(show_time=False)])
handlers = list(logging.getLogger().handlers)
streams = [getattr(handler, "stream", None) for handler in handlers]

def {name}(n):
    time.sleep(0.01)
    if n == 40 and kind == "kill":
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "print" and n % 20 == 9:
        print("said by the step", n)
    if n % 20 == 19:
        raise ValueError("no luck")
    return n

run = ckpt.run({name}, range(60), store=sys.argv[2], version=1, on_error="record", progress=True)
assert len(list(run)) == 60
assert [getattr(handler, "stream", None) for handler in handlers] == streams
"""


def shown(kind, path, name=LONG, columns=80):
    """Run the program in a terminal; return its last screen, all that it got, the exit code."""
    ours, theirs = pty.openpty()
    program = textwrap.dedent(PROGRAM.replace("{name}", name))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "50"}
    process = subprocess.Popen(
        [sys.executable, "-c", program, kind, path], stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while chunk := os.read(ours, 65536):
            said += chunk
    os.close(ours)
    process.wait(timeout=30)
    screen = pyte.Screen(columns, 50)
    pyte.ByteStream(screen).feed(said)
    return [line.rstrip() for line in screen.display if line.strip()], said, process.returncode


KINDS = [
    pytest.param(
        kind, columns, marks=[] if (kind, columns) == ("logging", 80) else pytest.mark.soak
    )
    for kind in ("plain", "logging", "rich", "print")
    for columns in (50, 80, 120)
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "columns"), KINDS)
def test_what_else_is_written_stands_above_the_bar(store_path, kind, columns):
    """Each failure on lines of its own, the bar once and below them; handlers are given back.

    However long the step's name is, the bar is one line with its percentage.
    """
    lines, said, code = shown(kind, store_path, LONG, columns)
    assert code == 0, lines
    bars = [n for n, line in enumerate(lines) if "━" in line]
    starts = {"logging": "WARNING", "rich": "WARNING"}
    failures = [n for n, line in enumerate(lines) if line.startswith(starts.get(kind, LONG[:40]))]
    assert len(bars) == 1 and 3 <= len(failures) <= 4 and failures[2] < bars[0]
    assert "100%" in lines[bars[0]] and "classify_the" in lines[bars[0]]
    frames = [frame for frame in said.decode().split("\r") if "━" in frame]
    assert all("%" in frame for frame in frames[1:])
    prints = [line for line in lines if "said by the step" in line]
    assert prints == [f"said by the step {n}" for n in (9, 29, 49)] * (kind == "print")


@pytest.mark.slow
def test_a_killed_run_leaves_the_cursor(store_path):
    """Nobody can show it again after a SIGKILL, so it is never hidden."""
    lines, said, code = shown("kill", store_path)
    assert code == -9 and any("%" in line for line in lines)
    assert b"\x1b[?25l" not in said
