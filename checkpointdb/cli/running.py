"""What `ckpt run` does: run a step over a file, into a file. Knows sources, sinks and runs."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

from ..engine.failures import Failed
from ..engine.keywords import RunOptions
from ..events import Event, Report, RowFailed
from ..loops.progress import Progress
from ..loops.run_iterator import Run
from ..step import Step
from ..values.codec import decode, encode
from .display import safe
from .shape import Shape
from .sinks import OutputClosedError, writing
from .sources import Source


@dataclasses.dataclass
class FileRun:
    """One `ckpt run`: what to read, compute and write.

    `run` is the run once it has begun, for whoever has to say what became of it; `failed` counts
    the rows that have a failure in the place of a result.
    """

    step: Step[..., Any]
    source: Source
    output: str | None
    shape: Shape
    options: RunOptions
    limit: int | None = None
    progress: bool = False
    shard: tuple[int, int] | None = None
    run: Run[Any] | None = None
    failed: int = 0
    read: int = 0
    _lines: dict[int, int] = dataclasses.field(default_factory=dict)
    _last_failed: int = -1

    def go(self) -> Report:
        """Pass the step over the source and write each row with its result.

        Promises: whatever happens, what the step returned is saved; the output appears whole or
        not at all; memory is bounded; an error of a row names the file and the line.
        """
        with contextlib.ExitStack() as stack:
            write = None
            if self.output:
                out = writing(self.output, self.shape, self.source.columns, force=True)
                write = stack.enter_context(out)
            waiting: deque[Any] = deque()
            self.options["on_event"] = self._heard
            rows = self._rows(waiting)
            total = self._total()
            self.run = self.step.run(
                rows if total is None else _Counted(rows, total), **self.options
            )
            run = stack.enter_context(self.run)
            if self.progress:
                stack.enter_context(self._bar(run))
            try:
                self._loop(run, waiting, write)
            except OutputClosedError:
                run.close()  # `| head` is no failure
                raise
            except Exception as error:
                if place := self.place(self._last_failed):
                    error.add_note(f"in {place}")
                raise
        return run.report

    def _total(self) -> int | None:
        """Return how many rows there are, if that can be known in a moment."""
        total = self.source.quick_count() if self.shard is None else None
        return total if self.limit is None or total is None else min(self.limit, total)

    def place(self, position: int) -> str | None:
        """Name a row by its place in the file, while it is on its way through the run."""
        line = self._lines.get(position)
        return None if line is None else self.source.place(line)

    def _heard(self, event: Event) -> None:
        if isinstance(event, RowFailed):
            self._last_failed = event.position

    def _rows(self, waiting: deque[Any]) -> Iterator[Any]:
        """Yield the source's rows; keep each as it was, for the step may change what it gets."""
        rows: Any = self.source
        if self.shard is not None:
            rows = self.step._sharded(self.shard).of(self.source)
        for row in itertools.islice(rows, self.limit):
            line = self.source.at
            if self.output:
                self.shape.check(row, self.source.place(line))
                waiting.append(encode(row))
            self._lines[self.read] = line
            self.read += 1
            yield row

    def _loop(self, run: Run[Any], waiting: deque[Any], write: Any) -> None:
        for number, result in enumerate(run):
            failed = isinstance(result, Failed)
            self.failed += failed
            line = self._lines.pop(number)
            if write is None:
                continue
            row = decode(waiting.popleft())
            if failed:
                write([self.shape.join_failure(row, result)])
            else:
                write([self.shape.join(row, result, self.source.place(line))])

    def _bar(self, run: Run[Any]) -> Progress:
        return Progress(
            safe(self.step.name), lambda: run.report, fraction=self._fraction, transient=True,
            paused=lambda: run.paused,
        )  # fmt: skip

    def _fraction(self, report: Report) -> float | None:
        """Return which part is done: of the limit, or of the file, as far as it has been read."""
        done = report.rows
        fractions = [done / self.limit] if self.limit else []
        part = self.source.fraction()
        if part is not None:
            fractions.append(part * done / max(self.read, 1))
        return max(fractions, default=None)


class _Counted:
    """Rows that know how many they are."""

    def __init__(self, rows: Iterator[Any], total: int) -> None:
        self._rows, self._total = rows, total

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def __len__(self) -> int:
        return self._total
