"""Drive `crash_child.py`: end runs by signals at chosen instants, and hold log against store."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys

import apsw
from crash_child import result_of

from checkpointdb.file.read import Reader

HERE = os.path.dirname(__file__)


class Lives:
    """Lives of one run over one store, and what the log outside says of them.

    `called`, `answered` and `returned` are the rows that the step was called with, was about to
    return, and that arrived in the loop body, in any life; `stored` are those on disk, read by
    plain SQL. The last life's are in `now`.
    """

    def __init__(self, directory, save, durability="power", driver="sequential"):
        self.store, self.log = f"{directory}/rows.ckpt", f"{directory}/log"
        self.called, self.answered, self.returned = set(), set(), set()
        self.stored: dict[int, dict] = {}
        self.now: dict[str, list[int]] = {}
        self._read = self._last_id = 0
        child = os.path.join(HERE, "crash_child.py")
        self._server = subprocess.Popen(
            [sys.executable, child, self.store, self.log, save, durability, driver],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._server.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()

    def end(self, kind, value):
        """Live once: end it by signal `kind` after `value` seconds; or "RUN", over `value` rows."""
        self._server.stdin.write(f"{kind} {value}\n")
        self._server.stdin.flush()
        if not select.select([self._server.stdout], [], [], 60)[0]:
            self._server.kill()
            raise TimeoutError("a life did not end within a minute")
        status = int(self._server.stdout.readline())
        self._read_log()
        return status

    def _read_log(self):
        with open(self.log) as file:
            file.seek(self._read)
            lines = file.read().split("\n")[:-1]
            self._read = file.tell()
        self.now = {"C": [], "A": [], "R": []}
        for line in lines:
            kind, row = line.split()
            self.now[kind].append(int(row))
        self.called.update(self.now["C"])
        self.answered.update(self.now["A"])
        self.returned.update(self.now["R"])

    def read_store(self):
        """Check the whole store; return the rows that the last life added to it.

        The reader leaves the log of SQLite as it is, for the next life to recover from.
        """
        if not os.path.exists(self.store):
            return []
        with Reader(self.store) as reader:
            assert reader.verify() == []
        flags = apsw.SQLITE_OPEN_READONLY
        with contextlib.closing(apsw.Connection(self.store, flags=flags)) as connection:
            records = connection.execute(
                "select id, input, result from records where id > ? order by id", (self._last_id,)
            ).fetchall()
        added = [json.loads(stored_input) for _, stored_input, _ in records]
        for row, (id, _, result) in zip(added, records, strict=True):
            assert row not in self.stored, f"row {row} has two records"
            self.stored[row] = json.loads(result)
            assert self.stored[row] == result_of(row)
            self._last_id = id
        return added
