"""`ckpt pull`: make a store of all that is in a bucket."""

from __future__ import annotations

import click

from ..cloud.pull import pull
from .bar import bar
from .completion import files
from .display import counted, note, safe, shown, size
from .group import bucket_errors


@click.command("pull", short_help="Make a store of all that is in a bucket.")
@click.argument("url")
@click.argument("store", shell_complete=files)
def pull_command(url: str, store: str) -> None:
    """Make STORE, a new file, from all that anybody shipped to URL, and verify it.

    The bucket is only read, and runs may ship to it meanwhile. STORE appears whole or not at all.
    What was deleted with `ckpt forget` in one of the stores is not in it. To bring what is new into
    a store that is there, pull into a new file and `ckpt merge` that.

    \b
    Examples:
      ckpt pull s3://bucket/reviews reviews.ckpt
    """  # noqa: D301 - click wants a real \b before lines it must not join
    with bucket_errors(), bar() as show:
        pulled = pull(url, store, on_progress=show)
    segments = f"{counted(pulled.segments, 'segment')} of {size(pulled.bytes)}"
    note(f"{counted(pulled.records, 'record')} from {segments} in {safe(shown(store))}, verified")
