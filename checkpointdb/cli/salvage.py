"""`ckpt salvage`: bring what is whole in a damaged store into a new one. Only reads it."""

from __future__ import annotations

import click
import msgspec

from ..file.salvage import salvage
from .bar import bar
from .completion import files
from .display import Screen, counted, note, number, safe, safe_json, shown
from .group import force_option
from .verify import show_problems

NOT_SAVED = 3
SHOWN = 20


@click.command("salvage", short_help="Save what is whole in a damaged store.")
@click.argument("store", shell_complete=files)
@click.option(
    "-o", "--output", required=True, metavar="NEW", shell_complete=files, help="The new store."
)
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; see docs/cli.md.")
def salvage_command(store: str, output: str, force: bool, as_json: bool) -> None:
    """Bring every record of STORE whose checksum holds into a new store.

    Works on files that SQLite refuses: it reads the pages one by one, with those of the log next
    to STORE. If something was not saved, it says what, and ends with status 3. STORE is only read.

    \b
    Examples:
      ckpt salvage reviews.ckpt -o rescued.ckpt
    """  # noqa: D301 - click wants a real \b before lines it must not join
    with bar() as show:
        done = salvage(store, output, force=force, on_progress=show)
    if as_json:
        click.echo(safe_json({"store": store, "output": output} | msgspec.structs.asdict(done)))
    else:
        show_problems(Screen(), done.problems, SHOWN)
    lost = f", {number(done.lost)} lost" if done.lost else ""
    note(f"{counted(done.records, 'record')} saved in {safe(shown(output))}{lost}")
    if done.problems:
        raise click.exceptions.Exit(NOT_SAVED)
