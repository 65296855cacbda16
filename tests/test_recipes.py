"""The code of docs/rate-limits.md and docs/telemetry.md runs, as a reader would paste it."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

import pytest
from paid_server import PaidServer, answer

pytestmark = pytest.mark.loops

DOCS = Path(__file__).parent.parent / "docs"


def run_blocks(page, folder, space):
    """Run the Python blocks of a page in one namespace; return it."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    for number, block in enumerate(blocks):
        path = folder / f"block_{number}.py"
        path.write_text(block)
        exec(compile(block, str(path), "exec"), space)
    return space


def test_rate_limits(tmp_path, monkeypatch, capsys, page_left_behind):
    """Each recipe labels every row, though the server refuses some calls; none is paid twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    rows = [{"text": f'{{"n": {n}}}'} for n in range(12)]
    with PaidServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        for n in (2, 5):
            server.faults[n] = ["limit", "ok", "limit", "ok", "limit", "ok"]
        space = run_blocks("rate-limits.md", tmp_path, {"rows": rows})
        assert capsys.readouterr().out.split() == [answer(n) for n in range(12)]
        assert sorted(server.paid) == sorted([*range(12)] * 3)
        for step in ("label", "retried", "limited"):
            assert space[step].plan(rows).hits == 12


def test_telemetry(tmp_path, monkeypatch):
    """The Prometheus recipe serves the counts of the run."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    space = {"rows": range(7), "port": port, "call_a_paid_model": lambda row: row}
    space = run_blocks("telemetry.md", tmp_path, space)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    found = dict(
        re.findall(r'^(checkpointdb_\w+)\{.*checkpointdb_step="label".*\} (\S+)$', text, re.M)
    )
    assert found["checkpointdb_rows_total"] == "7.0"
    assert found["checkpointdb_rows_hits_total"] == "7.0"
    assert found["checkpointdb_rows_computed_total"] == "0.0"
    assert found["checkpointdb_cost_USD_total"] == "0.0"
    assert found["checkpointdb_rows_pending"] == "0.0"
    space["provider"].shutdown()
