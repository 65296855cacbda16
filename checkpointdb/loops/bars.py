"""Progress bars that are drawn again in place: on a terminal, in a notebook. Know no run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

NAME_WIDTH, BAR_WIDTH = 20, 12  # columns


class Bar(Protocol):
    """Where progress is drawn again and again."""

    def show(self, fraction: float | None, parts: list[str], line: str) -> None:
        """Draw: which part is done, the counts with the most important one first, all as a line."""

    def stop(self) -> None:
        """Draw no more."""


def bar(name: str, transient: bool) -> Bar | None:
    """Return a bar that is being shown, None where none can be: in a pipe, a log file."""
    console = steady_console(stderr=True)
    if console.is_jupyter:
        return _InNotebook(name, transient)
    return _OnTerminal(console, name, transient) if console.is_terminal else None


def steady_console(**options: Any) -> Any:
    """Return a console of rich's that never hides the cursor."""
    from rich.console import Console

    class Steady(Console):
        def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002 - rich's name
            """Leave the cursor: nobody could give it back after a SIGKILL."""
            return False

    return Steady(**options)


class _OnTerminal:
    """A bar of rich's: a long name and many counts are cut, the percentage never is."""

    def __init__(self, console: Any, name: str, transient: bool) -> None:
        from rich import progress
        from rich.table import Column

        before = (sys.stdout, sys.stderr)
        self._progress = progress.Progress(
            _whole_line("name", Column(no_wrap=True, max_width=NAME_WIDTH)),
            progress.BarColumn(bar_width=BAR_WIDTH),
            progress.TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
            _whole_line("counts", Column(no_wrap=False)),
            console=console,
            transient=transient,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=None, name=name, counts="")
        self._moved = list(_moved_handlers(console, before))

    def show(self, fraction: float | None, parts: list[str], _line: str) -> None:
        total = None if fraction is None else 1.0
        counts = " · ".join(parts)
        self._progress.update(self._task, completed=fraction or 0.0, total=total, counts=counts)

    def stop(self) -> None:
        for handler, attribute, stream in self._moved:
            setattr(handler, attribute, stream)
        self._progress.stop()


def _whole_line(field: str, column: Any) -> Any:
    """Return a column of a bar that is cut where there is no room, and never wrapped."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Line(ProgressColumn):
        def render(self, task: Any) -> Any:
            style = "dim" if field == "counts" else ""
            return Text(task.fields[field], style, no_wrap=True, overflow="ellipsis")

    return Line(table_column=column)


def _moved_handlers(console: Any, before: tuple[Any, Any]) -> Iterator[tuple[Any, str, Any]]:
    """Have the log handlers that write to the terminal write above the bar.

    rich writes above the bar what comes through `sys.stdout` and `sys.stderr`; but a handler keeps
    the stream that was there when it was made. Yields what to give back to each handler.
    """
    known = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for handler in [handler for log in known for handler in getattr(log, "handlers", ())]:
        stream, its_console = getattr(handler, "stream", None), getattr(handler, "console", None)
        if stream is not None and stream in before:
            yield handler, "stream", stream
            handler.stream = sys.stdout if stream is before[0] else sys.stderr
        elif its_console is not None and getattr(its_console, "is_terminal", False):
            yield handler, "console", its_console  # rich's own handler
            handler.console = console


class _InNotebook:
    """A bar of HTML that every front end of Jupyter shows; needs no widgets."""

    def __init__(self, name: str, transient: bool) -> None:
        from IPython import display as jupyter

        display: Any = jupyter.display
        self._name, self._transient = name, transient
        self._handle = display(self._data(None, "", ""), raw=True, display_id=True)

    def show(self, fraction: float | None, parts: list[str], line: str) -> None:
        self._handle.update(self._data(fraction, " · ".join(parts), line), raw=True)

    def stop(self) -> None:
        if self._transient:
            with suppress(Exception):
                self._handle.update({"text/plain": ""}, raw=True)

    def _data(self, fraction: float | None, counts: str, line: str) -> dict[str, str]:
        import html

        name, value = html.escape(self._name), "" if fraction is None else f' value="{fraction}"'
        percent = "" if fraction is None else f"{fraction:.0%} "
        return {
            "text/plain": f"{self._name}: {line}",
            "text/html": f'<div style="white-space: nowrap">{name} '
            f'<progress max="1"{value} aria-label="progress of {name}"></progress> '
            f'{percent}<span style="opacity: 0.7">{html.escape(counts)}</span></div>',
        }
