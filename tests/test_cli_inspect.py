"""`ckpt inspect` and `ckpt export`: see everything, change nothing."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time

import pyarrow.parquet as pq
import pytest
from cli_helpers import (
    STEPS,
    calls,
    ckpt,
    invoke,
    on_terminal,
    read_rows,
    start,
    wait_for,
    write_rows,
)

import checkpointdb as ck
from checkpointdb import system
from checkpointdb.cli import export, store_view
from checkpointdb.file import processes
from checkpointdb.file.read import Reader
from checkpointdb.file.records import Entry, RunInfo
from checkpointdb.values.canonical import canonical
from checkpointdb.values.keys import digest


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label(row):
    return {"label": "good" if row["n"] % 2 else "bad", "n2": row["n"] * 2}


def fill(path="rows.ckpt", fn=label, n=10, **options):
    """Make a store with the results of n rows."""
    options = {"version": 1, "save": ck.every(rows=4)} | options
    with ck.Store(path) as store:
        list(ck.run(fn, [{"n": i} for i in range(n)], store=store, **options))


def fail(path, rows, kind, message):
    """Write failures as records, as a run does that records them."""
    with ck.Store(path) as store:
        step = store.log.register_step("label", 1, "null").id
        run = store.log.begin_run(step, "every(rows=1)", "no returned row", None)
        entries = []
        for row in rows:
            error = {
                "type": kind,
                "message": message,
                "traceback": f"Traceback…\n{kind}: {message}",
            }
            text = json.dumps(row)
            entries.append(
                Entry(
                    bytes.fromhex(ck.key_of("label", 1, row)),
                    digest(canonical(row)),
                    row["n"],
                    2,
                    0.5,
                    None,
                    json.dumps(error),
                    None,
                    text,
                )
            )
        store.log.append(step, run, entries)
        counts = {"rows": 0, "hits": 0, "computed": 0, "failed": len(rows)}
        store.log.end_run(run, counts, "finished")


def listing(folder):
    return {
        name: (status.st_size, status.st_mtime_ns)
        for name in os.listdir(folder)
        for status in [os.stat(os.path.join(folder, name))]
    }


# --- at a glance


def test_a_store_at_a_glance(here):
    fill()
    fill(n=12)
    done = invoke("inspect", "rows.ckpt")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("rows.ckpt\n")
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert next(row for row in rows if row[:2] == ["label", "1"])[:4] == ["label", "1", "12", "0"]
    assert rows[7][:2] == ["1", "label 1"] and rows[7][3:7] == ["finished", "10", "0", "10"]
    assert rows[8][:2] == ["2", "label 1"] and rows[8][3:7] == ["finished", "12", "10", "2"]
    assert ["label 1", "every(rows=4)", "power", "3 rows"] in rows
    assert "kB on disk · 12 records · last commit 20" in done.stdout
    assert "just now)" in done.stdout or "s ago)" in done.stdout


def test_the_last_five_runs_or_all(here):
    for _ in range(7):
        fill()
    assert "2 earlier runs: add --runs" in invoke("inspect", "rows.ckpt").stdout
    shown = invoke("inspect", "rows.ckpt", "--runs").stdout
    assert shown.count("finished") == 7 and "earlier" not in shown


def test_one_step_of_several(here):
    fill()
    fill(name="other", version="a")
    assert "other" in invoke("inspect", "rows.ckpt").stdout
    shown = invoke("inspect", "rows.ckpt", "--step", "other").stdout
    assert "other a" in shown and "label" not in shown
    wrong = invoke("inspect", "rows.ckpt", "--step", "othr")
    assert wrong.exit_code == 1
    assert "no step 'othr'; its steps: label, other" in wrong.stderr


def test_an_empty_store_is_no_error(here):
    ck.Store("rows.ckpt").close()
    done = invoke("inspect", "rows.ckpt")
    assert done.exit_code == 0
    assert "nothing committed yet" in done.stdout and "no step has run" in done.stdout
    assert json.loads(invoke("inspect", "rows.ckpt", "--json").stdout)["last_commit"] is None
    assert (
        "no step has run on this store yet" in invoke("export", "rows.ckpt", "-o", "x.csv").stderr
    )


def test_a_run_is_running_then_killed(here):
    """The process is asked for, and one that took its number later is not taken for it."""
    (here / "steps.py").write_text(STEPS)
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(1000)])
    arguments = ("--store", "rows.ckpt", "--version", "1", "--save", "rows=10")
    process = start("run", "steps.py:slow", "rows.jsonl", *arguments, cwd=here)
    wait_for(lambda: len(calls(here)) > 30)
    shown = invoke("inspect", "rows.ckpt").stdout
    assert f"running: pid {process.pid}" in shown
    before = json.loads(invoke("inspect", "rows.ckpt", "--json").stdout)["records"]
    time.sleep(0.3)
    assert json.loads(invoke("inspect", "rows.ckpt", "--json").stdout)["records"] > before
    process.kill()
    wait_for(lambda: "killed" in invoke("inspect", "rows.ckpt").stdout)  # not yet reaped
    process.communicate(timeout=20)
    assert "killed" in invoke("inspect", "rows.ckpt").stdout
    with Reader("rows.ckpt") as reader:
        (run,) = reader.runs()
    os_process = processes.this_process()
    here = _fields(run) | {"pid": os_process.pid, "pid_ticks": os_process.ticks}
    assert store_view.state(RunInfo(**here)) == "running"
    impostor = here | {"pid_ticks": os_process.ticks - 1}
    assert store_view.state(RunInfo(**impostor)) == "killed"
    for elsewhere in ({"host": "elsewhere"}, {"pid_namespace": 1}):
        assert store_view.state(RunInfo(**here | elsewhere)) == "unknown"
    assert store_view.state(RunInfo(**here | {"boot": "an earlier one"})) == "killed"
    moved = here | {"started_at": run.started_at - 60}  # whatever is done to the clock
    assert store_view.state(RunInfo(**moved)) == "running"


def _fields(run):
    return {name: getattr(run, name) for name in run.__struct_fields__}


def test_failures_by_kind_with_an_example(here):
    fill(n=5)
    fail("rows.ckpt", [{"n": n} for n in range(100, 103)], "TimeoutError", "no answer\x1b[2J")
    fail("rows.ckpt", [{"n": 200}], "ValueError", "bad")
    glance = invoke("inspect", "rows.ckpt").stdout
    assert "ckpt inspect rows.ckpt --failures" in glance
    done = invoke("inspect", "rows.ckpt", "--failures")
    assert (
        "3 × TimeoutError in label 1" in done.stdout and "1 × ValueError in label 1" in done.stdout
    )
    assert done.stdout.index("TimeoutError") < done.stdout.index("ValueError")
    assert 'row 100: {"n":100}' in done.stdout and r"no answer\x1b[2J" in done.stdout
    groups = json.loads(invoke("inspect", "rows.ckpt", "--failures", "--json").stdout)["failures"]
    assert [(g["type"], g["count"]) for g in groups] == [("TimeoutError", 3), ("ValueError", 1)]
    key = groups[0]["example"]["key"]
    whole = invoke("inspect", "rows.ckpt", key).stdout
    assert "failed: TimeoutError: no answer" in whole and "Traceback…\n" in whole


def test_no_failures_is_said(here):
    fill()
    assert invoke("inspect", "rows.ckpt", "--failures").stdout == "no failures\n"


# --- one record


def test_one_record_whole_by_its_key_or_its_beginning(here):
    fill()
    key = ck.key_of("label", 1, {"n": 3})
    for start_of_key in (key, key[:7].upper()):
        shown = invoke("inspect", "rows.ckpt", start_of_key).stdout
        assert key in shown and "row 3 of run 1" in shown
        assert '{\n  "n": 3\n}' in shown and '"label": "good"' in shown
    record = json.loads(invoke("inspect", "rows.ckpt", key, "--json").stdout)
    assert (record["key"], record["input"]) == (key, {"n": 3})
    assert record["result"] == {"label": "good", "n2": 6}


def test_a_beginning_that_is_not_enough_lists_the_candidates(here):
    fill(n=200)
    keys = sorted(ck.key_of("label", 1, {"n": n}) for n in range(200))
    done = invoke("inspect", "rows.ckpt", keys[0][0])
    assert done.exit_code == 1
    matching = [key for key in keys if key[0] == keys[0][0]]
    assert [line.split()[0] for line in done.stderr.splitlines()[1:11]] == matching[:10]


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("xyz", "'xyz' is not a key"),
        ("0" * 33, "is not a key"),
        ("", "is not a key"),
        ("f" * 32, "no record has a key that begins with fff"),
        ("99999", "begins with 99999; the record with this number: --record 99999"),
    ],
)
def test_a_wrong_key_is_an_error_in_one_line(here, key, wanted):
    fill()
    done = invoke("inspect", "rows.ckpt", key)
    assert done.exit_code == 1 and wanted in done.stderr and done.stderr.count("\n") == 1


# --- harmless


def test_nothing_that_is_stored_steers_the_terminal(here):
    """Neither data, nor names, nor errors; in JSON it is escaped as JSON does."""
    evil = "\x1b]0;owned\x07\x9b2J\u202egpj.exe\r"

    def step(row):
        return {evil: evil}

    with ck.Store("rows.ckpt") as store:
        list(ck.run(step, [{evil: evil}], store=store, version=evil, name=evil, meta=evil))
        (record,) = store.records()
    key = record.key
    for arguments in (
        (),
        (key,),
        ("--json",),
        (key, "--json"),
        ("--step", evil),
        ("--step", "\x1b[2J"),
    ):
        done = invoke("inspect", "rows.ckpt", *arguments)
        for output in (done.stdout, done.stderr):
            assert not set(output) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}, arguments
    assert json.loads(invoke("inspect", "rows.ckpt", key, "--json").stdout)["result"] == {
        evil: evil
    }
    exported = invoke("export", "rows.ckpt", "-o", "out.jsonl")
    assert "\x1b" not in exported.stderr and read_rows(here / "out.jsonl")[0]["result"] == {
        evil: evil
    }


def test_inspecting_changes_nothing_and_creates_nothing(here):
    fill()
    before = listing(here)
    for arguments in ((), ("--json",), ("--failures",), ("--runs",), ("00",)):
        invoke("inspect", "rows.ckpt", *arguments)
    assert listing(here) == before
    assert invoke("inspect", "gone.ckpt").exit_code == 1
    assert listing(here) == before


NOBODY = textwrap.dedent("""
    import os, sys
    from checkpointdb import cli
    import rich.console
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    cli.main()
""")


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody without permissions")
@pytest.mark.parametrize("kind", ["closed", "killed", "copied"])
def test_a_store_in_a_read_only_directory(here, kind):
    """As another user, who may read the files and write nowhere; with a log, with half of one."""
    killed = kind != "closed"
    folder = here / "theirs"
    folder.mkdir()
    if killed:
        script = (
            "import os, checkpointdb as ck\n"
            "store = ck.Store('theirs/rows.ckpt')\n"
            "rows = ({'n': n} for n in range(10))\n"
            "save = ck.every(rows=1)\n"
            "run = ck.run(dict, rows, store=store, name='label', version=1, save=save)\n"
            "[next(run) for _ in range(8)]; os._exit(9)\n"
        )
        subprocess.run([sys.executable, "-c", script], cwd=here, timeout=20)
        assert (folder / "rows.ckpt-wal").exists()
        if kind == "copied":  # without what only live processes share
            (folder / "rows.ckpt-shm").unlink()
    else:
        fill("theirs/rows.ckpt", n=8)
    for name in os.listdir(folder):
        os.chmod(folder / name, 0o644)
    os.chmod(folder, 0o555)
    path = here
    while path != path.parent:  # pytest makes its folders for us alone
        if os.stat(path).st_mode & 0o777 == 0o700:
            os.chmod(path, 0o711)
        path = path.parent
    before = listing(folder)
    command = [sys.executable, "-c", NOBODY, "inspect", "theirs/rows.ckpt"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert "8 records" in done.stdout and ("killed" in done.stdout) == killed
    assert {name: size for name, (size, _) in listing(folder).items()} == {
        name: size for name, (size, _) in before.items()
    }
    os.chmod(folder / "rows.ckpt", 0o600)
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("inspect",), ("export", "-o", "out.csv")])
def test_what_is_no_store_is_an_error_in_one_line(here, command):
    (here / "text.ckpt").write_text("no store at all, only text\n" * 50)
    (here / "empty.ckpt").touch()
    (here / "folder.ckpt").mkdir()
    for name in ("text.ckpt", "empty.ckpt", "folder.ckpt", "gone.ckpt"):
        done = invoke(command[0], name, *command[1:])
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
        assert name in done.stderr
    assert not (here / "out.csv").exists()


def test_if_a_run_begins_to_write_meanwhile_the_store_is_read_again(here, monkeypatch):
    """A closed store is read without locks: what may be torn is thrown away."""
    fill()
    reads = []

    def look(reader):
        reads.append(len(list(reader.records())))
        if len(reads) == 1:
            fill(n=20)  # and closes: the log goes into the file that is being read
        return reads[-1]

    assert store_view.read("rows.ckpt", look) == 20
    assert len(reads) == 2


def test_in_a_pipe_nothing_is_cut_off(here):
    """However long a name is and however narrow a terminal would be."""
    name = "a_long_name_" * 12
    fill(name=name)
    assert name in invoke("inspect", "rows.ckpt").stdout


def test_colours_on_a_terminal_and_none_in_a_pipe(here):
    fill()
    shown = on_terminal("inspect", "rows.ckpt", cwd=here)
    assert "\x1b[32mfinished" in shown and "\x1b[1mrows.ckpt" in shown
    assert "\x1b" not in ckpt("inspect", "rows.ckpt", cwd=here).stdout


# --- export


def test_every_format_has_the_inputs_and_results_in_input_order(here):
    fill(n=10)
    wanted = [{"n": n, "result": label({"n": n})} for n in range(10)]
    for ending in ("jsonl", "json", "parquet", "csv"):
        done = invoke("export", "rows.ckpt", "-o", f"out.{ending}")
        assert done.exit_code == 0, done.output
        assert f"10 rows of label 1 written to out.{ending}" in done.stderr
    assert read_rows(here / "out.jsonl") == wanted
    assert json.loads((here / "out.json").read_text()) == wanted
    assert pq.read_table("out.parquet").to_pylist() == wanted
    with open("out.csv", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {"n": str(row["n"]), **{k: str(v) for k, v in row["result"].items()}} for row in wanted
        ]
    done = ckpt("export", "rows.ckpt", "-o", "-", "--merge", cwd=here)
    merged = [json.loads(line) for line in done.stdout.splitlines()]
    assert merged == [{"n": n, **label({"n": n})} for n in range(10)]


def test_a_step_must_be_chosen_where_there_are_several(here):
    fill()
    fill(version=2, n=3)
    fill(version="2", n=2)
    fill(name="other", n=4)
    for arguments, wanted in (
        ((), "more than one step; choose: --step label --version 1 (10 results); --step label"),
        (("--step", "label"), "more than one step; choose"),
        (("--step", "labl"), "no step 'labl'; its steps: label, other"),
        (("--step", "label", "--version", "9"), "no such version; there are: --step label"),
    ):
        done = invoke("export", "rows.ckpt", "-o", "out.jsonl", *arguments)
        assert done.exit_code == 1 and wanted in done.stderr
        assert not (here / "out.jsonl").exists()
    for arguments, rows in (
        (("--step", "other"), 4),
        (("--step", "label", "--version", "1"), 10),
        (("--version", "2"), 3),
    ):
        invoke("export", "rows.ckpt", "-o", "out.jsonl", "--force", *arguments)
        assert len(read_rows(here / "out.jsonl")) == rows


def test_failed_rows_are_left_out_and_counted(here):
    fill(n=5)
    fail("rows.ckpt", [{"n": 100}, {"n": 101}], "ValueError", "bad")
    done = invoke("export", "rows.ckpt", "-o", "out.jsonl")
    assert "5 rows of label 1 written to out.jsonl, 2 failed ones left out" in done.stderr
    assert len(read_rows(here / "out.jsonl")) == 5


def test_a_clash_of_names_leaves_the_old_file(here):
    fill(fn=lambda row: {"n": -row["n"]}, name="minus")
    (here / "out.csv").write_text("old")
    done = invoke("export", "rows.ckpt", "-o", "out.csv", "--merge", "--force")
    assert done.exit_code == 1 and "row 1: --merge would overwrite column 'n'" in done.stderr
    assert "the store rows.ckpt is there" in invoke("export", "rows.ckpt", "-o", "rows.ckpt").stderr
    assert (here / "out.csv").read_text() == "old"
    assert sorted(os.listdir(here)) == ["out.csv", "rows.ckpt"]


def test_an_export_while_a_run_writes_is_one_moment_of_the_store(here, monkeypatch):
    """What is committed after the first row was taken is not in it, and the rest is whole."""
    with ck.Store("rows.ckpt") as store:
        rows = ({"n": n} for n in range(900))
        run = iter(ck.run(label, rows, store=store, version=1, save=ck.every(rows=1)))
        for _ in range(300):
            next(run)
        join = export.Shape.join
        monkeypatch.setattr(export.Shape, "join", lambda *args: (next(run, None), join(*args))[1])
        done = invoke("export", "rows.ckpt", "-o", "out.jsonl")
        assert done.exit_code == 0, done.output
        with contextlib.suppress(AttributeError):
            run.close()
    assert read_rows(here / "out.jsonl") == [
        {"n": n, "result": label({"n": n})} for n in range(300)
    ]


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_old_one(here):
    fill(n=3000)
    (here / "out.jsonl").write_text("old")
    script = (  # Python would keep what fits of a module's bytecode, and no test could import it
        "import sys; sys.dont_write_bytecode = True\n"
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from checkpointdb.cli import cli\n"
        "for ending in ('jsonl', 'csv', 'parquet'):\n"
        "    try: cli(['export', 'rows.ckpt', '-o', f'out.{ending}', '--force'])\n"
        "    except SystemExit as stop: assert stop.code == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=here, capture_output=True, text=True, timeout=30
    )
    assert done.stderr.splitlines() == [
        f"Error: out.{ending}: File too large" for ending in ("jsonl", "csv", "parquet")
    ]
    assert (here / "out.jsonl").read_text() == "old"
    assert sorted(os.listdir(here)) == ["out.jsonl", "rows.ckpt"]


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("nameless", [True, False])
def test_an_export_leaves_one_file(here, monkeypatch, nameless, force):
    """No other name of it beside, where files without a name cannot be had, too."""
    fill(n=3)
    if not nameless:
        monkeypatch.setattr(system, "nameless", lambda directory: None)
    assert invoke("export", "rows.ckpt", "-o", "out.csv", *force).exit_code == 0
    assert sorted(os.listdir(here)) == ["out.csv", "rows.ckpt"]
    assert os.stat("out.csv").st_nlink == 1


@pytest.mark.slow
def test_a_killed_export_leaves_nothing(here):
    fill(n=3000)
    shutil.copy("rows.ckpt", "copy.ckpt")
    process = start("export", "copy.ckpt", "-o", "out.csv", cwd=here)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.28)
    process.kill()
    process.communicate()
    assert {*os.listdir(here)} - {"out.csv"} == {"rows.ckpt", "copy.ckpt"}
