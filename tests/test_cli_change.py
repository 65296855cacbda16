"""`ckpt plan`, `why`, `adopt` and `forget`: before paying, and after a change of code."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time

import pytest
from cli_helpers import CKPT, STEPS, calls, invoke, start, wait_for, write_rows

import checkpointdb as ck
from checkpointdb.file.read import Reader

PLAIN = ("--store", "rows.ckpt", "--version", "1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.py").write_text(STEPS)
    write_rows(tmp_path / "rows.jsonl", [{"n": n} for n in (*range(10), 0, 1)])
    return tmp_path


def label(row):
    if row["n"] < 0:
        raise ValueError("negative")
    return {"label": "odd" if row["n"] % 2 else "even"}


def fill(rows=range(4), version=1, **options):
    options = {"on_error": "record", "store": "rows.ckpt", "version": version} | options
    list(ck.run(label, [{"n": n} for n in rows], **options))


def saved(version=1, name="label"):
    with Reader("rows.ckpt") as reader:
        return [record.input["n"] for record in reader.records(name, version)]


# --- plan


def test_a_plan_calls_nothing_and_writes_nothing(here):
    before = sorted(os.listdir(here))
    done = invoke("plan", "steps.py:slow", "rows.jsonl", *PLAIN)
    assert done.exit_code == 0, done.output
    lines = [line.split(None, 1) for line in done.stdout.splitlines()]
    counts = {line[1]: line[0] for line in lines if line and line[0].isdigit()}
    assert list(counts.values()) == ["12", "0", "10", "0", "2"]
    assert "cost  unknown for 10 calls" in done.stdout and "time  unknown" in done.stdout
    assert calls(here) == [] and sorted({*os.listdir(here)} - {"__pycache__"}) == before


def test_a_plan_comes_true(here):

    command = ("steps.py:refuse", "rows.jsonl", *PLAIN)
    invoke("run", *command, "--on-error", "record", "--limit", "9")
    told = json.loads(invoke("plan", *command, "--json").stdout)
    assert (told["store"], told["step"], told["version"]) == (str(here / "rows.ckpt"), "refuse", 1)
    plan = told["plan"]
    assert (plan["rows"], plan["hits"], plan["misses"]) == (12, 8, 1)
    assert (plan["failed"], plan["duplicates"]) == (1, 2)
    assert plan["seconds"] > 0 and plan["cost"] is None
    done = invoke("run", *command, "--on-error", "record", "--json")
    report = json.loads(done.stdout)["report"]
    assert report["hits"] == plan["hits"] + plan["duplicates"]
    assert report["computed"] + report["failed"] == plan["misses"] + plan["failed"]


def test_a_plan_knows_what_calls_cost(here):
    fill(range(4), cost=lambda _: 0.25)
    (here / "mine.py").write_text("def label(row):\n    return None\n")
    done = invoke("plan", "mine.py:label", "rows.jsonl", *PLAIN)
    assert "cost  about $1.50 for 6 calls" in done.stdout
    done = invoke("plan", "mine.py:label", "rows.jsonl", *PLAIN, "--limit", "4")
    assert done.stdout.endswith("no call to pay\n")


def test_a_plan_of_what_cannot_be_run_is_an_error(here):
    for arguments in (
        ("steps.py:nono", "rows.jsonl", *PLAIN),
        ("steps.py:slow", "rows.jsonl"),
        ("steps.py:slow", "gone.jsonl", *PLAIN),
    ):
        done = invoke("plan", *arguments)
        assert done.exit_code == 1 and done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1


# --- why


def test_why_a_row_is_a_hit_or_a_miss(here):
    fill((0, 1, 2, -1))
    for row, status, words in (
        ({"n": 1}, "hit", "a hit: saved by run 1"),
        ({"n": -1}, "failed", "with ValueError: negative"),
        ({"n": 1.0}, "miss", "n is 1.0 (float), there"),
        ({"n": 1, "x": None}, "miss", "x is None, there absent"),
    ):
        done = invoke("why", "rows.ckpt", json.dumps(row))
        assert done.exit_code == 0 and done.stdout.startswith("label 1: ")
        assert words in done.stdout
        (told,) = json.loads(invoke("why", "rows.ckpt", json.dumps(row), "--json").stdout)
        assert told["status"] == status and words in told["reason"]
    assert told["differs"] == {"x": {"row": None}}
    assert told["record"]["input"] == {"n": 1}


def test_why_asks_every_step_or_the_one_that_is_named(here):
    fill()
    fill((7,), version=2)
    fill(name="other", version="a")
    row = '{"n": 2}'
    lines = invoke("why", "rows.ckpt", row).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["label 1", "label 2", "other a"]
    assert "a hit" in lines[0] and "ckpt adopt" in lines[1] and "--from 1 --to 2" in lines[1]
    (line,) = invoke("why", "rows.ckpt", row, "--version", "2").stdout.splitlines()
    assert line == lines[1]
    assert len(invoke("why", "rows.ckpt", row, "--step", "label").stdout.splitlines()) == 2
    assert "no such version" in invoke("why", "rows.ckpt", row, "--version", "9").stderr


def test_a_row_is_given_as_text_as_a_file_or_through_a_pipe(here):
    fill()
    (here / "row.json").write_text('{"n":\n 2}\n')
    for arguments, piped in ((('{"n": 2}',), None), (("@row.json",), None), (("-",), '{"n": 2}\n')):
        assert "a hit" in invoke("why", "rows.ckpt", *arguments, input=piped).stdout
    for wrong, words in (
        ("{'n': 2}", "ROW is not JSON"),
        ("@gone.json", "gone.json: No such file"),
        ("", "ROW is not JSON"),
    ):
        done = invoke("why", "rows.ckpt", wrong)
        assert done.exit_code == 1 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_step_identified_by_fields_can_be_asked_and_one_by_a_function_cannot(here):
    fill(key="n")
    fill(name="other", key=lambda row: row["n"])
    row = '{"n": 2, "seen": "later"}'
    shown = invoke("why", "rows.ckpt", row).stdout.splitlines()
    assert shown[0].startswith("label 1: a hit") and "by the function" in shown[1]
    told = json.loads(invoke("why", "rows.ckpt", row, "--json").stdout)
    assert [answer["status"] for answer in told] == ["hit", "unknown"]


def test_why_of_what_is_no_store_is_an_error(here):
    done = invoke("why", "gone.ckpt", "{}")
    assert done.exit_code == 1 and "gone.ckpt" in done.stderr and not os.path.exists("gone.ckpt")


# --- adopt


def test_adopted_results_are_hits_of_the_other_version_and_stay(here):
    fill((0, 1, 2, -1))
    fill((1,), version=2, cost=lambda _: 0.5)
    done = invoke("adopt", "rows.ckpt", "--step", "label", "--from", "1", "--to", "2", "--yes")
    assert done.exit_code == 0, done.output
    steps = json.loads(invoke("inspect", "rows.ckpt", "--json").stdout)["steps"]
    assert [step["saved"] for step in steps] == [0.0, 0.0]  # an adopted result is no hit
    assert done.stderr.splitlines() == [
        "2 results of label version 1 will count for version 2 too; 1 are there already.",
        "2 results adopted",
    ]
    run = ck.run(label, [{"n": n} for n in range(3)], store="rows.ckpt", version=2)
    assert [result["label"] for result in run] == ["even", "odd", "even"]
    assert run.report.hits == 3
    assert saved(1) == [0, 1, 2, -1]
    shown = invoke("inspect", "rows.ckpt").stdout
    assert "adopted from version 1" in shown and "adopt " not in shown


def test_adopting_twice_changes_nothing(here):
    fill()
    command = ("adopt", "rows.ckpt", "--step", "label", "--from", "1", "--to", "2", "--yes")
    invoke(*command)
    with Reader("rows.ckpt") as reader:
        before = len(reader.runs())
    done = invoke(*command)
    assert done.exit_code == 0
    assert done.stderr == "nothing to adopt from version 1 of label; 4 are there already\n"
    with Reader("rows.ckpt") as reader:
        assert len(reader.runs()) == before


@pytest.mark.parametrize(
    ("there", "given", "to", "wanted"),
    [(1, "1", "2", 2), ("1", "1", "2", "2"), ("v1", "v1", "2", 2), ("01", "01", "v2", "v2")],
)
def test_versions_are_those_in_the_store(here, there, given, to, wanted):
    """1 on a command line is the number or the text, whichever there is."""
    fill(version=there)
    done = invoke("adopt", "rows.ckpt", "--step", "label", "--from", given, "--to", to, "--yes")
    assert done.exit_code == 0, done.output
    with Reader("rows.ckpt") as reader:
        assert [info.version for info in reader.steps()] == [there, wanted]


def test_a_version_that_is_there_is_taken_before_one_that_is_not(here):
    fill()
    fill((9,), version="2")
    invoke("adopt", "rows.ckpt", "--step", "label", "--from", "1", "--to", "2", "--yes")
    assert len(saved("2")) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (("--step", "labl", "--from", "1", "--to", "2"), 1, "no step 'labl'; its steps: label"),
        (("--step", "label", "--from", "9", "--to", "2"), 1, "no such version; there are: --step"),
        (("--step", "label", "--from", "1", "--to", "1"), 2, "are both version 1"),
        (("--step", "label", "--from", "1"), 2, "are both version 1"),
        (("--step", "label", "--from", "1", "--depends", "x"), 2, "takes NAMES=DIGEST"),
    ],
)
def test_what_cannot_be_adopted_is_told(here, arguments, code, wanted):
    fill()
    done = invoke("adopt", "rows.ckpt", *arguments, "--yes")
    assert done.exit_code == code and wanted in done.stderr and "Traceback" not in done.stderr
    assert saved() == [0, 1, 2, 3]


# --- forget


@pytest.mark.parametrize(
    ("arguments", "words", "left"),
    [
        (("--failed",), "1 row that failed will", [0, 1, 2, 3, 0]),
        (("--step", "label", "--version", "2"), "1 row of label version 2 will", [0, 1, 2, 3, -1]),
        (("--step", "label"), "6 rows of label will", []),
        (("--where", "input ->> 'n' in (0, 3)"), "3 rows where input ->> 'n'", [1, 2, -1]),
        (("--where", "result ->> 'label' = 'odd'"), "2 rows where result", [0, 2, -1, 0]),
        (("--step", "label", "--version", "1", "--where", "position = 0"), "1 row of label version "
         "1 where position = 0 will", [1, 2, 3, -1, 0]),
    ],
)  # fmt: skip
def test_what_is_chosen_is_counted_and_deleted_and_nothing_else(here, arguments, words, left):
    fill((0, 1, 2, 3, -1))
    fill((0,), version=2)
    dry = invoke("forget", "rows.ckpt", *arguments, "--dry-run")
    assert dry.exit_code == 0 and dry.stderr.startswith(words) and dry.stderr.count("\n") == 1
    assert saved(1) + saved(2) == [0, 1, 2, 3, -1, 0]
    done = invoke("forget", "rows.ckpt", *arguments, "--yes")
    assert done.exit_code == 0 and done.stderr.startswith(words)
    assert done.stderr.splitlines()[1].endswith(" deleted")
    assert saved(1) + saved(2) == left
    with ck.Store("rows.ckpt") as store:
        assert store.verify() == []


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        ((), 2, "say which rows"),
        (("--version", "1"), 2, "--version needs --step"),
        (("--step", "labl"), 1, "no step 'labl'"),
        (("--step", "label", "--version", "9"), 1, "no such version"),
        (("--where", "nono = 1"), 2, "is not a condition on a record's columns"),
        (("--where", "1); drop table records; --"), 2, "is not a condition"),
    ],
)
def test_a_wrong_choice_deletes_nothing(here, arguments, code, wanted):
    fill()
    done = invoke("forget", "rows.ckpt", *arguments, "--yes")
    assert done.exit_code == code and wanted in done.stderr and "Traceback" not in done.stderr
    assert saved() == [0, 1, 2, 3]


def test_nothing_chosen_is_said(here):
    fill()
    done = invoke("forget", "rows.ckpt", "--failed")
    assert (done.exit_code, done.stderr) == (0, "there are no rows that failed\n")


def test_nothing_is_forgotten_under_a_run(here):
    process = start("run", "steps.py:slow", "-", *PLAIN, cwd=here, stdin=subprocess.PIPE)
    process.stdin.write('{"n": 1}\n')
    process.stdin.flush()
    wait_for(lambda: calls(here))
    fill()
    done = invoke("forget", "rows.ckpt", "--step", "label", "--yes")
    assert done.exit_code == 1 and "is open: nothing was changed" in done.stderr
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    process.stderr.close()
    process.stdout.close()
    assert invoke("forget", "rows.ckpt", "--step", "label", "--yes").exit_code == 0


# --- asking


ADOPT = ("adopt", "rows.ckpt", "--step", "label", "--from", "1", "--to", "2")
FORGET = ("forget", "rows.ckpt", "--step", "label")


@pytest.mark.parametrize("command", [ADOPT, FORGET])
def test_without_a_terminal_it_needs_yes(here, command):
    """The count is shown all the same."""
    fill()
    done = invoke(*command, input="y\n")
    assert done.exit_code == 1
    assert done.stderr.startswith("4 results of" if command is ADOPT else "4 rows of label will")
    assert done.stderr.endswith("Error: nothing was changed: add --yes to do it\n")
    assert (saved(1), saved(2)) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 0), (b"\x03", 1)])
def test_on_a_terminal_it_asks(here, answer, code):
    """Anything but yes leaves the store as it is; so does Ctrl-C."""
    fill()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*CKPT, *FORGET], cwd=here, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"Go on? [y/N]" not in said:
        said += os.read(ours, 1000)
    time.sleep(0.3)  # Python forgets a Ctrl-C that comes just before it begins to read
    os.write(ours, answer)
    assert process.wait(timeout=20) == code
    os.close(ours)
    assert b"4 rows of label will be deleted." in said
    assert saved() == ([] if answer == b"y\n" else [0, 1, 2, 3])


def _take_terminal():
    """Have Ctrl-C in the terminal be the child's."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
