"""examples/openai_job.py, run as its reader would, against a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paid_server import PaidServer, answer

from checkpointdb import Store

pytestmark = [pytest.mark.loops]

JOB = Path(__file__).parent.parent / "examples" / "openai_job.py"


def job(server, folder, **more):
    """Run the example in a folder; return how it ended and what it wrote."""
    environment = {
        **os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none", **more,
        "STAMINA_TESTING": "1",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, str(JOB), "reviews.jsonl", "labelled.jsonl"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    written = folder / "labelled.jsonl"
    lines = written.read_text().splitlines() if written.exists() else []
    return ended, [json.loads(line) for line in lines]


def test_the_example_survives_limits_quotas_and_budgets(tmp_path):
    """Rate limits and a broken server are waited for; a spent quota and a spent budget end the run
    with what was paid saved; in the end each row was paid for once."""
    rows = [{"n": n, "review": f"№ {n}"} for n in range(60)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with PaidServer() as server:
        server.said = {"retry-after-ms": "40"}
        server.faults[3], server.faults[7] = ["limit", "limit"], ["500"]
        server.quota = 20
        ended, _ = job(server, tmp_path)
        assert ended.returncode == 1, ended.stderr
        assert "stopped: Error code: 429" in ended.stderr
        assert "20 results of step 'label' are saved" in ended.stderr
        server.quota = None
        ended, _ = job(server, tmp_path, BUDGET="0.00018")  # 6 µ$ a row: 30 rows
        assert "has spent $" in ended.stderr and "of its budget" in ended.stderr
        assert 30 <= len(server.paid) <= 30 + 32
        ended, labelled = job(server, tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert [row["label"] for row in labelled] == [answer(n) for n in range(60)]
        assert sorted(server.paid) == list(range(60)), "a row was paid for twice"
    with Store(str(tmp_path / "reviews.ckpt"), readonly=True) as store:
        assert store.steps()[0].cost == pytest.approx(60 * 6e-6)
