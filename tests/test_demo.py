"""`ckpt demo`: what it shows is counted, and it says so itself when it does not add up."""

from __future__ import annotations

import json
import os
import pathlib
import re
import time

import msgspec
import pytest
from cli_helpers import calls, ckpt, invoke, read_rows, shipped_rows

from checkpointdb.cli import demo
from checkpointdb.errors import CheckpointError


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """One demo for all tests: the folder, what it counted, how long it took, what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "ckpt-demo").mkdir()
    (folder / "ckpt-demo" / "precious.txt").write_text("mine")
    began = time.monotonic()
    done = ckpt("demo", cwd=folder)
    took = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    before = int(re.search(r"SIGKILL after (\d+) calls", done.stdout)[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        told = msgspec.to_builtins(demo.outcome("ckpt-demo-2", before))
    return folder, told, took, done.stdout


def test_the_demo_is_quick(shown):
    assert shown[2] < 15


def test_it_touches_nothing_that_is_there(shown):
    folder, told, *_ = shown
    assert told["folder"] == "ckpt-demo-2"
    assert [path.name for path in (folder / "ckpt-demo").iterdir()] == ["precious.txt"]
    made = [path.name for path in (folder / "ckpt-demo-2").iterdir() if path.is_file()]
    assert sorted(made) == [
        "calls.log", "movies.ckpt", "movies.jsonl", "results.jsonl", "step.py",
    ]  # fmt: skip


def test_the_numbers_are_those_of_the_log(shown):
    folder, told, *_ = shown
    paid = calls(folder / "ckpt-demo-2")
    pids = [line.split()[0] for line in paid]
    rows = [line.split(" ", 1)[1] for line in paid]
    assert len(set(pids)) == 2
    assert told["rows"] == 300 == len(set(rows))
    assert told["calls_before"] == pids.count(pids[0]) >= demo.KILL_AFTER
    assert told["calls_after"] == pids.count(pids[-1])
    assert told["lost"] == len(rows) - 300 <= told["window"] == demo.SAVE_ROWS
    assert told["spared"] == 300 - told["calls_after"]
    assert (told["first_run"], told["problems"]) == ("killed", [])


def test_the_next_commands_work(shown):
    folder, told, *_ = shown
    glance = ckpt("inspect", f"{told['folder']}/movies.ckpt", cwd=folder)
    assert "killed" in glance.stdout and "finished" in glance.stdout
    again = ckpt(*demo.command(told["folder"]), cwd=folder)
    assert "300 hits, 0 computed" in again.stderr


def test_it_says_so_when_the_numbers_do_not_add_up(shown):
    folder, told, *_ = shown
    copy = folder / "tampered"
    copy.mkdir()
    for path in filter(pathlib.Path.is_file, (folder / "ckpt-demo-2").iterdir()):
        (copy / path.name).write_bytes(path.read_bytes())
    before = told["calls_before"]
    assert demo.outcome(str(copy), before).problems == []
    log = (copy / "calls.log").read_text().splitlines(keepends=True)
    for tampered, problem in (
        (log + log[-25:], "more than the window"),
        (log + log[-1:] * 2, "called three times"),
        (log[:before] + log[before:-1], "299 of 300 rows were called"),
    ):
        (copy / "calls.log").write_text("".join(tampered))
        assert any(problem in line for line in demo.outcome(str(copy), before).problems)
    (copy / "calls.log").write_text("".join(log))
    results = (copy / "results.jsonl").read_text().splitlines(keepends=True)
    (copy / "results.jsonl").write_text("".join([results[1], results[0], *results[2:]]))
    assert demo.outcome(str(copy), before).problems == [
        "the results are not one for each row, in order"
    ]


def test_what_a_person_sees(shown):
    _, told, _, printed = shown
    by = "uv run --no-dev " if "UV_RUN_RECURSION_DEPTH" in os.environ else ""
    for words in (
        "ckpt run ckpt-demo-2/step.py:rate ckpt-demo-2/movies.jsonl -o ckpt-demo-2/results.jsonl",
        "  300  rows\n",
        f"  {told['calls_before']}  calls before the kill\n",
        f"  {told['calls_after']}  calls after it\n",
        f"{told['lost']:>5}  rows lost and computed again (at most 20: 19 returned, 1 in flight)",
        f"  {told['spared']}  calls paid before the kill and not paid twice\n",
        f"  next     {by}ckpt inspect ckpt-demo-2/movies.ckpt\n",
    ):
        assert words in printed


def test_what_a_program_reads(shown, monkeypatch):
    """The same numbers; and an exit code other than 0 if they do not add up."""
    folder, told, *_ = shown
    monkeypatch.chdir(folder)
    monkeypatch.setattr(demo, "new_folder", lambda: told["folder"])
    monkeypatch.setattr(demo, "kill_in_the_middle", lambda *_: None)
    monkeypatch.setattr(demo, "resume", lambda *_: None)
    for before, code in ((told["calls_before"], 0), (told["calls_before"] + 1, 1)):
        monkeypatch.setattr(demo, "count_calls", lambda _, before=before: before)
        done = invoke("demo", "--json")
        assert done.exit_code == code
        assert (json.loads(done.stdout) == told) == (code == 0)
    assert "Error: this does not add up: the second run found nothing saved" in done.stderr


def test_a_process_that_fails_is_shown_with_its_own_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = demo.new_folder()
    (tmp_path / folder / "step.py").write_text("import nono\n")
    with pytest.raises(CheckpointError, match=r"(?s)ended by itself.*No module named 'nono'"):
        demo.kill_in_the_middle(folder, lambda _calls: None)


def test_the_rows_are_real_ones():
    """With what real data has: nulls, numbers among titles, letters beyond ASCII; no doubles."""
    rows = shipped_rows()
    assert len(rows) == 300 == len({(str(row["Title"]), row["Release Date"]) for row in rows})
    assert {type(row["Title"]) for row in rows} == {str, int, type(None)}
    assert {type(row["IMDB Rating"]) for row in rows} == {float, int, type(None)}
    assert any(not str(row["Title"]).isascii() for row in rows)


def test_its_output_is_the_rows_with_a_verdict(shown):
    folder, told, *_ = shown
    rows = read_rows(folder / told["folder"] / "results.jsonl")
    assert {row["result"]["verdict"] for row in rows} == {"good", "so-so", "unknown"}
