"""Which records an export has: those of a step, of a run, or of the rows of a file. Only reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec

from ..adopt import keyed_with
from ..engine.occurrences import Counts
from ..errors import EncodeError
from ..file.records import Record, RunInfo, StepInfo
from ..values.keys import Keyer, recipe_of
from .display import number
from .sources import Source
from .store_view import Look, LookError, one_step

_BATCH = 256
# a row, its place for messages, what is saved of it
Chosen = Iterator[tuple[Any, str, Record | None]]


class Choice(msgspec.Struct, frozen=True):
    """What is to be exported.

    Attributes:
        step: its name, if there are several.
        version: its version, if there are several.
        run: only what this run computed.
        failures: the rows that failed, instead of the others.
        all: whether rows of several inputs are allowed.
    """

    step: str | None = None
    version: int | str | None = None
    run: int | None = None
    failures: bool = False
    all: bool = False


def step_of(reader: Look, choice: Choice) -> StepInfo:
    """Return the one step that is meant.

    Raises:
        LookError: no such step or run, or more than one step.
    """
    if choice.run is None:
        return one_step(reader, choice.step, choice.version)
    runs = {run.id: run for run in reader.runs(choice.step)}
    run = runs.get(choice.run)
    if run is None or choice.version not in (None, run.version):
        known = ", ".join(map(str, runs)) or "none"
        raise LookError(f"{reader.path}: no run {choice.run} of this step; its runs: {known}")
    return one_step(reader, run.step, run.version)


def select(reader: Look, info: StepInfo, choice: Choice) -> None:
    """List the saved rows of a step, or of one run of it, in input order.

    Raises:
        LookError: they are of several inputs, and nobody asked for that.
    """
    reader.select(*_named(info), choice.run)
    if choice.run is None and not choice.all and (mixed := reader.at_one_place()):
        position, one, other = mixed
        runs = f"run {one} has" if one == other else f"runs {one} and {other} have"
        raise LookError(
            f"{reader.path}: rows of several inputs are saved for {info.name} {info.version} "
            f"({runs} different rows at position {position}). --rows FILE exports the rows of one "
            "input, in its order; --run N what one run computed; --all all of them"
        )


def of_file(reader: Look, info: StepInfo, choice: Choice, source: Source) -> Chosen:
    """Yield the rows of a file, in its order, equal ones too, each with what is saved of it.

    Raises:
        LookError: only the step itself knows what identifies a row. TableError: the file.
    """
    try:
        recipe = recipe_of(info.key_recipe)
    except ValueError as error:
        raise LookError(f"{reader.path}: step {info.name!r}: {error}: ckpt run -o") from error
    keyer = Keyer(*_named(info), recipe, depends=keyed_with(reader, info).digest)
    seen = Counts() if reader.has_separate(info.id) else None
    placed = ((row, source.place(source.at)) for row in source)
    while batch := list(itertools.islice(placed, _BATCH)):
        keys = [_key_of(keyer, *pair) for pair in batch]
        if seen is not None:
            keys = list(map(keyer.nth, keys, seen.count(keys)))
        for (row, place), record in zip(batch, reader.newest_of(keys), strict=True):
            is_meant = record is not None and choice.run in (None, record.run)
            yield row, place, record if is_meant else None


def _key_of(keyer: Keyer, row: Any, place: str) -> bytes:
    try:
        return keyer.identify(row)[0]
    except EncodeError as error:
        error.add_note(f"in {place}")
        raise


def more_than_the_last_run(reader: Look, info: StepInfo, written: int) -> str | None:
    """Say so if the last run went over fewer rows than there are: some are of an earlier input."""
    runs = [run for run in reader.runs(info.name) if run.version == info.version]
    last: RunInfo | None = runs[-1] if runs else None
    if last is None or last.ended != "finished" or not 0 < last.report.rows < written:
        return None
    return (
        f"the last run went over {number(last.report.rows)} rows only: the others are of earlier "
        "inputs; --rows FILE exports the rows of one input"
    )


def _named(info: StepInfo) -> tuple[str, int | str]:
    return info.name, info.version
