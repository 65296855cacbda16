"""Async steps called from sync code: one event loop, on which no run holds up another."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import http.server
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import apsw
import httpx
import pytest

import checkpointdb as ckpt
from checkpointdb import Store, every

pytestmark = pytest.mark.loops


def threaded(fn):
    """Start `fn` in a thread; return a function that waits for what it returns."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(fn()), daemon=True)
    thread.start()

    def result():
        thread.join(20)
        assert outcome, "it is held up"
        return outcome[0]

    return result


# --- one loop


class Answer(http.server.BaseHTTPRequestHandler):
    """A server that says ok, and keeps connections open."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


@pytest.fixture
def url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_client_of_the_module_serves_every_run(store_path, url, concurrency):
    """A client, a semaphore, a lock: what belongs to the first run's loop works in the second."""
    client, gate, lock = httpx.AsyncClient(), asyncio.Semaphore(2), asyncio.Lock()

    @ckpt.step(store_path, version=1)
    async def get(row):
        async with gate, lock:
            return (await client.get(url)).text

    for n in range(3):
        rows = range(n * 5, n * 5 + 5)
        assert list(get.run(rows, concurrency=concurrency)) == ["ok"] * 5
    asyncio.run_coroutine_threadsafe(client.aclose(), _loop_of(store_path)).result(5)


def _loop_of(path):
    """Return the event loop that runs are on."""

    @ckpt.step(path, version=1, name="loop of")
    async def where(row):
        found.append(asyncio.get_running_loop())
        return row

    found = []
    list(where.run([object.__hash__(object())]))
    return found[0]


def test_a_run_ends_its_own_calls_and_no_others(store_path):
    """One run is closed, another goes on: its call is awaited, not cancelled."""
    began, go = threading.Event(), threading.Event()

    @ckpt.step(store_path, version=1)
    async def slow(row):
        began.set()
        while not go.is_set():
            await asyncio.sleep(0.001)
        return row

    @ckpt.step(store_path, version=1)
    async def quick(row):
        return row

    other = threaded(lambda: list(slow.run([1, 2], concurrency=2)))
    assert began.wait(20)
    with contextlib.closing(quick.run(range(100), concurrency=4)) as run:
        assert next(run) == 0
    go.set()
    assert other() == [1, 2]


def test_a_run_that_would_wait_for_its_own_loop_is_refused(store_path):
    """An async step that loops over `run` of an async step is told to use arun, which works."""

    @ckpt.step(store_path, version=1)
    async def inner(row):
        return row + 1

    @ckpt.step(store_path, version=1)
    async def refused(row):
        return list(inner.run([row]))

    @ckpt.step(store_path, version=1)
    async def accepted(row):
        return [result async for result in inner.arun([row])]

    with pytest.raises(RuntimeError, match=r"inner.arun\(rows\)"):
        list(refused.run([5]))
    assert list(accepted.run([5], concurrency=2)) == [[6]]


def _in_child(path, results):
    results.put(list(_doubling(path).run(range(5, 10), concurrency=3)))


def _doubling(path):
    @ckpt.step(path, version=1, name="double")
    async def double(row):
        await asyncio.sleep(0)
        return row * 2

    return double


def test_a_forked_child_has_a_loop_of_its_own(store_path):
    """The child's run ends with its results, and the parent's loop still turns."""
    assert list(_doubling(store_path).run(range(5), concurrency=3)) == [0, 2, 4, 6, 8]
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 3.12: a fork while threads run
        child = fork.Process(target=_in_child, args=(store_path, results))
        child.start()
    assert results.get() == [10, 12, 14, 16, 18]
    child.join()
    assert list(_doubling(store_path).run(range(12), concurrency=3))[-1] == 22


# --- nobody is held up


@ckpt.step("unused", version=1)
async def _probe(row):
    await asyncio.sleep(0)
    return row


def _others_go_on(tmp_path):
    """Tell whether another run, on the same loop, comes to its end."""
    probe = _probe.replace(store=str(tmp_path / "probe.ckpt"))
    return threaded(lambda: list(probe.run(range(20), concurrency=4)))() == list(range(20))


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("what", ["valid", "cost", "on_event"])
def test_what_a_run_asks_of_the_user_holds_up_no_other_run(store_path, tmp_path, what, concurrency):
    """`valid=`, `cost=`, `on_event=` that take long: calls of another run go on meanwhile."""
    began, go = threading.Event(), threading.Event()

    def judge(value):
        if what != "on_event" or isinstance(value, ckpt.events.Committed):
            began.set()
            assert go.wait(20)
        return 1

    @ckpt.step(store_path, version=1, save=every(rows=2))
    async def label(row):
        return row

    run = threaded(lambda: list(label.run(range(4), concurrency=concurrency, **{what: judge})))
    assert began.wait(20)
    assert _others_go_on(tmp_path)
    go.set()
    assert run() == list(range(4))


@pytest.mark.parametrize("consumer", ["run", "arun"])
def test_a_commit_that_waits_holds_up_no_other_call(store_path, tmp_path, consumer):
    """Another process has the write lock: the run's commit waits for it, its loop does not."""
    began, unlock = threading.Event(), threading.Event()

    @ckpt.step(store_path, version=1, save=every(rows=1))
    async def label(row):
        if row == 0:
            holder.execute("begin immediate")
            began.set()
        return row

    async def loop():
        task = asyncio.create_task(_gather(label.arun(range(4), concurrency=4)))
        while not began.is_set():
            await asyncio.sleep(0.001)
        for _ in range(50):  # the loop turns
            await asyncio.sleep(0.001)
        assert not task.done()
        unlock.set()
        return await task

    label.flush()  # it makes the file
    holder = apsw.Connection(store_path)

    def hold():
        unlock.wait(20)
        holder.execute("rollback")
        return True

    holding = threaded(hold)
    if consumer == "arun":
        assert asyncio.run(loop()) == list(range(4))
    else:
        run = threaded(lambda: list(label.run(range(4), concurrency=4)))
        assert began.wait(20)
        assert _others_go_on(tmp_path)
        unlock.set()
        assert run() == list(range(4))
    assert holding()
    holder.close()


async def _gather(run):
    return [result async for result in run]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_step_that_blocks_the_loop_is_named(store_path, concurrency):
    """A blocking body warns once, with the step's name and the line that blocks."""

    def deep():
        time.sleep(1.2)

    @ckpt.step(store_path, version=1)
    async def careless(row):
        if row == 1:
            deep()
        return row

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(careless.run(range(3), concurrency=concurrency)) == [0, 1, 2]
    (warning,) = [one for one in caught if "blocks its event loop" in str(one.message)]
    line = careless.__wrapped__.__code__.co_firstlineno + 3
    assert "step 'careless'" in str(warning.message)
    assert f"careless, line {line} of {__file__}" in str(warning.message)
    assert warning.filename == __file__


def test_a_step_that_awaits_blocks_nothing(store_path):
    """A slow call that awaits is no reason to warn."""

    @ckpt.step(store_path, version=1)
    async def patient(row):
        await asyncio.sleep(1)
        return row

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(patient.run(range(3), concurrency=3)) == [0, 1, 2]
    assert [str(one.message) for one in caught] == []


# --- pipelines

PIPELINE = """
import asyncio, os, sys, time
import checkpointdb as ckpt

path, log, inner, outer, limit = *sys.argv[1:5], int(sys.argv[5])

def note(what, row):
    with open(log, "a") as file:
        print(what, row, file=file)

@ckpt.step(path, version=1, save=ckpt.every(rows=1))
def first_sync(row):
    time.sleep(0.002)
    note("first", row)
    return row + 1

@ckpt.step(path, version=1, save=ckpt.every(rows=1))
async def first_async(row):
    await asyncio.sleep(0.002)
    note("first", row)
    return row + 1

@ckpt.step(path, version=1, save=ckpt.every(rows=1))
def second_sync(row):
    note("second", row)
    return row * 2

@ckpt.step(path, version=1, save=ckpt.every(rows=1))
async def second_async(row):
    note("second", row)
    return row * 2

async def gather(make):
    got = []
    async for result in make():
        got.append(result)
        if len(got) == limit:
            print("now", flush=True)
            time.sleep(60)
    return got

KINDS = {
    "sync.run": lambda rows, step: step[0].run(rows),
    "threads": lambda rows, step: step[0].run(rows, concurrency=3),
    "async.run": lambda rows, step: step[1].run(rows),
    "tasks.run": lambda rows, step: step[1].run(rows, concurrency=3),
    "async.arun": lambda rows, step: step[1].arun(rows, concurrency=3),
}
make = lambda: KINDS[outer](
    KINDS[inner](range(30), (first_sync, first_async)), (second_sync, second_async)
)
if outer == "async.arun":
    got = asyncio.run(gather(make))
else:
    got = []
    for result in make():
        got.append(result)
        if len(got) == limit:
            print("now", flush=True)
            time.sleep(60)
print(got)
"""
KINDS = ["sync.run", "threads", "async.run", "tasks.run", "async.arun"]


@pytest.mark.slow
@pytest.mark.parametrize("outer", KINDS)
@pytest.mark.parametrize("inner", KINDS)
def test_the_results_of_any_run_are_the_rows_of_any_other(tmp_path, inner, outer):
    """Killed in the middle and resumed: all results, each row paid once but those in flight."""
    script, log, path = tmp_path / "pipeline.py", tmp_path / "log", str(tmp_path / "rows.ckpt")
    script.write_text(textwrap.dedent(PIPELINE))
    limit = random.Random(f"{inner} {outer}").randrange(3, 25)
    command = [sys.executable, str(script), path, str(log), inner, outer]
    process = subprocess.Popen([*command, str(limit)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "now\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    resumed = subprocess.run([*command, "0"], capture_output=True, text=True, timeout=60)
    assert resumed.stdout == f"{[(row + 1) * 2 for row in range(30)]}\n", resumed.stderr
    paid = log.read_text().splitlines()
    assert len(set(paid)) == 60
    assert len(paid) <= 60 + 2 * 6  # three in flight of each step, and as many about to be saved


def test_rows_from_another_run_are_read_off_the_users_loop(store_path):
    """The run inside waits for its call, and the loop that awaits the run outside still turns."""
    began, go = threading.Event(), threading.Event()

    @ckpt.step(store_path, version=1)
    def first(row):
        began.set()
        assert go.wait(20)
        return row

    @ckpt.step(store_path, version=1)
    async def second(row):
        return row * 2

    async def main():
        task = asyncio.create_task(_gather(second.arun(first.run(range(3)))))
        while not began.is_set():
            await asyncio.sleep(0.001)
        go.set()
        return await task

    assert asyncio.run(main()) == [0, 2, 4]


# --- context

trace_of = contextvars.ContextVar("trace_of", default="none")


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("kind", ["sync", "run", "arun"])
def test_context_variables_reach_the_step(store_path, kind, concurrency):
    """What the caller set is seen in threads and tasks, on any loop; later runs see what is new."""

    @ckpt.step(store_path, version=1, name="s")
    def plain(row):
        return trace_of.get()

    @ckpt.step(store_path, version=1, name="s")
    async def asynchronous(row):
        await asyncio.sleep(0)
        return trace_of.get()

    step = plain if kind == "sync" else asynchronous
    for n in range(2):
        trace_of.set(f"caller {n}")
        rows = range(n * 3, n * 3 + 3)
        if kind == "arun":
            results = asyncio.run(_gather(step.arun(rows, concurrency=concurrency)))
        else:
            results = list(step.run(rows, concurrency=concurrency))
        assert results == [f"caller {n}"] * 3


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("kind", ["sync", "run", "arun"])
def test_spans_of_the_step_are_children_of_the_runs_span(store_path, kind, concurrency):
    """In threads and tasks too; outside of the step the run's span is not the current one."""
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    simple = pytest.importorskip("opentelemetry.sdk.trace.export")
    from checkpointdb.otel import Telemetry

    exporter, provider = export.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(simple.SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    def work(row):
        with tracer.start_as_current_span(f"call {row}"):
            return row

    async def awork(row):
        with tracer.start_as_current_span(f"call {row}"):
            await asyncio.sleep(0)
            return row

    step = ckpt.step(store_path, version=1, name="s")(work if kind == "sync" else awork)
    options = {"concurrency": concurrency, "on_event": Telemetry(tracer_provider=provider)}
    if kind == "arun":
        asyncio.run(_gather(step.arun(range(6), **options)))
    else:
        for _ in step.run(range(6), **options):
            assert not trace.get_current_span().get_span_context().is_valid
    spans = exporter.get_finished_spans()
    (run,) = [span for span in spans if span.name == "checkpointdb.run"]
    calls = [span for span in spans if span.name.startswith("call ")]
    assert len(calls) == 6
    assert {call.parent.span_id for call in calls} == {run.context.span_id}
    with Store(store_path) as store:
        assert store.runs()[0].state == "finished"
