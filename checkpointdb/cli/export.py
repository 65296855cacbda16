"""`ckpt export`: write a store's inputs and results to a file. Only reads the store."""

from __future__ import annotations

import click
import msgspec

from ..file.read import Reader
from .display import counted, note, number, safe
from .group import VERSION, column_option, merge_option
from .shape import Shape
from .sinks import check_apart, writing
from .store_view import one_step, read


@click.command("export", short_help="Write a store's results to a file.")
@click.argument("store")
@click.option(
    "-o", "--output", required=True, metavar="OUTPUT", help="The file, or - for JSON lines."
)
@click.option("--step", metavar="NAME", help="Which step, if there are several.")
@click.option("--version", type=VERSION, help="Which version, if there are several.")
@column_option
@merge_option
def export_command(
    store: str, output: str, step: str | None, version: int | str | None, column: str, merge: bool
) -> None:
    """Write the saved inputs and results of STORE to OUTPUT, in input order.

    OUTPUT is a .jsonl, .json, .csv or .parquet file, or - for JSON lines on standard output. It
    shows one moment of the store, even while a run is writing. Failed rows are left out.

    \b
    Examples:
      ckpt export reviews.ckpt -o results.csv
      ckpt export reviews.ckpt -o results.parquet --step label --version 2 --merge
    """  # noqa: D301 - click wants a real \b before lines it must not join
    check_apart(output, store)
    done = export(store, output, Shape(column, merge), step, version)
    left_out = f", {number(done.failures)} failed ones left out" if done.failures else ""
    unkept = f", {number(done.unkept)} without their input, which was not kept" * bool(done.unkept)
    where = "" if output == "-" else f" to {output}"
    of = f"{safe(done.step)} {done.version}"
    note(f"{counted(done.rows, 'row')} of {of} written{where}{left_out}{unkept}")


class Exported(msgspec.Struct):
    """What an export did: rows written, failures left out, and rows whose input is not kept."""

    step: str
    version: int | str
    rows: int
    failures: int
    unkept: int = 0


def export(
    store: str, output: str, shape: Shape, step: str | None, version: int | str | None
) -> Exported:
    """Write the results of one step, in input order, with their inputs, from one snapshot.

    Rows that failed are left out and counted. A run may write to the store meanwhile.

    Raises:
        LookError: no such step, or more than one. TableError: `output`. StoreError: the store.
    """

    def copy(reader: Reader) -> Exported:
        info = one_step(reader, step, version)
        done = Exported(info.name, info.version, 0, info.failures)
        with writing(output) as write:
            for record in reader.records(info.name, info.version, status="ok"):
                where = f"row {record.position}"
                shape.check(record.input, where)
                write(shape.join(record.input, record.result, where))
                done.rows += 1
                done.unkept += record.kept == "nothing"
            reader.check_unchanged()
        return done

    return read(store, copy, again=output != "-")
