"""The plots, as SVG, from the recorded results."""

from __future__ import annotations

import os
from typing import Any

from .adapters import PEERS
from .harness import ROOT
from .results import Result, best, figure
from .tradeoff import BY_SIZE, KINDS

FOLDER = os.path.join(ROOT, "docs", "plots")
CURVES = {
    "cpu_us": "first run",
    "resume_rows_cpu_us": "resume in order",
    "resume_shuffled_cpu_us": "resume shuffled",
    "select_rows_cpu_us": "select in order",
    "select_shuffled_cpu_us": "select shuffled",
}
MARKS = {"every(seconds=0.5)": "x", "on_exit()": "+"}


def draw() -> None:
    """Draw all plots whose results there are."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "checkpointdb", "font.size": 9, "svg.fonttype": "none"})
    os.makedirs(FOLDER, exist_ok=True)
    for question, plot in (("tradeoff", tradeoff), ("peers", peers), ("scale", scale)):
        if result := best(question):
            save(plot(result), question)


def save(picture: Any, name: str) -> None:
    """Write a picture so that the same results make the same file."""
    picture.savefig(os.path.join(FOLDER, f"{name}.svg"), metadata={"Date": None})


def tradeoff(result: Result) -> Any:
    """Draw overhead against what a kill loses, rows above and seconds below, by step time."""
    import matplotlib.pyplot as plt

    steps = sorted({case["parameters"]["seconds"] for case in result["cases"].values()} - {0.0})
    picture, panels = plt.subplots(
        2, len(steps), figsize=(3 * len(steps), 6.4), squeeze=False, sharey="col"
    )
    for column, seconds in enumerate(steps):
        _panel(panels[0][column], result, seconds, "rows_lost", "rows lost by a kill")
        _panel(panels[1][column], result, seconds, "seconds_lost", "seconds lost by a kill")
        panels[0][column].set_title(f"a call takes {seconds * 1e3:g} ms")
    for row in panels:
        row[0].set_ylabel("overhead, % of the calls' time")
    picture.legend(handles=_legend(), loc="lower center", ncols=4, fontsize=8, frameon=False)
    picture.tight_layout(rect=(0, 0.08, 1, 1))
    return picture


def _panel(panel: Any, result: Result, seconds: float, loss: str, label: str) -> None:
    for number, (size, durability) in reversed(list(enumerate(KINDS))):
        points = _points(result, loss, seconds=seconds, durability=durability, size=size)
        _line(panel, points, f"C{number}", main=number == 0)
    panel.set_xscale("symlog", linthresh=1 if loss == "rows_lost" else 1e-3)
    panel.set_yscale("log")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(_label_a_few)
    panel.set_xlabel(label)
    panel.axhline(1, color="gray", linewidth=0.5, linestyle=":")


def _label_a_few(value: float, _place: int) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _points(result: Result, loss: str, **wanted: Any) -> dict[str, tuple[float, float]]:
    found = {}
    for name, case in result["cases"].items():
        lost, cost = figure(result, name, loss), figure(result, name, "overhead_pct")
        asked = case["parameters"]
        if lost is not None and cost and all(asked[k] == v for k, v in wanted.items()):
            found[asked["save"]] = (lost, cost)
    return found


def _line(panel: Any, points: dict[str, tuple[float, float]], color: str, main: bool) -> None:
    every = sorted(at for save, at in points.items() if save.startswith("every(rows"))
    style = {"color": color, "linewidth": 1.4 if main else 0.7, "alpha": 1 if main else 0.6}
    panel.plot(*(zip(*every, strict=True) if every else ((), ())), marker=".", **style)
    for save, at in points.items():
        if save == "adaptive()":
            panel.plot(*at, "*", color=color, markersize=12 if main else 8, zorder=3)
        elif save in BY_SIZE and main:
            panel.plot(*at, "s", color=color, markersize=8, fillstyle="none")
            place = {"xytext": (-4, -14), "textcoords": "offset points", "ha": "center"}
            panel.annotate(save[11:-1], at, fontsize=7, **place)
        elif not save.startswith("every(rows"):
            panel.plot(*at, MARKS[save], color=color, alpha=style["alpha"])


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    kinds = [
        Line2D([], [], color=f"C{number}", label=f"every(rows=N): {size:,} B, {durability}")
        for number, (size, durability) in enumerate(KINDS)
    ]
    marks = {"*": "adaptive()", "s": "N of the rule of thumb, by_size()"}
    marks |= {mark: save for save, mark in MARKS.items()}
    return kinds + [
        Line2D([], [], color="C0", linestyle="", marker=mark, label=label, fillstyle=_fill(mark))
        for mark, label in marks.items()
    ]


def _fill(mark: str) -> str:
    return "none" if mark == "s" else "full"


def peers(result: Result) -> Any:
    """Draw first run and resume of each peer, µs a row, logarithmic."""
    import matplotlib.pyplot as plt

    result = {"cases": (best("frameworks") or {"cases": {}})["cases"] | result["cases"]}
    shown = [name for name in PEERS if name != "bare_loop" and figure(result, name, "first_us")]
    names = shown[::-1]
    picture, panel = plt.subplots(figsize=(7, 4), layout="tight")
    for shift, what in ((0.2, "first"), (-0.2, "resume")):
        values = [max(figure(result, name, f"{what}_us") or 0, 0.1) for name in names]
        panel.barh([i + shift for i in range(len(names))], values, height=0.4, label=what)
    panel.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    panel.set_xscale("log")
    panel.set_xlabel("µs a row beyond the bare loop")
    panel.legend()
    return picture


def scale(result: Result) -> Any:
    """Draw µs a row by size of the store, in processor time."""
    import matplotlib.pyplot as plt

    result = {"cases": (best("huge") or {"cases": {}})["cases"] | result["cases"]}
    picture, panel = plt.subplots(figsize=(7.5, 3.6), layout="tight")
    for name in ("cpu_us", "resume_rows_cpu_us", "resume_shuffled_cpu_us"):
        _curve(panel, result, "checkpointdb", name, "-")
    for name in ("cpu_us", "select_rows_cpu_us", "select_shuffled_cpu_us"):
        _curve(panel, result, "bare", name, ":")
    panel.set_xscale("log")
    panel.set_ylim(0)
    panel.set_xlabel("rows")
    panel.set_ylabel("µs of processor time a row")
    panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return picture


def _curve(panel: Any, result: Result, who: str, name: str, style: str) -> None:
    points = sorted(
        (case["parameters"]["rows"], figure(result, case_name, name))
        for case_name, case in result["cases"].items()
        if case_name.startswith(who) and figure(result, case_name, name) is not None
    )
    label = f"{who}: {CURVES[name]}"
    if points:
        panel.plot(*zip(*points, strict=True), style, marker=".", label=label)
