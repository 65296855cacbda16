"""`ckpt accept`: say that saved results are as good as those of the present code."""

from __future__ import annotations

import click

from .completion import files
from .display import counted, note
from .group import store_option, version_option
from .loading import load


@click.command("accept", short_help="Accept results of other code.")
@click.argument("step", shell_complete=files)
@store_option
@version_option
@click.option("--undo", is_flag=True, help="Take it back.")
def accept_command(step: str, store: str | None, version: int | str | None, undo: bool) -> None:
    """Accept the saved results of STEP that other code computed as the present code's own.

    STEP is named as for ckpt run. The warning about them ends, until the code changes again.
    Nothing is copied, computed or deleted; --undo takes it back.

    \b
    Examples:
      ckpt accept label.py:label
      ckpt accept label.py:label --undo
    """  # noqa: D301 - click wants a real \b before lines it must not join
    found = load(step, store=store, version=version)
    count = found.accept(undo=undo)
    name = f"{found.name} {found.version}"
    if undo:
        note(f"{counted(count, 'result')} of {name} count as computed by other code again")
    else:
        note(f"{counted(count, 'result')} of {name} accepted as the present code's own")
