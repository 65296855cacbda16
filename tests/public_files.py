"""Run `ckpt` over public files and compare each cell with what pyarrow, csv and json read.

    python tests/public_files.py FOLDER > docs/public-files.md

FOLDER holds what others made, a folder for each owner and in it one for each repository. Each file
is run through a step that returns its row, written in its own format, and exported as Parquet (CSV
and JSON: as JSON lines). Opt in: nothing of it is committed, and nothing runs it by itself.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import math
import os
import re
import shlex
import sys
import tempfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
from cli_helpers import invoke

STEP = "def same(row):\n    return row\n"
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
ADVICE = re.compile(r"give --delimiter ('.'|tab)")
csv.field_size_limit(1 << 26)


class Refused(Exception):
    """`ckpt` refused the file, with this message."""


def main(folder: str) -> None:
    """Compare each file below `folder`, and print the page."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if name.removesuffix(".gz").endswith(ENDINGS):
                path = os.path.join(place, name)
                found.append((os.path.relpath(path, folder), *outcome(path)))
                print(*found[-1], sep="\t", file=sys.stderr, flush=True)
    print(page(found))


def outcome(path: str) -> tuple[str, str]:
    """Return `agrees`, `refused` or `differs`, and with which option, or why."""
    options: list[str] = []
    first = None
    while True:
        try:
            with tempfile.TemporaryDirectory() as work:
                why = differs(path, options, work)
        except Refused as refused:
            more = remedy(path, str(refused))
            if first is None or more != ["--format", "jsonl"]:
                first = said(str(refused), path) + reference(path, options)
            if more is None or more[0] in options:
                return "refused", first
            options += more
            continue
        if why:
            return "differs", why
        return "agrees", shlex.join(options)


def remedy(path: str, message: str) -> list[str] | None:
    """Return the option that the message asks for."""
    if match := ADVICE.search(message):
        return ["--delimiter", match[1].strip("'")]
    if "--encoding" in message:
        with open(path, "rb") as file:
            head = file.read(4)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return ["--encoding", "utf-16"]
        return ["--encoding", "utf-16-le" if b"\0" in head else "latin-1"]
    return ["--format", "jsonl"] if "--format jsonl" in message else None


def said(message: str, path: str) -> str:
    line = next((line for line in message.splitlines() if line.startswith("Error")), message)
    text = line.replace(path, os.path.basename(path)).removeprefix("Error: ")
    shown = " ".join(text.replace("\t", r"\t").split())[:160]
    return shown.encode("ascii", "backslashreplace").decode()


def ckpt(*arguments: str) -> None:
    done = invoke(*arguments)
    if done.exit_code:
        text = done.stderr if done.exception is None or done.stderr else repr(done.exception)
        raise Refused(text.strip())


def differs(path: str, options: list[str], work: str) -> str:
    """Run and export one file; return what differs, or nothing."""
    with open(os.path.join(work, "step.py"), "w") as file:
        file.write(STEP)
    step, store = os.path.join(work, "step.py") + ":same", os.path.join(work, "x.ckpt")
    ending = os.path.splitext(path.removesuffix(".gz"))[1]
    ending = ".jsonl" if "jsonl" in options else ending
    written = os.path.join(work, "out" + ending)
    exported = os.path.join(work, "exp.parquet" if ending == ".parquet" else "exp.jsonl")
    ckpt("run", step, path, "-o", written, "--store", store, "--version", "1", "--no-progress",
         "--save", "on_exit", "--durability", "process", *options)  # fmt: skip
    ckpt("export", store, "-o", exported, "--rows", path, *options)
    if ending == ".parquet":
        return parquet_differs(path, written) or parquet_differs(path, exported)
    wanted = read(path, options)
    return (
        different(wanted, exported_rows(exported))
        or different(wanted, [row["result"] for row in read(exported, [])])
        or (csv_differs(path, written, options) if ending in (".csv", ".tsv") else "")
        or ("" if ending in (".csv", ".tsv") else different(wanted, exported_rows(written)))
    )


def exported_rows(path: str) -> list:
    """Return the rows of output without their results."""
    rows = read(path, [])
    return [
        row["input"] if set(row) == {"input", "result"} else
        {name: value for name, value in row.items() if name != "result"}
        for row in rows
    ]  # fmt: skip


def text_of(path: str, options: list[str]) -> str:
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        data = file.read()
    encoding = option(options, "--encoding") or "utf-8-sig"
    return data.decode(encoding)


def option(options: list[str], name: str) -> str | None:
    return options[options.index(name) + 1] if name in options else None


def cells(path: str, options: list[str]) -> list[list[str]]:
    """Return what the csv module reads."""
    mark = option(options, "--delimiter") or ("\t" if ".tsv" in path else ",")
    delimiter = "\t" if mark == "tab" else mark
    text = io.StringIO(text_of(path, options), newline="")
    return list(csv.reader(text, delimiter=delimiter))


def read(path: str, options: list[str]) -> list:
    """Return the rows as the standard library reads them."""
    ending = os.path.splitext(path.removesuffix(".gz"))[1]
    if ending in (".csv", ".tsv"):
        rows = cells(path, options)
        header = next((row for row in rows if row), [])
        rest = rows[rows.index(header) + 1 :] if header else []
        if len(header) == 1:
            rest = [row or [""] for row in rest]
        return [dict(zip(header, row, strict=True)) for row in rest if row]
    text = text_of(path, options)
    if ending == ".json" and "jsonl" not in options:
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def different(wanted: list, given: list) -> str:
    if len(wanted) != len(given):
        return f"{len(given)} rows, not {len(wanted)}"
    for n, (one, other) in enumerate(zip(wanted, given, strict=True)):
        if dumped(one) != dumped(other):
            nan = " (JSON has no NaN: null is written)" * ("NaN" in dumped(one))
            return f"row {n}{nan}: {dumped(one)[:60]}, written as {dumped(other)[:60]}"
    return ""


def dumped(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def lines_of(path: str, options: list[str]) -> list[list[str]]:
    """Return the header and the rows; in one column an empty line is a row."""
    rows = cells(path, options)
    start = next((n for n, row in enumerate(rows) if row), len(rows))
    is_one = len(rows[start : start + 1][0]) == 1 if rows[start:] else False
    return [row or [""] for row in rows[start:] if row or is_one]


def csv_differs(path: str, written: str, options: list[str]) -> str:
    wanted, given = lines_of(path, options), lines_of(written, [])
    if len(wanted) == 1:
        wanted[0] = [*wanted[0], "result"]  # no result came that names other columns
    if len(wanted) != len(given):
        return f"{len(given)} lines, not {len(wanted)}"
    changed = [
        (one, other)
        for want, give in zip(wanted, given, strict=True)
        for one, other in zip(want, give, strict=True)
        if one != other
    ]
    if not changed:
        return ""
    if all(other == "'" + one for one, other in changed):
        return f"{len(changed)} cells begin as a formula does, and got a ' before them"
    return f"{len(changed)} cells, such as {changed[0]}"


def parquet_differs(path: str, written: str) -> str:
    """Compare columns and types with what pyarrow reads of the original file."""
    given = pq.read_table(written)
    try:
        wanted = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        return f"pyarrow reads it by batches only: {error}"
    for field in wanted.schema:
        one, other = wanted.column(field.name), given.column(field.name)
        if one.type != other.type:
            return f"column {field.name}: {one.type} is written as {other.type}"
        if not one.equals(other) and told(one) != told(other):
            return f"column {field.name} has other values"
    return result_differs(wanted, given)


def result_differs(wanted: pa.Table, given: pa.Table) -> str:
    """Compare results, which are the rows, with what pyarrow makes of the original file."""
    if "result" not in given.column_names or not wanted.num_rows:
        return ""
    try:
        rows = rows_of(wanted)
    except (OverflowError, ValueError):
        return ""  # pyarrow itself cannot make Python's values of these
    for row, back in zip(rows, given.column("result").to_pylist(), strict=True):
        if not isinstance(back, dict):
            continue  # they have no type in common: each is its JSON
        for name in row:
            one, other = (told_value(each[name], spelled=True) for each in (row, back))
            if one != other:
                return f"the result's {name}: {one[:60]} comes back as {other[:60]}"
    return ""


def told(column: pa.ChunkedArray) -> list[str]:
    """Return values in which NaN equals NaN."""
    return [told_value(value) for value in column.to_pylist()]


def told_value(value: object, spelled: bool = False) -> str:
    """Return a value as text; `spelled`: a time and its ISO text are the same."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {told_value(v, spelled)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(told_value(each, spelled) for each in value) + "]"
    if spelled and isinstance(value, dt.datetime):
        return repr(value.isoformat())
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(float(value))
    return repr(value)


def rows_of(table: pa.Table) -> list[dict]:
    columns = [column.to_pylist() for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def reference(path: str, options: list[str]) -> str:
    """Say whether the other reader takes what `ckpt` refuses."""
    try:
        rows = pq.read_table(path).to_pylist() if path.endswith(".parquet") else read(path, options)
    except Exception as error:
        return f" ({type(error).__name__} in the other reader too)"
    return "" if isinstance(rows, list) else " (one object, no rows)"


def page(found: list[tuple[str, str, str]]) -> str:
    counts = Counter(outcome for _, outcome, _ in found)
    plain = sum(outcome == "agrees" and not how for _, outcome, how in found)
    lines = [
        "# Public files",
        "",
        "Files that others made, run through a step that returns its row, then written and",
        "exported again. Every cell is compared with what `pyarrow`, `csv` and `json` read of the",
        "original; of Parquet its type too. `tests/public_files.py` makes this page from a folder",
        "of files; the files are not part of this repository.",
        "",
        f"Of {len(found)} files {counts['agrees']} agree: {plain} as they are, the others with the",
        f"option that the error names. {counts['refused']} are refused with a reason: files that",
        "are damaged, which `pyarrow` refuses too; CSV with lines of several lengths, open quotes",
        "or columns of one name, made to test that; JSON that is one object and has no rows.",
        f"{counts['differs']} differ:",
        "",
        "- CSV: text that a spreadsheet would run as a formula gets a `'` before it (docs/cli.md).",
        "- `timestamp[ns]` written as `timestamp[us]` or text: int96 of years that nanoseconds do",
        "  not reach. All values are there, which `pyarrow` does not read without an option.",
        "- A time before midnight or at 24:00 is text; `pyarrow` wraps it around.",
        "- A decimal with more digits than its column's type has: the type is a wider one.",
        "- A field that may not be null, in a struct that is null itself: it may be null. A struct",
        "  without fields, which Parquet's writer refuses, is written as null or as text.",
    ]
    for outcome_, title in (
        ("differs", "Files that differ"),
        ("refused", "Files that are refused"),
        ("agrees", "Files that agree"),
    ):
        lines += ["", f"## {title}", "", "| file | " + "why |\n|---|---|"]
        if outcome_ == "agrees":
            lines[-1] = "| file | with |\n|---|---|"
        for name, kind, how in found:
            if kind == outcome_:
                code = f"`{how}`" if how and outcome_ == "agrees" else how
                lines.append(f"| {name} | {code.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1])
