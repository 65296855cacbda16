"""`ckpt watch`: runs in other processes, live, without touching them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import termios
import threading
import time

import pytest
import rich.console
from cli_helpers import CKPT, STEPS, calls, ckpt, invoke, start, wait_for, write_rows

import checkpointdb as ck
from checkpointdb.cli import watch
from checkpointdb.file.read import Reader
from checkpointdb.loops.pace import Look, Pace

ARGUMENTS = ("--store", "rows.ckpt", "--version", "1", "--save", "seconds=0.1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.py").write_text(STEPS)
    return tmp_path


class Going:
    """A run in another process that goes on, a call of 5 ms after the other, until told to end."""

    def __init__(self, cwd):
        self.process = start("run", "steps.py:slow", "-", *ARGUMENTS, "--ledger", cwd=cwd,
                             stdin=subprocess.PIPE)  # fmt: skip
        self.rows = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._feed)
        self._thread.start()

    def _feed(self):
        with contextlib.suppress(BrokenPipeError), self.process.stdin as pipe:
            while not self._ended.wait(0.005):
                pipe.write(f'{{"n": {self.rows}}}\n')
                pipe.flush()
                self.rows += 1

    def end(self):
        """Have it finish; return its exit code."""
        self._ended.set()
        self._thread.join()
        return self.process.wait(timeout=20)


@pytest.fixture
def going(here):
    going = Going(here)
    wait_for(lambda: len(calls(here)) > 20)
    yield going
    going.process.kill()
    going.end()
    going.process.stdout.close()
    going.process.stderr.close()


class Terminal:
    """A `ckpt watch` with a terminal of its own."""

    def __init__(self, *arguments, cwd):
        self._ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.said = b""
        self.process = subprocess.Popen(
            [*CKPT, "watch", "rows.ckpt", *arguments], cwd=cwd, start_new_session=True,
            stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            env={**os.environ, "COLUMNS": "140", "TERM": "xterm"},
        )  # fmt: skip
        os.set_blocking(self._ours, False)

    def shows(self, *words):
        """Whether all words have been shown by now."""
        with contextlib.suppress(OSError):
            self.said += os.read(self._ours, 1 << 20)
        return all(word.encode() in self.said for word in words)

    def press(self, key):
        os.write(self._ours, key)

    def _read_to_the_end(self):
        """Read on as a terminal does: to set its modes waits until its output is read."""
        until = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < until:
            self.shows()
            time.sleep(0.005)

    def end(self):
        """Wait for the end; return the exit code, and whether the terminal is as it was."""
        self._read_to_the_end()
        code = self.process.wait(timeout=20)
        same = termios.tcgetattr(self.theirs) == self.before
        os.close(self._ours)
        os.close(self.theirs)
        return code, same


@pytest.mark.slow
def test_a_live_view_of_a_run_to_its_end(here, going):
    terminal = Terminal("--every", "0.1", cwd=here)
    wait_for(lambda: terminal.shows("slow 1", "running", "at most 0.1 s", "sent, not saved"))
    assert going.end() == 0
    wait_for(lambda: terminal.shows("finished"))
    shown = terminal.said.decode()
    assert "rows.ckpt · last commit just now · q quits" in shown
    assert "\x1b[2K" in shown  # drawn over, not one below the other
    time.sleep(0.3)
    assert terminal.process.poll() is None  # it ends when it is told to
    terminal.press(b"xq")
    assert terminal.end() == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "number", "code"),
    [(b"q", None, 0), (None, signal.SIGINT, 0), (None, signal.SIGTERM, 143)],
)
def test_it_ends_on_request_and_the_run_goes_on(here, going, key, number, code):
    """The terminal is as it was, also after SIGTERM."""
    terminal = Terminal("--every", "60", cwd=here)
    wait_for(lambda: terminal.shows("slow 1"))
    asked = time.monotonic()
    if key:
        terminal.press(key)
    else:
        terminal.process.send_signal(number)
    assert terminal.end() == (code, True)
    assert time.monotonic() - asked < 10  # at once, not at the next look, a minute later
    assert going.process.poll() is None


@pytest.mark.slow
def test_a_line_now_and_then_in_a_pipe_until_the_end(here, going):
    """Each look is a line; the last one says how it ended, once; what it counts grows."""
    process = start("watch", "rows.ckpt", "--every", "0.2", "--until-end", cwd=here)
    lines = [process.stdout.readline() for _ in range(2)]  # each is there when it is printed
    assert going.end() == 0
    said, problems = process.communicate(timeout=30)
    assert (process.returncode, problems) == (0, "")
    lines += said.splitlines()
    assert all("run 1: step slow 1, is running" in line for line in lines[:-1])
    assert f"is finished, rows {going.rows}, hits 0, computed {going.rows}," in lines[-1]
    assert "a crash costs at most 0.1 s" in lines[0] and "\x1b" not in said


@pytest.mark.slow
def test_lines_of_json_for_programs(here, going):
    process = start("watch", "rows.ckpt", "--every", "0.2", "--until-end", "--json", cwd=here)
    said = [json.loads(process.stdout.readline()) for _ in range(8)]
    assert going.end() == 0
    said += [json.loads(line) for line in process.communicate(timeout=30)[0].splitlines()]
    assert process.returncode == 0
    runs = [look["runs"][0] for look in said]
    rows = [run["rows"] for run in runs]
    assert rows == sorted(rows) and 0 < rows[7] < rows[-1] == going.rows
    assert [run["state"] for run in runs[:8]] == ["running"] * 8 and runs[-1]["state"] == "finished"
    assert max(run["open_calls"] for run in runs) > 0 == runs[-1]["open_calls"]
    assert 10 < runs[-1]["rate"] < 200
    assert said[0]["at"] - said[0]["last_commit"] < 2


def test_a_killed_run_is_said_to_be_killed(here, going):
    process = start("watch", "rows.ckpt", "--every", "0.1", "--until-end", cwd=here)
    assert "running" in process.stdout.readline()
    going.process.kill()
    going.process.wait(timeout=20)
    said = process.communicate(timeout=20)[0]
    assert "is killed" in said.splitlines()[-1] and "a crash costs" not in said.splitlines()[-1]


def test_watching_changes_nothing(here):
    """Where nothing runs, the last run is shown, and --until-end ends at once."""
    for n in (3, 5):
        with ck.Store("rows.ckpt") as store:
            list(ck.run(float, range(n), name="double", store=store, version=1))
    before = {name: os.stat(name).st_mtime_ns for name in os.listdir(here)}
    done = invoke("watch", "rows.ckpt", "--until-end")
    assert done.exit_code == 0 and done.stdout.count("\n") == 1
    assert "run 2: step double 1, is finished, rows 5, hits 3, computed 2" in done.stdout
    assert {name: os.stat(name).st_mtime_ns for name in os.listdir(here)} == before
    gone = invoke("watch", "nowhere/gone.ckpt")
    assert gone.exit_code == 1 and "gone.ckpt" in gone.stderr and not os.path.exists("nowhere")
    ck.Store("empty.ckpt").close()
    assert invoke("watch", "empty.ckpt", "--until-end").stderr == "no run on empty.ckpt yet\n"


def test_two_runs_that_end_one_after_the_other_both_stay(here, capsys):
    """In the view; in a pipe each end is said once."""
    with ck.Store("rows.ckpt") as store:
        runs = []
        for name in ("one", "other"):
            rows = iter([{"n": n} for n in range(9)])
            run = ck.run(lambda row: 1, rows, store=store, version=1, name=name)
            next(run)
            runs.append(run)
        seen, lines = watch.Watch("rows.ckpt"), watch._Lines()
        wanted = [["running", "running"], ["closed", "running"], ["closed", "finished"]]
        for end, states in zip((lambda: None, runs[0].close, lambda: list(runs[1])), wanted):
            end()
            looked = seen.look()
            lines.show(looked)
            assert [run["state"] for run in looked["runs"]] == states
    said = [line.split(",")[1].strip() for line in capsys.readouterr().out.splitlines()]
    assert said == ["is running", "is running", "is closed", "is running", "is finished"]


@pytest.mark.parametrize("room", [80, 140])
def test_no_cell_is_broken_on_a_narrow_terminal(here, room):
    """What does not fit next to each other stands one below the other."""
    with ck.Store("rows.ckpt") as store:
        run = ck.run(lambda row: 1, iter(range(9)), store=store, version=1, name="a_long_name",
                     save=ck.every(rows=1), cost=lambda _: 1.5,
                     usage=lambda _: {"input": 1_000, "output": 10})  # fmt: skip
        next(run)
        console = rich.console.Console(width=room, file=io.StringIO())
        console.print(watch._view(seen := watch.Watch("rows.ckpt").look(), room))
        run.close()
    said = console.file.getvalue()
    cells = [cell for cell in watch._cells(seen["runs"][0]).values() if cell]
    assert all(cell in said for cell in cells), said
    assert said.splitlines()[2].startswith("run  step") == (room == 140)


def look(at, hits=0, computed=0, failed=0, total=None):
    rows = hits + computed + failed
    report = ck.Report(rows=rows, hits=hits, computed=computed, failed=failed)
    return Look(100.0 + at, report, rows / total if total else None)


def paces(looks):
    """Return the pace after each look at a run."""
    pace = Pace(looks[0])
    for each in looks[1:]:
        pace.add(each)
        yield pace


def test_the_rate_is_that_of_the_last_ten_seconds():
    """A run that was fast an hour ago and hangs now is not fast; commits are the clock."""
    counts = ((0, 0), (2, 100), (4, 200), (14, 210), (20, 216), (40, 236))
    looks = [look(at, computed=rows) for at, rows in counts]
    rates = [pace.rows for pace in paces(looks)]
    assert rates == [50.0, 50.0, pytest.approx(1.0), 1.0, 1.0]
    assert [pace.speed for pace in paces([looks[0], look(60, computed=20)])] == ["20 calls/min"]


def test_hits_that_came_first_say_nothing_of_the_calls_to_come():
    """A thousand hits in a second, then a call a second, 400 left: that takes 400 seconds."""
    looks = [look(0, total=1404)]
    looks += [look(1 + at, hits=1000, computed=at, total=1404) for at in range(5)]
    said = [(pace.speed, pace.seconds_left) for pace in paces(looks)]
    assert said[0] == ("1,000 hits/s", pytest.approx(0.404))
    assert said[-1] == ("1.0 calls/s", pytest.approx(400))
    mixed = [look(at, hits=9 * at, computed=at, total=100) for at in range(6)]
    assert [pace.seconds_left for pace in paces(mixed)][-1] == pytest.approx(5)
    assert [pace.seconds_left for pace in paces([look(0), look(5, 3)])] == [None]
    assert [pace.seconds_left for pace in paces([look(0, total=9), look(5, 9, total=9)])] == [None]


@pytest.mark.slow
def test_it_waits_for_a_store_that_is_not_there_yet(here):
    """And for its first run; then it shows how many rows there are, and how long they will take."""
    write_rows(here / "rows.jsonl", [{"n": n} for n in range(400)])
    terminal = Terminal("--every", "0.1", "--until-end", cwd=here)
    wait_for(lambda: terminal.shows("waiting for rows.ckpt"))
    assert not os.path.exists("rows.ckpt")
    run = ckpt("run", "steps.py:slow", "rows.jsonl", *ARGUMENTS, cwd=here)
    assert run.returncode == 0, run.stderr
    assert terminal.end() == (0, True)
    assert terminal.shows("of 400 (", "calls/s", "left", "finished")
    assert b"\x1b[?25l" not in terminal.said  # the cursor: after a SIGKILL nobody would show it
    with Reader("rows.ckpt") as reader:
        assert reader.runs()[0].total == 400
    run = watch.Watch("rows.ckpt").look()["runs"][0]
    assert (run["total"], run["seconds_left"], run["state"]) == (400, None, "finished")


def test_rows_of_unknown_number_have_no_end(here):
    """A run over one that does not know its length ends as it would anywhere."""
    with ck.Store("rows.ckpt") as store:
        inner = ck.run(float, iter("123"), store=store, version=1, name="inner")
        outer = ck.run(lambda n: 1 / (n - 2), inner, store=store, version=1, name="outer")
        assert next(outer) == -1
        said = watch._line(seen := watch.Watch("rows.ckpt").look()["runs"][-1], {"last_commit": 0})
        assert " of " not in said and "left" not in said and seen["total"] is None
        with pytest.raises(ZeroDivisionError):
            list(outer)
        list(ck.run(str, [1, 2], store=store, version=1, name="known"))
        assert store.runs("known")[0].total == 2
