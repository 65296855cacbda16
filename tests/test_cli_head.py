"""`ckpt head` and `ckpt inspect --record`: rows as a person wants to see them, found by text."""

from __future__ import annotations

import json
import os

import pytest
from cli_helpers import invoke, on_terminal

import checkpointdb as ck
from checkpointdb.cli.abridged import fitted
from checkpointdb.cli.display import width

TRICKY = [
    {"n": 0, "text": 'the "Größe" was late'},
    {"n": 1, "text": "a tab\there, a line\nthere"},
    {"n": 2, "text": "nothing", "tags": ("Äpfel und", "Hidden in MessagePack")},
    {"n": 3, "text": "<script>alert(1)</script> \x1b[31m \u202e"},
    {"n": 4, "text": "x" * 5000, "n5": list(range(1000))},
    {"n": 5, "text": "fails"},
]


def label(row):
    if row["n"] == 5:
        raise TimeoutError("no answer from the Provider")
    return {"label": "good" if row["n"] % 2 else "bad", "length": len(row["text"])}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ck.Store("rows.ckpt") as store:
        list(ck.run(label, TRICKY, store=store, version=1, on_error="record"))
    return tmp_path


def heads(*arguments):
    """Return the rows that `ckpt head` finds, by their `n`, and its exit code."""
    done = invoke("head", "rows.ckpt", "--json", *arguments)
    assert done.exit_code == 0, done.stderr
    return [json.loads(line)["input"]["n"] for line in done.stdout.splitlines()]


def test_the_newest_first_or_the_oldest(here):
    assert heads("-n", "3") == [5, 4, 3]
    assert heads("-n", "2", "--oldest") == [0, 1]
    assert heads() == [5, 4, 3, 2, 1, 0]


def test_only_the_newest_attempt_at_a_row_is_shown(here):
    """A row that failed, and was tried again with success, is one row and no failure."""
    with ck.Store("rows.ckpt") as store:
        list(
            ck.run(
                lambda row: {"label": "now"},
                [TRICKY[5]],
                store=store,
                version=1,
                name="label",
                on_change="reuse",
            )
        )
    assert heads("--where", "error is not null") == []
    done = invoke("head", "rows.ckpt", "-n", "1")
    assert done.stdout.splitlines()[1].split("  ")[-1] == '{"label":"now"}'
    assert len(heads()) == len(TRICKY)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LATE", [0]),
        ('the "Größe"', [0]),
        ("tab\there, a line\nthere", [1]),
        ("hidden in messagepack", [2]),
        ("Äpfel UND", [2]),
        ("</SCRIPT>", [3]),
        ("\x1b[31m", [3]),
        ("from the provider", [5]),
        ("in label", [5]),  # of the traceback
        ("good", [3, 1]),
        ("%", []),
        ("%' or 1=1 --", []),
    ],
)
def test_a_text_is_found_wherever_it_stands(here, text, found):
    """In inputs, results, messages and tracebacks; escaped in JSON or not; no pattern, no SQL."""
    assert heads("--search", text) == found


def test_conditions_and_steps(here):
    with ck.Store("rows.ckpt") as store:
        list(ck.run(lambda row: row["n"], TRICKY[:2], store=store, version="a", name="count"))
    assert heads("--where", "typeof(result) = 'text' and result ->> 'label' = 'bad'") == [4, 2, 0]
    assert heads("--where", "1 -- a comment", "--step", "count") == [1, 0]
    assert heads("--where", "0 or 1", "--search", "late", "--version", "1") == [0]
    refused = invoke("head", "rows.ckpt", "--where", "1) or (colour = 1")
    assert refused.exit_code == 2 and "colour" in refused.stderr and "saved_at" in refused.stderr
    unknown = invoke("head", "rows.ckpt", "--step", "lable")
    assert unknown.exit_code == 1 and "its steps: label, count" in unknown.stderr
    assert heads("--failed") == heads("--failed", "--where", "0 or 1") == [5]
    for nothing in (("--search", "nowhere"), ("--where", "0"), ("--failed", "--step", "count")):
        assert "no such rows" in invoke("head", "rows.ckpt", *nothing).stderr
    assert invoke("head", "rows.ckpt", "--search", "").exit_code == 2
    ck.Store("empty.ckpt").close()
    assert "no rows are saved yet" in invoke("head", "empty.ckpt").stderr


def test_each_row_is_a_line_and_steers_no_terminal(here):
    done = invoke("head", "rows.ckpt")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(TRICKY) and max(map(width, lines)) <= 120
    assert "TimeoutError: no answer from the Provider" in lines[1]
    assert "n5" in lines[2]  # the long text is cut, not the field behind it
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout


def test_on_a_terminal_json_has_colours_and_rows_stay_on_their_line(here):
    said = on_terminal("head", "rows.ckpt", cwd=here)
    assert "\x1b[32m" in said and "\x1b[31mTimeoutError" in said
    assert len(said.splitlines()) == 2 + len(TRICKY)


@pytest.mark.parametrize("room", [16, 40, 77, 200])
def test_a_value_fits_its_room(room):
    values = [*list(TRICKY), "漢字" * 90, b"\xff" * 900, {1: {2: [3] * 99}}, None, "\ud83d"]
    assert all(width(fitted(value, room)) <= room for value in values)
    assert fitted({"a": [1, 2], "b": "c"}, 40) == '{"a":[1,2],"b":"c"}'


def test_a_record_by_its_number(here):
    before = {name: os.stat(name).st_mtime_ns for name in os.listdir(here)}
    done = invoke("inspect", "rows.ckpt", "--record", "6")
    assert "record    6" in done.stdout and "no answer from the Provider" in done.stdout
    assert "replaced" not in done.stdout
    told = json.loads(invoke("inspect", "rows.ckpt", "--record", "1", "--json").stdout)
    assert (told["id"], told["newest"], told["input"]) == (1, 1, TRICKY[0])
    assert {name: os.stat(name).st_mtime_ns for name in os.listdir(here)} == before
    with ck.Store("rows.ckpt") as store:
        list(
            ck.run(
                lambda row: 1, [TRICKY[5]], store=store, version=1, name="label", on_change="reuse"
            )
        )
    again = invoke("inspect", "rows.ckpt", "--record", "6")
    assert "replaced  by record 7" in again.stdout and "TimeoutError" in again.stdout
    missing = invoke("inspect", "rows.ckpt", "--record", "70")
    assert (
        missing.exit_code == 1 and "no record 70" in missing.stderr and "up to 7" in missing.stderr
    )
    assert invoke("inspect", "rows.ckpt", "abc", "--record", "7").exit_code == 2
    assert invoke("inspect", "rows.ckpt", "--runs", "--record", "7").exit_code == 2
    assert invoke("inspect", "rows.ckpt", "--record", "0").exit_code == 2
