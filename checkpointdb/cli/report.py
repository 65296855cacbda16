"""`ckpt report`: one page about a store, to look at. `totals.py` counts, `page.py` lays it out."""

from __future__ import annotations

import sys

import click

from .completion import files
from .display import counted, note, size
from .group import force_option
from .sinks import check_apart, replacing
from .totals import read_totals


@click.command("report", short_help="Write a page about a store, to look at.")
@click.argument("store", shell_complete=files)
@click.option(
    "-o", "--output", required=True, metavar="OUTPUT", shell_complete=files,
    help="The HTML file, or - for standard output.",
)  # fmt: skip
@force_option
@click.option("--no-values", is_flag=True, help="Leave out inputs, results and error messages.")
def report_command(store: str, output: str, force: bool, no_values: bool) -> None:
    """Write one HTML page about STORE: runs, speed, failures, money, code changes, and records.

    The page needs no network and no other file: mail it, or open it in a browser. It holds all
    records of a small store and a sample of a large one, as it says; sums are over all of them.
    What redact= kept out of the store is not on the page; --no-values leaves out all that came from
    rows. Only reads: safe while a run is writing.

    \b
    Examples:
      ckpt report reviews.ckpt -o report.html
      ckpt report reviews.ckpt -o report.html --no-values
    """  # noqa: D301 - click wants a real \b before lines it must not join
    from .page import page  # what no other command needs

    check_apart(output, store)
    written = read_totals(store, lambda reader: page(reader, store, values=not no_values))
    data = written.html.encode()
    if output == "-":
        sys.stdout.buffer.write(data)
        return
    with replacing(output, force) as file:
        file.write(data)
    note(f"{counted(written.shown, 'record')} of {written.total:,} on {output}, {size(len(data))}")
