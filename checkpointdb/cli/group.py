"""What all commands share: errors in one line, exit codes, options. Knows click; no command."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import __version__
from ..engine.options import check_shard
from ..errors import CheckpointError
from .completion import files, versions
from .display import note, note_warning, safe_lines
from .formats import FORMATS
from .sinks import OutputClosedError

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED, PIPE_CLOSED = 130, 141


class Failure(click.ClickException):
    """An expected error: one clear line, no traceback."""

    def __init__(self, error: BaseException | str) -> None:
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
        try:
            with warnings.catch_warnings():
                warnings.showwarning = note_warning
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


@contextlib.contextmanager
def bucket_errors() -> Iterator[None]:
    """Report text that is not a URL, or an extra that is not installed, in one line."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise Failure(error) from error


def version_of(text: str) -> int | str:
    """Return an int if `text` looks like one, as it would in the code, else the text."""
    return int(text) if re.fullmatch(r"-?(0|[1-9]\d*)", text) else text


if TYPE_CHECKING:
    _VersionType = click.ParamType[int | str]
    _TextType = click.ParamType[str | None]
    _ShardType = click.ParamType[tuple[int, int]]
else:
    _VersionType = _TextType = _ShardType = (
        click.ParamType
    )  # before click 8.4 it cannot be subscripted


class _Version(_VersionType):
    name = "version"

    def convert(self, value: Any, _param: Any, _context: Any) -> int | str:
        """Return the version that was meant."""
        return version_of(str(value))


VERSION = _Version()

store_option = click.option(
    "--store", metavar="PATH", shell_complete=files, help="The store; needed for a plain function."
)
version_option = click.option(
    "--version",
    type=VERSION,
    shell_complete=versions,
    help="The step's version; needed for a plain function.",
)
on_change_option = click.option(
    "--on-change",
    type=click.Choice(["warn", "reuse", "recompute", "error"]),
    help="What to do with saved results of other code; the step's own choice if not given.",
)
limit_option = click.option("--limit", type=click.IntRange(0), help="Stop after so many rows.")
column_option = click.option(
    "--column", default="result", show_default=True, help="The result's column."
)
error_column_option = click.option(
    "--error-column", default="error", show_default=True, help="The column of rows that failed."
)
merge_option = click.option(
    "--merge/--no-merge",
    default=None,
    help="Make the fields of results that are dicts columns of the row, or never; if not given, in "
    "CSV only.",
)


class _Shard(_ShardType):
    name = "shard"

    def convert(self, value: Any, _param: Any, _context: Any) -> tuple[int, int]:
        """Return which part of how many: `3/8` is part 3 of 0 to 7."""
        found = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if found is None:
            self.fail(f"give PART/PARTS, such as 0/8, not {value!r}")
        shard = int(found[1]), int(found[2])
        try:
            check_shard(shard)
        except ValueError as error:
            self.fail(str(error))
        return shard


shard_option = click.option(
    "--shard", type=_Shard(), metavar="I/N", help="Only part I of N of the rows, from 0."
)


class _Delimiter(_TextType):
    name = "delimiter"

    def convert(self, value: Any, _param: Any, _context: Any) -> str:
        """Return the character that was meant."""
        text = {"tab": "\t", r"\t": "\t"}.get(value.lower(), value)
        if len(text) != 1 or text in '"\r\n\0':
            self.fail(f"{value!r} is not one character: give , or ';' or '|' or tab")
        return str(text)


class _Encoding(_TextType):
    name = "encoding"

    def convert(self, value: Any, _param: Any, _context: Any) -> str | None:
        """Return the name of the encoding that was meant; None for UTF-8."""
        try:
            "".encode(value)
            name = codecs.lookup(value).name
        except (LookupError, ValueError):
            self.fail(f"{value!r} is not an encoding of text: give utf-16, cp1252 or latin-1, say")
        return None if name in ("utf-8", "utf-8-sig") else name


def dialect_options(command: F) -> F:
    """Add the options that say how an input is to be read, where its name or bytes do not."""
    for option in (
        click.option("--encoding", type=_Encoding(), help="Of the input's text, if not UTF-8."),
        click.option(
            "--delimiter", type=_Delimiter(), metavar="CHAR", help="Of CSV: ';' or tab, say."
        ),
        click.option(
            "--format", type=click.Choice(FORMATS), help="Of the input, whatever its ending says."
        ),
    ):
        command = option(command)
    return command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ckpt")
def cli() -> None:
    """Run a step over many rows. If it is killed, run it again: it goes on where it stopped.

    \b
    Try it:
      ckpt demo
      ckpt run label.py:label reviews.jsonl -o labelled.jsonl
      ckpt inspect reviews.ckpt
    """  # noqa: D301 - click wants a real \b before lines it must not join


def agreed(question: str, yes: bool, dry_run: bool) -> bool:
    """Say what would change, and return whether to change it: told so, or asked on a terminal.

    Raises:
        Failure: nobody to ask.
    """
    note(question)
    if dry_run or yes:
        return not dry_run
    if not sys.stdin.isatty():
        raise Failure("nothing was changed: add --yes to do it")
    return click.confirm("Go on?", err=True)


force_option = click.option("--force", is_flag=True, help="Replace a file that is there.")
yes_option = click.option("--yes", is_flag=True, help="Do it without asking.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only count.")
