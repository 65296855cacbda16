"""The command `ckpt`: its options, help and exit codes. What it does is in other modules."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .display import Screen, note, number, safe, safe_json, safe_lines
from .errors import CheckpointError

if TYPE_CHECKING:
    from .demo import Outcome
    from .running import Job

INTERRUPTED, PIPE_CLOSED = 130, 141


class Failure(click.ClickException):
    """An expected error: one clear line, no traceback."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(safe_lines(error))
        self.notes = [safe_lines(text) for text in getattr(error, "__notes__", ())]

    def show(self, file: Any = None) -> None:
        """Print the error, then what else there is to know about it."""
        super().show(file)
        for text in self.notes:
            click.echo(text, err=True)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an expected error ends as one line, Ctrl-C as 130."""
        from .sinks import OutputClosedError

        try:
            return super().invoke(ctx)
        except OutputClosedError:
            # what is still buffered has no reader either: keep Python from trying at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(PIPE_CLOSED)
        except CheckpointError as error:
            raise Failure(error) from error
        except KeyboardInterrupt:
            note("Stopped by Ctrl-C.")
            ctx.exit(INTERRUPTED)


class _Version(click.ParamType[int | str]):
    name = "version"

    def convert(self, value: Any, _param: Any, _context: Any) -> int | str:
        """Return an int if it looks like one, as it would in the code, else the text."""
        return int(value) if re.fullmatch(r"-?(0|[1-9]\d*)", str(value)) else str(value)


VERSION = _Version()
DURABILITY = click.Choice(["power", "process"])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("checkpointdb"), prog_name="ckpt")
def cli() -> None:
    """Run a step over many rows; killed, run it again: it goes on where it stopped.

    \b
    Try it:
      ckpt demo
      ckpt run label.py:label reviews.jsonl -o labelled.jsonl
      ckpt inspect reviews.ckpt
    """  # noqa: D301 - click wants a real \b before lines it must not join


def main() -> None:
    """Run the command line; the entry point of `ckpt`."""
    cli(prog_name="ckpt")


# --- demo


@cli.command(short_help="See a run killed and resumed.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def demo(as_json: bool) -> None:
    """Kill a run with SIGKILL in the middle, resume it, and count what that cost.

    Makes the folder ckpt-demo here (ckpt-demo-2 if there is one) with 300 movies, and a step that
    stands for a paid call: it takes 10 ms and writes a line to calls.log. One process runs it and
    is killed; a second process goes on. Exits with 1 if the numbers do not add up.

    \b
    Example:
      ckpt demo
    """  # noqa: D301 - click wants a real \b before lines it must not join
    from . import demo as lab

    folder = lab.new_folder()
    again = "ckpt " + " ".join(lab.command(folder))
    screen = None if as_json else Screen()
    if screen:
        screen.line(again, "bold")
    with _counting("first process", not as_json) as show:
        lab.kill_in_the_middle(folder, show)
    before = lab.count_calls(folder)
    if screen:
        screen.line(f"  first process    killed with SIGKILL after {before} calls", "red")
    with _counting("second process", not as_json) as show:
        lab.resume(folder, lambda calls: show(calls - before))
    outcome = lab.outcome(folder, before)
    if screen:
        screen.line("  second process   the same command again: finished", "green")
        _show_outcome(screen, outcome)
    else:
        click.echo(safe_json(outcome))
    if outcome.problems:
        raise Failure(CheckpointError(f"this does not add up: {'; '.join(outcome.problems)}"))


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
    screen.line(f"  next     ckpt inspect {outcome.folder}/movies.ckpt", "bold")


@contextlib.contextmanager
def _counting(what: str, wanted: bool) -> Iterator[Any]:
    if not (wanted and sys.stderr.isatty()):
        yield lambda _calls: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda calls: status.update(f"{what}: {calls} calls")


# --- run


@cli.command(short_help="Run a step over a file of rows.")
@click.argument("step")
@click.argument("input")
@click.option("-o", "--output", metavar="OUTPUT", help="Where to write rows and results.")
@click.option("--store", metavar="PATH", help="The store; needed for a plain function.")
@click.option("--version", type=VERSION, help="The step's version; needed for a plain function.")
@click.option("--save", metavar="POLICY", help="When to commit; see above.")
@click.option("--durability", type=DURABILITY, help="What a commit survives.")
@click.option("--batch-size", type=click.IntRange(1), help="Give the step lists of so many rows.")
@click.option("--limit", type=click.IntRange(0), help="Stop after so many rows.")
@click.option("--column", default="result", show_default=True, help="The result's column.")
@click.option("--merge", is_flag=True, help="Merge results that are dicts into the row instead.")
@click.option("--progress/--no-progress", default=None, help="A progress bar; on if in a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def run(step: str, input: str, output: str | None, **options: Any) -> None:
    """Run STEP over the rows of INPUT; only what is not saved yet is computed.

    STEP is module:function or path/file.py:function: a step decorated with @ckpt.step, or a plain
    function, which needs --store and --version. Options given here win over the decorator's.

    INPUT and OUTPUT are .jsonl, .json, .csv or .parquet files, or - for JSON lines on standard
    input or output. OUTPUT is replaced when it is whole, not before. Each of its rows is the row of
    INPUT and its result in one more column, which can never overwrite one of the row's; --merge
    turns a result's fields into columns, and refuses a clash. Without -o, results stay in the
    store: ckpt export writes them.

    POLICY is rows=100 or rows=100,seconds=5 (also bytes= and cost=), adaptive, adaptive=0.05,
    by_size or on_exit. Ctrl-C saves what has returned; so does a bad row or an error in the step.

    \b
    Examples:
      ckpt run label.py:label reviews.jsonl -o labelled.jsonl
      ckpt run clean:strip rows.csv -o clean.csv --store clean.ckpt --version 1 --save rows=1000
    """  # noqa: D301 - click wants a real \b before lines it must not join
    from .reporting import ending, show_report

    with _open_job(step, input, output, **options) as job, ending(job):
        job.go()
        show_report(job, options["as_json"])


@contextlib.contextmanager
def _open_job(
    step: str,
    input: str,
    output: str | None,
    *,
    store: str | None,
    version: int | str | None,
    save: str | None,
    durability: Any,
    batch_size: int | None,
    limit: int | None,
    column: str,
    merge: bool,
    progress: bool | None,
    as_json: bool,
) -> Iterator[Job]:
    from .loading import load
    from .running import Job
    from .shape import Shape
    from .sources import Source

    if as_json and output == "-":
        raise click.UsageError("--json and -o - both want standard output")
    if output and output != "-" and os.path.realpath(output) == os.path.realpath(input):
        raise click.UsageError(f"{output} is INPUT: give OUTPUT another name")
    with Source(input) as source:
        policy = None if save is None else _policy(save, source, limit)
        found = load(step, store=store, version=version, save=policy, durability=durability)
        bar = sys.stderr.isatty() if progress is None else progress
        yield Job(found, source, output, Shape(column, merge), batch_size, limit, bar)


def _policy(text: str, source: Any, limit: int | None) -> Any:
    from .saving import parse_save

    def count() -> int | None:
        rows: int | None = source.count()
        return limit if rows is None else min(rows, rows if limit is None else limit)

    try:
        return parse_save(text, count)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--save") from error


# --- inspect


@cli.command(short_help="Show what is in a store.")
@click.argument("store")
@click.argument("key", required=False)
@click.option("--step", metavar="NAME", help="Only this step.")
@click.option("--runs", is_flag=True, help="All runs, not only the last five.")
@click.option("--failures", is_flag=True, help="Why rows failed: each kind with an example.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; see docs/cli.md.")
def inspect(
    store: str, key: str | None, step: str | None, runs: bool, failures: bool, as_json: bool
) -> None:
    """Show what is in STORE: its steps, its runs and how they ended; with KEY, one record whole.

    KEY is a record's key in hex or its unique beginning. Only reads: safe while a run is writing.

    \b
    Examples:
      ckpt inspect reviews.ckpt
      ckpt inspect reviews.ckpt --failures
      ckpt inspect reviews.ckpt 3fa9
      ckpt inspect reviews.ckpt --json | jq '.steps[].results'
    """  # noqa: D301 - click wants a real \b before lines it must not join
    from . import inspecting, looking

    if key is not None and (step or runs or failures):
        raise click.UsageError("KEY shows one record: leave out --step, --runs and --failures")
    if key is not None:
        seen = looking.read(store, lambda reader: looking.one_record(reader, key))
    else:
        seen = looking.read(store, lambda reader: _seen(reader, step, failures))
    if as_json:
        click.echo(safe_json(seen))
    elif key is not None:
        inspecting.show_record(Screen(), seen)
    elif failures:
        inspecting.show_failures(Screen(), seen)
    else:
        inspecting.show_overview(Screen(), seen, all_runs=runs)


def _seen(reader: Any, step: str | None, failures: bool) -> dict[str, Any]:
    from . import looking

    seen = looking.overview(reader, step)
    if failures:
        seen["failures"] = looking.failures(reader, step)
    return seen


# --- export


@cli.command(short_help="Write a store's results to a file.")
@click.argument("store")
@click.option("-o", "--output", required=True, metavar="OUTPUT", help="The file, or - .")
@click.option("--step", metavar="NAME", help="Which step, if there are several.")
@click.option("--version", type=VERSION, help="Which version, if there are several.")
@click.option("--column", default="result", show_default=True, help="The result's column.")
@click.option("--merge", is_flag=True, help="Merge results that are dicts into the row instead.")
def export(
    store: str, output: str, step: str | None, version: int | str | None, column: str, merge: bool
) -> None:
    """Write the saved inputs and results of STORE to OUTPUT, in input order.

    OUTPUT is a .jsonl, .json, .csv or .parquet file, or - for JSON lines on standard output. It
    shows one moment of the store, also while a run is writing. Failed rows are left out.

    \b
    Examples:
      ckpt export reviews.ckpt -o results.csv
      ckpt export reviews.ckpt -o results.parquet --step label --version 2 --merge
    """  # noqa: D301 - click wants a real \b before lines it must not join
    from .exporting import export as write_export
    from .shape import Shape

    if os.path.realpath(output) == os.path.realpath(store):
        raise click.UsageError(f"{output} is STORE: give OUTPUT another name")
    done = write_export(store, output, Shape(column, merge), step, version)
    left_out = f", {number(done.failures)} failed ones left out" if done.failures else ""
    where = "" if output == "-" else f" to {output}"
    note(f"{number(done.rows)} rows of {safe(done.step)} {done.version} written{where}{left_out}")
