"""`ckpt why`: why a row is a hit or a miss. Reads the store only; needs no code of the step."""

from __future__ import annotations

from typing import Any

import click

from ..file.read import to_builtins
from ..file.records import StepInfo
from ..plan import ABSENT, Why, why
from ..values.keys import Keyer, recipe_of
from .completion import files, steps, versions
from .display import Screen, safe, safe_json
from .group import VERSION
from .sources import parse_row
from .store_view import LookError, read, retried, steps_chosen

_STYLES = {"hit": "green", "failed": "red"}


@click.command("why", short_help="Say why a row is a hit or a miss.")
@click.argument("store", shell_complete=files)
@click.argument("row")
@click.option("--step", metavar="NAME", shell_complete=steps, help="Only this step.")
@click.option("--version", type=VERSION, shell_complete=versions, help="Only this version.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
def why_command(
    store: str, row: str, step: str | None, version: int | str | None, as_json: bool
) -> None:
    """Say for each step of STORE why ROW is a hit or a miss: which part of its key differs.

    ROW is JSON, @FILE with JSON in it, or - for standard input. It is the row as the step gets it:
    from a .csv file, every value is text.

    \b
    Examples:
      ckpt why reviews.ckpt '{"id": 7, "text": "fine"}'
      head -1 reviews.jsonl | ckpt why reviews.ckpt - --step label --version 2
    """  # noqa: D301 - click wants a real \b before lines it must not join
    content = parse_row(row)
    steps = read(store, lambda reader: steps_chosen(reader, step, version))
    if not steps:
        raise LookError(f"{store}: no step has run on this store yet")
    answers = [(info, _why(store, info, content)) for info in steps]
    if as_json:
        click.echo(safe_json([_told(info, answer) for info, answer in answers]))
        return
    screen = Screen()
    for info, answer in answers:
        style = _STYLES.get(getattr(answer, "status", ""), "")
        screen.line(safe(f"{info.name} {info.version}: {answer}"), style)


def _why(store: str, info: StepInfo, row: Any) -> Why | str:
    """Return the answer for one step, or in words why there can be none."""
    try:
        keyer = Keyer(info.name, info.version, recipe_of(info.key_recipe))
    except ValueError as error:  # its key= is a function
        return f"step {info.name!r}: {error}"
    return retried(lambda: why(store, info.name, info.version, keyer, info.key_recipe, row))


def _told(info: StepInfo, answer: Why | str) -> dict[str, Any]:
    told: dict[str, Any] = {"step": info.name, "version": info.version}
    if isinstance(answer, str):
        return told | {"status": "unknown", "reason": answer, "differs": {}, "record": None}
    differs = {
        name: {side: value for side, value in (("row", a), ("saved", b)) if value is not ABSENT}
        for name, (a, b) in answer.differs.items()
    }
    record = to_builtins(answer.record) if answer.record else None
    status = {"status": answer.status, "reason": answer.reason}
    return told | status | {"differs": differs, "record": record}
