"""A progress bar for work on a whole store. Knows rich; nothing of what is done."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from ..file.verify import OnProgress, unseen


@contextlib.contextmanager
def bar() -> Iterator[OnProgress]:
    """Give a function that shows, on a terminal only, what is being done and how much is done."""
    if not sys.stderr.isatty():
        yield unseen
        return
    from rich import progress
    from rich.console import Console

    console = Console(file=None, stderr=True)
    with progress.Progress(console=console, transient=True) as shown:
        task = shown.add_task("", total=None)

        def show(what: str, share: float | None) -> None:
            total = None if share is None else 1.0
            shown.update(task, description=what, completed=share or 0.0, total=total)

        yield show
