"""Ctrl-C and SIGTERM: what returned is saved, whenever they come; the second one does not wait."""

from __future__ import annotations

import contextlib
import itertools
import linecache
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import apsw
import pytest
from drivers import BRIDGED, ONE_AT_A_TIME, SEQUENTIAL, THREADS, each_driver
from lives import HERE, Lives

import checkpointdb as ckpt
from checkpointdb import Store, interrupts

pytestmark = [pytest.mark.loops, pytest.mark.on_disk]

INSTANTS = 9
STOPS = {"SIGINT": -signal.SIGINT, "SIGTERM": 128 + signal.SIGTERM}


def handlers():
    """Who gets the signals now."""
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.fixture(autouse=True)
def program():
    """Handlers as a program has them; given back even if a run should fail to."""
    interrupts.watch()  # as in a program that has a step
    before = handlers()
    yield before
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


def saved(path):
    with Store(path, create=False) as store:
        return [record.result for record in store.records()]


# --- real signals to a real process


def stop_at_random(directory, seed, driver, kind, instants):
    print(f"seed={seed}")
    chance = random.Random(seed)
    with Lives(directory, "on_exit()", "process", driver) as lives:
        for _ in range(instants):
            status = lives.end(kind, -chance.uniform(0.0001, 0.015))
            lives.read_store()
            assert not lives.answered - lives.stored.keys(), "a call that was paid for is lost"
            assert lives.returned
            assert set(lives.now["C"]) == set(lives.now["A"]), "a call in flight was not finished"
            assert status == STOPS[kind]
            assert len(lives.called) == len(lives.stored)


@pytest.mark.slow
@each_driver
@pytest.mark.parametrize("kind", STOPS)
def test_a_signal_at_a_random_instant_loses_nothing(tmp_path, driver, kind):
    """SIGINT and SIGTERM at 108 instants in all: 0 returned rows and 0 answered calls lost."""
    stop_at_random(tmp_path, 11, driver.name, kind, INSTANTS)


@pytest.mark.soak
@each_driver
@pytest.mark.parametrize("kind", STOPS)
def test_a_thousand_signals_lose_nothing(tmp_path, driver, kind):
    """The same at 1,000 instants a driver and signal, with a new seed."""
    for part in range(10):
        directory = tmp_path / str(part)
        directory.mkdir()
        seed = random.SystemRandom().randrange(10**6)
        stop_at_random(directory, seed, driver.name, kind, 100)


# --- a signal at every line of ours


def in_with(frame):
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")


def runs_before_any_call(frame):
    """Tell whether this is what looks at the user's code: thousands of lines, nothing at stake."""
    name = os.path.basename(frame.f_code.co_filename)
    return name in {
        "captured.py", "follow.py", "chains.py", "plain.py", "code_reads.py", "canonical.py",
    }  # fmt: skip


def interrupt_at(event, run):
    """Send SIGINT as the `event`-th line of checkpointdb is about to run; return how many ran.

    Not at lines that begin a `with`: tracing stops there again on the way out, before `__exit__`,
    where Python itself never looks for signals.
    """
    lines = 0

    def trace(frame, what, _):
        nonlocal lines
        if "/checkpointdb/" not in frame.f_code.co_filename or runs_before_any_call(frame):
            return None
        if what == "line" and not in_with(frame):
            lines += 1
            if lines - 1 == event:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return lines


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a run of step:RuntimeWarning")  # stopped before it began
@pytest.mark.parametrize("save", [ckpt.on_exit(), ckpt.every(rows=2)], ids=repr)
def test_ctrl_c_at_every_line_loses_nothing(store_path, save, program):
    """Wherever in our code Ctrl-C comes, what was answered is saved and the handlers are back.

    A run has thousands of lines by now: 300 of them, by a seed that is printed.
    """
    answered = []

    def step(row):
        answered.append(row)
        return row

    label = SEQUENTIAL.step(step, store_path, save=save, durability="process")
    list(label.run([-1]))
    with contextlib.closing(apsw.Connection(store_path, flags=apsw.SQLITE_OPEN_READONLY)) as disk:
        lines = interrupt_at(-1, lambda: list(label.run(range(3))))
        seed = random.randrange(1 << 32)
        print("seed", seed)
        assert lines > 300
        for n, event in enumerate(random.Random(seed).sample(range(lines), 300), 1):
            rows = range(n * 3, n * 3 + 3)
            interrupt_at(event, lambda rows=rows: list(label.run(rows)))
            stored = [int(row) for (row,) in disk.execute("select input from records").fetchall()]
            assert stored == answered, f"line {event}"
            assert handlers() == program, f"line {event}"


# --- what the program sees


def send(number=signal.SIGINT):
    """Signal ourselves, unless that would be the end of the tests."""
    assert signal.getsignal(number) is not signal.SIG_DFL, "the run has not taken it over"
    signal.raise_signal(number)


@each_driver
def test_the_first_signal_lets_the_call_finish_and_stops_with_a_note(driver, store_path):
    """Ctrl-C during a call: the call is finished and saved, no other begins, the note says so."""
    answered = []

    def step(row):
        if row == 3:
            send()
        elif row > 3:
            time.sleep(0.01)  # the main thread must come to see the signal
        answered.append(row)
        return row

    label = driver.step(step, store_path, save=ckpt.on_exit())
    with pytest.raises(KeyboardInterrupt) as raised:
        driver.run(label, range(100))
    assert set(answered) >= {0, 1, 2, 3}
    # asyncio cancels at its next turn
    assert len(answered) <= 3 + 2 * driver.concurrency + (driver.consumer == "arun")
    assert saved(store_path) == sorted(answered)
    if driver.consumer == "run":  # asyncio.run makes a KeyboardInterrupt of its own
        assert any(
            f"{len(answered)} results" in note and "are saved" in note
            for note in raised.value.__notes__
        )
    with Store(store_path) as store:
        assert store.runs()[-1].ended == "interrupted"


@each_driver
def test_sigterm_is_a_system_exit(driver, store_path):
    """SIGTERM during a call ends the program by SystemExit(143), all saved."""

    def step(row):
        if row == 3:
            send(signal.SIGTERM)
        return row

    with pytest.raises(SystemExit) as raised:
        driver.run(driver.step(step, store_path, save=ckpt.on_exit()), range(100))
    assert raised.value.code == 143
    assert set(saved(store_path)) >= {0, 1, 2, 3}


@pytest.mark.parametrize("where", ["step", "body"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("driver", [SEQUENTIAL, BRIDGED, THREADS], ids=str)
def test_the_users_own_handler_is_called_and_the_run_goes_on(driver, store_path, where, number):
    """A user's handler gets the signal, after a commit; if it returns, so does the run."""
    got = []

    def handler(number, frame):
        got.append((number, len(saved(store_path))))

    def act(row):
        if row == 3:
            send(number)
        return row

    signal.signal(number, handler)
    step = (lambda row: act(row)) if where == "step" else (lambda row: row)
    label = driver.step(step, store_path, name="s", save=ckpt.on_exit())
    results = []
    body = results.append if where == "step" else lambda row: results.append(act(row))
    driver.consume(driver.start(label, range(10)), each=body)
    assert signal.getsignal(number) is handler
    assert results == list(range(10))
    assert len(got) == 1
    assert got[0][0] == number
    assert got[0][1] >= 4


@each_driver
@pytest.mark.parametrize("end", ["finished", "closed", "failed"])
def test_handlers_are_given_back_however_a_run_ends(driver, store_path, end, program):
    """During a run the handlers are ours, after it they are the user's."""

    def step(row):
        if end == "failed" and row == 2:
            raise ValueError
        return row

    label = driver.step(step, store_path)
    with pytest.raises(ValueError) if end == "failed" else contextlib.nullcontext():
        driver.run(label, range(4), until=2 if end == "closed" else None)
    assert handlers() == program


def test_signals_that_are_ignored_stay_so(store_path):
    """A signal that the program ignores does not stop a run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    label = SEQUENTIAL.step(lambda row: send() or row, store_path, name="s")
    assert SEQUENTIAL.run(label, range(5)) == list(range(5))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_handler_that_the_loop_body_installs_is_kept(store_path):
    """A handler that the user installs during a run is not replaced at its end."""
    mine = lambda *_: None  # noqa: E731
    label = SEQUENTIAL.step(lambda row: row, store_path, name="s")
    for row in label.run(range(3)):
        if row == 1:
            signal.signal(signal.SIGINT, mine)
    assert signal.getsignal(signal.SIGINT) is mine


def test_two_runs_at_once_give_the_handlers_back(store_path, program):
    """Runs that overlap, ended in either order, leave the user's handlers."""
    label = SEQUENTIAL.step(lambda row: row, store_path, name="s")
    for order in ([0, 1], [1, 0]):
        runs = [label.run(itertools.count()) for _ in range(2)]
        assert [next(run) for run in runs] == [0, 0]
        for i in order:
            runs[i].close()
        assert handlers() == program


@each_driver
def test_outside_the_main_thread_no_handler_is_touched(driver, store_path, program):
    """A run in another thread installs no handler."""
    during, errors = [], []

    def body(_):
        during.append(handlers())

    def work():
        try:
            label = driver.step(lambda row: row, store_path, name="s")
            driver.consume(driver.start(label, range(3)), each=body)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert errors == []
    assert during == [program] * 3


SECOND = """
    import asyncio, itertools, os, sys, time, checkpointdb as ckpt
    from drivers import DRIVERS

    driver, path = sys.argv[1:]
    started = False

    def body(row):
        print(row, flush=True)

    def hang():
        os.write(1, b"hanging\\n")  # one system call: `print` in four threads mixes its lines
        time.sleep(30)

    async def ahang():
        os.write(1, b"hanging\\n")
        await asyncio.sleep(30)

    if driver in {"sequential", "threads"}:
        def step(row):
            return row if row < 3 else hang()
    else:
        async def step(row):
            return row if row < 3 else await ahang()

    how = DRIVERS[driver]
    label = ckpt.step(path, version=1, save=ckpt.on_exit())(step)
    how.consume(how.start(label, itertools.count()), each=body)
"""


@pytest.mark.parametrize("driver", [*ONE_AT_A_TIME, THREADS], ids=str)
@pytest.mark.parametrize("kind", STOPS)
def test_the_second_signal_stops_at_once(driver, store_path, kind):
    """While a call hangs, the first signal waits for it and the second ends the program."""
    command = [sys.executable, "-c", textwrap.dedent(SECOND), driver.name, store_path]
    child = subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with child:
        try:
            while child.stdout.readline() != "hanging\n":
                assert child.poll() is None
            time.sleep(0.1)  # asyncio can miss a Ctrl-C that comes as it begins to wait
            child.send_signal(signal.Signals[kind])
            time.sleep(0.3)
            assert child.poll() is None, "it did not wait for the call that was paid for"
            child.send_signal(signal.Signals[kind])
            begun = time.monotonic()
            status = child.wait(10)
        except BaseException:
            child.kill()
            raise
    assert time.monotonic() - begun < 3
    assert status in {-signal.Signals[kind], 128 + signal.Signals[kind]}
    assert saved(store_path) == [0, 1, 2]
