"""`ckpt backup`: copy a store, even while runs write to it. Only reads it."""

from __future__ import annotations

import os

import click

from ..file.backup import backup
from .bar import bar
from .completion import files
from .display import note, safe, shown, size
from .group import force_option


@click.command("backup", short_help="Copy a store, even while a run is writing.")
@click.argument("store", shell_complete=files)
@click.argument("dest", shell_complete=files)
@force_option
def backup_command(store: str, dest: str, force: bool) -> None:
    """Copy STORE to DEST as of one moment, with all that is committed, and verify the copy.

    Unlike cp, it copies what is still in the log. DEST appears whole, mode 0600, or not at all.

    \b
    Examples:
      ckpt backup reviews.ckpt /backups/reviews.ckpt
      ckpt backup reviews.ckpt latest.ckpt --force
    """  # noqa: D301 - click wants a real \b before lines it must not join
    target = os.path.abspath(dest)
    with bar() as show:
        backup(os.path.realpath(store), target, force, on_progress=show)
    note(f"{size(os.stat(target).st_size)} copied to {safe(shown(dest))}, and verified")
