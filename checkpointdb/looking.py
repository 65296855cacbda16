"""What a store can tell about itself, as plain dicts. Reads through `Reader`; changes nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import CheckpointError, StoreError
from .reading import Reader, to_builtins
from .records import RunInfo, StepInfo

T = TypeVar("T")

CANDIDATES = 10


class LookError(CheckpointError):
    """What was asked for is not in the store; the message says what is."""


def read(path: str, look: Callable[[Reader], T], again: bool = True) -> T:
    """Return what `look` makes of the store; look again if a run began to write meanwhile.

    Raises:
        StoreError: not a store, or damaged; or written to twice while it was read without locks.
    """
    try:
        return _read(path, look)
    except StoreError:  # in a file that changes under a reader without locks, any error may come
        if not again:
            raise
        return _read(path, look)


def _read(path: str, look: Callable[[Reader], T]) -> T:
    with Reader(path) as reader:
        seen = look(reader)
        reader.check_unchanged()
        return seen


def overview(reader: Reader, step: str | None = None) -> dict[str, Any]:
    """Return the store, its steps and its runs, oldest first: what `inspect --json` prints."""
    steps, runs = steps_named(reader, step), reader.runs(step)
    records, last_commit = reader.last_commit()
    return {
        "store": reader.path,
        "bytes": sum(_size(reader.path + suffix) for suffix in ("", "-wal")),
        "records": records,
        "last_commit": last_commit,
        "steps": [to_builtins(info) for info in steps],
        "runs": [to_builtins(run) | {"state": state(run)} for run in runs],
    }


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def steps_named(reader: Reader, name: str | None) -> list[StepInfo]:
    """Return the steps, or those of one name.

    Raises:
        LookError: none of that name.
    """
    steps = reader.steps()
    chosen = [info for info in steps if name is None or info.name == name]
    if name is not None and not chosen:
        names = ", ".join(dict.fromkeys(info.name for info in steps)) or "none"
        raise LookError(f"{reader.path}: no step {name!r}; its steps: {names}")
    return chosen


def one_step(reader: Reader, name: str | None, version: int | str | None) -> StepInfo:
    """Return the one step that is meant.

    Raises:
        LookError: none, or more than one; the message lists them.
    """
    steps = steps_named(reader, name)
    if version is not None:
        chosen = [info for info in steps if info.version == version]
        steps = chosen or [info for info in steps if str(info.version) == str(version)]
    if len(steps) == 1:
        return steps[0]
    there = "; ".join(
        f"--step {info.name} --version {info.version} ({info.results:,} results)"
        for info in reader.steps()
    )
    if not there:
        raise LookError(f"{reader.path}: no step has run on this store yet")
    problem = "more than one step; choose" if steps else "no such version; there are"
    raise LookError(f"{reader.path}: {problem}: {there}")


def state(run: RunInfo) -> str:
    """Say how a run ended, or whether it is still alive.

    `running`, `killed`, `unknown` (on another host), or else the run's own last word: `finished`,
    `closed`, `interrupted`, `failed: ValueError`.
    """
    if run.ended is not None:
        return run.ended
    if run.host != socket.gethostname():
        return "unknown"
    return "running" if _alive(run.pid, run.started_at) else "killed"


def _alive(pid: int, since: float) -> bool:
    """Tell whether `pid` is the process that ran at `since`, not a later one of its number."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        return not os.path.isdir("/proc/self") and _answers(pid)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    began = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] != b"Z" and began <= since + 5


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def failures(reader: Reader, step: str | None = None) -> list[dict[str, Any]]:
    """Return the rows whose newest record is a failure, grouped by step and error type.

    Each group has its count and one example; the most frequent comes first.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    if not any(info.failures for info in steps_named(reader, step)):
        return []
    for record in reader.records(step, status="failed"):
        error = record.error or {}
        kind = (record.step, record.version, str(error.get("type")))
        group = groups.setdefault(
            kind,
            {
                "step": record.step,
                "version": record.version,
                "type": kind[2],
                "count": 0,
                "example": to_builtins(record),
            },
        )
        group["count"] += 1
    return sorted(groups.values(), key=lambda group: -group["count"])


def one_record(reader: Reader, start: str) -> dict[str, Any]:
    """Return the record whose key in hex is, or begins with, `start`.

    Raises:
        LookError: none, or more than one; the message lists them.
    """
    start = start.lower()
    if not start or len(start) > 32 or set(start) - set("0123456789abcdef"):
        raise LookError(f"{start!r} is no key: up to 32 hexadecimal digits, or their beginning")
    found = reader.find(start, CANDIDATES + 1)
    if not found:
        raise LookError(f"{reader.path}: no record has a key that begins with {start}")
    if len(found) > 1:
        lines = [f"  {r.key.hex()}  {r.step} row {r.position}" for r in found[:CANDIDATES]]
        more = "\n  …" if len(found) > CANDIDATES else ""
        raise LookError(
            f"{reader.path}: more than one key begins with {start}; give more of it:\n"
            + "\n".join(lines)
            + more
        )
    return to_builtins(found[0])
