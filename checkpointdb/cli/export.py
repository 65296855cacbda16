"""`ckpt export`: write a store's inputs and results to a file. Only reads the store."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from ..file.records import Entry, Record, decoded, decoded_error
from .chosen import Choice, more_than_the_last_run, of_file, select, step_of
from .completion import files, steps, versions
from .display import counted, note, number, safe
from .formats import Dialect, format_of
from .group import (
    VERSION,
    column_option,
    dialect_options,
    error_column_option,
    force_option,
    merge_option,
)
from .shape import Shape
from .sinks import check_apart, is_same, writing
from .sources import Source
from .spooled import Row
from .store_view import Look, read

AT_ONCE = 32  # rows that are written together: a write each would take 1 µs more


@click.command("export", short_help="Write a store's results to a file.")
@click.argument("store", shell_complete=files)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUTPUT",
    shell_complete=files,
    help="The file, or - for JSON lines.",
)
@click.option(
    "--step", metavar="NAME", shell_complete=steps, help="Which step, if there are several."
)
@click.option(
    "--version", type=VERSION, shell_complete=versions, help="Which version, if there are several."
)
@click.option(
    "--rows",
    metavar="FILE",
    shell_complete=files,
    help="The rows of this file, in its order, duplicates too.",
)
@click.option("--run", type=int, metavar="N", help="Only what this run computed.")
@click.option("--failures", is_flag=True, help="The rows that failed, instead of the others.")
@click.option("--all", is_flag=True, help="Rows of several inputs in one file.")
@force_option
@column_option
@error_column_option
@merge_option
@dialect_options
def export_command(
    store: str,
    output: str,
    force: bool,
    rows: str | None,
    column: str,
    error_column: str,
    merge: bool | None,
    format: str | None,
    delimiter: str | None,
    encoding: str | None,
    **choice: Any,
) -> None:
    """Write the saved inputs and results of STORE to OUTPUT, in input order.

    OUTPUT is a new .jsonl, .json, .csv, .tsv or .parquet file, all but the last with .gz too, or -
    for JSON lines on standard output. It shows one moment of the store, even while a run is
    writing. Rows that failed are left out; with --failures they are the only ones.

    --rows gives the rows of one input file. Without it, a store that has seen several inputs is an
    error unless --run or --all says what is meant.

    \b
    Examples:
      ckpt export reviews.ckpt -o results.csv
      ckpt export reviews.ckpt -o results.parquet --rows reviews.parquet
      ckpt export reviews.ckpt -o failed.jsonl --failures
    """  # noqa: D301 - click wants a real \b before lines it must not join
    dialect = Dialect(format, delimiter, encoding)
    if rows is None and dialect != Dialect():
        raise click.UsageError("--format, --delimiter and --encoding describe the FILE of --rows")
    if rows and is_same(output, rows):
        raise click.UsageError(f"{output} is the FILE of --rows: give OUTPUT another name")
    check_apart(output, store)
    chosen = msgspec.convert(choice, Choice)
    # of failures there is no result, and so no column for it
    shape = Shape(merge=True, error=error_column) if chosen.failures else Shape(column, merge)
    done = export(store, output, shape, chosen, rows, dialect, force)
    note(_told(done, output, chosen))
    if done.warning:
        note(done.warning)


def _told(done: Exported, output: str, choice: Choice) -> str:
    what = "failed row" if choice.failures else "row"
    where = "" if output == "-" else f" to {output}"
    told = f"{counted(done.rows, what)} of {safe(done.step)} {done.version} written{where}"
    for count, left in (
        (done.failures, "failed ones left out"),
        (done.absent, "rows of FILE without a result left out"),
        (done.unkept, "without their input, which was not kept"),
    ):
        told += f", {number(count)} {left}" * bool(count)
    return told


class Exported(msgspec.Struct):
    """What an export did: rows written, those left out, and rows whose input is not kept."""

    step: str
    version: int | str
    rows: int = 0
    failures: int = 0
    absent: int = 0
    unkept: int = 0
    warning: str | None = None


def export(
    store: str,
    output: str,
    shape: Shape,
    choice: Choice,
    rows: str | None = None,
    dialect: Dialect | None = None,
    force: bool = False,
) -> Exported:
    """Write what is chosen, with the inputs, from one snapshot.

    Rows that are left out are counted. A run may write to the store meanwhile.

    Raises:
        LookError: no such step, or more than one; several inputs. TableError: `output` or `rows`.
        StoreError: the store.
    """

    def copy(reader: Look) -> Exported:
        info = step_of(reader, choice)
        done = Exported(info.name, info.version)
        with contextlib.ExitStack() as stack:
            if rows is None:
                done.failures = 0 if choice.failures or choice.run else info.failures
                select(reader, info, choice)
                write = stack.enter_context(writing(output, shape, None, force))
                for out in _selected(reader, output, shape, choice, done):
                    write(out)
            else:
                source = stack.enter_context(Source(rows, dialect))
                chosen = of_file(reader, info, choice, source)
                write = stack.enter_context(writing(output, shape, source.columns, force))
                for each in chosen:
                    if (row := _joined(*each, shape, choice, done)) is not None:
                        write([row])
            reader.check_unchanged()
        if rows is None and choice.run is None and not (choice.failures or choice.all):
            done.warning = more_than_the_last_run(reader, info, done.rows)
        return done

    # what is read or written once cannot be tried again
    return read(store, copy, again="-" not in (output, rows))


def _selected(
    reader: Look, output: str, shape: Shape, choice: Choice, done: Exported
) -> Iterator[list[Any]]:
    """Yield the rows of output of what is selected: dicts, or JSON that is spliced together."""
    splices = format_of(output)[0] in ("json", "jsonl") and not choice.failures
    selected = reader.selected("failed" if choice.failures else "ok")
    while entries := list(itertools.islice(selected, AT_ONCE)):
        spliced = [splices and shape.splice(entry.input, entry.result) for entry in entries]
        if all(spliced):  # nearly always, of values that are stored as JSON
            done.rows += len(entries)
            yield spliced
            continue
        for entry, row in zip(entries, spliced, strict=True):
            done.rows += bool(row)
            yield [row or _decoded(entry, shape, done)]


def _decoded(entry: Entry, shape: Shape, done: Exported) -> Row:
    values = decoded(entry.result), decoded_error(entry.error), entry.attempts
    done.unkept += entry.input is None
    return _shaped(decoded(entry.input), f"row {entry.position}", *values, shape, done)


def _joined(
    row: Any, place: str, record: Record | None, shape: Shape, choice: Choice, done: Exported
) -> Row | None:
    """Return the row of output; None for one that is left out, which is counted."""
    if record is None:
        done.absent += 1
        return None
    if (record.error is not None) != choice.failures:
        done.failures += not choice.failures
        return None
    done.unkept += record.kept == "nothing" and row is None
    return _shaped(row, place, record.result, record.error, record.attempts, shape, done)


def _shaped(
    row: Any, place: str, result: Any, error: dict[str, Any] | None, attempts: int,
    shape: Shape, done: Exported,
) -> Row:  # fmt: skip
    shape.check(row, place)
    done.rows += 1
    if error is None:
        return shape.join(row, result, place)
    return shape.join_error(row, error["type"], error["message"], attempts)
