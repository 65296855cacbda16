"""`ckpt adopt`: keep a step's saved results under another version. Asks first."""

from __future__ import annotations

import re

import click

from ..adopt import Depends, adopt
from ..store import Store
from .completion import files, steps, versions
from .display import counted, note, number
from .group import agreed, dry_run_option, version_of, yes_option
from .store_view import one_step, read, steps_named


@click.command("adopt", short_help="Keep results under another version.")
@click.argument("store", shell_complete=files)
@click.option("--step", required=True, metavar="NAME", shell_complete=steps, help="The step.")
@click.option(
    "--from",
    "old",
    required=True,
    metavar="VERSION",
    shell_complete=versions,
    help="The version with the results.",
)
@click.option(
    "--to",
    "new",
    metavar="VERSION",
    shell_complete=versions,
    help="The version that gets them; the same if not given.",
)
@click.option("--rename", metavar="NAME", help="The step that gets them, if its name is new.")
@click.option("--depends", metavar="NAMES=DIGEST", help="The target's depends=, as an error says.")
@dry_run_option
@yes_option
def adopt_command(
    store: str,
    step: str,
    old: str,
    new: str | None,
    rename: str | None,
    depends: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Copy the results that a step saved under one version to another version, name or depends=.

    Use it after a change of code that does not change results. Counts first, then asks; where there
    is no terminal to ask on, it needs --yes. The old results stay; rows that failed are not copied.
    One transaction: all or nothing.

    \b
    Example:
      ckpt adopt reviews.ckpt --step label --from 1 --to 2
      ckpt adopt reviews.ckpt --step label --from 1 --rename tag
    """  # noqa: D301 - click wants a real \b before lines it must not join
    before, after = _versions(store, step, old, old if new is None else new)
    if before == after and rename in (None, step) and depends is None:
        raise click.UsageError(f"--from and --to are both version {before!r}")
    keyed = None if depends is None else _depends(depends)
    with Store(store, create=False) as opened:
        try:
            copies, there = adopt(
                opened, step, before, after, name=rename, depends=keyed, dry_run=True
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        also = f"; {number(there)} are there already" if there else ""
        if not copies and keyed is None:  # with --depends, the names are noted all the same
            note(f"nothing to adopt from version {before!r} of {step}{also}")
            return
        question = (
            f"{counted(copies, 'result')} of {step} version {before!r} will count for "
            f"{'' if rename is None else rename + ' '}version {after!r} too{also}."
        )
        if agreed(question, yes, dry_run):
            copies, _ = adopt(opened, step, before, after, name=rename, depends=keyed)
            note(f"{counted(copies, 'result')} adopted")


def _depends(text: str) -> Depends:
    """Return what `--depends` names: `model,prompt=<32 hex digits>`, or `none`."""
    if text == "none":
        return Depends()
    names, _, digest = text.partition("=")
    if not names or not re.fullmatch("[0-9a-f]{32}", digest):
        raise click.UsageError(
            f"--depends takes NAMES=DIGEST as the error of the run gives it, or none, not {text!r}"
        )
    return Depends(tuple(names.split(",")), bytes.fromhex(digest))


def _versions(store: str, step: str, old: str, new: str) -> tuple[int | str, int | str]:
    """Return the versions that were meant: as the store has them, otherwise 2 is the number.

    A new version is text if the old one is text that looks like a number.
    """
    before = read(store, lambda reader: one_step(reader, step, version_of(old))).version
    known = [info.version for info in read(store, lambda reader: steps_named(reader, step))]
    for version in (version_of(new), new):
        if version in known:
            return before, version
    is_text_of_number = before == old != version_of(old)
    return before, new if is_text_of_number else version_of(new)
