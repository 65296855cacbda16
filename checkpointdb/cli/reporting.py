"""How a `ckpt run` ended, for a person: report, traceback, how to continue, and the exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from types import TracebackType

import click

from ..errors import CheckpointError
from ..events import RowFailed, RunEnded
from ..plan import Plan
from .display import (
    counted,
    duration,
    money,
    note,
    note_warning,
    number,
    rate,
    safe,
    safe_json,
    shown,
    tokens,
)
from .running import FileRun

STEP_FAILED, ROWS_FAILED, INTERRUPTED, TERMINATED = 1, 3, 130, 143
SHOWN = 500  # characters of a warning


@contextlib.contextmanager
def ending(work: FileRun) -> Iterator[None]:
    """Say how an unfinished run ended, and how to continue it.

    Errors of checkpointdb pass through. The step's own error is shown with its traceback.

    Raises:
        click.exceptions.Exit: with 1 after the step's error, 130 after Ctrl-C.
        SystemExit: as it came: 143 after SIGTERM.
    """
    try:
        with warnings.catch_warnings(), _log_shown(work):
            warnings.showwarning = note_warning
            yield
    except CheckpointError:
        raise
    except KeyboardInterrupt as error:
        _show_stop(error, "Stopped by Ctrl-C.")
        raise click.exceptions.Exit(INTERRUPTED) from error
    except SystemExit as error:
        how = "Stopped by SIGTERM." if error.code == TERMINATED else "The step left the program."
        _show_stop(error, how)
        raise
    except Exception as error:
        if work.run is None or isinstance(error, click.ClickException | click.exceptions.Exit):
            raise
        trace = traceback.format_exception(error.with_traceback(_theirs(error)))
        note("".join(trace).rstrip())
        raise click.exceptions.Exit(STEP_FAILED) from error


@contextlib.contextmanager
def _log_shown(work: FileRun) -> Iterator[None]:
    log, handler = logging.getLogger("checkpointdb"), _Log(work)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Log(logging.Handler):
    """Show what the library warns of as it comes; the report has the last line."""

    def __init__(self, work: FileRun) -> None:
        super().__init__(logging.WARNING)
        self._work = work

    def emit(self, record: logging.LogRecord) -> None:
        """Show one line; a failure's begins with its row's place in the file."""
        event = getattr(record, "event", None)
        if isinstance(event, RunEnded):
            return
        place = self._work.place(event.position) if isinstance(event, RowFailed) else None
        note(f"{place}: " * bool(place) + safe(_shortened(record.getMessage())))


def _shortened(text: str) -> str:
    """Return a line short enough for a person; its end, which has the counts, stays."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 100]} … {text[-100:]}"


def _theirs(error: BaseException) -> TracebackType | None:
    """Return the traceback from the user's first frame on, without ours and click's."""
    ours = (os.path.dirname(os.path.dirname(__file__)), os.path.dirname(click.__file__))
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(ours):
            return trace
        trace = trace.tb_next
    return error.__traceback__


def _show_stop(error: BaseException, how: str) -> None:
    note("\n".join([how, *getattr(error, "__notes__", ())]))


def show_report(work: FileRun, as_json: bool, rest: Plan | None = None) -> None:
    """Say what a finished run did: on standard error, or as JSON on standard output.

    Args:
        work: the run.
        as_json: whether as JSON.
        rest: after a pilot, what a run over the same rows would do now.

    Raises:
        click.exceptions.Exit: with 3 if rows failed.
    """
    assert work.run is not None
    store = work.step.store.path
    if as_json:
        told = {"store": store, "output": work.output, "report": work.run.report}
        more = {"failed_rows": work.failed, "stale": work.run.stale}
        click.echo(safe_json(told | more | ({"rest": rest} if work.options["pilot"] else {})))
    else:
        _show_counts(work, store)
        if work.options["pilot"]:
            _show_rest(work, rest)
    if work.failed:
        again = (
            "leave out --no-retry-failed" if not work.options["retry_failed"] else "run it again"
        )
        note(
            f"{number(work.failed)} of {number(work.run.report.rows)} rows FAILED: {again} to "
            f"retry them; to see why: ckpt inspect {shown(store)} --failures"
        )
        raise click.exceptions.Exit(ROWS_FAILED)


def _show_rest(work: FileRun, rest: Plan | None) -> None:
    """Say what a pilot tells of the rest: its calls, their cost and their time."""
    if rest is None:
        note("what the rest costs cannot be said: standard input is read only once")
        return
    calls = rest.misses + rest.failed
    if not calls:
        note("no call is left to pay")
        return
    at_once = work.options.get("concurrency", 1)
    cost = "at an unknown cost" if rest.cost is None else f"about {money(rest.cost)}"
    used = f", about {tokens(rest.usage)}" if rest.usage else ""
    took = "" if rest.seconds is None else f", about {duration(rest.seconds / at_once)}"
    beside = f" at concurrency {at_once}" if at_once > 1 else ""
    note(
        f"the rest: {counted(calls, 'call')}, {cost}{used}{took}{beside}; run it without "
        "--pilot to go on"
    )


def _show_counts(work: FileRun, store: str) -> None:
    assert work.run is not None
    report = work.run.report
    speed = rate(report.rows, report.seconds)
    each = 1e3 * report.commit_seconds / report.commits if report.commits else 0
    paid = [money(report.cost)] * bool(report.cost) + [tokens(report.usage)] * bool(report.usage)
    cost = f", {', '.join(paid)} paid" if paid else ""
    note(
        f"{number(report.rows)} rows in {duration(report.seconds)} ({speed}): "
        f"{number(report.hits)} hits, {number(report.computed)} computed{cost}"
    )
    if work.run.stale:
        note(f"{number(work.run.stale)} saved results were computed by other code; see above")
    note(f"saved in {shown(store)}: {number(report.commits)} commits of {each:.1f} ms")
    if work.output and work.output != "-":
        note(f"written to {work.output}")
