"""Distilabel with and without us, against a real provider on loopback: its log is the oracle."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import apsw
import pytest
from paid_server import PaidServer
from starlette.responses import JSONResponse

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("distilabel", reason="uv sync --group distilabel")

HERE = Path(__file__).parent
HANGS_AFTER = float(os.environ.get("HANGS_AFTER", 300))  # seconds


class Provider(PaidServer):
    """Gives as many answers as were asked for, no two alike."""

    async def _complete(self, request):
        response = await super()._complete(request)
        if response.status_code != 200:
            return response
        body, asked = json.loads(response.body), await request.json()
        text = f"{asked['model']} row {self.calls[-1][0]} answer {len(self.paid)}"
        message = {"role": "assistant", "refusal": None}
        body["choices"] = [
            {"index": i, "message": message | {"content": f"{text}.{i}"}, "finish_reason": "stop"}
            for i in range(asked.get("n") or 1)
        ]
        return JSONResponse(body)


def prompts(numbers):
    return [json.dumps({"n": n}) for n in numbers]


# name: the first life, what ends it (after so many answers), the second life's changes
CASES = {
    "SIGKILL of all": ({"rows": range(60)}, ("all", signal.SIGKILL, 25), {}),
    "SIGKILL of the main process": ({"rows": range(60)}, ("main", signal.SIGKILL, 25), {}),
    "SIGTERM": ({"rows": range(60)}, ("main", signal.SIGTERM, 25), {}),
    "Ctrl-C": ({"rows": range(60)}, ("all", signal.SIGINT, 25), {}),
    "quota after 240 of 500": ({"rows": range(500), "quota": 240}, None, {"quota": None}),
    "100 → 150 rows": ({"rows": range(100)}, None, {"rows": range(150)}),
    "all rows different": ({"rows": range(60)}, None, {"rows": range(100, 160)}),
    "num_generations=3": ({"rows": range(40), "n": 3}, ("all", signal.SIGKILL, 25), {}),
    "20 equal prompts": ({"rows": [7] * 20}, ("all", signal.SIGKILL, 9), {}),
    "two LLM steps": ({"rows": range(40), "steps": 2}, ("all", signal.SIGKILL, 35), {}),
    "two replicas": ({"rows": [7] * 60, "replicas": 2}, ("all", signal.SIGKILL, 25), {}),
}


class Lives:
    """Starts lives; ends them by a signal once the provider answered so many calls."""

    def __init__(self):
        self.groups = []
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "distilabel_life.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def live(self, life, server, end=None):
        """Return "ended", "killed" or "hangs"."""
        self.process.stdin.write(json.dumps(life) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        self.groups.append(pid)
        if end is not None:
            whom, number, answers = end
            while len(server.paid) < answers:
                time.sleep(0.005)
            (os.killpg if whom == "all" else os.kill)(pid, number)
        hangs = not select.select([self.process.stdout], [], [], HANGS_AFTER)[0]
        if hangs:
            os.killpg(pid, signal.SIGKILL)
        status = int(self.process.stdout.readline())
        return "hangs" if hangs else "ended" if status == 0 else "killed"

    def end_orphans(self):
        """End what outlived its main process."""
        while self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.groups.pop(), signal.SIGKILL)


@pytest.fixture(scope="module")
def lives():
    lives = Lives()
    with lives.process:  # closes its pipes, waits
        yield lives


def saved(store):
    """How many generations are durable."""
    with contextlib.closing(apsw.Connection(store)) as connection:
        return connection.execute("select count(*) from results").get


@contextlib.contextmanager
def in_front(kind, server, directory):
    """Give the address of each life: the provider's own, or that of a proxy before it."""
    if kind != "proxy":
        yield lambda attempt: server.url
        return
    command = [
        sys.executable, "-m", "checkpointdb", "proxy", f"{directory}/proxy.ckpt",
        "--to", server.url.removesuffix("/v1"), "--port", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as proxy:
        origin = proxy.stderr.readline().split()[0].removesuffix("/v1")
        yield lambda attempt: f"{origin}/run/matrix/{attempt}/v1"
        proxy.terminate()
        proxy.stderr.read()


def two_lives(lives, kind, name, directory):
    """Return what two runs of a case cost and gave."""
    first, end, changes = CASES[name]
    rows = changes.get("rows", first["rows"])
    wanted = len(rows) if name != "all rows different" else 2 * len(rows)
    with Provider() as server, in_front(kind, server, directory) as url:
        server.seconds = 0.02
        life = {
            "url": url(1), "kind": kind, "store": f"{directory}/rows.ckpt",
            "cache": f"{directory}/cache", "log": f"{directory}/log",
            "output": f"{directory}/1.json",
            "n": first.get("n", 1), "steps": first.get("steps", 1),
            "replicas": first.get("replicas", 1),
        }  # fmt: skip
        server.quota = first.get("quota")
        how = [lives.live(life | {"prompts": prompts(first["rows"])}, server, end)]
        paid, durable = len(server.paid), saved(life["store"]) if kind == "adapter" else None
        server.quota = None
        life |= {"prompts": prompts(rows), "output": f"{directory}/2.json", "url": url(2)}
        if kind != "stock":  # a kill may leave half a pipeline.yaml, read under use_cache=False too
            life["cache"] += "-2"
        how.append(lives.live(life, server))
        lives.end_orphans()
        output = []
        with contextlib.suppress(FileNotFoundError):
            output = json.loads(Path(life["output"]).read_text())
        answers = [row[f"answer_{i}"] for row in output for i in range(life["steps"])]
        asked = [json.loads(row["instruction"])["n"] for row in output]
        return {
            "how": how, "paid": paid, "again": len(server.paid) - paid, "durable": durable,
            "twice": max(0, len(server.paid) - wanted * life["steps"]),
            "none": answers.count(None), "wanted": wanted * life["steps"],
            "right": asked == [n for n in rows for _ in range(life["n"])],
            "different": len(set(answers)) == len(answers),
        }  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["stock", "adapter", "proxy"])
def test_matrix(lives, kind, name, tmp_path):
    """What returned is never paid twice, and the second run gives all rows, none of them None."""
    found = two_lives(lives, kind, name, tmp_path)
    print(f"\n| {name} | {kind} | {found}")
    if kind == "stock":  # for the table: it promises nothing
        return
    assert found["how"][1] == "ended", (tmp_path / "log").read_text()[-3000:]
    assert found["right"] and found["none"] == 0 and found["different"]
    if kind == "proxy":  # calls in flight are awaited by it and saved
        assert found["twice"] == 0
        return
    # an orphan of the main process may save its calls in flight after we looked
    assert found["again"] <= found["wanted"] - found["durable"]
    assert found["paid"] - found["durable"] <= 10 * 2  # calls in flight: a batch a replica or step
