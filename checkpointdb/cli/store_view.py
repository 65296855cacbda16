"""What a store can tell about itself, as plain dicts. Reads through `Reader`; changes nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import apsw
import msgspec

from ..engine.stale import stale_by_newest
from ..errors import CheckpointError, StoreError
from ..file import in_order
from ..file.delete import COLUMNS, no_condition
from ..file.key_index import KeyIndex
from ..file.read import Reader, to_builtins
from ..file.records import Call, Record, RunInfo, StepInfo
from ..file.sql import ids_array, rows
from ..file.sqlite_errors import mapped

T = TypeVar("T")

CANDIDATES = 10
TRIES, PAUSE = 5, 0.02  # seconds


# A text inside of JSON is escaped, in MessagePack it is as it is: both are looked for.
_PICKED = f"""
select records.id from records join steps on steps.id = records.step
 where records.step in (select value from carray(?1))
   and not exists (select 1 from system_superseded where id = records.id)
   and (not ?5 or error is not null)
   and (?3 is null or exists (
     select 1 from (select lower(cast(input as text)) as text
                     union all select lower(cast(result as text))
                     union all select lower(error))
      where instr(text, lower(?3)) or instr(text, lower(?4))))
   and exists (select 1 from (select {COLUMNS}) where ({{where}}
   ))
 order by records.id {{order}} limit ?2
"""


class LookError(CheckpointError):
    """What was asked for is not in the store; the message says what is."""


class Look(Reader):
    """A reader that can also tell what failures cost, and each attempt at a row.

    Each of the two reads all records once, which takes some seconds for ten million.
    """

    def wasted(self) -> dict[int, float]:
        """Return the dollars that each run paid for results that were refused."""
        with mapped(self.path):
            sql = "select run, total(cost) from records where error is not null group by run"
            return {run: dollars for run, dollars in rows(self._connection, sql) if dollars}

    def newest_of(self, keys: Sequence[bytes]) -> list[Record | None]:
        """Return the newest record of each key, None where there is none."""
        with mapped(self.path):
            if self._index is None:
                self._index = KeyIndex(self._connection)
            ids = self._index.ids(keys)
            known = sorted({id for id in ids if id is not None})
            found = {record.id: record for record in map(self._record, self._fetch(known))}
        return [None if id is None else found[id] for id in ids]

    def numbered(self, id: int) -> tuple[Record, int] | None:
        """Return a record by its number, and the number of the newest of its key."""
        with mapped(self.path):
            found = [self._record(row) for row in self._fetch([id])]
        if not found:
            return None
        newest = self.get(found[0].key)
        return found[0], newest.id if newest else id

    def picked(
        self,
        steps: Sequence[int],
        limit: int,
        oldest: bool,
        where: str | None,
        text: str | None,
        failed: bool = False,
    ) -> list[Record]:
        """Return the newest records of keys that fit, the last or the first that were saved.

        Args:
            steps: ids of the steps.
            limit: how many at most.
            oldest: the first ones instead of the last.
            where: an SQL condition on the columns that `forget` has.
            text: what the input, the result or the error must contain; ASCII letters in any case.
            failed: only failures.

        Raises:
            ValueError: `where` is not a condition.
        """
        if not steps:  # there is no array of nothing
            return []
        sql = _PICKED.format(where=where or "1", order="asc" if oldest else "desc")
        raw = text or None
        as_json = raw and msgspec.json.encode(raw).decode()[1:-1]
        with mapped(self.path):
            try:
                ids = rows(self._connection, sql, (ids_array(steps), limit, raw, as_json, failed))
            except (apsw.SQLError, apsw.ReadOnlyError, apsw.BindingsError) as error:
                raise no_condition(where, error) from None
            return [self._record(row) for row in self._fetch([id for (id,) in ids])]

    def has_separate(self, step: int) -> bool:
        """Tell whether equal rows of a step have records of their own."""
        with mapped(self.path):
            sql = "select 1 from records where step = ? and occurrence > 0 limit 1"
            return bool(rows(self._connection, sql, (step,)))

    def at_one_place(self) -> tuple[int, int, int] | None:
        """Return a position that two runs have in what `select` has listed, and the runs."""
        with mapped(self.path):
            return in_order.at_one_place(self._connection)

    def history(self, keys: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the attempts at each row, oldest first, for keys in hex."""
        found: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
        with mapped(self.path):
            attempts: list[Any] = rows(
                self._connection,
                """
                select lower(hex(key)), id, run, saved_at, attempts, cost,
                       error ->> 'type', error ->> 'message'
                  from records where key in (select value from carray(?)) order by id
                """,
                (apsw.carray(tuple(map(bytes.fromhex, keys))),),
            )
        names = ("id", "run", "saved_at", "attempt", "cost", "type", "message")
        for key, *fields in attempts:
            found[key].append(dict(zip(names, fields, strict=True)))
        return found


def read(path: str, look: Callable[[Look], T], again: bool = True) -> T:
    """Return what `look` makes of the store; look again if a run began or ended meanwhile.

    Raises:
        StoreError: not a store, or damaged; or written to again and again while it was read.
    """
    return retried(lambda: _read(path, look)) if again else _read(path, look)


def retried(act: Callable[[], T]) -> T:
    """Return what `act` does; if it is an error of the store, try again a moment later.

    While the last writer closes, and in a file that changes under a reader without locks, any error
    may come.
    """
    for _ in range(TRIES - 1):
        with contextlib.suppress(StoreError):
            return act()
        time.sleep(PAUSE)
    return act()


def _read(path: str, look: Callable[[Look], T]) -> T:
    with Look(path) as reader:
        seen = look(reader)
        reader.check_unchanged()
        return seen


def overview(reader: Look, step: str | None = None) -> dict[str, Any]:
    """Return the store, its steps, runs and unanswered calls: what `inspect --json` prints."""
    steps, runs = steps_named(reader, step), reader.runs(step)
    records, last_commit = reader.last_commit()
    seen: dict[str, Any] = {
        "store": reader.path,
        "bytes": sum(_size(reader.path + suffix) for suffix in ("", "-wal")),
        "records": records,
        "last_commit": last_commit,
        "steps": [to_builtins(info) for info in steps],
        "runs": [to_builtins(run) | {"state": state(run)} for run in runs],
    }
    for info, step_seen in zip(steps, seen["steps"], strict=True):
        stale = stale_by_newest(reader, info.id)
        step_seen["stale"], step_seen["stale_because"] = stale.results, list(stale.changes)
    _add_money(seen, _wasted(reader, steps))
    states = {run["id"]: run["state"] for run in seen["runs"]}
    calls = [call for call in reader.calls() if step in (None, call.step)]
    seen["missing_log"] = _missing_log(reader)
    return seen | {"calls": [_call(call, states.get(call.run, "killed")) for call in calls]}


def _missing_log(reader: Look) -> str | None:
    """Say that rows may be missing, because the file was copied without its log."""
    run = reader.missing_log()
    if run is None:
        return None
    if run.state == "running":
        return (
            f"run {run.id} goes on in process {run.pid}, but not in this file, which is a copy "
            "without its -wal: the newest rows are missing. Copy a store in use with `ckpt backup`"
        )
    return (
        f"run {run.id} did not end, and there is no -wal next to the file: if it was copied while "
        "the run wrote, the newest rows are missing. Copy a store in use with `ckpt backup`"
    )


def _call(call: Call, state: str) -> dict[str, Any]:
    """Say whether the answer of a call may still be saved: `open`, `lost`, or `unknown`."""
    states = {"running": "open", "unknown": "unknown"}
    return to_builtins(call) | {"state": states.get(state, "lost")}


def _wasted(reader: Look, steps: Iterable[StepInfo]) -> dict[int, float]:
    """Return what each run paid for failures; do not look if there can be none."""
    if any(info.cost and info.records > info.results for info in steps):
        return reader.wasted()
    return {}


def _add_money(seen: dict[str, Any], wasted: dict[int, float]) -> None:
    """Add what was wasted on failures, and what hits saved: about an average call each."""
    for step in seen["steps"]:
        identity = (step["name"], step["version"])
        runs = [run for run in seen["runs"] if (run["step"], run["version"]) == identity]
        for run in runs:
            run["wasted"] = wasted.get(run["id"], 0.0)
        step["wasted"] = sum(run["wasted"] for run in runs)
        average = (step["cost"] - step["wasted"]) / max(step["results"], 1)
        for run in runs:
            run["saved"] = 0.0 if run["policy"] == "adopt" else run["hits"] * average
        step["saved"] = sum(run["saved"] for run in runs)


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


def steps_chosen(reader: Reader, name: str | None, version: int | str | None) -> list[StepInfo]:
    """Return the steps of one name, if one is given, and of one version: 1 may be the text "1".

    Raises:
        LookError: none of that name, or of that version.
    """
    steps = steps_named(reader, name)
    if version is None:
        return steps
    chosen = [info for info in steps if info.version == version]
    chosen = chosen or [info for info in steps if str(info.version) == str(version)]
    if steps and not chosen:
        raise LookError(f"{reader.path}: no such version; there are: {_listed(steps)}")
    return chosen


def one_step(reader: Reader, name: str | None, version: int | str | None) -> StepInfo:
    """Return the one step that is meant.

    Raises:
        LookError: none, or more than one; the message lists them.
    """
    steps = steps_chosen(reader, name, version)
    if not steps:
        raise LookError(f"{reader.path}: no step has run on this store yet")
    if len(steps) > 1:
        raise LookError(f"{reader.path}: more than one step; choose: {_listed(steps)}")
    return steps[0]


def _listed(steps: Iterable[StepInfo]) -> str:
    return "; ".join(
        f"--step {info.name} --version {info.version} ({info.results:,} results)" for info in steps
    )


def state(run: RunInfo) -> str:
    """Say how a run ended in its own last word, or whether it is still alive."""
    return run.state if run.ended is None else run.ended


def failures(reader: Look, step: str | None = None) -> list[dict[str, Any]]:
    """Return the rows whose newest record is a failure, grouped by step and error type.

    Each group has its count, how many rows were tried how often, and one example with all its
    attempts; the most frequent comes first.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    if not any(info.failures for info in steps_named(reader, step)):
        return []
    for record in reader.records(step, status="failed"):
        kind = (record.step, record.version, str((record.error or {}).get("type")))
        group = groups.get(kind)
        if group is None:
            named = dict(zip(("step", "version", "type"), kind, strict=True))
            group = groups[kind] = named | {"count": 0, "attempts": Counter()}
            group["example"] = to_builtins(record)
        group["count"] += 1
        group["attempts"][record.attempts] += 1
    _add_history(reader, groups.values())
    return sorted(groups.values(), key=lambda group: -group["count"])


def _add_history(reader: Look, groups: Iterable[dict[str, Any]]) -> None:
    history = reader.history([group["example"]["key"] for group in groups])
    for group in groups:
        group["attempts"] = dict(sorted(group["attempts"].items()))
        group["history"] = history[group["example"]["key"]]


def one_record(reader: Reader, start: str) -> dict[str, Any]:
    """Return the record whose key in hex is, or begins with, `start`.

    Raises:
        LookError: none, or more than one; the message lists them.
    """
    start = start.lower()
    if not start or len(start) > 32 or set(start) - set("0123456789abcdef"):
        raise LookError(f"{start!r} is not a key: give the first few of its 32 hexadecimal digits")
    found = reader.find(start, CANDIDATES + 1)
    number = f"; the record with this number: --record {start}" if start.isdecimal() else ""
    if not found:
        raise LookError(f"{reader.path}: no record has a key that begins with {start}{number}")
    if len(found) > 1:
        lines = [f"  {r.key}  {r.step} row {r.position}" for r in found[:CANDIDATES]]
        more = "\n  …" if len(found) > CANDIDATES else ""
        raise LookError(
            f"{reader.path}: more than one key begins with {start}; give more digits{number}:\n"
            + "\n".join(lines)
            + more
        )
    return to_builtins(found[0])


def record_numbered(reader: Look, id: int) -> dict[str, Any]:
    """Return the record of a number, and under `newest` the number of the newest of its row.

    Raises:
        LookError: none; the message says which there are.
    """
    found = reader.numbered(id)
    if found is None:
        last = reader.last_commit()[0]
        there = f"its records are numbered up to {last:,}" if last else "it has no record yet"
        raise LookError(f"{reader.path}: no record {id}: {there}; deleted ones leave gaps")
    record, newest = found
    return to_builtins(record) | {"newest": newest}
