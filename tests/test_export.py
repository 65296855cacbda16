"""`ckpt export`: which rows. An old input and a new one are never mixed unasked."""

from __future__ import annotations

import csv
import json

import pytest
from cli_helpers import invoke, read_rows, write_rows

import checkpointdb as ck
from checkpointdb.cli.shape import Shape
from checkpointdb.values.codec import encode


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label(row):
    if row["n"] < 0:
        raise ValueError("below zero")
    return row["n"] * 10


def fill(numbers, **options):
    rows = [{"n": n} for n in numbers]
    keywords = {"store": "x.ckpt", "version": 1, "on_error": "record"} | options
    list(ck.run(label, rows, **keywords))


def export(*arguments, code=0):
    done = invoke("export", "x.ckpt", "-o", "out.jsonl", "--force", *arguments)
    assert done.exit_code == code, done.output
    return done


def numbers(folder):
    return [row["n"] for row in read_rows(folder / "out.jsonl")]


def test_several_inputs_are_refused_unless_one_is_named(here):
    fill([1, 2, 3])
    fill([9, 2, 3, 4])
    (here / "out.jsonl").write_text("old")
    said = export(code=1).stderr
    assert "rows of several inputs are saved for label 1" in said
    assert "(runs 1 and 2 have different rows at position 0)" in said
    assert all(option in said for option in ("--rows FILE", "--run N", "--all"))
    assert (here / "out.jsonl").read_text() == "old"
    write_rows(here / "new.jsonl", [{"n": n} for n in (9, 2, 3, 4)])
    export("--rows", "new.jsonl")
    assert numbers(here) == [9, 2, 3, 4]
    export("--run", "1")
    assert numbers(here) == [1, 2, 3]
    export("--run", "2")
    assert numbers(here) == [9, 4]
    export("--rows", "new.jsonl", "--run", "1")
    assert numbers(here) == [2, 3]
    export("--all")
    assert sorted(numbers(here)) == [1, 2, 3, 4, 9]


def test_one_input_in_several_runs_is_one_input(here):
    fill([1, 2])
    fill([1, 2, 3, 4])
    fill([1, 2, 3, 4])
    assert "earlier" not in export().stderr
    assert numbers(here) == [1, 2, 3, 4]


def test_rows_that_the_last_run_did_not_have_are_said(here):
    fill([1, 2, 3])
    fill([1, 3])
    assert "the last run went over 2 rows only" in export().stderr
    assert "the last run" not in export("--all").stderr


ROWS = [
    {}, {"n": 1}, {"": 2.5, "é\u2028": ["x"]}, {"inner": {"result": 3}}, {"t": '"result":'}, [1],
    "text", None, 1 << 70, {"t": (1, 2)}, {"v": [0.5] * 100}, {"half": "\ud83d"}, {7: "seven"},
]  # fmt: skip
PAGES = 600  # rows, of which some pages have none that is not spliced


@pytest.mark.parametrize("column", ["result", "é", "\ud83d"], ids=["plain", "letter", "half"])
@pytest.mark.parametrize("output", ["out.jsonl", "out.json"])
def test_what_is_spliced_is_what_would_be_written_anew(here, monkeypatch, output, column):
    """Rows and results that are JSON in the store are not decoded; the bytes are the same."""
    rows = [*ROWS, *({"n": n} for n in range(2, 2 + PAGES))]
    list(ck.run(lambda row: row, rows, store="x.ckpt", version=1, name="same"))
    spliced = [it for it in ROWS if Shape(column).splice(encode(it), encode(it)) is not None]
    assert ROWS[1] in spliced and len(spliced) in (3, 4)
    arguments = ("x.ckpt", "--force", "--column", column, "-o", output)
    done = invoke("export", *arguments)
    assert f"{len(rows)} rows of same" in done.stderr
    fast = (here / output).read_bytes()
    monkeypatch.setattr(Shape, "splice", lambda *_: None)
    assert invoke("export", *arguments).exit_code == 0
    assert (here / output).read_bytes() == fast


def test_a_row_with_a_column_of_the_results_name_is_not_spliced(here):
    list(ck.run(lambda row: 1, [{"result": 2}], store="x.ckpt", version=1, name="same"))
    assert "has a column 'result' of its own" in export(code=1).stderr


def test_a_row_that_was_saved_twice_is_there_once(here):
    """The store's counters say whether records have to be grouped by their keys."""
    luck = iter([ValueError("no luck"), None])

    def label(row):
        if row["n"] == 2 and (error := next(luck)):
            raise error
        return row["n"]

    for _ in range(2):
        rows = [{"n": n} for n in range(4)]
        list(ck.run(label, rows, store="x.ckpt", version=1, on_error="record"))
    export()
    assert numbers(here) == [0, 1, 2, 3]
    with ck.Store("x.ckpt") as store:
        assert [record.result for record in store.records()] == [0, 1, 2, 3]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_rows_of_a_file_come_in_its_order_equal_ones_too(here, ending):
    (here / "step.py").write_text("def label(row):\n    return int(row['n']) * 10\n")
    if ending == "csv":
        (here / "in.csv").write_text("n;m\n3;a\n1;a\n3;a\n2;a\n")
        other, options = "n;m\n2;a\n3;a\n7;a\n3;a\n2;a\n", ("--delimiter", ";")
    else:
        write_rows(here / "in.jsonl", [{"n": n} for n in (3, 1, 3, 2)])
        other = "".join(f'{{"n":{n}}}\n' for n in (2, 3, 7, 3, 2))
        options = ()
    ran = invoke("run", "step.py:label", f"in.{ending}", "--store", "x.ckpt", "--version", "1",
                 *options)  # fmt: skip
    assert ran.exit_code == 0, ran.output
    (here / f"other.{ending}").write_text(other)
    said = export("--rows", f"other.{ending}", *options).stderr
    assert [int(n) for n in numbers(here)] == [2, 3, 3, 2]
    assert [row["result"] for row in read_rows(here / "out.jsonl")] == [20, 30, 30, 20]
    assert "4 rows of label 1 written to out.jsonl, 1 rows of FILE without a result" in said


def test_equal_rows_with_results_of_their_own_get_their_own(here):
    calls = []
    rows = [{"n": 1}, {"n": 2}, {"n": 1}]
    list(
        ck.run(lambda row: calls.append(row) or len(calls), rows, store="x.ckpt", version=1,
               name="label", duplicates="separate", on_change="reuse")
    )  # fmt: skip
    write_rows(here / "in.jsonl", rows)
    export("--rows", "in.jsonl")
    assert [row["result"] for row in read_rows(here / "out.jsonl")] == [1, 2, 3]


def test_a_key_of_the_row_and_depends_are_found_too(here):
    """The row written is the file's, with the fields that its key leaves out."""
    rows = [{"n": 1, "at": "now"}, {"n": 2, "at": "now"}]
    for prompt in ("old", "new"):
        list(ck.run(lambda row, prompt=prompt: prompt, rows, store="x.ckpt", version=1, key="n",
                    name="label", depends={"prompt": prompt}, on_change="reuse"))  # fmt: skip
    write_rows(here / "in.jsonl", [{"n": 2, "at": "later"}])
    export("--rows", "in.jsonl")
    assert read_rows(here / "out.jsonl") == [{"n": 2, "at": "later", "result": "new"}]


def test_only_the_failures(here):
    fill([1, -2, 3, -4])
    assert "2 failed rows of label 1 written" in export("--failures").stderr
    first = read_rows(here / "out.jsonl")[0]
    error = {"type": "ValueError", "message": "below zero", "attempts": 1}
    assert first == {"n": -2, "error": error}
    write_rows(here / "in.jsonl", [{"n": n} for n in (-4, 1, -4)])
    export("--failures", "--rows", "in.jsonl", "--error-column", "why")
    assert [row["n"] for row in read_rows(here / "out.jsonl")] == [-4, -4]
    assert read_rows(here / "out.jsonl")[0]["why"] == error
    said = export("--rows", "in.jsonl").stderr
    assert numbers(here) == [1] and "2 failed ones left out" in said


def test_what_run_n_saved_is_shown_even_where_a_later_run_replaced_it(here):
    fill([-1])
    list(ck.run(lambda row: 5, [{"n": -1}], store="x.ckpt", version=1, name="label",
                on_change="reuse"))  # fmt: skip
    export("--run", "1", "--failures")
    assert numbers(here) == [-1]
    export("--run", "2")
    assert read_rows(here / "out.jsonl") == [{"n": -1, "result": 5}]


def test_a_run_brings_its_step(here):
    fill([1])
    fill([2], name="other")
    export("--run", "2")
    assert read_rows(here / "out.jsonl") == [{"n": 2, "result": 20}]
    assert "no run 7 of this step; its runs: 1, 2" in export("--run", "7", code=1).stderr
    assert "no run 2 of this step" in export("--run", "2", "--step", "label", code=1).stderr


def test_csv_has_a_column_for_each_field_of_a_result(here):
    list(ck.run(lambda row: {"label": "x", "n": row["n"]}, [{"n": 1}], store="x.ckpt", version=1,
                name="label"))  # fmt: skip
    invoke("export", "x.ckpt", "-o", "out.csv")
    with open("out.csv") as file:
        assert list(csv.DictReader(file)) == [{"n": "1", "label": "x"}]
    invoke("export", "x.ckpt", "-o", "out.csv", "--force", "--no-merge")
    with open("out.csv") as file:
        (row,) = csv.DictReader(file)
    assert json.loads(row["result"]) == {"label": "x", "n": 1}


def test_wrong_use_is_known_at_once(here):
    fill([1])
    write_rows(here / "in.jsonl", [{"n": 1}])
    assert "describe the FILE of --rows" in export("--delimiter", ";", code=2).stderr
    done = invoke("export", "x.ckpt", "-o", "in.jsonl", "--rows", "./in.jsonl")
    assert done.exit_code == 2 and "is the FILE of --rows" in done.stderr
    (here / "bad.jsonl").write_text('{"n": 1}\n{"n": \n')
    assert "bad.jsonl:2: not a line of JSON" in export("--rows", "bad.jsonl", code=1).stderr
    assert not (here / "out.jsonl").exists()


def test_a_key_that_only_the_code_knows_is_said(here):
    list(ck.run(label, [{"n": 1}], store="x.ckpt", version=1, key=lambda row: row["n"]))
    write_rows(here / "in.jsonl", [{"n": 1}])
    assert "which the store does not hold" in export("--rows", "in.jsonl", code=1).stderr
