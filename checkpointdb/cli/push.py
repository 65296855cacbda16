"""`ckpt push`: ship what is new of a store to a bucket."""

from __future__ import annotations

import click

from ..store import Store
from .completion import files
from .display import counted, note, safe, size
from .group import bucket_errors


@click.command("push", short_help="Ship what is new of a store to a bucket.")
@click.argument("store", shell_complete=files)
@click.argument("url")
def push_command(store: str, url: str) -> None:
    """Ship what is new of STORE to URL: the first time all of it, later what was not shipped yet.

    URL is s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://ACCOUNT/CONTAINER/PREFIX or file:///FOLDER.
    Credentials come from the environment. Several stores may be pushed to one prefix. Nothing
    there is written over; a kill loses nothing, and the same command goes on. Runs may go on.

    \b
    Examples:
      ckpt push reviews.ckpt s3://bucket/reviews
      ckpt push reviews.ckpt file:///mnt/shared/reviews
    """  # noqa: D301 - click wants a real \b before lines it must not join
    with bucket_errors(), Store(store, create=False) as opened:
        pushed = opened.push(url)
    if pushed.segments:
        what = f"{counted(pushed.records, 'record')} shipped"
        note(f"{what} in {counted(pushed.segments, 'segment')} of {size(pushed.bytes)}")
    else:
        note(f"{safe(url)} has all of it")
