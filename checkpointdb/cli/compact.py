"""`ckpt compact`: drop superseded records and give back their room; asks first."""

from __future__ import annotations

import os

import click

from ..cloud.bucket import Bucket
from ..cloud.compaction import compact
from ..store import Store
from .completion import files
from .display import counted, note, safe, shown, size
from .group import Failure, agreed, bucket_errors, dry_run_option, yes_option


@click.command("compact", short_help="Drop superseded records, shrink the file.")
@click.argument("store", shell_complete=files)
@click.option(
    "--keep",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many records of each row to keep.",
)
@dry_run_option
@yes_option
def compact_command(store: str, keep: int, dry_run: bool, yes: bool) -> None:
    """Drop the records of STORE that a later record of the same row supersedes; shrink the file.

    The newest record of each row stays, and its newest result. What was paid stays in the counts.
    Counts first, then asks; where there is no terminal to ask on, it needs --yes. A kill at any
    time leaves a whole store. Refused while a run is open on the store.

    Given the URL of a bucket, it brings the segments of each writer together, so that a pull has
    fewer to read. Runs may ship and others pull meanwhile.

    \b
    Examples:
      ckpt compact reviews.ckpt
      ckpt compact reviews.ckpt --keep 3 --dry-run
      ckpt compact s3://bucket/reviews
    """  # noqa: D301 - click wants a real \b before lines it must not join
    if "://" in store:
        with bucket_errors():
            _compact_bucket(store, dry_run, yes)
        return
    with Store(store, create=False) as opened:
        count = opened.compact(keep=keep, dry_run=True)
        told = f"{counted(count, 'superseded record')} will be dropped, and the file rewritten."
        if not agreed(told, yes or not count, dry_run):
            return
        before = os.stat(opened.path).st_size
        opened.compact(keep=keep)
    after = os.stat(opened.path).st_size
    dropped = f"{counted(count, 'record')} dropped"
    note(f"{dropped}; {safe(shown(store))}: {size(before)} before, {size(after)} now")


def _compact_bucket(url: str, dry_run: bool, yes: bool) -> None:
    bucket = Bucket(url)
    if bucket.manifest() is None:
        raise Failure(f"{url}: nothing was pushed there")
    before = bucket.segments()
    told = f"The {counted(len(before), 'segment')} of each writer will be brought together."
    if agreed(told, yes, dry_run):
        compact(bucket, before, all=True)
        note(f"{counted(len(bucket.segments()), 'segment')} now")
