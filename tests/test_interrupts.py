"""Signals wherever they land: in a commit, in direct calls, in forked children, at the exit."""

from __future__ import annotations

import contextlib
import gc
import itertools
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

import checkpointdb as ckpt
from checkpointdb import Store, every, interrupts, on_exit
from checkpointdb.engine import committer

pytestmark = [pytest.mark.loops, pytest.mark.on_disk]

HERE = os.path.dirname(__file__)


def start(directory, code, *args):
    """Run code in a process with a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(directory), *args],
        cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def end(process, seconds=20):
    """Return its status and what it said; a process that does not end is killed, and fails."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail("it hangs")
    return process.returncode, out, err


def results(path):
    with Store(path, create=False) as store:
        return [record.result for record in store.records()]


def numbers(path):
    with open(path) as file:
        return [int(line) for line in file.read().split("\n")[:-1]]


# --- direct calls, in whatever thread or loop

ROWS = """
    import asyncio, itertools, multiprocessing, os, signal, sys, threading, time
    import checkpointdb as ckpt

    directory, how = sys.argv[1:3]
    paid = os.open(directory + "/paid", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    step = ckpt.step(directory + "/rows.ckpt", version=1, save=ckpt.on_exit(), durability="process")

    def note(row):
        os.write(paid, b"%d\\n" % row)

    @step
    def label(row):
        note(row)
        return row

    @step
    async def alabel(row):
        await asyncio.sleep(0)
        note(row)
        await asyncio.sleep(row % 7 / 10 if how == "64 tasks" else 0.0001)
        note(-row)
        return row

    def loop(rows):
        for row in rows:
            label(row)

    async def aloop(at_once):
        await asyncio.gather(*(some(range(n, 10**6, at_once)) for n in range(at_once)))

    async def some(rows):
        for row in rows:
            await alabel(row)

    def thread(target):
        worker = threading.Thread(target=target, daemon=True)
        worker.start()
        worker.join()

    def run():
        for _ in label.run(itertools.count()):
            pass

    if how == "calls":
        loop(itertools.count())
    elif how == "calls in threads":
        threads = [threading.Thread(target=loop, args=(range(n, 10**6, 3),), daemon=True)
                   for n in range(3)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    elif how == "asyncio.run":
        asyncio.run(aloop(4))
    elif how == "64 tasks":
        asyncio.run(aloop(64))
    elif how == "run in a thread":
        thread(run)
    elif how == "run in a thread, threads":
        thread(lambda: [None for _ in label.run(itertools.count(), concurrency=4)])
    elif how == "a store of its own":
        with ckpt.Store(directory + "/rows.ckpt") as store:
            label.replace(store=store)
            loop(itertools.count())
    elif how == "hits between calls":
        loop(range(50))
        label.flush()
        for row in itertools.count(50):
            label(row)
            loop(range(50))
"""
HOW = [
    "calls", "calls in threads", "asyncio.run", "64 tasks",
    "run in a thread", "run in a thread, threads", "hits between calls",
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("lives", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_a_signal_to_calls_of_single_rows_loses_nothing(tmp_path, how, number, lives):
    """SIGTERM and SIGHUP save what returned and what is in flight; the exit status is theirs."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed={seed}")
    chance = random.Random(seed)
    for life in range(lives):
        directory = tmp_path / str(life)
        directory.mkdir()
        process = start(directory, ROWS, how)
        wait_for_size(directory / "paid", 600)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(number)
        assert end(process)[0] == -number
        paid = {abs(row) for row in numbers(directory / "paid")}
        assert paid - set(results(directory / "rows.ckpt")) == set()


def wait_for_size(path, size):
    until = time.monotonic() + 20
    while not os.path.exists(path) or os.path.getsize(path) < size:
        assert time.monotonic() < until
        time.sleep(0.005)


POOL = """
    import multiprocessing, os, sys, time, checkpointdb as ckpt

    directory, method = sys.argv[1:]
    multiprocessing.set_start_method(method)

    @ckpt.step(directory + "/rows.ckpt", version=1, save=ckpt.on_exit())
    def label(row):
        return row

    with multiprocessing.Pool(2) as pool:  # ended by terminate()
        print(sorted(pool.map(label, range(100))))
"""


def test_the_workers_of_a_pool_that_is_terminated_lose_nothing(tmp_path):
    """`with Pool()` ends its workers by SIGTERM: what they computed is saved."""
    assert end(start(tmp_path, POOL, "fork"))[0] == 0
    assert sorted(results(tmp_path / "rows.ckpt")) == list(range(100))


@pytest.mark.soak
def test_pools_that_are_terminated_under_load_end(tmp_path):
    """400 of them beside four busy processes; 5 hung where a signal could be overslept."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        for life in range(400):
            directory = tmp_path / str(life)
            directory.mkdir()
            assert end(start(directory, POOL, "fork"), 60)[0] == 0
            assert sorted(results(directory / "rows.ckpt")) == list(range(100))
    finally:
        for process in busy:
            process.kill()
            process.wait()


OVERSLEPT = """
    import asyncio, multiprocessing, os, signal, sys, threading, time, checkpointdb as ckpt

    directory, how = sys.argv[1:]
    step = ckpt.step(directory + "/rows.ckpt", version=1, name="s", save=ckpt.on_exit())

    @step
    def label(row):
        return row

    def wake_up_fd():
        number = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(number)
        return number

    def send():
        time.sleep(0.3)  # the main thread waits by now, and is not interrupted: it has to be woken
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    async def loop():
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, came.set)
        number = wake_up_fd()
        list(label.run([2]))
        assert number == wake_up_fd() > 0, "the loop's own was replaced"
        threading.Thread(target=send).start()
        await came.wait()

    def work():
        label(1)
        if how == "loop":
            asyncio.run(loop())
            list(label.run([3]))
        if how == "grandchild" and (pid := os.fork()):
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGTERM)
        if how == "grandchild":
            assert wake_up_fd() == -1
            os.kill(os.getpid(), signal.SIGTERM)
        assert wake_up_fd() > 0
        lock = multiprocessing.Lock()
        lock.acquire()
        threading.Thread(target=send).start()
        lock.acquire()

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert wake_up_fd() == -1, "that of the main process is not ours"
    sys.exit(process.exitcode != (0 if how == "grandchild" else -signal.SIGTERM))
"""


@pytest.mark.parametrize("how", ["lock", "loop", "grandchild"])
def test_a_signal_just_before_a_wait_is_not_overslept_in_a_child(tmp_path, how):
    """Its handler runs though the main thread waits for a lock that nobody will release.

    An event loop in the child keeps the signals that it handles; a process it forks is its own.
    """
    status, _, err = end(start(tmp_path, OVERSLEPT, how))
    assert status == 0, err
    saved = {"lock": [1], "loop": [1, 2, 3], "grandchild": []}
    assert sorted(results(tmp_path / "rows.ckpt")) == saved[how]


EXECUTOR = """
    import os, sys, threading, time, checkpointdb as ckpt
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    directory, kind = sys.argv[1:]

    def label(row):
        paid = os.open(directory + "/paid", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(paid, b"%d\\n" % row)
        time.sleep(0.5)
        return row

    def run():
        pool = {"processes": ProcessPoolExecutor, "threads": ThreadPoolExecutor}[kind](2)
        for _ in step.run(range(1000), executor=pool):
            pass

    step = ckpt.step(directory + "/rows.ckpt", version=1, save=ckpt.on_exit())(label)
    threading.Thread(target=run).start()
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_signal_awaits_calls_that_an_executor_makes(tmp_path, kind):
    """A run in another thread: calls that its workers make are saved; none is begun any more."""
    process = start(tmp_path, EXECUTOR, kind)
    wait_for_size(tmp_path / "paid", 8)  # the third and the fourth are being made
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(20) == -signal.SIGTERM
    finally:
        with contextlib.suppress(ProcessLookupError):  # an executor's workers outlive their parent
            os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate()
    assert err == ""
    paid = numbers(tmp_path / "paid")
    assert sorted(results(tmp_path / "rows.ckpt")) == sorted(paid)
    # a pool of processes has up to one call more than workers where it cannot be cancelled
    most = 4 if kind == "threads" else 7
    assert 4 <= len(paid) <= most, "calls that were only queued were made, too"


CTRL_C = """
    import os, signal, sys, threading, time, checkpointdb as ckpt

    directory, how = sys.argv[1:]
    label = ckpt.step(directory + "/rows.ckpt", version=1, name="s", save=ckpt.on_exit())
    if how == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif how == "handled":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    label = label(lambda row: row)
    label(1)
    os.kill(os.getpid(), signal.SIGTERM)
    label(2)
    print("went on", flush=True)
"""


@pytest.mark.parametrize(
    ("how", "status", "saved"), [("ignored", 0, [1, 2]), ("handled", 7, [1]), ("default", -15, [1])]
)
def test_what_the_program_does_with_a_signal_stays(tmp_path, how, status, saved):
    """A signal that is ignored stays so; a program's own handler is its own."""
    assert end(start(tmp_path, CTRL_C, how))[0] == status
    assert results(tmp_path / "rows.ckpt") == saved


def test_asyncio_run_has_its_own_ctrl_c(store_path):
    """Between calls, and inside a step, SIGINT is handled as without checkpointdb."""
    seen = []

    @ckpt.step(store_path, version=1)
    def label(row):
        seen.append(signal.getsignal(signal.SIGINT))
        return row

    label(1)
    assert seen == [signal.default_int_handler]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert interrupts.state.taken == ()


IN_KEEPING = """
    import asyncio, os, signal, sys, checkpointdb as ckpt

    class Answer:
        def __init__(self, n):
            self.n = n

    def to(answer):  # called while the result is kept
        if answer.n == 3:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # a handler runs between two bytecodes, as soon as it may
                pass
        return answer.n

    ckpt.register(Answer, to=to, back=Answer)

    path = sys.argv[1] + "/rows.ckpt"

    @ckpt.step(path, version=1, save=ckpt.on_exit())
    def called(row):
        return Answer(row)

    @ckpt.step(path, version=1, save=ckpt.on_exit())
    async def label(row):
        return Answer(row)

    async def main():
        async for _ in label.arun(range(10), concurrency=1):
            pass

    if sys.argv[2] == "calls":
        for row in range(10):
            called(row)
    elif sys.argv[2] == "own":
        asyncio.run(main())
    else:  # a loop without a handler of its own: KeyboardInterrupt comes at any place
        asyncio.new_event_loop().run_until_complete(main())
"""


@pytest.mark.parametrize("how", ["own", "bare", "calls"])
def test_ctrl_c_waits_until_the_result_of_a_call_is_kept(tmp_path, how):
    """Of an async call, in a loop with a handler of its own and without; of a direct call."""
    process = start(tmp_path, IN_KEEPING, how)
    status, _, errors = end(process)
    assert status == -signal.SIGINT and "KeyboardInterrupt" in errors
    with Store(tmp_path / "rows.ckpt", create=False) as store:
        assert [record.position for record in store.records()][:4] == [0, 1, 2, 3]


SLOW = """
    import itertools, os, sys, time, checkpointdb as ckpt

    @ckpt.step(sys.argv[1] + "/rows.ckpt", version=1, save=ckpt.on_exit())
    def label(row):
        if row == 3:
            print("in the call", flush=True)
            time.sleep(float(sys.argv[2]))
        return row

    for row in range(5):
        label(row)
"""


def test_sigterm_in_a_call_saves_at_once_and_then_waits_for_it(tmp_path):
    """Who sent it may not wait long: what had returned is on the disk before the call is done."""
    process = start(tmp_path, SLOW, "1.5")
    assert process.stdout.readline() == "in the call\n"
    process.terminate()
    time.sleep(0.5)
    process.send_signal(0)
    assert results(tmp_path / "rows.ckpt") == [0, 1, 2]
    assert end(process)[0] == -signal.SIGTERM
    assert results(tmp_path / "rows.ckpt") == [0, 1, 2, 3]


def test_the_second_sigterm_does_not_wait_for_the_call(tmp_path):
    """It costs the call in flight and nothing else."""
    process = start(tmp_path, SLOW, "60")
    assert process.stdout.readline() == "in the call\n"
    process.terminate()
    time.sleep(0.3)
    process.terminate()
    assert end(process, 5)[0] == -signal.SIGTERM
    assert results(tmp_path / "rows.ckpt") == [0, 1, 2]


# --- Ctrl-C at every line


class Interrupt:
    """Send SIGINT as the n-th line of checkpointdb is about to run, but for some functions."""

    def __init__(self, at, but=()):
        self.left, self.came, self.but = at, None, but

    def __call__(self, frame, what, _):
        code = frame.f_code
        if "/checkpointdb/" not in code.co_filename or self.came or code.co_name in self.but:
            return None
        if what == "line":
            self.left -= 1
            if not self.left:
                self.came = f"{code.co_name}:{frame.f_lineno}"
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self


def interrupted(at, act, but=()):
    """Tell where SIGINT came; None if `act` has fewer lines."""
    trace = Interrupt(at, but)
    sys.settrace(trace)
    try:
        act()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return trace.came


@pytest.fixture
def ctrl_c():
    gc.collect()  # in a finalizer, of another test's store, Python ignores what Ctrl-C raises
    gc.disable()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 5])
def test_ctrl_c_at_every_line_of_a_call_loses_nothing(store_path, monkeypatch, ctrl_c, rows):
    """Wherever in our code it comes, what the step returned is kept, once, and nothing is open."""
    monkeypatch.setattr(committer, "COUNTS_EVERY", 0.0)  # each commit is a transaction
    answered = []

    @ckpt.step(store_path, version=1, save=every(rows=rows))
    def label(row):
        answered.append(row)
        return row

    label(-1)
    writer = label.store.log._writer
    for at in itertools.count(1):
        came = interrupted(at, lambda at=at: [label(at * 10 + i) for i in range(rows)])
        assert not writer.in_transaction, came
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, came
        assert interrupts.state.deferred is None, came
        assert label(answered[-1]) == answered[-1]  # pending or saved: not called again
        if came is None:
            break
    label.flush()
    assert results(store_path) == answered
    assert len(answered) == len(set(answered))
    assert at > 100


@pytest.mark.parametrize("handler", ["default", "saves"])
def test_a_signal_at_every_line_of_a_hit_harms_nothing(store_path, ctrl_c, handler):
    """No signal waits for a hit; what a handler saves meanwhile is saved, and the hit is right."""
    label = ckpt.step(store_path, version=1, save=on_exit(), name="s")(lambda row: [row])
    if handler == "saves":
        signal.signal(signal.SIGINT, lambda *_: label.flush())
    hits = [label(row) for row in range(3)]
    label.flush()
    label(0)
    for at in itertools.count(1):
        label(-at)  # is pending when the signal comes
        label(0)
        got = []
        # between the bytecodes of `gave`, under its lock, Python runs no handler; a tracer does
        came = interrupted(at, lambda got=got: got.append(label(2)), but=("gave",))
        assert (got == []) if came and handler == "default" else (got == [hits[2]]), came
        assert label(1) == hits[1] and interrupts.state.deferred is None, came
        if came is None:
            break
    label.flush()
    assert sorted(results(store_path)) == sorted([*hits, *([-n] for n in range(1, at + 1))])
    assert at > 40


@pytest.mark.slow
def test_ctrl_c_in_a_commit_of_another_step_in_the_body_of_a_run(store_path, monkeypatch, ctrl_c):
    """A run saves before it is interrupted, but never inside another commit of the same store."""
    monkeypatch.setattr(committer, "COUNTS_EVERY", 0.0)
    with Store(store_path) as store:
        a = ckpt.step(store, version=1, name="a", save=on_exit())(lambda x: x)
        b = ckpt.step(store, version=1, name="b", save=every(rows=3))(lambda x: -x)
        b(0)
        given, made = [], []
        for at in itertools.count(1):
            run = a.run(range(at * 10, at * 10 + 2))
            given.append(next(run))
            rows = range(at * 10, at * 10 + 3)
            came = interrupted(at, lambda rows=rows: [made.append(b(row)) for row in rows])
            run.close()
            assert not store.log._writer.in_transaction, came
            if came is None:
                break
        assert at > 100
        records = list(store.records())
        assert store.verify() == []
    of_a = [record.result for record in records if record.step == "a"]
    of_b = [record.result for record in records if record.step == "b"]
    assert set(given) <= set(of_a)
    assert set(made) <= set(of_b)
    assert apsw_count(store_path) == len(records)


def apsw_count(path):
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute("select count(*) from records").get
    finally:
        connection.close()


# --- another process's lock


class Lock:
    """Another process that holds the write lock."""

    CODE = """
        import apsw, sys
        connection = apsw.Connection(sys.argv[1])
        connection.execute("begin immediate")
        print("held", flush=True)
        sys.stdin.readline()
    """

    def __init__(self, path):
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self.CODE), path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "held\n"

    def release(self):
        self._process.communicate("\n", timeout=10)


def test_ctrl_c_while_a_commit_waits_for_a_lock_comes_after_it(store_path, monkeypatch, ctrl_c):
    """The commit is done when the lock is free, then the signal comes; nothing stays open."""
    monkeypatch.setattr(committer, "COUNTS_EVERY", 0.0)
    label = ckpt.step(store_path, version=1, name="s", save=every(rows=1))(lambda row: row)
    label(0)
    lock = Lock(store_path)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    threading.Timer(0.6, lock.release).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        label(1)
    assert time.monotonic() - began > 0.5
    assert results(store_path) == [0, 1]
    label(2)
    assert results(store_path) == [0, 1, 2]
    Lock(store_path).release()


def test_a_second_ctrl_c_abandons_a_commit_that_waits_for_a_lock(store_path, ctrl_c):
    """What it would have committed stays pending."""
    label = ckpt.step(store_path, version=1, name="s", save=every(rows=1))(lambda row: row)
    label(0)
    lock = Lock(store_path)
    for seconds in (0.2, 0.5):
        threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        label(1)
    assert time.monotonic() - began < 3
    lock.release()
    label.flush()
    assert results(store_path) == [0, 1]


def test_a_transaction_that_a_handler_broke_is_rolled_back(store_path):
    """Whoever raises where nobody should, the next commit begins with none open."""
    label = ckpt.step(store_path, version=1, name="s", save=every(rows=1))(lambda row: row)
    label(0)
    label.store.log._writer.execute("begin immediate")
    label(1)
    label.flush()
    assert results(store_path) == [0, 1]
    Lock(store_path).release()


# --- processes forked during a run

FORKS = """
    import asyncio, multiprocessing as mp, os, signal, subprocess, sys, time
    import checkpointdb as ckpt

    directory, what, where = sys.argv[1:]
    mp.set_start_method("fork")
    step = ckpt.step(directory + "/rows.ckpt", version=1, name="s")

    def leave():
        if (pid := os.fork()) == 0:
            sys.exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def act():
        if what == "pool":
            with mp.Pool(2) as pool:
                return pool.map(abs, [1, -2])
        if what == "terminate":
            child = mp.Process(target=time.sleep, args=(60,))
            child.start()
            child.join(0.1)
            child.terminate()
            child.join()
            assert child.exitcode == -signal.SIGTERM, child.exitcode
        if what == "subprocess":
            child = subprocess.Popen(["sleep", "60"])
            child.terminate()
            assert child.wait() == -signal.SIGTERM
        if what == "exit":
            status = leave()
            assert status == 7 or where in {"threads", "async"} and status == 0, status

    if where == "async":
        @step
        async def f(row):
            if row == 3:
                act()
            await asyncio.sleep(0)
            return row
    else:
        @step
        def f(row):
            if row == 3 and where != "body":
                act()
            return row

    if where == "call":
        for row in range(6):
            f(row)
    elif where == "body":
        for kind in (1, 2):
            for row in f.run(range(6), concurrency=kind):
                if row == 3:
                    act()
    else:
        n = 1 if where == "step" else 3
        assert list(f.run(range(6), concurrency=n)) == list(range(6))
    print("done", flush=True)
"""


@pytest.mark.parametrize(
    "where",
    [
        "call",
        "threads",
        "async",
        *(pytest.param(it, marks=pytest.mark.slow) for it in ("step", "body")),
    ],
)
@pytest.mark.parametrize("what", ["pool", "terminate", "subprocess", "exit"])
def test_a_child_forked_during_a_run_is_its_own(tmp_path, what, where):
    """It does not have our signal handlers, and it ends; the run goes on."""
    status, out, err = end(start(tmp_path, FORKS, what, where))
    assert (status, out) == (0, "done\n"), err
    assert set(results(tmp_path / "rows.ckpt")) == set(range(6))


# --- the end of the script

UNFINISHED = """
    import asyncio, sys, time, checkpointdb as ckpt

    directory, how, kind = sys.argv[1:]

    def note(name, row):
        with open(directory + "/" + name, "a") as file:
            file.write(f"{row}\\n")

    def f(row):
        note("began", row)
        time.sleep(0.2)
        return row

    async def af(row):
        note("began", row)
        await asyncio.sleep(0.2)
        return row

    step = ckpt.step(directory + "/rows.ckpt", version=1, name="s", save=ckpt.on_exit())
    run = step(af if kind == "async" else f).run(range(100), concurrency=4)
    for _ in run:
        time.sleep(0.1)
        if how == "exit":
            sys.exit(3)
        if how == "raise":
            raise RuntimeError("mine")
        break
"""


@pytest.mark.parametrize("kind", ["threads", "async"])
@pytest.mark.parametrize(("how", "status"), [("exit", 3), ("raise", 1), ("end", 0)])
def test_a_script_that_ends_awaits_what_is_in_flight(tmp_path, how, status, kind):
    """An unfinished run in a global name: its calls are paid for, saved, and the script ends."""
    assert end(start(tmp_path, UNFINISHED, how, kind))[0] == status
    assert set(results(tmp_path / "rows.ckpt")) == set(numbers(tmp_path / "began"))
    with Store(tmp_path / "rows.ckpt") as store:
        assert store.runs()[-1].ended == "closed"
