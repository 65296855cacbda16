"""Make the pictures of docs/looking.md: `python docs/make_screenshots.py`. Needs Chromium.

A store is filled by real runs; the report, Datasette and a notebook's tables are what they show.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from browser import Browser  # noqa: E402
from PIL import Image  # noqa: E402

import checkpointdb as ckpt  # noqa: E402

PICTURES = HERE / "pictures"
WORDS = ["delivery", "late", "kind", "staff", "cold", "soup", "great", "broken", "rude", "clerk"]
LABELS = ("good", "bad", "mixed")
PROMPT = "Label this: "


def fill(path: str, rows: int = 900) -> None:
    """Run a step that fails now and then, costs money and changes its prompt, four times."""
    rng = random.Random(7)
    inputs = [
        {"id": n, "text": " ".join(rng.choices(WORDS, k=rng.randint(5, 20)))} for n in range(rows)
    ]
    problems = (TimeoutError("no answer after 30 s"), ConnectionError("reset by the server"))

    def label(row: dict) -> dict:
        time.sleep(rng.lognormvariate(-4, 0.7))
        if rng.random() < 0.02:
            raise rng.choice(problems)
        return {"label": rng.choice(LABELS), "score": round(rng.random(), 2), "by": PROMPT[:5]}

    step = ckpt.step(path, version=1, cost=lambda result: 0.0004 + result["score"] / 3000)(label)
    stopped = step.run(inputs, on_error="record", concurrency=16)
    for _ in range(rows // 2):
        next(stopped)
    stopped.close()
    list(step.run(inputs[: rows * 3 // 4], on_error="record", concurrency=16))
    globals()["PROMPT"] = "Classify this: "
    list(step.run(inputs, on_error="record", concurrency=16))


def save(browser: Browser, name: str) -> None:
    """Save what is to be seen, in few colours: a picture of some ten kilobytes."""
    path = PICTURES / f"{name}.png"
    browser.screenshot(str(path))
    picture = Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def of_report(browser: Browser, page: Path) -> None:
    """Picture the report in light, in dark and on a telephone."""
    browser.open(page.as_uri(), 1200, 1000)
    browser.run("document.querySelector('#run').selectedIndex = 0")
    save(browser, "report-light")
    browser.open(page.as_uri(), 1200, 760, dark=True)
    browser.run("document.querySelector('.open').click()")
    browser.run("document.getElementById('records').scrollIntoView()")
    save(browser, "report-dark")
    browser.open(page.as_uri(), 390, 800)
    save(browser, "report-narrow")


def of_datasette(browser: Browser, store: Path) -> None:
    """Picture the view `results` as Datasette shows it."""
    command = [sys.executable, "-m", "datasette", "serve", str(store), "-p", "8927"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen("http://127.0.0.1:8927/").close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError("Datasette did not answer within a minute: no picture of it")
        browser.open("http://127.0.0.1:8927/reviews/results?_size=8", 1200, 760)
        save(browser, "datasette")
    finally:
        server.terminate()
        server.wait()


def of_notebook(browser: Browser, store: Path, folder: Path) -> None:
    """Picture what a notebook shows of a store, on light and on dark."""
    with ckpt.Store(store) as opened:
        shown = opened._repr_html_().replace(str(folder), "/data")
    page = folder / "notebook.html"
    page.write_text(
        "<!doctype html><style>body{font:14px sans-serif;margin:1rem;color-scheme:light dark}"
        f"</style><code>In [1]: step.store</code>{shown}",
        encoding="utf-8",
    )
    browser.open(page.as_uri(), 760, 300)
    save(browser, "notebook")


def main() -> None:
    """Make all of them."""
    warnings.simplefilter("ignore")
    logging.disable()
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        store, page = Path(folder, "reviews.ckpt"), Path(folder, "report.html")
        fill(str(store))
        command = [sys.executable, "-m", "checkpointdb", "report", "reviews.ckpt", "-o", page]
        subprocess.run(command, check=True, cwd=folder)
        of_report(browser, page)
        of_datasette(browser, store)
        of_notebook(browser, store, Path(folder))


if __name__ == "__main__":
    main()
