"""What a shell offers at TAB: files, and a store's own steps and versions. Only reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ..errors import CheckpointError
from ..file.records import StepInfo

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def files(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(start, type="file")]


def steps(context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Offer the names of the store's steps."""
    counts: dict[str, int] = {}
    for info in _steps(context):
        counts[info.name] = counts.get(info.name, 0) + info.results
    return _offered(counts, start)


def versions(
    context: click.Context, _parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """Offer the versions of the step that was named, or of all steps of the store."""
    name = context.params.get("step")
    infos = _steps(context)
    named = [info for info in infos if info.name == name] or infos
    return _offered({str(info.version): info.results for info in named}, start)


def _offered(counts: dict[str, int], start: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(name, help=f"{count:,} results")
        for name, count in counts.items()
        if name.startswith(start) and name.isprintable()  # else it would steer the terminal
    ]


def _steps(context: click.Context) -> list[StepInfo]:
    """Return the steps of the store on the command line; none if it cannot be read."""
    from .store_view import Look, read

    path = context.params.get("store")
    first = next((it for it in context.command.params if isinstance(it, click.Argument)), None)
    if path is None and context.args and first is not None and first.name == "store":
        path = context.args[0]  # click has not bound it: the option before TAB has no value yet
    if path is None:
        return []
    try:
        return read(os.path.expanduser(path), Look.steps)
    except CheckpointError:
        return []
