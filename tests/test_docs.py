"""The pages under docs/ are true: their code runs, their links lead somewhere."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from batch_server import BatchServer
from paid_server import PaidServer

import checkpointdb as ckpt

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
TASKS = ["calls", "coming-from", "embeddings", "pipeline", "saving", "versions"]


def run_page(page, folder, **space):
    """Run a page's blocks in one namespace, as a reader would paste them."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    space["__name__"] = page
    for number, block in enumerate(blocks):
        path = folder / f"{page}_{number}.py"
        path.write_text(block)
        exec(compile(block, str(path), "exec"), space)


@pytest.fixture
def folder(tmp_path, monkeypatch, page_left_behind):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", TASKS)
def test_the_code_of_a_page_runs(page, folder):
    """In an empty folder, block after block."""
    run_page(page, folder, rows=[{"text": "good"}], call_a_paid_model=lambda row: {"label": "A"})


def test_the_openai_page_runs(folder, monkeypatch):
    """With the real SDK, against a server on loopback: it was paid 25 times, not more."""
    with PaidServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        run_page("openai", folder)
        assert len(server.paid) == 25


def test_the_batches_page_runs(folder, monkeypatch):
    """With the real SDK, against a server on loopback: each row was in one batch."""
    with BatchServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        run_page("batches", folder)
        assert len(server.submitted) == 50
        assert set(server.submitted.values()) == {1}


class Site(BaseHTTPRequestHandler):
    """A site of ten pages."""

    def do_GET(self):
        found = self.path.startswith("/page/")
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(f"<title>Page {self.path.rpartition('/')[2]}</title>".encode())

    def log_message(self, *args):
        pass


def test_the_scraping_page_runs(folder):
    """With real HTTP on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            run_page("scraping", folder, SITE=f"http://127.0.0.1:{site.server_address[1]}")
        finally:
            site.shutdown()
            thread.join()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file(page):
    """A relative link in a page is to a file that is there."""
    links = set(re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (DOCS / page).read_text()))
    missing = [it for it in links if "://" not in it and not (DOCS / it).exists()]
    assert page == "public-files.md" or missing == []


def test_the_picture_is_what_its_script_draws():
    """Its numbers are those of the README's `ckpt inspect`."""
    space = {"__name__": "make_resume"}
    exec((DOCS / "make_resume.py").read_text(), space)
    assert (DOCS / "pictures" / "resume.svg").read_text() == space["picture"]()
    readme = (DOCS.parent / "README.md").read_text()
    left = space["ROWS"] - space["BEFORE"]
    assert re.search(rf"finished +{space['ROWS']} +{space['BEFORE']} +{left} ", readme)


def test_the_page_of_names_is_what_signatures_and_docstrings_say():
    """And every option stands in a group of its own; `python docs/make_api.py` writes the page."""
    space = {"__name__": "make_api", "__file__": str(DOCS / "make_api.py")}
    exec((DOCS / "make_api.py").read_text(), space)
    assert (DOCS / "api.md").read_text() == space["page"]()
    of_both = space["attributes"](ckpt.StepOptions) | space["attributes"](ckpt.RunOptions)
    taken = set(ckpt.StepOptions.__annotations__) | set(ckpt.RunOptions.__annotations__)
    assert set(of_both) == taken
    assert "### Other\n" not in space["of_options"]()
    of_page = set(re.findall(r"^\| `(\w+)` \|", space["of_names"](), re.M))
    assert of_page == set(ckpt.__all__)


def test_the_site_has_every_page_and_no_other():
    """A page that is not in the navigation is found by nobody."""
    named = re.findall(r": ([\w-]+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(), re.M)
    assert sorted(named) == PAGES
