"""`ckpt merge`: bring the records of other stores into one."""

from __future__ import annotations

import os

import click

from ..file.merge import Merged
from ..store import Store
from .completion import files
from .display import counted, note, number
from .store_view import read

FEW = 5  # conflicts that are shown


@click.command("merge", short_help="Bring the records of other stores into one.")
@click.argument("into", shell_complete=files)
@click.argument("sources", nargs=-1, required=True, metavar="FROM...", shell_complete=files)
def merge_command(into: str, sources: tuple[str, ...]) -> None:
    """Bring the records of each FROM, in this order, into INTO, which is made if it is not there.

    It is a union by row: what was merged before is skipped, and after a kill the same command goes
    on. The stores FROM are only read. Records of one store keep their order. Between stores a
    success beats a failure; else what is already there stays, and a different result is counted,
    listed and kept as history. What was deleted with `ckpt forget` in one store does not come back
    from another.

    \b
    Examples:
      ckpt merge all.ckpt shard-0.ckpt shard-1.ckpt
      ckpt merge reviews.ckpt colleague.ckpt
    """  # noqa: D301 - click wants a real \b before lines it must not join
    for source in sources:
        read(source, lambda reader: reader.path)  # all of them, before anything is written
        if os.path.exists(into) and os.path.samefile(into, source):
            raise click.UsageError(f"{source}: a store cannot be merged into itself")
    with Store(into) as store:
        for source in sources:
            merged = store.merge(source)
            note(f"{source}: {_in_words(merged)}")
            for conflict in merged.conflicts[:FEW]:
                note(
                    f"  different results: record {conflict.kept} counts, record {conflict.other} "
                    f"is history (key {conflict.key})"
                )
            if merged.different > FEW:
                note(f"  and {number(merged.different - FEW)} more that differ")


def _in_words(merged: Merged) -> str:
    parts = [f"{counted(merged.added, 'row')} added"]
    parts += [
        f"{number(count)} {what}"
        for count, what in (
            (merged.replaced, "replaced by newer ones or by successes"),
            (merged.same, "already here"),
            (merged.history, f"kept as history, {number(merged.different)} of them different"),
            (merged.forgotten, "left out, deleted here by forget"),
            (merged.deleted, "deleted, as forget did there"),
        )
        if count
    ]
    return ", ".join(parts)
