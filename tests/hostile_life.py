"""Open, read, export and run over store files, many in one process with little room.

Reads lines `path`, writes for each a line of JSON: what every act ended with, seconds of processor
time, megabytes more than before, and whether a store is still open.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import sys
import time
import traceback
import warnings

import pandas  # noqa: F401 - and numpy: what a value may have imported has its own price

import checkpointdb as ckpt
from checkpointdb.cli import cli, watch
from checkpointdb.file import lifetime

ROOM = 256 << 20
# whatever steers a terminal, or turns what is shown on it round
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def used():
    """Return the bytes of address space that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def keep_small():
    """Give this process 256 MiB more than it has, and no more."""
    resource.setrlimit(resource.RLIMIT_AS, (used() + ROOM, -1))


def shown_by(act):
    """Return what is written to standard output and error."""
    out = io.BytesIO()
    text = io.TextIOWrapper(out, encoding="utf-8", errors="surrogateescape", write_through=True)
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        act()
    return out.getvalue().decode("utf-8", "replace")


def check_safe(name, shown):
    """Raise if a text steers a terminal."""
    if found := UNSAFE.search(shown):
        raise AssertionError(f"{name} shows {found[0]!r}: {shown[: found.end()][-80:]!r}")


def ckpt_command(*arguments):
    """Run a command; its errors are one line, its output is safe."""
    codes = []

    def act():
        try:
            cli.main(list(arguments), prog_name="ckpt")
        except SystemExit as end:
            codes.append(end.code or 0)

    shown = shown_by(act)
    check_safe(arguments[0], shown)
    if codes[0] not in (0, 1, 3, 4):
        raise AssertionError(f"{arguments[0]} ended with {codes[0]}: {shown[-300:]}")


def read_all(path):
    """Ask a store all that can be asked."""
    with ckpt.Store(path, create=False) as store:
        for ask in (store.steps, store.runs, store.verify):
            with contextlib.suppress(ckpt.CheckpointError):
                ask()
        with contextlib.suppress(ckpt.CheckpointError):
            for record in store.records():
                store.get(record.key)
        store.get("0" * 32)
        [run.state for run in store.runs()]


def run(path):
    """Run a step over the rows that are in it, and one that is not."""
    step = ckpt.step(path, version=1, name="label")(lambda row: row["n"])
    try:
        list(step.run([{"n": n, "text": f"row {n}"} for n in range(7)], on_error="record"))
    finally:
        with contextlib.suppress(ckpt.CheckpointError):
            step.store.close()


def _watch(path):
    watch._Lines().show(watch.Watch(path).look())


def acts(path):
    """Yield what is done with a file, the gentle things first."""
    yield "inspect", lambda: ckpt_command("inspect", path)
    yield "failures", lambda: ckpt_command("inspect", path, "--failures")
    yield "json", lambda: ckpt_command("inspect", path, "--json", "--failures")
    yield "watch", lambda: check_safe("watch", shown_by(lambda: _watch(path)))
    yield "why", lambda: ckpt_command("why", path, '{"n": 77}')
    for ending in ("jsonl", "csv"):
        output = f"{path}.out.{ending}"
        yield (
            "export " + ending,
            lambda output=output: ckpt_command("export", path, "-o", output, "--all", "--force"),
        )
    yield "read", lambda: read_all(path)
    yield "run", lambda: run(path)


def handle(path, names):
    """Return what went wrong with a file, and what it took."""
    wrong, ends = [], {}
    began, before = time.process_time(), used()
    for name, act in acts(path):
        if names and name not in names:
            continue
        try:
            act()
            ends[name] = "ok"
        except ckpt.CheckpointError as error:
            ends[name] = type(error).__name__
            if found := UNSAFE.search(str(error)):
                ends["unsafe"] = repr(found[0])
        except BaseException:
            wrong.append(f"{name}: {traceback.format_exc()[-900:]}")
    for ending in ("jsonl", "csv"):
        with contextlib.suppress(OSError):
            os.unlink(f"{path}.out.{ending}")
    seconds = time.process_time() - began
    more = (used() - before) >> 20
    is_open = bool(lifetime._open)
    return {"wrong": wrong, "ends": ends, "seconds": seconds, "more": more, "open": is_open}


def main():
    """Handle what comes, a line at a time."""
    warnings.simplefilter("ignore")
    keep_small()
    for line in sys.stdin:
        path, *names = json.loads(line)
        print(json.dumps(handle(path, names)), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
