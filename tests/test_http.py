"""A step that calls a real server through a real client: the server's own log is the oracle."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import httpx
import pytest
from drivers import ASYNC, BRIDGED, TASKS

import checkpointdb as ckpt
from checkpointdb import Store, every

pytestmark = pytest.mark.loops

HERE = os.path.dirname(__file__)


class Server(http.server.ThreadingHTTPServer):
    """Answers POST with what a paid model would; keeps a log of the calls it was paid for.

    `faults` says for which prompts the next call fails, and how: a status, "reset" or "slow".
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.paid: list[int] = []
        self.faults: dict[int, list] = {}
        self.delay = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}/label"

    def handle_error(self, request, client_address):
        """A client that was killed is not worth a traceback."""


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else 40 ms a call, for an acknowledgement of the headers

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        prompt = json.loads(body)["prompt"]
        self.server.paid.append(prompt)
        time.sleep(self.server.delay)
        fault = self.server.faults.get(prompt, [])
        if fault and (what := fault.pop()):
            if what == "slow":
                time.sleep(0.6)
            if what in {"reset", "slow"}:
                self.close_connection = True
                return
            self.reply(what, {"error": "as planned"})
            return
        self.reply(200, {"prompt": prompt, "label": answer(prompt)})

    def reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def answer(prompt):
    return ["good", "bad", "ugly"][prompt % 3]


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def rows(n):
    return [{"prompt": i, "text": f"review № {i}"} for i in range(n)]


def expected(n):
    return [{"prompt": i, "label": answer(i)} for i in range(n)]


@contextlib.contextmanager
def client(server, store_path, **options):
    """A step that calls the server through a synchronous client."""
    with httpx.Client(timeout=0.5) as http_client:

        @ckpt.step(store_path, version=1, **options)
        def label(row):
            return http_client.post(server.url, json=row).raise_for_status().json()

        yield label


def test_every_row_is_paid_for_once(server, store_path):
    """Over two runs and direct calls the server sees each row once."""
    with client(server, store_path) as label:
        assert list(label.run(rows(50))) == expected(50)
        assert label(rows(60)[55]) == expected(60)[55]
        assert list(label.run(rows(60))) == expected(60)
    assert sorted(server.paid) == list(range(60))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (500, httpx.HTTPStatusError),
        (429, httpx.HTTPStatusError),
        ("reset", httpx.RemoteProtocolError),
    ],
)
@pytest.mark.parametrize("save", [every(rows=1), ckpt.on_exit()], ids=repr)
def test_a_failed_call_is_the_only_one_that_is_repeated(server, store_path, fault, error, save):
    """The client's exception stops the run; the next run pays for the failed row and the rest."""
    server.faults[17] = [fault]
    with client(server, store_path, save=save) as label:
        with pytest.raises(error) as raised:
            list(label.run(rows(30)))
        assert any("17 results of step 'label' are saved" in n for n in raised.value.__notes__)
        assert list(label.run(rows(30))) == expected(30)
    assert Counter(server.paid) == Counter([*range(30), 17])


def test_a_time_out_loses_only_its_own_call(server, store_path):
    """A call that timed out at the client, though the server was paid, is the only one repeated."""
    with client(server, store_path, save=ckpt.on_exit()) as label:
        server.faults[5] = ["slow"]
        with pytest.raises(httpx.ReadTimeout):
            list(label.run(rows(10)))
        assert list(label.run(rows(10))) == expected(10)
    assert Counter(server.paid) == Counter([*range(10), 5])


@pytest.mark.slow
@pytest.mark.parametrize("driver", [ASYNC, BRIDGED, TASKS], ids=str)
def test_an_async_client(server, store_path, driver):
    """An async step with an async client: each row paid once, a fault repeats one row."""
    server.faults[8] = [503]

    def begin():
        async def label(row):
            async with httpx.AsyncClient(timeout=5) as http_client:
                return (await http_client.post(server.url, json=row)).raise_for_status().json()

        return ckpt.step(store_path, version=1)(label)

    with pytest.raises(httpx.HTTPStatusError):
        driver.run(begin(), rows(20))
    assert driver.run(begin(), rows(20)) == expected(20)
    assert Counter(server.paid) == Counter([*range(20), 8])


def test_many_tasks_pay_once_for_a_row(server, store_path):
    """Tasks that ask for equal rows at the same time send one request."""

    async def main():
        async with httpx.AsyncClient(timeout=5) as http_client:

            @ckpt.step(store_path, version=1)
            async def label(row):
                response = await http_client.post(server.url, json=row)
                return response.raise_for_status().json()

            return await asyncio.gather(*(label(rows(5)[i % 5]) for i in range(100)))

    assert asyncio.run(main()) == expected(5) * 20
    assert sorted(server.paid) == list(range(5))


SCRIPT = """
    import sys, httpx, checkpointdb as ckpt

    url, path, n, save = sys.argv[1:]
    client = httpx.Client(timeout=5)

    @ckpt.step(path, version=1, save=ckpt.every(rows=int(save)))
    def label(row):
        return client.post(url, json=row).raise_for_status().json()

    rows = [{"prompt": i, "text": f"review № {i}"} for i in range(int(n))]
    for result in label.run(rows):
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "save"), [("SIGKILL", 1), ("SIGKILL", 10), ("SIGTERM", 1000), ("SIGINT", 1000)]
)
def test_a_script_that_is_killed_twice_pays_little_twice(server, store_path, kind, save):
    """A script killed and started again pays twice for at most N rows a kill; stopped, for none."""
    server.delay = 0.002
    chance, n, kills = random.Random(5), 150, 2
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), server.url, store_path, str(n)]
    for _ in range(kills):
        seen = len(server.paid)
        with subprocess.Popen([*command, str(save)], stderr=subprocess.DEVNULL) as child:
            deadline = time.monotonic() + 20
            while len(server.paid) < seen + 40 and child.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.01))
            child.send_signal(signal.Signals[kind])
            child.wait(20)
    done = subprocess.run([*command, str(save)], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(server.paid) == set(range(n))
    twice = len(server.paid) - n
    assert twice <= (kills * save if kind == "SIGKILL" else 0)
    with Store(store_path) as store:
        assert [record.result for record in store.records("label")] == expected(n)
