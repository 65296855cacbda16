"""A real notebook: an async step run from a cell, inside Jupyter's running event loop."""

from __future__ import annotations

import os
import re

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from paid import lines

from checkpointdb import Store

pytestmark = pytest.mark.loops

SETUP = """
import asyncio, os
import checkpointdb as ckpt

@ckpt.step({path!r}, version=1)
async def label(row):
    with open({log!r}, "a") as file:
        file.write(f"{{row}}\\n")
    await asyncio.sleep(0.005)
    return {{"row": row}}
"""
RUN = """
asyncio.get_running_loop()  # Jupyter's own
results = list(label.run(range(60), concurrency=16, progress=True))
assert results == [{"row": row} for row in range(60)]
print("ran", len(results))
"""
ARUN = """
print("again", sum([1 async for _ in label.arun(range(80), concurrency=16, progress=True)]))
"""
CALL = """
print("one", await label(5), asyncio.get_running_loop().is_running())
"""
SHOW = """
from IPython.display import display

failed = list(label.run([]))
run = ckpt.run(lambda row: 1 // row, [{hostile!r}, 0, 1], store=label.store, version=1,
               name="<b>hostile", on_error="record", duplicates="separate")
failed = list(run)[0]
for each in (run, run.report, label.store, label.plan([1, 999]), label.why("no"), failed):
    display(each)
"""
FAIL = """
@ckpt.step(label.store, version=1)
async def picky(row):
    if row == 7:
        raise ValueError("no luck")
    return row

list(picky.run(range(20), concurrency=4, progress=True))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_notebook(tmp_path, store_path, monkeypatch):
    """label.run of an async step with concurrency and progress works in a cell, arun and await
    too; errors come as they do anywhere; each row is called once."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    log = str(tmp_path / "calls.log")
    setup = SETUP.format(path=store_path, log=log)
    show = SHOW.format(hostile="</script><script>alert(1)</script>\x00\u202e")
    cells = [new_code_cell(text) for text in (setup, RUN, ARUN, CALL, show, FAIL)]
    cells[-1].metadata["tags"] = ["raises-exception"]
    notebook = new_notebook(cells=cells)
    client = nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    nbformat.validate(notebook)
    outputs = [cell.outputs for cell in notebook.cells]
    streams = ["".join(o.text for o in out if o.output_type == "stream") for out in outputs]
    shown = [
        str(o.data) for out in outputs for o in out if o.output_type == "display_data"
    ]  # fmt: skip
    assert "ran 60" in streams[1]
    assert "again 80" in streams[2]
    assert "one {'row': 5} True" in streams[3]
    error = next(o for o in outputs[5] if o.output_type == "error")
    assert (error.ename, error.evalue) == ("ValueError", "no luck")
    assert any("checkpointdb:" in line and "are saved" in line for line in error.traceback)
    assert_short("".join(error.traceback))
    assert_shown([o.data["text/html"] for o in outputs[4] if o.output_type == "display_data"])
    assert_bar(outputs[1])
    assert sorted(lines(log)) == list(range(80))
    assert not [text for text in [*streams, *shown] if "Warning" in text]
    assert "60 of 60 rows · 0 hits · 60 computed" in streams[1] + "".join(shown)
    with Store(store_path, create=False) as store:
        assert store.steps()[0].results == 80
        assert {run.pid for run in store.runs()} != {os.getpid()}


def assert_short(traceback):
    """The cell and the step are there, and none of our frames between them."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", traceback)
    assert "list(picky.run(" in plain and "async def picky" in plain
    assert "loops" not in plain and "engine" not in plain


def assert_shown(displayed):
    """Each object says what it is; what a row or a name holds stays text."""
    run, report, store, plan, why, failed = displayed
    assert "run of step '&lt;b&gt;hostile' version 1: ended" in run and "3 of 3 rows" in run
    assert "report of a run" in report and ">2<" in report
    assert "last runs" in store and "label" in store
    assert "calls to be made" in plan and ">1<" in plan
    assert "miss" in why and "what differs" in why
    assert "failed: TypeError" in failed and "<details>" in failed and "\\u202e" in failed
    for html in displayed:
        assert "<script" not in html and "<b>" not in html
        assert not set(html) & {"\x00", "\u202e"}
        assert not re.search(r"(?<!-)color:|background", html)  # light and dark alike


def assert_bar(outputs):
    """A bar of HTML, drawn again in one place, without widgets; at its end it is full."""
    bars = [o.data for o in outputs if "<progress" in str(o.get("data", {}).get("text/html"))]
    assert len(bars) == 1 and 'value="1.0"' in bars[0]["text/html"]
    assert "100%" in bars[0]["text/html"] and "60 computed" in bars[0]["text/html"]
    assert bars[0]["text/plain"].startswith("label: 60 of 60 rows · 0 hits · 60 computed")
