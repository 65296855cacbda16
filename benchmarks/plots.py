"""The plots, as SVG, from the recorded results."""

from __future__ import annotations

import os
from typing import Any

from .adapters import PEERS
from .harness import ROOT
from .results import Result, best, figure

FOLDER = os.path.join(ROOT, "docs", "plots")
BY_SIZE = ("every(rows=50)", "every(rows=200)", "every(rows=1000)")


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
    picture.tight_layout()
    picture.savefig(os.path.join(FOLDER, f"{name}.svg"), metadata={"Date": None})


def tradeoff(result: Result) -> Any:
    """Draw overhead against rows lost, a panel for each step time."""
    import matplotlib.pyplot as plt

    steps = sorted({case["parameters"]["seconds"] for case in result["cases"].values()} - {0.0})
    picture, panels = plt.subplots(
        1, len(steps), figsize=(3.6 * len(steps), 3.6), squeeze=False, sharey=True
    )
    for panel, seconds in zip(panels[0], steps, strict=True):
        _panel(panel, result, seconds)
    panels[0][0].set_ylabel("overhead, % of the step's time")
    panels[0][-1].legend(fontsize=7)
    return picture


def _panel(panel: Any, result: Result, seconds: float) -> None:
    kinds = sorted({
        (case["parameters"]["durability"], case["parameters"]["size"])
        for case in result["cases"].values()
    })  # fmt: skip
    for number, (durability, size) in enumerate(kinds):
        points = _points(result, seconds, durability, size)
        _line(panel, points, f"C{number}", f"{durability}, {size:,} B")
    panel.set_xscale("symlog", linthresh=1)
    panel.set_yscale("log")
    panel.set_title(f"step of {seconds * 1e3:g} ms")
    panel.set_xlabel("rows lost by a kill at the worst moment")
    panel.axhline(1, color="gray", linewidth=0.5, linestyle=":")


def _points(
    result: Result, seconds: float, durability: str, size: int
) -> dict[str, tuple[float, float]]:
    wanted = {"seconds": seconds, "durability": durability, "size": size}
    found = {}
    for name, case in result["cases"].items():
        lost, cost = figure(result, name, "rows_lost"), figure(result, name, "overhead_pct")
        parameters = case["parameters"]
        if lost is not None and cost and all(parameters[k] == v for k, v in wanted.items()):
            found[parameters["save"]] = (lost, cost)
    return found


def _line(panel: Any, points: dict[str, tuple[float, float]], color: str, label: str) -> None:
    every = sorted(at for save, at in points.items() if save.startswith("every(rows"))
    panel.plot(*zip(*every, strict=True), color=color, marker=".", linewidth=1, label=label)
    for save, at in points.items():
        if save == "adaptive()":
            panel.plot(*at, color=color, marker="*", markersize=11)
        elif save in BY_SIZE:
            panel.plot(*at, color=color, marker="s", markersize=6, fillstyle="none")
        elif not save.startswith("every(rows"):
            panel.plot(*at, color=color, marker="x")


def peers(result: Result) -> Any:
    """Draw first run and resume of each peer, µs a row, logarithmic."""
    import matplotlib.pyplot as plt

    names = [name for name in reversed(PEERS) if name in result["cases"] and name != "bare_loop"]
    picture, panel = plt.subplots(figsize=(7, 4))
    for shift, what in ((0.2, "first"), (-0.2, "resume")):
        values = [max(figure(result, name, f"{what}_us") or 0, 0.1) for name in names]
        panel.barh([i + shift for i in range(len(names))], values, height=0.4, label=what)
    panel.set_yticks(range(len(names)), names)
    panel.set_xscale("log")
    panel.set_xlabel("µs a row beyond the bare loop")
    panel.legend()
    return picture


def scale(result: Result) -> Any:
    """Draw µs a row by size of the store, in processor time."""
    import matplotlib.pyplot as plt

    picture, panel = plt.subplots(figsize=(6, 3.6))
    for name in ("cpu_us", "resume_rows_cpu_us", "resume_shuffled_cpu_us"):
        _curve(panel, result, "checkpointdb", name, "-")
    for name in ("cpu_us", "select_rows_cpu_us", "select_shuffled_cpu_us"):
        _curve(panel, result, "bare", name, ":")
    panel.set_xscale("log")
    panel.set_ylim(0)
    panel.set_xlabel("rows")
    panel.set_ylabel("µs of processor time a row")
    panel.legend(fontsize=7)
    return picture


def _curve(panel: Any, result: Result, who: str, name: str, style: str) -> None:
    points = sorted(
        (case["parameters"]["rows"], figure(result, case_name, name))
        for case_name, case in result["cases"].items()
        if case_name.startswith(who)
    )
    label = f"{who}: {name.replace('_cpu_us', '').replace('cpu_us', 'first run')}"
    panel.plot(*zip(*points, strict=True), style, marker=".", label=label)
