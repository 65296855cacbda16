"""Before paying: what a run would do, and why a row is a hit or a miss. Calls no step."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from .engine.captured import Captured
from .engine.occurrences import Counts
from .engine.options import StepSettings
from .engine.stale import Stale, find_stale, stale_by_newest
from .errors import EncodeError
from .file.read import Outcome, Reader
from .file.records import Record, StepInfo
from .values.canonical import ordered
from .values.codec import encode
from .values.keys import Keyer, Version, recipe_in_words
from .wording import duration, money, tokens

BATCH = 1024


class Plan(msgspec.Struct, frozen=True):
    """What a run would do; `str()` says it in a line.

    Attributes:
        rows: rows in all.
        hits: rows with a saved result.
        misses: calls that have to be made for the first time, or again because something changed.
        failed: calls that failed before and would be tried again.
        duplicates: rows that share the call of an equal row.
        stale: hits that other code computed. Under `on_change="recompute"` they count as misses,
            not as hits; so do, under `on_changed_input="recompute"`, rows that have another content
            than the saved row of their `key=`.
        cost: expected dollars of the calls, None if the store knows no cost.
        seconds: expected time of the calls one after the other, None if the store knows none.
        usage: expected token counts of the calls by name, {} if the store knows none.
    """

    rows: int
    hits: int
    misses: int
    failed: int
    duplicates: int
    cost: float | None
    seconds: float | None
    stale: int = 0
    usage: dict[str, int] = {}

    def __str__(self) -> str:
        calls = self.misses + self.failed
        again = f", {self.failed:,} of them tried before" if self.failed else ""
        cost = "" if self.cost is None else f", about ${self.cost:,.2f}"
        used = f", about {tokens(self.usage)}" if self.usage else ""
        took = "" if self.seconds is None else f", about {self.seconds:,.0f} s one after the other"
        to_make = f"{calls:,} calls to make{again}"
        return f"{self.rows:,} rows: {self.hits:,} hits; {to_make}{cost}{used}{took}"

    def _repr_html_(self) -> str:
        from . import markup

        calls = f"{self.misses + self.failed:,}"
        again = f", {self.failed:,} of them tried before" if self.failed else ""
        of = {
            "rows": f"{self.rows:,}",
            "hits": f"{self.hits:,}",
            "computed by other code": f"{self.stale:,}" * bool(self.stale),
            "calls to be made": calls + again,
            "equal rows": f"{self.duplicates:,}" * bool(self.duplicates),
            "cost": "unknown" if self.cost is None else f"about {money(self.cost)}",
            "usage": f"about {tokens(self.usage)}" * bool(self.usage),
            "time of the calls": "unknown"
            if self.seconds is None
            else f"about {duration(self.seconds)}",
        }
        return markup.facts("what a run would do", of)


class Why(msgspec.Struct, frozen=True):
    """Why a row is a hit or a miss; `str()` says it in a sentence.

    Attributes:
        status: `hit`, `failed` (saved as a failure, will be tried again) or `miss`.
        reason: the sentence.
        differs: for a miss with a saved row near it, the fields that differ:
            name to (this row's value, the saved row's).
        record: the saved record that the sentence is about, if any.
    """

    status: Literal["hit", "failed", "miss"]
    reason: str
    differs: dict[str, tuple[Any, Any]] = {}
    record: Record | None = None

    def __str__(self) -> str:
        return self.reason

    def _repr_html_(self) -> str:
        from . import markup

        rows = [(name, repr(a), repr(b)) for name, (a, b) in self.differs.items()]
        table = markup.grid("what differs", ("field", "this row", "saved"), rows) if rows else None
        record = f"{self.record.id} (key {self.record.key})" if self.record else ""
        return markup.facts(self.status, {"why": self.reason, "record": record}, table)


def plan(
    path: str,
    name: str,
    version: Version,
    keyer: Keyer,
    settings: StepSettings,
    rows: Iterable[Any],
    captured: Captured | None = None,
) -> Plan:
    """Count what a run over `rows` would do; the store is only read, and need not exist.

    Args:
        path: of the store.
        name: of the step.
        version: of the step.
        keyer: of the step.
        settings: of the step.
        rows: any iterable.
        captured: what the step captures now, to tell which hits are of other code.
    """
    counts = dict.fromkeys(("rows", "hits", "misses", "failed", "duplicates", "stale"), 0)
    seen, source = Counts(), iter(rows)
    is_again = functools.partial(_is_again, keyer, settings)
    with _reading(path) as reader:
        step = _step(reader, name, version)
        stale = _stale_runs(reader, step, captured)
        while batch := list(itertools.islice(source, BATCH)):
            wanted = list(_keys(reader, keyer, settings, seen, batch))
            counts["rows"] += len(batch)
            counts["duplicates"] += len(batch) - len(wanted)
            for (row, _), outcome in zip(wanted, _outcomes(reader, wanted), strict=True):
                is_stale = outcome is not None and outcome.is_good and outcome.run in stale
                counts["stale"] += is_stale
                counts[_status(outcome, is_again(row, outcome, is_stale))] += 1
    calls = counts["misses"] + counts["failed"]
    return Plan(
        **counts, cost=_expected(step, "cost", calls), seconds=_expected(step, "seconds", calls),
        usage=_expected_usage(step, calls),
    )  # fmt: skip


def _keys(
    reader: Reader | None, keyer: Keyer, settings: StepSettings, seen: Counts, batch: list[Any]
) -> Iterator[tuple[Any, bytes]]:
    """Yield rows with their keys, without those that share the call of an equal one."""
    keys = [keyer.identify(row)[0] for row in batch]
    separate = settings.duplicates == "separate"
    held: dict[bytes, list[int]] = {}
    if separate and reader is not None:
        held = reader.held_occurrences(keys, settings.shared)
    for row, key, n in zip(batch, keys, seen.count(keys), strict=True):
        if separate or not n:
            yield row, keyer.nth(key, _nth_free(n, held.get(key, ())))


def _nth_free(n: int, held: Sequence[int]) -> int:
    """Return the n-th number that live runs do not hold."""
    for number in held:
        n += number <= n
    return n


def _outcomes(reader: Reader | None, wanted: list[tuple[Any, bytes]]) -> Sequence[Outcome | None]:
    return [None] * len(wanted) if reader is None else reader.outcomes([key for _, key in wanted])


def _is_again(
    keyer: Keyer, settings: StepSettings, row: Any, outcome: Outcome | None, is_stale: bool
) -> bool:
    """Tell whether a row with a saved result would be computed again."""
    if is_stale and settings.on_change == "recompute":
        return True
    if outcome is None or outcome.row_digest is None or settings.on_changed_input != "recompute":
        return False
    return keyer.row_digest(row) not in (outcome.row_digest, None)


def _status(outcome: Outcome | None, is_again: bool) -> str:
    if outcome is None or (outcome.is_good and is_again):
        return "misses"
    return "hits" if outcome.is_good else "failed"


def _stale_runs(
    reader: Reader | None, step: StepInfo | None, captured: Captured | None
) -> frozenset[int]:
    if reader is None or step is None or captured is None:
        return frozenset()
    return find_stale(reader, step.id, captured).runs


def _expected(step: StepInfo | None, what: str, calls: int) -> float | None:
    if step is None or not step.records or (what == "cost" and not step.cost):
        return None
    total: float = getattr(step, what)
    return total / step.records * calls


def _expected_usage(step: StepInfo | None, calls: int) -> dict[str, int]:
    if step is None or not step.records or not calls:
        return {}
    return {name: round(count / step.records * calls) for name, count in step.usage.items()}


def why(
    path: str,
    name: str,
    version: Version,
    keyer: Keyer,
    recipe: str,
    row: Any,
    captured: Captured | None = None,
) -> Why:
    """Say why `row` is a hit or a miss under the step `name` at `version`.

    A hit says so if it was computed by other code than the present code; without `captured`, than
    the code of the newest run.
    """
    key = keyer.identify(row)[0].hex()
    with _reading(path) as reader:
        if reader is None:
            return Why("miss", f"a miss: there is no store at {path} yet")
        if record := reader.get(key):
            return _saved(record, _stale(reader, _step(reader, name, version), captured))
        steps = reader.steps()
        return (
            _under_another_version(reader, steps, name, version, keyer, row)
            or _another_recipe(steps, name, version, recipe)
            or _nearest(reader, _step(reader, name, version), keyer, row)
            or Why("miss", f"a miss: nothing is saved for step {name!r} version {version!r} yet")
        )


def _stale(reader: Reader, step: StepInfo | None, captured: Captured | None) -> Stale:
    if step is None:
        return Stale()
    if captured is None:
        return stale_by_newest(reader, step.id)
    return find_stale(reader, step.id, captured)


def _saved(record: Record, stale: Stale) -> Why:
    if record.error is None:
        said = f"a hit: saved by run {record.run} as record {record.id}"
        if record.run in stale.runs:
            said += f", computed by other code: {stale.named}"
        return Why("hit", said, {}, record)
    kind, message = record.error["type"], record.error["message"]
    return Why(
        "failed",
        f"failed in run {record.run}, attempt {record.attempts}, with {kind}: {message}; "
        "the next run tries it again",
        {},
        record,
    )


def _under_another_version(
    reader: Reader, steps: list[StepInfo], name: str, version: Version, keyer: Keyer, row: Any
) -> Why | None:
    for step in sorted(steps, key=lambda step: step.name != name):
        if (step.name, step.version) == (name, version):
            continue
        key = keyer.under(step.name, step.version).identify(row)[0].hex()
        record = reader.get(key)
        if record is not None and record.error is None:
            if step.name == name:
                what = f"version {version!r} differs: it is saved under version {step.version!r}"
                remedy = (
                    f"`ckpt adopt {reader.path} --step {name} --from {step.version} "
                    f"--to {version}` takes the saved results over"
                )
            else:
                what = f"the step's name differs: it is saved under {step.name!r}, not {name!r}"
                remedy = f"give name={step.name!r} to reuse it"
            return Why("miss", f"a miss: {what}; {remedy}", {}, record)
    return None


def _another_recipe(steps: list[StepInfo], name: str, version: Version, recipe: str) -> Why | None:
    for step in steps:
        if (step.name, step.version) == (name, version) and step.key_recipe != recipe:
            return Why(
                "miss",
                f"a miss: key= differs: saved rows are identified by "
                f"{recipe_in_words(step.key_recipe)}, this one by {recipe_in_words(recipe)}",
            )
    return None


def _nearest(reader: Reader, step: StepInfo | None, keyer: Keyer, row: Any) -> Why | None:
    if step is None or not step.records:
        return None
    mine = _fields(keyer.narrowed(row))
    best: tuple[dict[str, tuple[Any, Any]], Record] | None = None
    for record in reader.alike(step.id, _parts(mine)):
        is_whole = record.kept == "key" or (record.kept == "arguments" and not keyer.is_narrow)
        saved = record.input if is_whole else keyer.narrowed(record.input)
        differs = _difference(mine, _fields(saved))
        if best is None or len(differs) < len(best[0]):
            best = differs, record
    if best is None:
        return Why("miss", "a miss: new content; nothing is kept of the rows saved so far")
    differs, record = best
    names = ", ".join(
        f"{field} is {_short(here)}, there {_short(there)}"
        for field, (here, there) in differs.items()
    )
    return Why(
        "miss",
        f"a miss: new content; nearest is record {record.id} (key {record.key}), where it "
        f"differs: {names}",
        differs,
        record,
    )


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT: Any = _Absent()


def _fields(row: Any) -> dict[str, Any]:
    return row if isinstance(row, dict) else {"the row": row}


def _parts(row: dict[str, Any]) -> list[str] | list[bytes]:
    """Return a row's fields as they stand in the stored form of a row like it."""
    try:
        if isinstance(encode(dict(row)), bytes):
            return [ordered(value) for value in row.values()]
    except EncodeError:  # what `input=` leaves out, say
        return []
    return [str(encode({name: value}))[1:-1] for name, value in row.items()]


def _difference(here: dict[str, Any], there: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = list(here) + [name for name in there if name not in here]
    pairs = {name: (here.get(name, ABSENT), there.get(name, ABSENT)) for name in names}
    return {name: (a, b) for name, (a, b) in pairs.items() if type(a) is not type(b) or a != b}


def _short(value: Any) -> str:
    text = repr(value)
    kind = f" ({type(value).__name__})" if isinstance(value, int | float | str) else ""
    return (text if len(text) <= 60 else text[:57] + "...") + kind


def _step(reader: Reader | None, name: str, version: Version) -> StepInfo | None:
    steps = reader.steps() if reader is not None else []
    return next((s for s in steps if (s.name, s.version) == (name, version)), None)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[Reader | None]:
    """Open the store at a path read-only; None if there is none."""
    if not os.path.lexists(path):
        yield None
        return
    with Reader(path) as reader:
        yield reader
