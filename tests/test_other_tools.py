"""A store in other people's tools: Datasette serves it, DuckDB queries it; neither changes it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import CHROMIUM, Browser

import checkpointdb as ck

DOCS = (Path(__file__).parent.parent / "docs" / "looking.md").read_text(encoding="utf-8")
EXTENSIONS = [
    file.locate()
    for file in importlib.metadata.files("duckdb-ext-sqlite") or ()
    if file.name == "sqlite_scanner.duckdb_extension"
]


def label(row):
    if row["id"] % 10 == 3:
        raise TimeoutError("no answer")
    return {"label": "good" if row["id"] % 2 else "bad", "score": row["id"] / 10}


@pytest.fixture
def filled(store_path):
    """A store with rows in it, and one of them after a second attempt."""
    rows = [{"id": n, "title": f"film {n}", "v": [0.5] * 64} for n in range(20)]
    with ck.Store(store_path) as store:
        options = {"store": store, "version": 1, "on_error": "record", "cost": lambda r: 0.25}
        list(ck.run(label, rows, **options))
        list(ck.run(label, rows, **options))
    return store_path


def blocks(language):
    """Return the code of one language that docs/looking.md shows."""
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.S)


DUCKDB = """
import duckdb, json, sys
extension, store, *questions = sys.argv[1:]
connection = duckdb.connect()
connection.execute(f"load '{extension}'")
connection.execute(f"attach '{store}' as store (type sqlite, read_only)")
print(json.dumps([connection.execute(sql).fetchall() for sql in questions]))
try:
    connection.execute("delete from store.records")
except duckdb.Error as error:
    print(error)
"""


@pytest.mark.skipif(not EXTENSIONS, reason="duckdb-ext-sqlite has no extension for this machine")
def test_duckdb_reads_what_the_docs_show(filled):
    """Even while a run has the store open; views, JSON, sums; nothing can be written.

    It is a process of its own: closing its file would drop the locks that a run in this one holds.
    """
    with ck.Store(filled) as store:
        going = iter(ck.run(label, [{"id": 100}, {"id": 101}], store=store, version=1))
        next(going)
        store.flush()
        command = [sys.executable, "-c", DUCKDB, str(EXTENSIONS[0]), filled, *blocks("sql")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        going.close()
    assert done.returncode == 0, done.stderr
    said, refused = done.stdout.strip().split("\n", 1)  # a slow query ends a line of progress first
    assert json.loads(said) == [
        [["bad", 11, 2.5, pytest.approx(19.0 / 11)], ["good", 8, 2.0, pytest.approx(1.05)]],
        [["TimeoutError", 2]],
    ]
    assert "read-only" in refused


@pytest.fixture
def datasette(filled):
    """The address of a Datasette that serves the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "datasette", "serve", filled, "-h", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/-/versions.json").close()
                break
            assert server.poll() is None, "datasette has ended"
            time.sleep(0.05)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=20)


def asked(address):
    with urllib.request.urlopen(address, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_datasette_serves_the_views(datasette):
    """Results and failures as tables, and any question in SQL."""
    results = asked(f"{datasette}/rows/results.json?_shape=array&_size=max")
    assert len(results) == 18 and results[0]["step"] == "label"
    assert json.loads(results[0]["result"])["label"] in ("good", "bad")
    assert json.loads(results[0]["input"])["MessagePack"]  # a vector is no JSON
    failures = asked(f"{datasette}/rows/failures.json?_shape=array")
    assert {(it["error_type"], it["attempts"]) for it in failures} == {("TimeoutError", 2)}
    sql = "select result ->> 'label' as label, count(*) as n from results group by 1"
    counted = asked(f"{datasette}/rows.json?_shape=array&sql={quote(sql)}")
    assert {it["label"]: it["n"] for it in counted} == {"good": 8, "bad": 10}


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.soak
def test_datasette_shows_a_page(datasette):
    with Browser() as browser:
        browser.open(f"{datasette}/rows/failures")
        assert "no answer" in browser.run("document.body.innerText")
        assert browser.complaints() == []
