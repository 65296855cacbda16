"""`ckpt head`: rows with their results, as a person wants to see them. Only reads."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from ..file.read import to_builtins
from ..file.records import Record
from .abridged import clipped, fitted
from .completion import files, steps, versions
from .display import Problem, Screen, counted, note, safe_line, shown, width
from .group import VERSION
from .store_view import Look, read, steps_chosen

WIDTH = 120  # columns, where there is no terminal
NARROWEST = 16


@click.command("head", short_help="Show some rows with their results.")
@click.argument("store", shell_complete=files)
@click.option(
    "-n", "count", type=click.IntRange(1), default=10, show_default=True, help="How many rows."
)
@click.option("--oldest", is_flag=True, help="Those that were saved first, not last.")
@click.option("--step", metavar="NAME", shell_complete=steps, help="Only of this step.")
@click.option("--version", type=VERSION, shell_complete=versions, help="Only of this version.")
@click.option(
    "--search", metavar="TEXT", help="Only rows with this text in input, result or error."
)
@click.option("--failed", is_flag=True, help="Only rows that failed.")
@click.option("--where", metavar="SQL", help="Only rows for which this is true.")
@click.option("--json", "as_json", is_flag=True, help="Print whole records, a JSON object a line.")
def head_command(
    store: str,
    count: int,
    oldest: bool,
    step: str | None,
    version: int | str | None,
    search: str | None,
    failed: bool,
    where: str | None,
    as_json: bool,
) -> None:
    """Show the newest rows of STORE, the last one first, each with its result or its error.

    Long texts and lists are cut so that a row fits on a line; ckpt inspect --record N shows one
    whole. TEXT is found in any part of a value; a to z in either case. SQL is a condition on a
    record's columns, as for ckpt forget. Only reads: safe while a run is writing.

    \b
    Examples:
      ckpt head reviews.ckpt
      ckpt head reviews.ckpt -n 3 --oldest --step label
      ckpt head reviews.ckpt --failed
      ckpt head reviews.ckpt --search "delivery was late"
      ckpt head reviews.ckpt --where "result ->> 'label' = 'good' and seconds > 2"
    """  # noqa: D301 - click wants a real \b before lines it must not join
    if search == "":
        raise click.UsageError("--search needs a text")

    def look(reader: Look) -> tuple[int, list[Record]]:
        steps = steps_chosen(reader, step, version)
        ids = [info.id for info in steps]
        return len(steps), reader.picked(ids, count, oldest, where, search, failed)

    try:
        steps, records = read(store, look)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        for record in records:
            click.echo(safe_line(to_builtins(record)))
    elif records:
        _show(records, several=steps > 1)
        note(f"{counted(len(records), 'row')}; one whole: ckpt inspect {shown(store)} --record N")
    else:
        note("no such rows" if search or failed or where else "no rows are saved yet")


def _show(records: list[Record], several: bool) -> None:
    """Show a row a line; input and result share the room that the other columns leave."""
    numbers = [str(record.id) for record in records]
    steps = [f"{record.step} {record.version}" for record in records]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    room -= max(map(len, [*numbers, "record"])) + 6
    if several:
        room -= max(map(width, [*steps, "step"])) + 2
    each = max(room // 2, NARROWEST)
    cells = [(fitted(record.input, room), _outcome(record, room)) for record in records]
    widest = [max(map(width, column)) for column in zip(*cells, strict=True)]
    # what one of the two does not need, the other one has
    rooms = [max(each, room - other) for other in reversed(widest)]
    columns: dict[str, Any] = {
        "record": numbers,
        "step": steps,
        "input": [fitted(record.input, rooms[0]) for record in records],
        "result": [_outcome(record, rooms[1]) for record in records],
    }
    if not several:
        del columns["step"]
    heads = [(name, "right" if name == "record" else "left") for name in columns]
    Screen().table(heads, list(zip(*columns.values(), strict=True)))


def _outcome(record: Record, room: int) -> str:
    if record.error is None:
        return fitted(record.result, room)
    return Problem(clipped(f"{record.error.get('type')}: {record.error.get('message')}", room))
