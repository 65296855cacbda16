"""`ckpt report`: a page to look at, in a real browser; what is in a row stays text."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import stores
from browser import CHROMIUM, Browser
from cli_helpers import CKPT, invoke

import checkpointdb as ck
from checkpointdb.file.records import Entry

HOSTILE = [
    "</script><script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<!-- <script> \x00 \u202egnp.exe \x1b[31m \u2028 \ud83d",
    "javascript:alert(1) {{7*7}} ${7*7} &lt;b&gt; ' \" `",
]
NAME = "<b onclick=alert(1)>label"


def label(row):
    if row["n"] % 50 == 7:
        raise type("Bad<i>Error", (Exception,), {})(HOSTILE[row["n"] % 4])
    return {"said": HOSTILE[row["n"] % 4], "n": row["n"]}


def fill(path, n=120):
    rows = [{"n": i, "text": HOSTILE[i % 4], "email": f"jo{i}@secret.example"} for i in range(n)]
    options = {"on_error": "record", "store": path, "version": 1, "name": NAME}
    options |= {"cost": lambda result: 0.01, "redact": ("email",), "depends": {"model": "</title>"}}
    first = ck.run(label, rows[: n // 2], **options)
    list(first)
    list(ck.run(label, rows, **options))
    list(ck.run(len, rows[:3], store=path, version="é", name="other", input="none"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path="rows.ckpt", *options):
    done = invoke("report", path, "-o", "report.html", "--force", *options)
    assert done.exit_code == 0, done.output
    with open("report.html", encoding="utf-8") as file:
        return file.read()


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_says_what_is_in_the_store(here):
    fill("rows.ckpt")
    page = Page(written())
    for words in (
        NAME, "other é", "results saved", "calls spared by hits", "Bad<i>Error: 3 rows of",
        "tried up to 2 times", "$1.1", "a crash costs at most", "Slowest rows", "adaptive",
        "All 123 records of the store", "first seen",
    ):  # fmt: skip
        assert words in page.text, words


def test_nothing_leaves_the_page_and_nothing_of_a_row_gets_into_it(here):
    """No URL, no element or attribute made of data; values of redact= are on no page."""
    fill("rows.ckpt")
    html = written()
    assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(", html)
    page = Page(html)
    assert len(page.all("script")) == 3 and not page.all("img") and not page.all("b")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not [1 for _, attributes in page.tags if "style" in attributes]
    policy = next(it["content"] for it in page.all("meta") if "http-equiv" in it)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not set(html) & {"\x00", "\x1b", "\u202e", "\u2028", "\ud83d"}
    assert "secret.example" not in html and "[redacted]" in html


def test_no_values_leaves_out_all_that_came_from_rows(here):
    fill("rows.ckpt")
    page = written("rows.ckpt", "--no-values")
    assert "owned" not in page and "gnp.exe" not in page and "[redacted]" not in page
    assert "Bad&lt;i&gt;Error: 3 rows" in page and "left out" in page


def test_a_page_is_for_everybody(here):
    """Landmarks, labels, captions, heads of columns, words for each chart, enough contrast."""
    fill("rows.ckpt")
    page = Page(written())
    tags = [tag for tag, _ in page.tags]
    assert all(tags.count(landmark) == 1 for landmark in ("header", "nav", "main", "footer", "h1"))
    assert page.all("html")[0]["lang"] == "en" and "width=device-width" in str(page.all("meta"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {it["for"] for it in page.all("label")}
    assert all(it["id"] in labelled for it in page.all("input") + page.all("select"))
    assert tags.count("caption") == tags.count("table")
    assert all("scope" in it for it in page.all("th"))
    assert all(it.get("aria-label") or it.get("aria-hidden") for it in page.all("svg"))
    charts = [it for it in page.all("div") if it.get("class") == "chart"]
    assert len(charts) == 3 and all(it["role"] == "img" and it["aria-label"] for it in charts)
    assert all(f"#{name}" in {it["href"] for it in page.all("a")} for name in ("main", "records"))
    with open(os.path.join(os.path.dirname(ck.__file__), "cli/assets/report.css")) as file:
        light, dark = re.findall(r"--paper: .*?color-scheme", file.read(), re.S)[:2]
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+): #(\w{6})", theme))
        for name in ("ink", "soft", "bad", "focus"):
            for behind in ("paper", "sheet"):
                assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)


def contrast(one, other):
    def light(colour):
        parts = [int(colour[n : n + 2], 16) / 255 for n in (0, 2, 4)]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_page_is_written_whole_and_never_over_the_store(here):
    fill("rows.ckpt", 8)
    before = os.stat("rows.ckpt")
    for place in ("rows.ckpt", "rows.ckpt-wal", "."):
        done = invoke("report", "rows.ckpt", "-o", place)
        assert done.exit_code == 1 and "Error" in done.stderr
    assert os.stat("rows.ckpt").st_mtime_ns == before.st_mtime_ns
    there = here / "there.html"
    there.write_text("mine")
    done = invoke("report", "rows.ckpt", "-o", "there.html")
    assert done.exit_code == 1 and "--force" in done.stderr and there.read_text() == "mine"
    there.unlink()
    assert invoke("report", "gone.ckpt", "-o", "x.html").exit_code == 1
    assert sorted(os.listdir()) == ["rows.ckpt"]
    assert invoke("report", "rows.ckpt", "-o", "-").stdout.startswith("<!DOCTYPE html>")


def test_what_is_cut_is_said_and_commands_can_be_pasted(here):
    """A long value is there up to 4,000 characters; a store's name is quoted for the shell."""
    with ck.Store("my rows; rm x.ckpt") as store:
        rows = [{"n": n, "text": "word " * 2000 * n} for n in range(3)]
        list(ck.run(len, rows, store=store, version=1))
    html = written("my rows; rm x.ckpt")
    data = json.loads(re.search(r'id="data">(.*?)</script>', html)[1])
    assert [record["cut"] for record in data["records"]] == [True, True, False]
    assert "… cut: 20,02" in data["records"][0]["whole_input"]
    assert data["store"] == "'my rows; rm x.ckpt'" in Page(html).text
    assert len(html) < 200_000


def test_a_store_without_rows_has_a_page(here):
    ck.Store("empty.ckpt").close()
    assert "No step has run on this store yet" in written("empty.ckpt")
    with ck.Store("begun.ckpt") as store:
        list(ck.run(str, [], store=store, version=1))
    assert "results saved" in written("begun.ckpt")


def many(path, n):
    """Make a store of n records that looks like one of a long run."""
    error = json.dumps({"type": "TimeoutError", "message": "no answer", "traceback": "…"})
    with ck.Store(path, durability="process") as store:
        log = stores.Log(store)
        for start in range(0, n, 5000):
            entries = [
                Entry(
                    stores.key(i), stores.identity(i), i, 1, 0.01 + i % 97 / 50, 0.0005,
                    error if i % 100 == 3 else None,
                    None if i % 100 == 3 else f'{{"label":"good","n":{i}}}',
                    f'{{"row":{i},"text":"parcel {i} was late but the staff were kind"}}',
                )
                for i in range(start, min(start + 5000, n))
            ]  # fmt: skip
            store.log.append(log.step, log.run, entries)


def test_a_large_store_has_a_sample_and_says_so(here):
    """Sums are over all; what the page shows for searching all finds what it does not hold."""
    many("rows.ckpt", 3000)
    html = written()
    page = Page(html)
    assert "A sample: " in page.text and "of 3,000 records" in page.text
    assert "2,970" in page.text and "TimeoutError: 30 rows" in page.text
    data = json.loads(re.search(r'id="data">(.*?)</script>', html)[1])
    ids = [record["id"] for record in data["records"]]
    assert data["total"] == 3000 and 800 <= len(ids) <= 1000 and ids == sorted(set(ids))[::-1]
    assert sum(record["failed"] for record in data["records"]) >= 30
    assert max(b - a for a, b in zip(ids[::-1], ids[-2::-1])) <= 10  # evenly
    assert sum(data["times"]["calls"]) == 3000


@pytest.mark.soak
def test_a_million_records_in_half_a_minute(here):
    many("rows.ckpt", 1_000_000)
    script = "import resource, sys; from checkpointdb.cli import cli\n"
    script += "try: cli(['report', 'rows.ckpt', '-o', 'r.html'])\nfinally: print(resource."
    script += "getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(0).ru_utime)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    peak, seconds = map(float, done.stdout.split())
    assert peak < 300_000 and seconds < 30, (peak, seconds)
    assert os.stat("r.html").st_size < 8_000_000


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
SEARCH = """new Promise((done) => {{
  const box = document.getElementById("search");
  box.value = {text}; box.dispatchEvent(new Event("input")); setTimeout(done, 150);
}})"""
DRAWN = """[...document.querySelectorAll("canvas")].map((it) => {
  const data = it.getContext("2d").getImageData(0, 0, it.width, it.height).data;
  return data.some((value, n) => n % 4 === 3 && value);
})"""
EARLIER = """(() => {
  const chooser = document.getElementById("run");
  chooser.value = "1"; chooser.dispatchEvent(new Event("change"));
})()"""
SHOWN = '[...document.querySelectorAll("#rows tr:not([hidden]) td:first-child button")].length'


@needs_chromium
@pytest.mark.slow
def test_in_a_real_browser(here):
    """Charts are drawn, the search works, rows open by keyboard, no script of a row runs."""
    fill("rows.ckpt")
    written()
    with Browser() as browser:
        browser.open(f"file://{here}/report.html")
        assert browser.run(DRAWN) == [True, True]  # the newest run cost nothing
        browser.run(EARLIER)
        assert browser.run(DRAWN) == [True, True, True]
        assert browser.run("document.title") == "rows.ckpt: report"
        assert browser.run("document.images.length + document.scripts.length") == 3
        assert browser.run(SHOWN) == 25
        browser.run(SEARCH.format(text=json.dumps("DOCUMENT.TITLE = 'OWNED'")))
        said = browser.run("document.getElementById('said').textContent")
        assert (
            re.match(r"3[0-9] of the 123 records on this page match", said) and "ckpt" not in said
        )
        browser.run("document.querySelector('.open').focus()")
        browser.press("Enter", 13)
        opened = browser.run("document.querySelector('#rows pre').textContent")
        assert HOSTILE[0] in opened
        browser.run(SEARCH.format(text=json.dumps('src=x onerror="document')))
        assert browser.run(SHOWN) == 25  # as it is meant, not as JSON has it
        browser.run(SEARCH.format(text=json.dumps("nowhere")))
        assert browser.run(SHOWN) == 0
        browser.run("document.querySelector('[data-search]').click()")
        assert browser.run(SHOWN) == 3
        paper = "getComputedStyle(document.documentElement).backgroundColor"
        assert browser.run(paper) == "rgb(255, 255, 255)"
        browser.run(
            "(() => { const it = document.getElementById('theme'); it.click(); it.click() })()"
        )
        assert browser.run(paper) == "rgb(20, 23, 28)"
        assert browser.run(DRAWN) == [True, True, True]
        assert browser.complaints() == [] and browser.requests() == []
        browser.run("localStorage.clear()")
        browser.open(f"file://{here}/report.html", width=390, dark=True)
        assert browser.run(paper) == "rgb(20, 23, 28)"
        assert browser.run("document.documentElement.scrollWidth") == 390
        assert browser.run(DRAWN) == [True, True] and browser.complaints() == []


@needs_chromium
@pytest.mark.soak
def test_a_search_in_a_sample_says_how_to_search_all(here):
    """The command that the page shows finds the record that is not on the page."""
    many("rows.ckpt", 3000)
    html = written()
    absent = next(n for n in range(1, 3000) if f"parcel {n} was" not in html)
    with Browser() as browser:
        browser.open(f"file://{here}/report.html")
        browser.run(SEARCH.format(text=json.dumps(f"parcel {absent} was")))
        assert browser.run(SHOWN) == 0
        said = browser.run("document.getElementById('said').textContent")
        assert "others are not on it, and cannot be searched here" in said
        command = browser.run("document.querySelector('#said code').textContent")
    script = command.replace("ckpt ", " ".join(CKPT) + " ", 1) + " --json"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout)["input"]["row"] == absent
