"""`ckpt run`: its options and what they mean. `running.py` does the work."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import click

from ..engine.keywords import RunOptions
from ..engine.options import Options, StepSettings
from ..plan import Plan
from .completion import files
from .formats import Dialect
from .group import (
    column_option,
    dialect_options,
    error_column_option,
    limit_option,
    merge_option,
    on_change_option,
    shard_option,
    store_option,
    version_option,
)
from .loading import function_or_field, load, look_up
from .reporting import ending, show_report
from .running import FileRun
from .saving import parse_save
from .shape import Shape
from .sinks import check_apart, is_same
from .sources import Source


@click.command("run", short_help="Run a step over a file of rows.")
@click.argument("step", shell_complete=files)
@click.argument("input", shell_complete=files)
@click.option(
    "-o",
    "--output",
    metavar="OUTPUT",
    shell_complete=files,
    help="Where to write rows and results.",
)
@dialect_options
@store_option
@version_option
@click.option("--save", metavar="POLICY", help="When to commit; see above.")
@click.option("--durability", type=click.Choice(["power", "process"]), help="What commits survive.")
@click.option(
    "--concurrency", type=click.IntRange(1), default=1, show_default=True, help="Calls in flight."
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Call the step with lists of this many rows."
)
@limit_option
@shard_option
@on_change_option
@click.option(
    "--on-error",
    type=click.Choice(["raise", "record"]),
    help="A row that fails ends the run, or is recorded while the run continues.",
)
@click.option("--no-retry-failed", is_flag=True, help="Leave rows that failed earlier as failed.")
@click.option("--retry-failed-last", is_flag=True, help="Try them again after all other rows.")
@click.option(
    "--pilot",
    type=click.IntRange(1),
    metavar="N",
    help="Stop after N calls, and say what the rest will cost.",
)
@click.option(
    "--stop-on",
    multiple=True,
    metavar="NAME",
    help="Exception that always ends the run.",
)
@click.option(
    "--pause-on",
    multiple=True,
    metavar="NAME",
    help="Exception that makes all calls wait, or a function from it to seconds.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long a call may take; then its row fails.",
)
@click.option("--cost", metavar="NAME", help="Function from a result to its dollars.")
@click.option(
    "--usage", metavar="NAME", help="Function from a result to its token counts, or their field."
)
@click.option("--max-cost", type=float, metavar="DOLLARS", help="The step's budget, over all runs.")
@click.option("--shared", is_flag=True, help="Other processes run the same rows at the same time.")
@click.option("--ledger", is_flag=True, help="Note each call on disk before it is made.")
@column_option
@error_column_option
@merge_option
@click.option("--progress/--no-progress", default=None, help="A progress bar; on if in a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def run_command(step: str, input: str, output: str | None, as_json: bool, **options: Any) -> None:
    """Run STEP over the rows of INPUT; compute only the rows that are not saved yet.

    STEP is module:function or path/file.py:function: a step decorated with @ckpt.step, or a plain
    function, which needs --store and --version. Options given here override the decorator's.

    INPUT and OUTPUT are .jsonl, .json, .csv, .tsv or .parquet files, all but the last with .gz too,
    or - for JSON lines on standard input or output. OUTPUT is replaced only when the new file is
    complete. Each of its rows is the row of INPUT with the result in one more column, which can
    never overwrite another; CSV has a column for each field of results that are dicts. --merge adds
    these columns in every format, and refuses a clash. Without -o the results are in the store
    only: ckpt export writes them.

    POLICY is rows=100 or rows=100,seconds=5 (also bytes= and cost=), adaptive, adaptive=0.05,
    by_size or on_exit. Ctrl-C, a bad row and an error in the step save all that has returned.

    With --on-error record a row that fails is saved with its error and written with an error column
    instead of a result, and the run continues. If rows failed, ckpt says how many and exits with 3;
    the next run tries them again. NAME is a name in STEP's module, a builtin, or module:name.

    With --shard 3/8 it takes the rows whose key falls to part 3 of 8, counted from 0. Give each
    machine a part and a store of its own, and bring the stores together with ckpt merge.

    \b
    Examples:
      ckpt run label.py:label reviews.jsonl -o labelled.jsonl
      ckpt run clean:strip rows.csv -o clean.csv --store clean.ckpt --version 1 --save rows=1000
      ckpt run label.py:label reviews.jsonl --concurrency 64 --on-error record --stop-on QuotaError
      ckpt run label.py:label reviews.jsonl --pilot 40
    """  # noqa: D301 - click wants a real \b before lines it must not join
    if as_json and output == "-":
        raise click.UsageError("--json and -o - both write to standard output: leave one out")
    _check_passes(output, **options)
    if output and is_same(output, input):
        raise click.UsageError(f"{output} is INPUT: give OUTPUT another name")
    with _open_job(step, input, output, **options) as work:
        with ending(work):
            work.go()
        rest = _rest(work, input, options) if options["pilot"] else None
        show_report(work, as_json, rest)


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
    on_change: Any,
    limit: int | None,
    shard: tuple[int, int] | None,
    column: str,
    error_column: str,
    merge: bool | None,
    format: str | None,
    delimiter: str | None,
    encoding: str | None,
    progress: bool | None,
    **options: Any,
) -> Iterator[FileRun]:
    with Source(input, Dialect(format, delimiter, encoding)) as source:
        if output and store:  # before a store of that name is even looked at
            check_apart(output, store)
        policy = None if save is None else _policy(save, source, limit)
        found = load(
            step, store=store, version=version, save=policy, durability=durability,
            on_change=on_change,
        )  # fmt: skip
        if output:
            check_apart(output, found.path)
        asked = _asked(step, found._settings, **options)
        may_fail = asked["on_error"] == "record" or not asked["retry_failed"]
        shape = Shape(column, merge, error_column if may_fail else None)
        bar = sys.stderr.isatty() if progress is None else progress
        yield FileRun(found, source, output, shape, asked, limit, bar, shard)


def _asked(
    step: str,
    settings: StepSettings,
    *,
    no_retry_failed: bool,
    retry_failed_last: bool,
    stop_on: tuple[str, ...],
    pause_on: tuple[str, ...],
    timeout: float | None,
    cost: str | None,
    usage: str | None,
    on_error: Any,
    shared: bool,
    **rest: Any,
) -> RunOptions:
    """Return the options of the run, checked before anything is opened or paid.

    What is not given stays as the step has it.
    """
    if rest["max_cost"] is not None and cost is None and settings.cost is None:
        raise click.UsageError("--max-cost needs --cost, a function from a result to its dollars")
    asked: Any = rest | {
        "retry_failed": "last" if retry_failed_last else not no_retry_failed,
        "ordered": not retry_failed_last,
        "stop_on": tuple(look_up(name, step) for name in stop_on),
        "cost": settings.cost if cost is None else look_up(cost, step),
        "usage": settings.usage if usage is None else function_or_field(usage, step),
        "on_error": on_error or settings.on_error,
        "shared": shared or settings.shared,
    }
    if pause_on:
        named = tuple(look_up(name, step) for name in pause_on)
        asked["pause_on"] = named[0] if len(named) == 1 else named
    if timeout is not None:  # or it would undo the step's own
        asked["timeout"] = timeout
    try:
        Options(**asked)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    return asked  # type: ignore[no-any-return]


def _check_passes(
    output: str | None,
    pilot: int | None,
    retry_failed_last: bool,
    no_retry_failed: bool,
    **_: Any,
) -> None:
    """Raise where rows would be missing in the output, or come in another order."""
    if retry_failed_last and no_retry_failed:
        raise click.UsageError("--retry-failed-last and --no-retry-failed exclude each other")
    if output and pilot:
        raise click.UsageError("--pilot computes some rows and writes none: leave -o out")
    if output and retry_failed_last:
        raise click.UsageError(
            "--retry-failed-last computes rows in another order than INPUT has: leave -o out, and "
            "write them with ckpt export --rows INPUT"
        )


def _rest(work: FileRun, input: str, options: dict[str, Any]) -> Plan | None:
    """Return what the rows of the input still cost; None if it cannot be read again."""
    if input == "-":
        return None
    dialect = Dialect(options["format"], options["delimiter"], options["encoding"])
    with Source(input, dialect) as source:
        return work.step.plan(itertools.islice(source, options["limit"]))


def _policy(text: str, source: Source, limit: int | None) -> Any:
    def count() -> int | None:
        rows = source.count()
        return limit if rows is None else min(rows, rows if limit is None else limit)

    try:
        return parse_save(text, count)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--save") from error
