"""A real notebook: an async step run from a cell, inside Jupyter's running event loop."""

from __future__ import annotations

import os

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
    cells = [new_code_cell(text) for text in (setup, RUN, ARUN, CALL, FAIL)]
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
    error = next(o for o in outputs[4] if o.output_type == "error")
    assert (error.ename, error.evalue) == ("ValueError", "no luck")
    assert any("checkpointdb:" in line and "are saved" in line for line in error.traceback)
    assert sorted(lines(log)) == list(range(80))
    assert not [text for text in [*streams, *shown] if "Warning" in text]
    assert "60 of 60 rows · 0 hits · 60 computed" in streams[1] + "".join(shown)
    with Store(store_path, create=False) as store:
        assert store.steps()[0].results == 80
        assert {run.pid for run in store.runs()} != {os.getpid()}
