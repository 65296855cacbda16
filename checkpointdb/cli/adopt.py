"""`ckpt adopt`: keep a step's saved results under another version. Asks first."""

from __future__ import annotations

import click

from ..adopt import adopt
from ..store import Store
from .display import counted, note, number
from .group import agreed, dry_run_option, version_of, yes_option
from .store_view import one_step, read, steps_named


@click.command("adopt", short_help="Keep results under another version.")
@click.argument("store")
@click.option("--step", required=True, metavar="NAME", help="The step.")
@click.option(
    "--from", "old", required=True, metavar="VERSION", help="The version with the results."
)
@click.option("--to", "new", required=True, metavar="VERSION", help="The version that gets them.")
@dry_run_option
@yes_option
def adopt_command(store: str, step: str, old: str, new: str, dry_run: bool, yes: bool) -> None:
    """Copy the results that a step saved under one version to another version.

    Use it after a change of code that does not change results. Counts first, then asks; where there
    is no terminal to ask on, it needs --yes. The old results stay; rows that failed are not copied.
    One transaction: all or nothing.

    \b
    Example:
      ckpt adopt reviews.ckpt --step label --from 1 --to 2
    """  # noqa: D301 - click wants a real \b before lines it must not join
    before, after = _versions(store, step, old, new)
    if before == after:
        raise click.UsageError(f"--from and --to are both version {before!r}")
    with Store(store, create=False) as opened:
        copies, there = adopt(opened, step, before, after, dry_run=True)
        also = f"; {number(there)} are there already" if there else ""
        if not copies:
            note(f"nothing to adopt from version {before!r} of {step}{also}")
            return
        question = (
            f"{counted(copies, 'result')} of {step} version {before!r} will count for version "
            f"{after!r} too{also}."
        )
        if agreed(question, yes, dry_run):
            copies, _ = adopt(opened, step, before, after)
            note(f"{counted(copies, 'result')} adopted")


def _versions(store: str, step: str, old: str, new: str) -> tuple[int | str, int | str]:
    """Return the versions that were meant: as they are in the store, otherwise 2 is the number.

    A new version is text if the old one is text that looks like a number.
    """
    before = read(store, lambda reader: one_step(reader, step, version_of(old))).version
    known = [info.version for info in read(store, lambda reader: steps_named(reader, step))]
    for version in (version_of(new), new):
        if version in known:
            return before, version
    is_text_of_number = before == old != version_of(old)
    return before, new if is_text_of_number else version_of(new)
