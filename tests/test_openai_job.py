"""examples/openai_job.py, run as its reader would, against a server on loopback."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from paid_server import PaidServer, answer

import checkpointdb as ckpt

pytestmark = pytest.mark.loops

JOB = Path(__file__).parent.parent / "examples" / "openai_job.py"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The example as a module, in a folder with 60 reviews, and its server."""
    monkeypatch.chdir(tmp_path)
    rows = [{"n": n, "review": f"№ {n}"} for n in range(60)]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = importlib.util.spec_from_file_location("openai_job", JOB)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "openai_job", module)
    spec.loader.exec_module(module)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with PaidServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield module, server
    module.label.store.close()


def test_the_example_survives_limits_quotas_and_budgets(job, monkeypatch):
    """Rate limits and a broken server are waited for; a spent quota and a spent budget end the run
    with what was paid saved; in the end each row was paid for once."""
    module, server = job

    def go():
        return asyncio.run(module.main("reviews.jsonl", "labelled.jsonl"))

    server.said = {"retry-after-ms": "40"}
    server.faults[3], server.faults[7] = ["limit", "limit"], ["500"]
    server.quota = 20
    with pytest.raises(module.QuotaSpentError) as spent:
        go()
    assert "20 results of step 'label' are saved" in spent.value.__notes__[-1]
    server.quota = None
    monkeypatch.setenv("BUDGET", "0.00018")  # 6 µ$ a row: 30 rows
    with pytest.raises(ckpt.BudgetExceeded):
        go()
    assert 30 <= len(server.paid) <= 30 + 32
    monkeypatch.delenv("BUDGET")
    assert go().rows == 60
    labelled = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    assert [row["label"] for row in labelled] == [answer(n) for n in range(60)]
    assert sorted(server.paid) == list(range(60)), "a row was paid for twice"
    (step,) = module.label.store.steps()
    assert step.cost == pytest.approx(60 * 6e-6)
    assert step.usage["prompt_tokens"] == sum(row["usage"]["prompt_tokens"] for row in labelled) > 0
