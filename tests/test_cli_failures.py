"""`ckpt run` when rows fail, cost money or are shared; and what `ckpt inspect` says of it after."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading

import pyarrow.parquet as pq
import pytest
from cli_helpers import calls, ckpt, invoke, on_terminal, read_rows, start, wait_for, write_rows

import checkpointdb as ck
from checkpointdb.file.read import Reader

PLAIN = ("--store", "rows.ckpt", "--version", "1")
STEPS = """
import os, pathlib, time


class QuotaError(Exception):
    pass


def log(row):
    with open("calls.log", "a") as file:
        file.write(f"{row['n']}\\n")


def shaky(row):
    log(row)
    if row["n"] % 3 == 2 and not os.path.exists("mended"):
        raise ValueError(f"no \\x1b[2J {row['n']}")
    return {"n2": row["n"] * 2}


def quota(row):
    log(row)
    raise QuotaError("spent") if row["n"] == 4 else ValueError("no\\nway")


def many(row):
    time.sleep(0.05)
    return row["n"]


def one_by_one(row):
    log(row)
    time.sleep(0.004)
    return row["n"]


def hang(row):
    log(row)
    time.sleep(60 if row["n"] == 3 else 0)
    return row["n"]


def dollars(result):
    return 0.25


def negative(result):
    return -1.0
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with steps.py and ten rows, in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.py").write_text(STEPS)
    write_rows(tmp_path / "rows.jsonl", [{"n": n} for n in range(10)])
    return tmp_path


def run(step, *more):
    return invoke("run", f"steps.py:{step}", "rows.jsonl", *PLAIN, *more)


# --- failures


@pytest.mark.slow
def test_a_failed_row_has_an_error_where_its_result_would_be(here):
    """In every format; and the exit code and the last line say that the output is not complete."""
    for ending in ("jsonl", "csv", "parquet"):
        done = run("shaky", "-o", f"out.{ending}", "--on-error", "record")
        assert done.exit_code == 3
        assert done.stderr.splitlines()[-1] == (
            "3 of 10 rows FAILED: run it again to retry them; to see why: "
            "ckpt inspect rows.ckpt --failures"
        )
    rows = read_rows(here / "out.jsonl")
    assert rows[1] == {"n": 1, "result": {"n2": 2}}
    wanted = {"type": "ValueError", "message": "no \x1b[2J 2", "attempts": 1}
    assert rows[2] == {"n": 2, "error": wanted}
    table = pq.read_table("out.parquet").to_pylist()
    assert table[2] == {"n": 2, "result": None, "error": wanted | {"attempts": 3}}
    with open("out.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert cells[1] == {"n": "1", "n2": "2", "error": ""}
    assert cells[2]["n2"] == "" and json.loads(cells[2]["error"])["attempts"] == 2


def test_the_next_run_tries_failed_rows_again_and_no_others(here):
    assert run("shaky", "--on-error", "record").exit_code == 3
    left = run("shaky", "-o", "out.jsonl", "--no-retry-failed")
    assert left.exit_code == 3 and len(calls(here)) == 10
    assert "3 of 10 rows FAILED: leave out --no-retry-failed" in left.stderr
    assert read_rows(here / "out.jsonl")[5]["error"]["attempts"] == 1
    (here / "mended").touch()
    done = run("shaky", "-o", "out.jsonl", "--on-error", "record")
    assert done.exit_code == 0 and "FAILED" not in done.stderr
    assert calls(here)[10:] == ["2", "5", "8"]
    assert read_rows(here / "out.jsonl") == [{"n": n, "result": {"n2": 2 * n}} for n in range(10)]


def test_merged_results_and_failures_do_not_mix(here):
    done = run("shaky", "-o", "out.jsonl", "--on-error", "record", "--merge", "--limit", "3")
    assert done.exit_code == 3
    rows = read_rows(here / "out.jsonl")
    assert rows[1] == {"n": 1, "n2": 2} and rows[2]["error"]["type"] == "ValueError"
    write_rows(here / "rows.jsonl", [{"n": 0}, {"n": 9, "error": "mine"}])
    refused = run("shaky", "-o", "out.jsonl", "--on-error", "record")
    assert refused.exit_code == 1 and "--error-column NAME" in refused.stderr
    assert "9" not in calls(here)
    done = run("shaky", "-o", "out.jsonl", "--on-error", "record", "--error-column", "problem")
    assert done.exit_code == 0
    assert read_rows(here / "out.jsonl")[1] == {"n": 9, "error": "mine", "result": {"n2": 18}}


def test_the_first_failures_are_shown_and_none_steers_the_terminal(here):
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(60)])
    done = ckpt("run", "steps.py:shaky", "rows.jsonl", *PLAIN, "--on-error", "record", cwd=here)
    assert done.returncode == 3
    assert done.stderr.count("failed, attempt 1: ValueError: no \\x1b[2J") == 6
    assert done.stderr.count("further failures by ValueError are counted") == 1
    assert done.stderr.count("failures by ValueError: 10 so far") == 1 and "\x1b" not in done.stderr
    shown = on_terminal("run", "steps.py:shaky", "rows.jsonl", *PLAIN, "--on-error", "record",
                        cwd=here)  # fmt: skip
    assert "\x1b[2J" not in shown and "20 of 60 rows FAILED" in shown


def test_equal_rows_that_fail_are_each_counted_as_rows(here):
    write_rows(here / "rows.jsonl", [{"n": 2}, {"n": 2}, {"n": 1}])
    done = run("shaky", "--on-error", "record", "--json")
    told = json.loads(done.stdout)
    assert (told["failed_rows"], told["report"]["failed"]) == (2, 1)
    assert "2 of 3 rows FAILED" in done.stderr and done.exit_code == 3


@pytest.mark.parametrize("name", ["QuotaError", "steps.py:QuotaError", "steps:QuotaError"])
def test_some_exceptions_end_the_run_even_so(here, name):
    """However they are named: the exception is the class of the step's own module."""
    if name.startswith("steps:"):
        done = invoke("run", "steps:quota", "rows.jsonl", *PLAIN, "--on-error", "record",
                      "--stop-on", name)  # fmt: skip
    else:
        done = run("quota", "--on-error", "record", "--stop-on", name)
    assert done.exit_code == 1
    assert "QuotaError: spent" in done.stderr and "run the same again" in done.stderr
    assert done.stderr.count("ValueError: no\\nway\n") == 4  # each failure in one line
    assert calls(here) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (("--stop-on", "NoSuchError"), 1, "steps.py has no 'NoSuchError'"),
        (("--stop-on", "dollars"), 2, "stop_on must be an exception class"),
        (("--stop-on", "no_such_module:X"), 1, "no module 'no_such_module'"),
        (("--cost", "STEPS"), 1, "steps.py has no 'STEPS'"),
        (("--cost", "os:name"), 2, "cost must be a function"),
        (("--max-cost", "1"), 2, "--max-cost needs --cost"),
        (("--cost", "dollars", "--max-cost", "-1"), 2, "dollars of at least 0"),
        (("--cost", "dollars", "--max-cost", "nan"), 2, "dollars of at least 0"),
        (("--concurrency", "0"), 2, "0 is not in the range"),
        (("--on-error", "ignore"), 2, "'ignore' is not one of"),
    ],
)
def test_wrong_options_are_told_before_anything_is_opened_or_paid(here, arguments, code, wanted):
    done = run("shaky", *arguments)
    assert done.exit_code == code and wanted in done.stderr
    assert "Traceback" not in done.stderr
    assert calls(here) == [] and not os.path.exists("rows.ckpt")


def test_many_calls_at_once_are_written_in_order(here):
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(40)])
    done = run("many", "-o", "out.jsonl", "--concurrency", "20", "--json")
    assert json.loads(done.stdout)["report"]["seconds"] < 1.5  # one after the other: 2 s
    assert read_rows(here / "out.jsonl") == [{"n": n, "result": n} for n in range(40)]


def test_two_processes_share_the_rows(here):
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(200)])
    command = ("run", "steps.py:one_by_one", "rows.jsonl", *PLAIN, "--shared")
    both = [start(*command, "-o", f"out{i}.jsonl", cwd=here) for i in range(2)]
    said = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(map(int, calls(here))) == list(range(200))
    for i in range(2):
        assert [row["result"] for row in read_rows(here / f"out{i}.jsonl")] == list(range(200))


# --- money, and what inspect tells


def test_money_is_spent_saved_and_budgeted_over_all_runs(here):
    done = run("shaky", "--on-error", "record", "--cost", "dollars")
    assert "10 rows in" in done.stderr and "7 computed, $1.75 paid" in done.stderr
    write_rows(here / "rows.jsonl", [{"n": n} for n in (0, 1, 30, 31, 33, 34)])
    stopped = run("shaky", "--cost", "steps.py:dollars", "--max-cost", "2.5")
    assert stopped.exit_code == 1
    assert stopped.stderr.startswith("Error: step 'shaky' has spent $2.5 of its budget of $2.5")
    assert calls(here)[10:] == ["30", "31", "33"]
    shown = invoke("inspect", "rows.ckpt").stdout
    lines = [line.split() for line in shown.splitlines()]
    at = lines.index(["money", "spent", "saved", "by", "hits", "wasted", "on", "failures"])
    assert lines[at + 1] == ["shaky", "1", "$2.50", "≈", "$0.50", "–"]
    assert lines[at + 2] == ["run", "1", "$1.75", "–", "–"]
    assert lines[at + 3] == ["run", "2", "$0.75", "≈", "$0.50", "–"]
    assert "is an estimate" in shown


def test_what_was_paid_for_refused_results_is_wasted(here):
    """Also when the rows were answered later: the history is kept."""
    good = threading.Event()  # no captured value: that it is set is no other binding

    def label(row):
        return {"n": row["n"], "good": good.is_set()}

    options = {"store": "rows.ckpt", "version": 1, "on_error": "record", "cost": lambda _: 0.5}
    rows = [{"n": n} for n in range(4)]
    for _ in range(2):
        list(ck.run(label, rows, valid=lambda result: result["good"] or result["n"] < 3, **options))
        good.set()
    seen = json.loads(invoke("inspect", "rows.ckpt", "--json").stdout)
    (step,) = seen["steps"]
    assert (step["cost"], step["wasted"], step["saved"]) == (2.5, 0.5, 1.5)
    assert [(r["cost"], r["wasted"], r["saved"]) for r in seen["runs"]] == [
        (2.0, 0.5, 0.0), (0.5, 0.0, 1.5),
    ]  # fmt: skip


def test_no_money_no_failures_no_calls_no_sections(here):
    run("shaky", "--limit", "2")
    shown = invoke("inspect", "rows.ckpt").stdout
    assert not any(word in shown for word in ("money", "spent", "$", "billed", "--failures"))


def test_failures_have_their_attempts(here):
    run("shaky", "--on-error", "record", "--limit", "6")
    run("shaky", "--on-error", "record")
    shown = invoke("inspect", "rows.ckpt", "--failures").stdout
    assert "3 × ValueError in shaky 1" in shown
    assert "tried: 1 row once, 2 rows 2 times" in shown
    attempts = [line.strip() for line in shown.splitlines() if "  attempt " in line]
    assert [line.split(",")[:2] for line in attempts] == [
        ["attempt 1", " run 1"], ["attempt 2", " run 2"],
    ]  # fmt: skip
    assert all(line.endswith("ValueError: no \\x1b[2J 2") for line in attempts)
    (group,) = json.loads(invoke("inspect", "rows.ckpt", "--failures", "--json").stdout)["failures"]
    assert group["attempts"] == {"1": 1, "2": 2} and group["example"]["attempts"] == 2
    assert [attempt["run"] for attempt in group["history"]] == [1, 2]


def test_calls_that_may_have_been_billed_are_listed_after_a_kill(here):
    """While the run goes on they are only counted."""
    command = ("run", "steps.py:hang", "rows.jsonl", *PLAIN, "--ledger", "--save", "rows=1")
    process = start(*command, cwd=here)
    wait_for(lambda: len(calls(here)) == 4)
    assert "\n1 call sent, not yet saved\n" in invoke("inspect", "rows.ckpt").stdout
    process.kill()
    process.communicate(timeout=20)
    shown = invoke("inspect", "rows.ckpt").stdout
    key = ck.key_of("hang", 1, {"n": 3})
    head, line = shown[shown.index("1 call sent, no answer saved") :].splitlines()[1:3]
    assert head.split() == ["idempotency", "key", "step", "run", "row", "sent"]
    assert line.split()[:5] == [key, "hang", "1", "1", "3"]
    (call,) = json.loads(invoke("inspect", "rows.ckpt", "--json").stdout)["calls"]
    assert (call["key"], call["state"], call["input"]) == (key, "lost", {"n": 3})
    assert invoke("inspect", "rows.ckpt", "--step", "hang", "--json").exit_code == 0


def test_ctrl_c_with_many_calls_in_flight_loses_none(here):
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(1000)])
    process = start("run", "steps.py:one_by_one", "rows.jsonl", *PLAIN, "--concurrency", "8",
                    "--save", "on_exit", "-o", "out.jsonl", cwd=here)  # fmt: skip
    wait_for(lambda: len(calls(here)) > 100)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130 and "Stopped by Ctrl-C." in said
    with Reader("rows.ckpt") as reader:
        assert reader.steps()[0].results == len(calls(here))


def test_a_time_limit_fails_the_rows_that_take_longer(here):
    """`--timeout`: the others go on, and the exit does not wait for the call."""
    options = ("--timeout", "0.3", "--on-error", "record", "--concurrency", "2")
    done = ckpt("run", "steps.py:hang", "rows.jsonl", *PLAIN, *options, cwd=here)
    assert done.returncode == 3, done.stderr
    (failure,) = json.loads(invoke("inspect", "rows.ckpt", "--failures", "--json").stdout)[
        "failures"
    ]
    assert failure["type"] == "TimeoutError"
    assert "took longer than 0.3 s" in json.dumps(failure)
