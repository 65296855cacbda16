"""`ckpt run`: real files, real processes, real signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time

import pyarrow.parquet as pq
import pytest
from cli_helpers import (
    CKPT,
    STEPS,
    calls,
    ckpt,
    invoke,
    on_terminal,
    read_rows,
    shipped_rows,
    start,
    wait_for,
    write_rows,
)

import checkpointdb as ck
from checkpointdb.cli.loading import load
from checkpointdb.file.read import Reader

PLAIN = ("--store", "rows.ckpt", "--version", "1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with steps.py and ten rows, in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.py").write_text(STEPS)
    write_rows(tmp_path / "rows.jsonl", [{"n": n} for n in range(10)])
    return tmp_path


def runs(folder, store="rows.ckpt"):
    with Reader(folder / store) as reader:
        return reader.runs()


def saved(folder, store="rows.ckpt"):
    with Reader(folder / store) as reader:
        return [(record.input, record.result) for record in reader.records()]


# --- what it computes and writes


def test_each_row_is_written_with_its_result(here):
    done = invoke("run", "steps.py:double", "rows.jsonl", "-o", "out.jsonl", *PLAIN)
    assert done.exit_code == 0, done.output
    assert read_rows(here / "out.jsonl") == [{"n": n, "result": 2 * n} for n in range(10)]
    assert "10 rows in" in done.stderr and "0 hits, 10 computed" in done.stderr
    assert "written to out.jsonl" in done.stderr and done.stdout == ""


def test_what_is_saved_is_not_computed_again(here):
    invoke("run", "steps.py:slow", "rows.jsonl", "--limit", "4", *PLAIN)
    assert len(calls(here)) == 4
    done = invoke("run", "steps.py:slow", "rows.jsonl", "-o", "out.jsonl", *PLAIN)
    assert "4 hits, 6 computed" in done.stderr
    assert calls(here) == [str(n) for n in range(10)]
    assert read_rows(here / "out.jsonl") == [{"n": n, "result": 2 * n} for n in range(10)]


def test_a_decorated_step_brings_its_store_and_policy(here):
    done = invoke("run", "steps.py:decorated", "rows.jsonl", "-o", "out.jsonl")
    assert done.exit_code == 0, done.output
    (run,) = runs(here, "decorated.ckpt")
    assert (run.step, run.version, run.policy) == ("decorated", 3, "every(rows=50)")


def test_options_win_over_the_decorator(here):
    done = invoke("run", "steps.py:decorated", "rows.jsonl", "--store", "other.ckpt",
                  "--save", "rows=2,seconds=5", "--durability", "process")  # fmt: skip
    assert done.exit_code == 0, done.output
    (run,) = runs(here, "other.ckpt")
    assert (run.policy, run.durability) == ("every(rows=2, seconds=5.0)", "process")
    assert run.report.commits == 5
    assert not (here / "decorated.ckpt").exists()
    invoke("run", "steps.py:decorated", "rows.jsonl")
    assert (
        runs(here, "decorated.ckpt")[0].policy == "every(rows=50)"
    )  # the step itself is as it was


def test_a_step_run_with_other_options_is_itself_as_it_was(here):
    (here / "steps_again.py").write_text(STEPS)
    other = load("steps_again:decorated", store="other.ckpt", save=ck.on_exit())
    again = load("steps_again:decorated")
    assert (other._where.given, other._save) == ("other.ckpt", ck.on_exit())
    assert (os.path.basename(again.path), again._save) == ("decorated.ckpt", ck.every(rows=50))


@pytest.mark.parametrize(
    ("save", "policy"),
    [
        ("rows=100,seconds=5", "every(rows=100, seconds=5.0)"),
        ("bytes=1e6,cost=0.5", "every(bytes=1000000, cost=0.5)"),
        ("adaptive", "adaptive(overhead=0.01, seconds=5.0)"),
        ("adaptive=0.05", "adaptive(overhead=0.05, seconds=5.0)"),
        ("on_exit", "on_exit()"),
        ("by_size", "every(rows=50)"),
    ],
)
def test_every_save_policy_has_its_words(here, save, policy):
    done = invoke("run", "steps.py:double", "rows.jsonl", "--save", save, *PLAIN)
    assert done.exit_code == 0, done.output
    assert runs(here)[0].policy == policy


@pytest.mark.parametrize(
    "save", ["", "rows", "rows=x", "rows=0", "rows=1.5", "adaptive=2", "often", "rows=1,rows=2"]
)
def test_a_wrong_save_policy_is_refused_with_the_right_ones(here, save):
    done = invoke("run", "steps.py:double", "rows.jsonl", "--save", save, *PLAIN)
    assert done.exit_code == 2
    assert "--save" in done.stderr
    assert not (here / "rows.ckpt").exists()


def test_by_size_asks_how_many_rows_there_are(here):
    write_rows(here / "many.jsonl", [{"n": n} for n in range(1500)])
    invoke("run", "steps.py:double", "many.jsonl", "--save", "by_size", *PLAIN)
    assert runs(here)[-1].policy == "every(rows=200)"
    invoke("run", "steps.py:double", "many.jsonl", "--save", "by_size", "--limit", "9", *PLAIN)
    assert runs(here)[-1].policy == "every(rows=50)"
    refused = invoke("run", "steps.py:double", "-", "--save", "by_size", *PLAIN, input='{"n": 1}\n')
    assert refused.exit_code == 2
    assert "a pipe does not tell" in refused.stderr


def test_merge_column_and_limit(here):
    invoke("run", "steps.py:length", "rows.jsonl", "-o", "out.csv", "--merge", "--limit", "2",
           "--store", "a.ckpt", "--version", "1")  # fmt: skip
    # a row's own n is in the way of the result's n
    assert not (here / "out.csv").exists()
    done = invoke("run", "steps.py:length", "rows.jsonl", "-o", "out.csv", "--column", "size",
                  "--limit", "2", "--store", "a.ckpt", "--version", "1")  # fmt: skip
    assert "1 hits, 1 computed" in done.stderr  # the first was computed and is not paid twice
    assert (here / "out.csv").read_text() == "n,size.n\n0,8\n1,8\n"
    invoke("run", "steps.py:length", "rows.jsonl", "-o", "out.csv", "--column", "size", "--limit",
           "2", "--store", "a.ckpt", "--version", "1", "--no-merge")  # fmt: skip
    assert (here / "out.csv").read_text() == 'n,size\n0,"{""n"":8}"\n1,"{""n"":8}"\n'


def test_a_column_in_the_way_is_found_before_the_row_is_paid_for(here):
    write_rows(here / "rows.jsonl", [{"n": 0}, {"n": 1, "result": "mine"}])
    done = invoke("run", "steps.py:slow", "rows.jsonl", "-o", "out.jsonl", *PLAIN)
    assert done.exit_code == 1
    assert "rows.jsonl:2 has a column 'result' of its own" in done.stderr
    assert calls(here) == ["0"]
    done = invoke(
        "run", "steps.py:slow", "rows.jsonl", *PLAIN
    )  # without output, nothing is in the way
    assert done.exit_code == 0


def test_the_row_in_the_output_is_the_one_read_whatever_the_step_does_to_it(here):
    """Else a resumed run would write other rows than an uninterrupted one."""
    for _ in range(2):
        invoke("run", "steps.py:spoil", "rows.jsonl", "-o", "out.jsonl", *PLAIN)
        assert read_rows(here / "out.jsonl") == [{"n": n, "result": n} for n in range(10)]


def test_batch_steps_async_steps_and_typed_results(here):
    for step, more, wanted in (
        ("batch", ("--batch-size", "4"), [4, 4, 4, 4, 4, 4, 4, 4, 2, 2]),
        ("later", (), list(range(1, 11))),
        ("typed", (), [{"text": str(n)} for n in range(10)]),
    ):
        for _ in range(2):
            done = invoke(
                "run", f"steps.py:{step}", "rows.jsonl", "-o", "out.parquet", *PLAIN, *more
            )
            assert done.exit_code == 0, done.output
            rows = pq.read_table("out.parquet").to_pylist()
            assert [row["result"] for row in rows] == wanted


def test_a_module_in_this_folder_is_found_by_its_name(here):
    done = ckpt("run", "steps:double", "rows.jsonl", "-o", "-", *PLAIN, cwd=here)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["result"] for line in done.stdout.splitlines()] == list(
        range(0, 20, 2)
    )


def test_a_pipe_is_read_and_written_line_by_line(here):
    """Each result is there before the next row has come."""
    with start(
        "run", "steps.py:double", "-", "-o", "-", *PLAIN, cwd=here, stdin=subprocess.PIPE
    ) as process:
        for n in range(6):
            time.sleep(0.03)
            process.stdin.write(f'{{"n": {n}}}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"n": n, "result": 2 * n}
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_a_reader_that_has_seen_enough_ends_the_run_quietly(here):
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(20_000)])
    with start("run", "steps.py:double", "rows.jsonl", "-o", "-", *PLAIN, cwd=here) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=20) == 141
    (run,) = runs(here)
    assert run.ended == "closed"
    assert run.report.computed == len(saved(here)) > 0


def test_the_report_as_json(here):
    done = invoke("run", "steps.py:double", "rows.jsonl", "--json", *PLAIN)
    report = json.loads(done.stdout)
    assert report["store"] == str(here / "rows.ckpt") and report["output"] is None
    assert (report["report"]["rows"], report["report"]["computed"]) == (10, 10)
    assert (
        invoke("run", "steps.py:double", "rows.jsonl", "--json", "-o", "-", *PLAIN).exit_code == 2
    )


def test_changed_code_is_a_warning_in_one_line(here):
    ckpt("run", "steps.py:double", "rows.jsonl", *PLAIN, cwd=here)
    (here / "steps.py").write_text("def double(row):\n    return row['n'] * 3\n")
    done = ckpt("run", "steps.py:double", "rows.jsonl", *PLAIN, cwd=here)
    assert done.returncode == 0
    (warning,) = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert warning.startswith("Warning: step 'double' in ")
    assert "10 results" in warning


# --- what goes wrong


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        ("steps.py:doble", "has no function 'doble'. Did you mean 'double'? It defines: batch, "),
        ("steps.py:time", "has no function 'time'. It defines: batch, "),
        ("steps.py:Label", "has no function 'Label'"),
        ("steps.py", "STEP is module:function or path/file.py:function"),
        ("step.py:double", "step.py: no such file. Did you mean steps.py?"),
        ("no/steps.py:double", "no/steps.py: no such file; nor is there a directory no"),
        ("stps:double", "no module 'stps' here or among the installed packages. Did you"),
        ("os.pth:join", "no module 'os.pth' here"),
        ("broken.py:f", "cannot be imported: ModuleNotFoundError: No module named 'nono' ("),
        ("wrong.py:f", "wrong.py cannot be imported: SyntaxError: "),
    ],
)  # fmt: skip
def test_an_unknown_step_is_told_what_there_is(here, step, wanted):
    (here / "broken.py").write_text("import os\nimport nono\n")
    (here / "wrong.py").write_text("def f(:\n")
    done = invoke("run", step, "rows.jsonl", *PLAIN)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert wanted in done.stderr
    assert os.path.basename(step.split(":")[0]) in done.stderr
    assert not (here / "rows.ckpt").exists()


def test_a_plain_function_needs_store_and_version(here):
    for given, missing in (
        ((), "--store and --version"),
        (("--store", "rows.ckpt"), "so --version must"),
        (("--version", "1"), "so --store must"),
    ):
        done = invoke("run", "steps.py:double", "rows.jsonl", *given)
        assert done.exit_code == 1
        assert missing in done.stderr


def test_a_decorated_steps_version_is_in_its_code(here):
    done = invoke("run", "steps.py:decorated", "rows.jsonl", "--version", "4")
    assert "decorated with version=3: leave out --version" in done.stderr


def test_a_version_that_looks_like_an_int_is_one(here):
    for text, version in (("1", 1), ("01", "01"), ("2024-01", "2024-01"), ("-3", -3)):
        invoke("run", "steps.py:double", "rows.jsonl", "--store", "rows.ckpt", "--version", text)
        assert runs(here)[-1].version == version


def test_a_bad_line_is_named_and_everything_before_it_is_saved(here):
    """The 5,000th of 10,000 lines is malformed; mended, only what follows it is computed."""
    lines = [json.dumps({"n": n}) for n in range(10_000)]
    good, lines[4999] = lines[4999], '{"n": oops}'
    (here / "big.jsonl").write_text("\n".join(lines) + "\n")
    done = invoke("run", "steps.py:double", "big.jsonl", "-o", "out.jsonl", *PLAIN)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: big.jsonl:5000: not a line of JSON")
    assert "4,999 results of step 'double' are saved" in done.stderr
    assert "Traceback" not in done.stderr and not (here / "out.jsonl").exists()
    assert len(saved(here)) == 4999
    lines[4999] = good
    (here / "big.jsonl").write_text("\n".join(lines) + "\n")
    done = invoke("run", "steps.py:double", "big.jsonl", "-o", "out.jsonl", *PLAIN)
    assert "4,999 hits, 5,001 computed" in done.stderr
    assert read_rows(here / "out.jsonl") == [{"n": n, "result": 2 * n} for n in range(10_000)]


def test_the_steps_own_error_is_shown_as_the_users_and_nothing_is_lost(here):
    (here / "out.jsonl").write_text("old")
    done = invoke("run", "steps.py:refuse", "rows.jsonl", "-o", "out.jsonl", *PLAIN)
    assert done.exit_code == 1
    assert "KeyError: 'no seven'" in done.stderr and 'steps.py", line' in done.stderr
    assert "checkpointdb/" not in done.stderr and "click" not in done.stderr
    assert "7 results of step 'refuse' are saved in" in done.stderr
    assert [row["n"] for row, _ in saved(here)] == list(range(7))
    assert (here / "out.jsonl").read_text() == "old"


def test_a_row_that_cannot_be_stored_is_an_error_in_one_line(here):
    lines = '{"n": 1}\n\n{"n": ' + "[" * 200 + "]" * 200 + "}\n"
    done = invoke("run", "steps.py:double", "-", *PLAIN, input=lines)
    assert done.exit_code == 1 and done.stderr.startswith("Error: $.n[0]")
    assert "in <stdin>:3\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("gone.jsonl",), "gone.jsonl: No such file or directory"),
        (("rows.txt",), "rows.txt: the ending must name the format"),
        (("rows.jsonl", "-o", "no/out.jsonl"), "no/out.jsonl: cannot be written here"),
        (("rows.jsonl", "-o", "out.xlsx"), "out.xlsx: the ending must name the format"),
        (("rows.jsonl", "-o", "./rows.jsonl"), "./rows.jsonl is INPUT"),
        (("rows.jsonl", "-o", "folder.csv"), "folder.csv: a directory"),
        (("rows.jsonl", "--store", "folder.csv"), "a directory; give the path of a file"),
        (("rows.jsonl", "--store", "steps.py"), "not a checkpointdb store"),
        (("rows.jsonl", "--store", "empty.ckpt"), "an empty file"),
    ],
)
def test_what_cannot_work_is_known_before_anything_is_paid(here, arguments, wanted):
    (here / "folder.csv").mkdir()
    (here / "empty.ckpt").touch()
    done = invoke("run", "steps.py:slow", *PLAIN, *arguments)
    assert done.exit_code in (1, 2)
    assert wanted in done.stderr and "Traceback" not in done.stderr
    assert calls(here) == []
    assert read_rows(here / "rows.jsonl")[0] == {"n": 0}


# --- how it can end


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "Stopped by Ctrl-C."), (signal.SIGTERM, 143, "Stopped by SIGTERM.")],
)
def test_a_signal_saves_all_that_returned_and_says_how_to_go_on(here, number, code, word):
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(1000)])
    process = start("run", "steps.py:slow", "rows.jsonl", "-o", "out.jsonl", "--save", "on_exit",
                    *PLAIN, cwd=here)  # fmt: skip
    wait_for(lambda: len(calls(here)) > 50)
    process.send_signal(number)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == code
    paid = len(calls(here))
    assert len(saved(here)) == paid
    assert word in said and "Traceback" not in said
    assert f"{paid} results of step 'slow' are saved in" in said and "run the same again" in said
    assert {*os.listdir(here)} - {"__pycache__"} == {
        "calls.log",
        "rows.ckpt",
        "rows.jsonl",
        "steps.py",
    }
    assert runs(here)[0].ended == "interrupted"


@pytest.mark.slow
def test_a_kill_leaves_no_half_output_and_costs_no_more_than_the_window(here):
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(300)])
    process = start("run", "steps.py:slow", "rows.jsonl", "-o", "out.jsonl", "--save", "rows=20",
                    *PLAIN, cwd=here)  # fmt: skip
    wait_for(lambda: len(calls(here)) > 110)
    process.kill()
    process.communicate(timeout=20)
    assert not [name for name in os.listdir(here) if "out.jsonl" in name]
    before = len(calls(here))
    done = ckpt("run", "steps.py:slow", "rows.jsonl", "-o", "out.jsonl", *PLAIN, cwd=here)
    assert done.returncode == 0, done.stderr
    assert before <= len(calls(here)) - 300 + before <= before + 20
    assert read_rows(here / "out.jsonl") == [{"n": n, "result": 2 * n} for n in range(300)]


@pytest.mark.slow
def test_a_bar_in_a_terminal_and_none_in_a_pipe(here):
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(100)])
    arguments = ("run", "steps.py:slow", "rows.jsonl", *PLAIN)
    shown = on_terminal(*arguments, cwd=here)
    assert "computed" in shown and "/s" in shown and "left" in shown and "━" in shown
    bar, summary = shown.rsplit("\x1b[2K", 1)  # the bar is erased, the summary stays
    assert "━" in bar and "━" not in summary and "100 rows in" in summary
    assert "━" not in on_terminal(*arguments, "--no-progress", cwd=here)
    assert "━" not in ckpt(*arguments, cwd=here).stderr


# --- the real thing

MOVIES = 3201
STEP = """
import os, time

def rate(movie):
    time.sleep(float(os.environ.get("CALL", 0)))
    with open("calls.log", "a") as log:
        log.write(f"{movie['Title']}|{movie['Release Date']}|{movie['copy']}\\n")
    votes = movie["IMDB Votes"]
    return {
        "title": movie["Title"],
        "known": votes is not None and votes > 1000,
        "score": movie["IMDB Rating"],
        "words": str(movie["Title"]).split(),
    }
"""


def movies():
    """3,201 rows: the 300 that ship, again and again, each copy a row of its own."""
    rows = shipped_rows()
    return [{**rows[n % len(rows)], "copy": n // len(rows)} for n in range(MOVIES)]


@pytest.mark.slow
def test_movies_killed_twice_are_the_same_as_uninterrupted(tmp_path):
    """Same outputs and exports in every format; at most 99 rows and a call in flight a kill."""
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rate.py").write_text(STEP)
        write_rows(tmp_path / name / "movies.jsonl", movies())
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = ("run", "rate.py:rate", "movies.jsonl", "-o", "out.jsonl", "--store", "movies.ckpt",
               "--version", "1", "--save", "rows=100")  # fmt: skip
    seed = random.randrange(1 << 32)
    print("seed", seed)
    stops = sorted(random.Random(seed).sample(range(200, 3000), 2))
    for stop in stops:
        process = start(*command, cwd=killed, env={**os.environ, "CALL": "0.0003"})
        wait_for(lambda stop=stop: len(calls(killed)) >= stop)
        process.kill()
        assert process.wait(timeout=20) == -signal.SIGKILL
        process.communicate()
    for folder in (killed, whole):
        assert ckpt(*command, cwd=folder).returncode == 0
        for ending in ("jsonl", "csv", "parquet"):
            output = str(folder / f"export.{ending}")
            done = invoke("export", str(folder / "movies.ckpt"), "-o", output)
            assert done.exit_code == 0, done.output
    paid = calls(killed)
    assert len(set(paid)) == MOVIES and len(calls(whole)) == MOVIES
    assert len(paid) - MOVIES <= 2 * 100
    for name in ("out.jsonl", "export.jsonl", "export.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert (killed / "export.jsonl").read_bytes() == (whole / "out.jsonl").read_bytes()
    tables = [pq.read_table(folder / "export.parquet") for folder in (killed, whole)]
    assert tables[0].equals(tables[1]) and tables[0].num_rows == MOVIES
    assert [run.ended for run in runs(killed, "movies.ckpt")] == [None, None, "finished"]


def test_the_module_is_the_command(here):
    done = subprocess.run([*CKPT, "--version"], capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith("ckpt, version ")


def named_like(how, store):
    """Return an OUTPUT that is the store by some way."""
    if how.startswith("-"):
        return store + how
    if how == "itself":
        return store
    other = f"{how}.jsonl"
    if how == "a link to the log":
        os.symlink(store + "-wal", other)
    else:
        {"symlink": os.symlink, "hard link": os.link}[how](store, other)
    return other


@pytest.mark.linux
@pytest.mark.parametrize(
    "how", ["itself", "symlink", "hard link", "-wal", "-shm", "a link to the log"]
)
@pytest.mark.parametrize("by", ["--store", "decorator", "export"])
def test_an_output_that_is_the_store_is_refused(here, how, by):
    """By every name that it has: the file of rows would take its place, and all that is saved."""
    store = "decorated.ckpt" if by == "decorator" else "plain.ckpt"
    plain = ("--store", store, "--version", "1") if by != "decorator" else ()
    step = "steps.py:double" if plain else "steps.py:decorated"
    first = invoke("run", step, "rows.jsonl", *plain)
    assert first.exit_code == 0, first.output
    output = named_like(how, store)
    command = ("export", store) if by == "export" else ("run", step, "rows.jsonl", *plain)
    done = invoke(*command, "-o", output)
    assert done.exit_code == 1, done.output
    assert "would replace it" in done.output
    with Reader(store) as reader:
        assert len(list(reader.records())) == 10
