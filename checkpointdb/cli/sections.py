"""What stands on the page of `ckpt report`, section by section. Builds elements; knows no SQL."""

from __future__ import annotations

import os
from typing import Any
from xml.etree.ElementTree import Element

import msgspec

from ..engine.stale import differences, roots_of
from ..file.records import Record, SavedCode
from ..markup import element
from .abridged import clipped, fitted
from .display import counted, duration, moment, money, number, rate, size, tokens
from .parts import bar, chart, legend, rect, section, table
from .totals import PER_DECADE, Kind, Totals

RUNS, SLOWEST, CODES, KINDS = 30, 10, 10, 30  # so many are shown of each
EXAMPLE, LONG = 300, 12  # characters of a message; of a figure that is no longer short


class Facts(msgspec.Struct):
    """What the whole page is about: `overview` of the store, and what of it can be shown."""

    seen: dict[str, Any]
    total: int  # newest records
    shown: int  # of these, on the page
    store: str
    values: bool
    drawn: list[int]  # runs, the newest first
    times: list[tuple[int, int]]  # as `Totals.times` has them

    @property
    def name(self) -> str:
        """The store's name without its folder."""
        return os.path.basename(str(self.seen["store"]))

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps of the store."""
        steps: list[dict[str, Any]] = self.seen["steps"]
        return steps

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The runs of the store, oldest first; adopted results are no run."""
        return [run for run in self.seen["runs"] if run["policy"] != "adopt"]

    def sum(self, name: str) -> Any:
        """Return a count of all steps."""
        return sum(step[name] for step in self.steps)


def sections(reader: Totals, facts: Facts) -> list[Element]:
    """Return the page from its head to its foot."""
    parts = {
        "Runs": _runs(facts),
        "Speed": _speed(reader, facts),
        "Failures": _failures(reader, facts),
        "Money": _money(facts),
        "Saving": _saving(facts),
        "Code": _code(reader, facts),
        "Records": _records(facts),
    }
    named = {name: part for name, part in parts.items() if part is not None}
    links = [element("li", element("a", name, href=f"#{name.lower()}")) for name in named]
    return [
        element("a", "Skip to the report", class_="skip", href="#main"),
        _header(facts),
        element("nav", element("ul", *links), aria_label="Sections"),
        element("main", _tiles(facts), *named.values(), id="main"),
        element(
            "footer",
            "Made by ",
            element("code", f"ckpt report {facts.store}"),
            ". Sums are over all records; calls are counted with every attempt at a row. "
            "The charts are drawn by uPlot (MIT licence).",
        ),
    ]


def _header(facts: Facts) -> Element:
    at = facts.seen["last_commit"]
    said = f"{size(facts.seen['bytes'])} · {counted(facts.seen['records'], 'record')} · "
    said += f"last commit {moment(at)}" if at else "nothing is saved yet"
    toggle = element(
        "button", "Colours: auto", id="theme", class_="theme", type="button", hidden=""
    )
    words = element("div", element("h1", facts.name), element("p", said, class_="soft"))
    return element("header", words, toggle)


def _tiles(facts: Facts) -> Element:
    """Return the figures that a person looks for first."""
    hits, calls = sum(run["hits"] for run in facts.runs), facts.seen["records"]
    mean = facts.sum("seconds") / calls if calls else 0.0
    last = facts.runs[-1] if facts.runs else None
    tiles = [
        ("results saved", number(facts.sum("results")), f"in {counted(len(facts.steps), 'step')}"),
        ("calls spared by hits", number(hits), f"≈ {duration(hits * mean)}" if hits * mean else ""),
        ("a call takes", duration(mean) if calls else "–", f"mean of {number(calls)} calls"),
        ("rows that failed", number(facts.sum("failures")), "and will be tried again"),
    ]
    if facts.sum("cost"):
        saved = facts.sum("saved")
        tiles.append(
            ("spent", money(facts.sum("cost")), f"≈ {money(saved)} saved" if saved else "")
        )
    if last is not None:
        speed = rate(last["rows"], last["seconds"])
        tiles.append((f"speed of run {last['id']}", speed, f"{number(last['rows'])} rows"))
        tiles.append(("a crash costs at most", last["loss_window"], last["policy"]))
    stale = facts.sum("stale")
    if stale:
        tiles.append(("of other code", number(stale), "results that may be stale"))
    boxes = []
    for name, value, small in tiles:
        is_bad = name in ("rows that failed", "of other code") and value != "0"
        words = element("small", small) if small else None
        style = "bad" if is_bad else "long" if len(value) > LONG else "short"
        boxes.append(element("div", element("dt", name, words), element("dd", value, class_=style)))
    return element("dl", *boxes, class_="tiles")


def _runs(facts: Facts) -> Element:
    runs = facts.runs[-RUNS:][::-1]
    if not runs:
        return section("Runs", "No step has run on this store yet.")
    most = max(max(_done(run), 1) for run in runs)
    rows = [
        (
            str(run["id"]), f"{run['step']} {run['version']}", run["state"], bar(run, most),
            number(run["rows"]), number(run["hits"]), number(run["computed"]),
            number(run["failed"]), duration(run["seconds"]), rate(run["rows"], run["seconds"]),
            _time(run["started_at"]),
        )
        for run in runs
    ]  # fmt: skip
    heads = ("run", "step", "how it ended", "hits, computed, failed", "rows", "hits", "computed",
             "failed", "time", "speed", "started")  # fmt: skip
    left = len(facts.runs) - len(runs)
    said = "A hit was saved earlier and cost nothing. Times are of the machine that made this page."
    said += f" {number(left)} earlier runs are left out." if left else ""
    all_runs = table(
        "The newest run first", heads, rows, "run, rows, hits, computed, failed, time, speed"
    )
    return section("Runs", said, legend(), all_runs)


def _time(at: float) -> Element:
    return element("span", moment(at), class_="keep")


def _done(run: dict[str, Any]) -> int:
    done: int = run["hits"] + run["computed"] + run["failed"]
    return done


def _speed(reader: Totals, facts: Facts) -> Element | None:
    if not facts.seen["records"]:
        return None
    by_id = {run["id"]: run for run in facts.runs}
    options = [
        element("option", _named(by_id[id]), value=str(n))
        for n, id in enumerate(facts.drawn)
        if id in by_id
    ]
    label = element("label", "Run", for_="run")
    chooser = element("div", element("div", label, element("select", *options, id="run")),
                      class_="controls", hidden="")  # fmt: skip
    speed = chart(
        "throughput", "Records saved a second, over the time of the run",
        "Of the run chosen above; the table of runs has the sums.",
    )  # fmt: skip
    spent = chart("spent", "Dollars spent, over the time of the run", "Of the same run.")
    times = chart(
        "times", "How long calls took",
        "All calls of all runs; each bar is a fifth of a power of ten.", _numbers(facts.times),
    )  # fmt: skip
    of_a_run = [speed, spent if facts.sum("cost") else None] if options else []
    charts = element("div", *of_a_run, times, class_="charts")
    return section(
        "Speed", "", chooser if options else None, charts,
        element("h3", "Slowest rows"), _slowest(reader.slowest(SLOWEST), facts.values),
    )  # fmt: skip


def _numbers(times: list[tuple[int, int]]) -> Element:
    """Return what a chart shows as a table, for those who do not see it."""
    rows = [(duration(10 ** (n / PER_DECADE)), number(calls)) for n, calls in times]
    numbers = table("How long calls took", ("up to", "calls"), rows, "up to, calls")
    return element("details", element("summary", "The numbers"), numbers)


def _named(run: dict[str, Any]) -> str:
    return clipped(f"{run['id']}: {run['step']} {run['version']}, {moment(run['started_at'])}", 90)


def _slowest(records: list[Record], values: bool) -> Element:
    heads = ("record", "step", "took", "input", "outcome")
    rows = [
        (
            str(record.id), f"{record.step} {record.version}", duration(record.seconds),
            _value(record.input, values), "failed" if record.error else "saved",
        )
        for record in records
    ]  # fmt: skip
    return table("Whose calls took longest", heads, rows, "record, took")


def _value(value: Any, values: bool) -> Element:
    return element("span", fitted(value, 90) if values else "left out", class_="value")


def _failures(reader: Totals, facts: Facts) -> Element | None:
    if not facts.sum("failures"):
        return None
    kinds = reader.kinds()
    examples = {
        record.id: record for record in reader.chosen([kind.example for kind in kinds[:KINDS]])
    }
    names = {step["id"]: f"{step['name']} {step['version']}" for step in facts.steps}
    most = max(kind.count for kind in kinds)
    parts = [_kind(kind, names, examples[kind.example], most, facts) for kind in kinds[:KINDS]]
    said = "Rows whose newest attempt failed; the next run tries them again."
    return section("Failures", said, *parts)


def _kind(kind: Kind, names: dict[int, str], example: Record, most: int, facts: Facts) -> Element:
    tries = f", tried up to {counted(kind.attempts, 'time')}" if kind.attempts > 1 else ""
    title = f"{kind.type}: {counted(kind.count, 'row')} of {names[kind.step]}{tries}"
    share = element(
        "svg", rect(0, 100 * kind.count / most, "bad"), class_="bar", aria_hidden="true"
    )
    if not facts.values:
        return element("article", element("h3", title), share)
    error = example.error or {}
    lines = str(error.get("traceback", ""))[-4000:]
    more = element(
        "details", element("summary", f"Traceback of record {example.id}"), element("pre", lines)
    )
    button = element(
        "button", "Show these records", type="button", hidden="", data_search=kind.type
    )
    return element(
        "article", element("h3", title), share,
        element("p", "For example: ", element("span", clipped(str(error.get("message")), EXAMPLE))),
        element("p", "Row: ", _value(example.input, True)), more, button,
    )  # fmt: skip


def _money(facts: Facts) -> Element | None:
    paid = [step for step in facts.steps if step["cost"] or step["usage"]]
    if not paid:
        return None
    rows = []
    for step in paid:
        calls = step["records"]
        each = money(step["cost"] / calls) if calls else "–"
        name = f"{step['name']} {step['version']}"
        wasted = money(step["wasted"]) if step["wasted"] else "–"
        saved = f"≈ {money(step['saved'])}" if step["saved"] else "–"
        used = tokens(step["usage"]) or "–"
        rows.append((name, money(step["cost"]), each, saved, wasted, used))
    heads = ("step", "spent", "a call", "saved by hits", "wasted on failures", "tokens")
    said = "Saved is an estimate: each hit counts as the average cost of a call of its step."
    return section("Money", said, table("By step", heads, rows, ", ".join(heads[1:])))


def _saving(facts: Facts) -> Element | None:
    last = {(run["step"], run["version"]): run for run in facts.runs}
    if not last:
        return None
    rows = []
    for run in last.values():
        commits, spent, whole = run["commits"], run["commit_seconds"], run["seconds"]
        each = duration(spent / commits) if commits else "–"
        share = f"{spent / whole:.1%}" if whole else "–"
        name = f"{run['step']} {run['version']}"
        rows.append(
            (
                name,
                run["loss_window"],
                run["policy"],
                run["durability"],
                number(commits),
                each,
                share,
            )
        )
    heads = ("step", "a crash costs at most", "saves by", "durability", "commits", "a commit takes",
             "of the run's time")  # fmt: skip
    said = (
        "What a crash can cost, and what it takes to keep it so small: the newest run of each step."
    )
    return section("Saving", said, table("Loss window", heads, rows, ", ".join(heads[4:])))


def _code(reader: Totals, facts: Facts) -> Element | None:
    made, rows = reader.made_by_code(), []
    for step in facts.steps:
        codes = reader.codes(step["id"])
        before: SavedCode | None = None
        for n, code in enumerate(codes):
            if n >= len(codes) - CODES:
                change = "first seen" if before is None else _change(before, code, facts.values)
                accepted = _time(code.accepted_at) if code.accepted_at else "–"
                name = f"{step['name']} {step['version']}"
                rows.append(
                    (name, _time(code.first_used), change, number(made.get(code.id, 0)), accepted)
                )
            before = code
    if not rows:
        return None
    stale = [_stale(step, facts.values) for step in facts.steps if step["stale"]]
    heads = ("step", "first used", "what changed", "results it made", "accepted")
    said = "" if stale else "No saved result was computed by other code than the newest run's."
    return section(
        "Code", said, *stale, table("Codes that computed results", heads, rows, "results it made")
    )


def _stale(step: dict[str, Any], values: bool) -> Element:
    said = f"{number(step['stale'])} of {number(step['results'])} results of {step['name']} "
    said += f"{step['version']} were computed by other code than the newest run's"
    if values:
        said += f": {clipped(', '.join(step['stale_because']), EXAMPLE)}"
    return element("p", said, ". Raise version= to compute them again, or run ckpt accept.")


def _change(before: SavedCode, code: SavedCode, values: bool) -> str:
    changes = differences(roots_of(before), roots_of(code))
    if not values:
        changes = [change.partition(" (")[0] for change in changes]
    return clipped(", ".join(changes) or "its code changed", EXAMPLE)


def _records(facts: Facts) -> Element:
    if not facts.values:
        return section("Records", "This page was made with --no-values: no rows are on it.")
    said = f"All {counted(facts.total, 'record')} of the store."
    if facts.shown < facts.total:
        said = (
            f"A sample: {number(facts.shown)} of {counted(facts.total, 'record')}: the newest, "
            "some that failed, and others spread evenly over the store. The search looks at these, "
            "and says how to search all."
        )
    kinds = (("all", "all"), ("ok", "saved"), ("failed", "failed"))
    choices = [element("option", name, value=value) for value, name in kinds]
    box = element("input", type="search", id="search", autocomplete="off", spellcheck="false")
    asked = element("label", "Search inputs, results and errors", for_="search")
    choice = element("select", *choices, id="kind")
    controls = element(
        "div",
        element("div", asked, box),
        element("div", element("label", "Show", for_="kind"), choice),
        class_="controls",
        role="search",
        hidden="",
    )
    steps, costs = ["step"] * (len(facts.steps) > 1), ["cost"] * bool(facts.sum("cost"))
    heads = ["record", *steps, "input", "result", "took", *costs]
    numbers = ("record", "took", "cost")
    top = [
        element("th", name, scope="col", class_="number" if name in numbers else "")
        for name in heads
    ]
    places = element(
        "table", element("caption", "A record's number opens all of it"),
        element("thead", element("tr", *top)), element("tbody", id="rows"), id="records-table",
    )  # fmt: skip
    pages = element(
        "div", element("button", "Earlier", id="before", type="button"),
        element("span", id="where", aria_live="polite"),
        element("button", "Later", id="after", type="button"), class_="controls", hidden="",
    )  # fmt: skip
    script = element("noscript", element("p", "A script of this page shows the records."))
    return section("Records", said, script, controls, element("p", id="said", aria_live="polite"),
                    element("div", places, class_="wide"), pages)  # fmt: skip
