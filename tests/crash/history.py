"""The state of a store after each commit, and what had been acknowledged at each moment.

The states are read by plain SQL from the disk as the kernel had it right after each commit, so that
the store's own reading takes no part in judging it.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import struct
from typing import Any

import apsw
import msgspec
import xxhash

from . import disk

STORE = "rows.ckpt"
CREATED = "the store"
FAILED = "failed"
_WAL_HEADER, _FRAME_HEADER = 32, 24
ABSENT = None

Facts = dict[str, Any]


class State(msgspec.Struct, frozen=True):
    """All that a store holds: a digest of every table, and its facts by name."""

    digest: str
    facts: Facts


class NoSuchCommit(Exception):
    """Something was acknowledged that was never committed at all."""


def row_fact(step: str, version: Any, row: Any) -> str:
    """Return the name of the fact that a row has a result."""
    return f"{step}/{version}/{json.dumps(row)}"


def plain(data: str | bytes | None) -> str | None:
    """Return stored bytes in a form that does not depend on how they were written."""
    if data is None:
        return None
    value = json.loads(data) if isinstance(data, str) else msgspec.msgpack.decode(data)
    return json.dumps(value, sort_keys=True)


def lay(directory: str, files: disk.Files) -> str:
    """Write files into a directory that has no others; return the path of the store."""
    for name in os.listdir(directory):
        os.unlink(os.path.join(directory, name))
    for name, data in files.items():
        with open(os.path.join(directory, name), "wb") as file:
            file.write(data)
    return os.path.join(directory, STORE)


def read_state(path: str, check: bool = True) -> State:
    """Read a store by plain SQL.

    Raises:
        apsw.Error, AssertionError: SQLite finds it damaged.
    """
    if not os.path.exists(path):
        return State("no store", {})
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    with contextlib.closing(connection):
        connection.execute("begin")
        if check:
            assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        digest = xxhash.xxh3_128()
        tables = "select name from sqlite_schema where type = 'table' order by name"
        for (table,) in connection.execute(tables).fetchall():
            rows = connection.execute(f"select * from {table}").fetchall()
            digest.update(msgspec.msgpack.encode([table, rows]))
        facts = _facts(connection)
        connection.execute("rollback")
    return State(digest.hexdigest(), facts)


def _facts(connection: apsw.Connection) -> Facts:
    facts: Facts = {CREATED: True}
    for name, version, row, result, error in connection.execute(
        """
        select name, version, input, result, error
          from records join steps on steps.id = step order by records.id
        """
    ):
        outcome = plain(result) if error is None else FAILED
        facts[row_fact(name, version, json.loads(row))] = outcome
    for run, ended in connection.execute("select id, ended from runs"):
        facts[f"run {run} ended"] = ended
    for key, _ in connection.execute("select key, run from sent_calls"):
        facts[f"sent {key.hex()}"] = True
    for step, accepted in connection.execute(
        "select name, accepted_at is not null from step_code join steps on steps.id = step"
    ):
        facts[f"accepted {step}"] = facts.get(f"accepted {step}", False) or bool(accepted)
    return facts


class History:
    """What a recorded life committed and acknowledged.

    `states[i]` is the store after i commits. `committed(n)` says how many had been made before
    operation n, `acknowledged(n)` how many of them had been acknowledged by then.
    """

    def __init__(self, operations: list[list[Any]], scratch: str) -> None:
        self.states: list[State] = []
        self._made: list[int] = []  # the operation after which there were so many commits
        self._by_digest: dict[str, list[int]] = {}
        self._acknowledged: list[tuple[int, int]] = []  # from which operation on, how many
        replay = disk.Disk(operations)
        for n in _commit_points(operations):
            replay.advance(n)
            self._add(n, read_state(lay(scratch, replay.now()), check=False))
        self._require(operations)

    def _add(self, n: int, state: State) -> None:
        if not self.states or state.digest != self.states[-1].digest:
            self._by_digest.setdefault(state.digest, []).append(len(self.states))
            self.states.append(state)
            self._made.append(n)

    def _require(self, operations: list[list[Any]]) -> None:
        latest: dict[str, int] = {}
        most = 0
        for n, (kind, *values) in enumerate(operations):
            if kind != "ack":
                continue
            for fact, value in values[0].items():
                found = self._first_with(fact, value, latest.get(fact, 0))
                latest[fact] = found
                most = max(most, found)
            self._acknowledged.append((n + 1, most))

    def _first_with(self, fact: str, value: Any, start: int) -> int:
        for i in range(start, len(self.states)):
            if self.states[i].facts.get(fact, ABSENT) == value:
                return i
        raise NoSuchCommit(f"{fact} = {value!r} was acknowledged, and no commit has it")

    def committed(self, n: int) -> int:
        """Return the number of the newest state at operation `n`."""
        return bisect.bisect_right(self._made, n) - 1

    def acknowledged(self, n: int) -> int:
        """Return the number of the state that a power cut before operation `n` must leave."""
        before = bisect.bisect_right(self._acknowledged, (n, len(self.states)))
        return self._acknowledged[before - 1][1] if before else 0

    def find(self, state: State, n: int) -> int | None:
        """Return the newest commit before operation `n` that left this state; None if none did.

        The one under way then may be there: all of it was written if what was not is in its place
        from before.
        """
        most = self.committed(n) + 1
        return max((i for i in self._by_digest.get(state.digest, ()) if i <= most), default=None)

    def lost(self, state: State, n: int) -> list[str]:
        """Return what of that which was acknowledged before operation `n` is not in a state."""
        wanted = self.states[self.acknowledged(n)].facts
        return [fact for fact, value in wanted.items() if state.facts.get(fact, ABSENT) != value]


def _commit_points(operations: list[list[Any]]) -> list[int]:
    """Return the operations after which there may be another state: those after a whole commit."""
    points, logs, ends = [0], set(), set()
    for n, (kind, *values) in enumerate(operations, 1):
        if kind == "open":
            (logs.add if values[1] == f"{STORE}-wal" else logs.discard)(values[0])
        elif kind == "write" and values[0] in logs and values[1] >= _WAL_HEADER:
            handle, _, data = values
            if len(data) == _FRAME_HEADER:
                is_end = struct.unpack_from(">I", data, 4)[0]
                (ends.add if is_end else ends.discard)(handle)
            elif handle in ends:
                points.append(n)
        elif kind in ("link", "rename", "unlink"):
            points.append(n)
        elif kind == "file":
            points = [n]  # what was there is there at once
    return points
