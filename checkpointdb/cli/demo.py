"""`ckpt demo`: pay for calls, be killed, go on. Counts everything from outside; assumes nothing.

The rows are 300 of the 3,201 movies of vega-datasets (BSD-3-Clause, github.com/vega/vega-datasets),
as they are there: nulls, numbers for titles and broken letters included.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.resources
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import click
import msgspec

from ..errors import CheckpointError
from .display import Screen, safe_json
from .group import Failure
from .store_view import read, state

SAVE_ROWS = 20
KILL_AFTER = 157  # calls: between two commits, so that there is something to lose
CALL_SECONDS = 0.01
TIME_LIMIT = 60.0

STEP = f'''\
"""The step of `ckpt demo`. It stands for a call that costs money: each is a line in calls.log."""

import os
import time
from pathlib import Path

import checkpointdb as ckpt

HERE = Path(__file__).parent


@ckpt.step(HERE / "movies.ckpt", version=1, save=ckpt.every(rows={SAVE_ROWS}))
def rate(movie: dict) -> dict:
    with open(HERE / "calls.log", "a") as log:
        log.write(f"{{os.getpid()}} {{movie['Title']}} ({{movie['Release Date']}})\\n")
    time.sleep({CALL_SECONDS})
    score = movie["IMDB Rating"]
    return {{"verdict": "unknown" if score is None else "good" if score >= 7 else "so-so"}}
'''


class Outcome(msgspec.Struct, frozen=True):
    """What a demo showed; all counted from its log of calls, its store and its results.

    Attributes:
        folder: where it all is.
        rows: rows of input.
        calls_before: calls that the first process made before it was killed.
        calls_after: calls that the second process made.
        lost: rows computed again.
        window: the most that may be lost: the loss window in rows and the call in flight.
        spared: calls paid for before the kill and not paid twice.
        first_run: how the store says that the first run ended.
        problems: what does not add up, [] if all does.
    """

    folder: str
    rows: int
    calls_before: int
    calls_after: int
    lost: int
    window: int
    spared: int
    first_run: str
    problems: list[str]


def command(folder: str) -> list[str]:
    """Return what both processes run, as `ckpt` arguments."""
    return [
        "run", f"{folder}/step.py:rate", f"{folder}/movies.jsonl",
        "-o", f"{folder}/results.jsonl",
    ]  # fmt: skip


def new_folder() -> str:
    """Make `ckpt-demo` here, or `ckpt-demo-2` and so on, with the rows and the step in it.

    Raises:
        CheckpointError: nothing can be written here.
    """
    for n in itertools.count(1):
        folder = "ckpt-demo" if n == 1 else f"ckpt-demo-{n}"
        try:
            os.mkdir(folder)
        except FileExistsError:
            continue
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be made here: {error.strerror}") from error
        break
    rows = importlib.resources.files(__package__).joinpath("demo_movies.jsonl").read_bytes()
    for name, content in (("movies.jsonl", rows), ("step.py", STEP.encode())):
        with open(os.path.join(folder, name), "xb") as file:
            file.write(content)
    return folder


def kill_in_the_middle(folder: str, show: Callable[[int], object]) -> None:
    """Start the first process and send it SIGKILL after some calls.

    Raises:
        CheckpointError: it ended before that.
    """
    with tempfile.TemporaryFile() as said:
        process = _start(folder, said)
        _watch(folder, process, show, until=KILL_AFTER)
        if process.poll() is not None:
            raise _unexpected("the first process ended by itself", said)
        process.send_signal(signal.SIGKILL)
        process.wait()


def resume(folder: str, show: Callable[[int], object]) -> None:
    """Run the same command again, to its end.

    Raises:
        CheckpointError: it failed.
    """
    with tempfile.TemporaryFile() as said:
        process = _start(folder, said)
        _watch(folder, process, show)
        if process.wait() != 0:
            raise _unexpected(f"the second process failed (exit code {process.returncode})", said)


def _start(folder: str, said: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, "-m", "checkpointdb", *command(folder)],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
    )


def _watch(
    folder: str,
    process: subprocess.Popen[bytes],
    show: Callable[[int], object],
    until: int | None = None,
) -> None:
    give_up = time.monotonic() + TIME_LIMIT
    try:
        while process.poll() is None and (until is None or len(_calls(folder)) < until):
            show(len(_calls(folder)))
            time.sleep(0.005)
            if time.monotonic() > give_up:
                process.kill()
    except BaseException:  # Ctrl-C here must not leave it running
        process.kill()
        process.wait()
        raise


def _unexpected(what: str, said: IO[bytes]) -> CheckpointError:
    said.seek(0)
    return CheckpointError(f"{what}; it said:\n{said.read().decode(errors='replace').strip()}")


def _calls(folder: str) -> list[str]:
    try:
        with open(os.path.join(folder, "calls.log"), encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def count_calls(folder: str) -> int:
    """Return how many calls the log shows."""
    return len(_calls(folder))


def outcome(folder: str, calls_before: int) -> Outcome:
    """Count what happened, and check that it adds up."""
    calls = _calls(folder)
    times = collections.Counter(line.split(" ", 1)[1] for line in calls)
    inputs, results = (
        _rows(os.path.join(folder, name)) for name in ("movies.jsonl", "results.jsonl")
    )
    store = os.path.join(folder, "movies.ckpt")
    first, second = read(store, lambda reader: reader.runs())[:2]
    saved = read(store, lambda reader: sum(info.results for info in reader.steps()))
    rows = len(inputs)
    lost = sum(n - 1 for n in times.values())
    facts = {
        f"the store holds {saved} results for {rows} rows": saved == rows,
        f"{len(times)} of {rows} rows were called": len(times) == rows,
        f"{lost} rows were lost, more than the window": lost <= SAVE_ROWS,
        "a row was called three times": max(times.values()) <= 2,
        f"{len(calls)} calls are not {rows} rows and {lost} lost": len(calls) == rows + lost,
        "the results are not one for each row, in order": _inputs_of(results) == inputs,
        "the first run was not killed": state(first) == "killed",
        "the second run did not finish": second.ended == "finished",
        "the second run found nothing saved": second.report.hits == calls_before - lost,
    }
    return Outcome(
        folder, rows, calls_before, len(calls) - calls_before, lost, SAVE_ROWS,
        calls_before - lost, state(first), [what for what, holds in facts.items() if not holds],
    )  # fmt: skip


def _rows(path: str) -> list[Any]:
    with open(path, "rb") as file:
        return [msgspec.json.decode(line) for line in file]


def _inputs_of(results: list[dict[str, Any]]) -> list[Any]:
    return [{k: v for k, v in row.items() if k != "result"} for row in results]


# --- the command


@click.command("demo", short_help="See a run killed and resumed.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def demo_command(as_json: bool) -> None:
    """Kill a run with SIGKILL in the middle, resume it, and count what that cost.

    Makes the folder ckpt-demo here (ckpt-demo-2 if there is one) with 300 movies, and a step that
    stands for a paid call: it takes 10 ms and writes a line to calls.log. One process runs it and
    is killed; a second process goes on. Exits with 1 if the numbers do not add up.

    \b
    Example:
      ckpt demo
    """  # noqa: D301 - click wants a real \b before lines it must not join
    folder = new_folder()
    again = "ckpt " + " ".join(command(folder))
    screen = None if as_json else Screen()
    if screen:
        screen.line(again, "bold")
    with _counting("first process", not as_json) as show:
        kill_in_the_middle(folder, show)
    before = count_calls(folder)
    if screen:
        screen.line(f"  first process    killed with SIGKILL after {before} calls", "red")
    with _counting("second process", not as_json) as show:
        resume(folder, lambda calls: show(calls - before))
    told = outcome(folder, before)
    if screen:
        screen.line("  second process   the same command again: finished", "green")
        _show_outcome(screen, told)
    else:
        click.echo(safe_json(told))
    if told.problems:
        raise Failure(CheckpointError(f"this does not add up: {'; '.join(told.problems)}"))


def _show_outcome(screen: Screen, outcome: Outcome) -> None:
    screen.line()
    for count, what in (
        (outcome.rows, "rows"),
        (outcome.calls_before, "calls before the kill"),
        (outcome.calls_after, "calls after it"),
        (outcome.lost, f"rows lost and computed again (at most {outcome.window}: "
                       f"{outcome.window - 1} returned, 1 in flight)"),
        (outcome.spared, "calls paid before the kill and not paid twice"),
    ):  # fmt: skip
        screen.line(f"  {count:>5}  {what}")
    screen.line()
    screen.line(f"  results  {outcome.folder}/results.jsonl")
    screen.line(f"  store    {outcome.folder}/movies.ckpt")
    by = "uv run --no-dev " if "UV_RUN_RECURSION_DEPTH" in os.environ else ""  # as it was called
    screen.line(f"  next     {by}ckpt inspect {outcome.folder}/movies.ckpt", "bold")


@contextlib.contextmanager
def _counting(what: str, wanted: bool) -> Iterator[Any]:
    if not (wanted and sys.stderr.isatty()):
        yield lambda _calls: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda calls: status.update(f"{what}: {calls} calls")
