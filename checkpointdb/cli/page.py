"""The page of `ckpt report`: HTML around what `totals.py` counts. Every text is escaped."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import shlex
from typing import Any

import msgspec

from ..file.records import Record
from ..markup import element, to_html
from .abridged import clipped, fitted
from .display import duration, moment, money, safe, safe_json, shown, tokens
from .sections import Facts, sections
from .store_view import overview
from .totals import PER_DECADE, Course, Totals

LINE, WHOLE = 160, 4000  # characters of a value on its line, and when it is opened
LARGEST = 6_000_000  # characters of records on one page
RUNS_DRAWN = 20


class Page(msgspec.Struct, frozen=True):
    """A page, and how many of the store's newest records are on it."""

    html: str
    shown: int
    total: int


def page(reader: Totals, store: str, values: bool = True) -> Page:
    """Return the page about a store.

    Args:
        reader: of the store.
        store: its name, for commands that the page shows.
        values: whether inputs, results and messages may be on it.
    """
    seen = overview(reader)
    total = sum(step["results"] + step["failures"] for step in seen["steps"])
    records = _within(reader.sample(total)) if values else []
    drawn = [run["id"] for run in seen["runs"] if run["computed"] or run["failed"]][-RUNS_DRAWN:]
    courses = reader.courses(drawn)[::-1]
    times, newest_first = reader.times(), [course.run for course in courses]
    name = shlex.quote(shown(store))
    facts = Facts(seen, total, len(records), name, values, newest_first, times)
    data = {
        "store": name,
        "total": total,
        "several": len(seen["steps"]) > 1,
        "money": any(step["cost"] for step in seen["steps"]),
        "runs": [_course(course) for course in courses],
        "times": _times(times),
        "records": [_told(record) for record in records],
    }
    body = "".join(map(to_html, sections(reader, facts)))
    return Page(_document(f"{facts.name}: report", body, data), len(records), total)


def _within(records: list[Record]) -> list[Record]:
    """Return as many records as fit on a page; large ones leave less room for others."""
    room, kept = LARGEST, list[Record]()
    for record in records:
        room -= 2 * min(_length(record), 2 * (WHOLE + LINE)) + 500
        if room < 0 and kept:
            break
        kept.append(record)
    return kept


def _length(record: Record) -> int:
    return len(repr(record.input)) + len(repr(record.result)) + len(repr(record.error))


def _told(record: Record) -> dict[str, Any]:
    """Return a record as the page's script shows it: texts only."""
    error = record.error
    line, whole = str(fitted(record.result, LINE)), _whole(record.result)
    whole_input = _whole(record.input)
    if error is not None:
        line = clipped(f"{error.get('type')}: {error.get('message')}", LINE)
        whole = _cut(f"{line}\n\n{error.get('traceback', '')}")
    attempt = f", attempt {record.attempts}" if record.attempts > 1 else ""
    used = f", {tokens(record.usage)}" if record.usage else ""
    return {
        "id": record.id,
        "key": record.key,
        "step": f"{record.step} {record.version}",
        "failed": error is not None,
        "input": fitted(record.input, LINE),
        "result": line,
        "whole_input": whole_input,
        "whole_result": whole,
        "took": duration(record.seconds),
        "cost": "–" if record.cost is None else money(record.cost),
        "cut": max(map(len, (whole_input, whole))) > WHOLE,
        "about": f"{record.step} {record.version}, row {record.position} of run {record.run}, "
        f"saved {moment(record.saved_at)}{attempt}{used}",
    }


def _whole(value: Any) -> str:
    return _cut(safe_json(value))


def _cut(text: str) -> str:
    """Return a text with its line breaks, and no more of it than a page can hold."""
    more = f"\n… cut: {len(text):,} characters in all" if len(text) > WHOLE else ""
    return "\n".join(map(safe, text[:WHOLE].split("\n"))) + more


def _course(course: Course) -> dict[str, Any]:
    """Return a run's speed and spending over its time."""
    spent = [sum(course.cost[: n + 1]) for n in range(len(course.cost))]
    return {
        "at": [round(course.width * (n + 1), 4) for n in range(len(course.made))],
        "made": [round(count / course.width, 3) for count in course.made],
        "failed": [round(count / course.width, 3) for count in course.failed],
        "cost": [round(dollars, 6) for dollars in spent] if spent[-1] else None,
    }


def _times(times: list[tuple[int, int]]) -> dict[str, list[float]]:
    """Return how many calls took how long, with the gaps between them filled."""
    counts = dict(times)
    steps = range(min(counts), max(counts) + 1) if counts else range(0)
    return {"at": [n / PER_DECADE for n in steps], "calls": [counts.get(n, 0) for n in steps]}


def _document(title: str, body: str, data: dict[str, Any]) -> str:
    """Return the whole page; its policy lets no script run but its own two."""
    style = _asset("uPlot.min.css") + _asset("report.css")
    charts = f"/*!\n{_asset('uPlot.LICENSE')}*/\n{_asset('uPlot.iife.min.js').partition('*/')[2]}"
    scripts = [charts, _asset("report.js")]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_digest, scripts))}; "
        f"style-src {_digest(style)}; base-uri 'none'; form-action 'none'"
    )
    head = [
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        + "\n".join(map(to_html, head))
        + f"\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        + f'<script type="application/json" id="data">{_embedded(data)}</script>\n'
        + "\n".join(f"<script>{script}</script>" for script in scripts)
        + "\n</body>\n</html>\n"
    )


def _embedded(data: dict[str, Any]) -> str:
    """Return JSON that cannot form an HTML element, whatever its texts are."""
    text = json.dumps(data, separators=(",", ":"))  # ASCII
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath("assets", name).read_text("utf-8")


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
