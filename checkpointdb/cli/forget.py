"""`ckpt forget`: delete saved rows. No other command deletes any; asks first."""

from __future__ import annotations

import click

from ..store import Store
from .completion import files, steps, versions
from .display import counted, note
from .group import VERSION, agreed, dry_run_option, yes_option
from .store_view import one_step, read, steps_named


@click.command("forget", short_help="Delete saved rows.")
@click.argument("store", shell_complete=files)
@click.option("--step", metavar="NAME", shell_complete=steps, help="Of this step.")
@click.option(
    "--version", type=VERSION, shell_complete=versions, help="Of this version of the step."
)
@click.option("--failed", is_flag=True, help="Only rows that failed.")
@click.option("--where", metavar="SQL", help="Only rows for which this is true.")
@dry_run_option
@yes_option
def forget_command(
    store: str,
    step: str | None,
    version: int | str | None,
    failed: bool,
    where: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete saved rows of STORE with all their history; the next run computes them again.

    Counts first, then asks; where there is no terminal to ask on, it needs --yes. A row is deleted
    if all the options given hold for it. SQL is a condition on a record's columns: key, step,
    version, position, input, result, error, error_type, message, attempts, seconds, cost, usage,
    saved_at, run. One transaction: all or nothing. Refused while a run is open on the store.

    \b
    Examples:
      ckpt forget reviews.ckpt --step label --version 1
      ckpt forget reviews.ckpt --failed --where "error_type = 'TimeoutError'"
      ckpt forget reviews.ckpt --where "result ->> 'label' is null" --dry-run
    """  # noqa: D301 - click wants a real \b before lines it must not join
    if version is not None and step is None:
        raise click.UsageError("--version needs --step")
    if not (step or failed or where):
        raise click.UsageError("say which rows: --step, --failed or --where")
    if step is not None:
        version = _known(store, step, version)
    chosen = _in_words(step, version, failed, where)
    with Store(store, create=False) as opened:
        try:
            count = opened.forget(step, version=version, failed=failed, where=where, dry_run=True)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if not count:
            note(f"there are no rows{chosen}")
        elif agreed(f"{counted(count, 'row')}{chosen} will be deleted.", yes, dry_run):
            count = opened.forget(step, version=version, failed=failed, where=where)
            note(f"{counted(count, 'row')} deleted")


def _known(store: str, step: str, version: int | str | None) -> int | str | None:
    """Return the version as it is in the store; raise if the store has no such step or version."""
    if version is None:
        read(store, lambda reader: steps_named(reader, step))
        return None
    return read(store, lambda reader: one_step(reader, step, version)).version


def _in_words(step: str | None, version: int | str | None, failed: bool, where: str | None) -> str:
    words = f" of {step}" if step else ""
    words += f" version {version!r}" if version is not None else ""
    words += " that failed" if failed else ""
    return words + (f" where {where}" if where else "")
