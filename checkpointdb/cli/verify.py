"""`ckpt verify`: say what is damaged in a store and what that means. Only reads it."""

from __future__ import annotations

import itertools
import warnings

import click
import msgspec

from ..errors import StoreCorruptError
from ..file.read import Reader
from ..file.verify import Problem
from .bar import bar
from .completion import files
from .display import Screen, counted, safe, safe_json, shown

DAMAGED = 4


@click.command("verify", short_help="Say what is damaged in a store.")
@click.argument("store", shell_complete=files)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; see docs/cli.md.")
def verify_command(store: str, as_json: bool) -> None:
    """Check every byte of STORE that can be checked; say what is damaged and what that means.

    Checks SQLite's structure, the checksum of every record, the key index and the counters against
    the records, and a log that a killed run left. Only reads: safe while a run is writing. Ends
    with status 4 if something is damaged.

    \b
    Examples:
      ckpt verify reviews.ckpt
      ckpt verify reviews.ckpt --json | jq '.problems[].key'
    """  # noqa: D301 - click wants a real \b before lines it must not join
    problems = _problems(store)
    if as_json:
        told = [msgspec.structs.asdict(problem) for problem in problems]
        click.echo(safe_json({"store": store, "problems": told}))
    else:
        show_problems(Screen(), problems)
        click.echo(f"{safe(shown(store))}: {_summary(problems)}")
    if problems:
        raise click.exceptions.Exit(DAMAGED)


def _problems(store: str) -> list[Problem]:
    with warnings.catch_warnings(), bar() as show:
        warnings.simplefilter("ignore")  # of a damaged log, which is a problem here
        try:
            with Reader(store) as reader:
                return reader.verify(show)
        except StoreCorruptError as error:
            return [Problem(str(error), "no run can open it")]


def _summary(problems: list[Problem]) -> str:
    return f"{counted(len(problems), 'problem')}" if problems else "nothing is damaged"


def show_problems(screen: Screen, problems: list[Problem], most: int | None = None) -> None:
    """Show problems, the first `most` of them, and what each means."""
    for means, alike in itertools.groupby(problems[:most], lambda problem: problem.means):
        for problem in alike:
            screen.line(safe(problem.what), "red")
        screen.line(f"  {safe(means)}")
    if most is not None and len(problems) > most:
        screen.line(f"… and {len(problems) - most:,} more: add --json")
