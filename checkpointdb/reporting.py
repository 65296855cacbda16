"""What became of a `ckpt run`, for a person: report, traceback, how to go on; and its exit code."""

from __future__ import annotations

import contextlib
import os
import traceback
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import click

from .display import duration, note, number, rate, safe_json, shown
from .errors import CheckpointError
from .running import Job

STEP_FAILED, INTERRUPTED, TERMINATED = 1, 130, 143


@contextlib.contextmanager
def ending(job: Job) -> Iterator[None]:
    """Say how a run ended that did not finish, and how to go on.

    Errors of checkpointdb pass through. The step's own error is shown with its traceback.

    Raises:
        click.exceptions.Exit: with 1 after the step's error, 130 after Ctrl-C.
        SystemExit: as it came: 143 after SIGTERM.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
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
        if job.run is None or isinstance(error, click.ClickException | click.exceptions.Exit):
            raise
        trace = traceback.format_exception(error.with_traceback(_theirs(error)))
        note("".join(trace).rstrip())
        raise click.exceptions.Exit(STEP_FAILED) from error


def _show_warning(message: Warning | str, *_place: Any, **_more: Any) -> None:
    note(f"Warning: {message}")


def _theirs(error: BaseException) -> TracebackType | None:
    """Return the traceback from the user's first frame on, without ours and click's."""
    ours = (os.path.dirname(__file__), os.path.dirname(click.__file__))
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(ours):
            return trace
        trace = trace.tb_next
    return error.__traceback__


def _show_stop(error: BaseException, how: str) -> None:
    note("\n".join([how, *getattr(error, "__notes__", ())]))


def show_report(job: Job, as_json: bool) -> None:
    """Say what a run did that finished: on standard error, or as JSON on standard output."""
    assert job.run is not None
    report, store = job.run.report, job.step.store.path
    if as_json:
        click.echo(safe_json({"store": store, "output": job.output, "report": report}))
        return
    speed = rate(report.rows, report.seconds)
    share = 100 * report.commit_seconds / report.seconds if report.seconds else 0
    note(
        f"{number(report.rows)} rows in {duration(report.seconds)} ({speed}): "
        f"{number(report.hits)} hits, {number(report.computed)} computed"
    )
    note(f"saved in {shown(store)}: {number(report.commits)} commits, {share:.1f} % of the time")
    if job.output and job.output != "-":
        note(f"written to {job.output}")
