"""The tables of how often to save, made of what the trade-off recorded."""

from __future__ import annotations

from collections.abc import Iterator

from .markdown import NOT_SAID, markdown, number
from .results import Result, best, figure
from .tradeoff import BY_SIZE, MAIN_KIND

WANTED = {
    "adaptive()": "leave it alone",
    "every(rows=1)": "lose nothing",
    "every(rows=10)": "lose 9 rows",
    "every(rows=50)": "lose 49 rows",
}

Place = tuple[float, int, str]  # the step's seconds, a result's size, the durability
Names = dict[str, str]  # of the cases measured there, by policy


def recommendation_table() -> str:
    """Return, for each step time, the measured price of the policies one would choose from."""
    result = best("tradeoff")
    heads = ["a call takes", *(f"{why}: `{save}`" for save, why in WANTED.items())]
    lines = [
        [_time(seconds), *(_price(result, names.get(save)) for save in WANTED)]
        for (seconds, *kind), names in _places(result)
        if tuple(kind) == MAIN_KIND and seconds
    ]
    return markdown(heads, lines)


def tradeoff_table() -> str:
    """Return cost and loss by policy and step, for small results and `power`."""
    result = best("tradeoff")
    found = [(at[0], names) for at, names in _places(result) if at[1:] == MAIN_KIND]
    saves = dict.fromkeys(save for _, names in found for save in names)
    lines = [
        [_with_rule(save), *(_price(result, names.get(save)) for _, names in found)]
        for save in saves
    ]
    return markdown(["save", *(_time(seconds) for seconds, _ in found)], lines)


def frontier_table() -> str:
    """Return, wherever `adaptive()` was measured, the cheapest fixed N that loses no more."""
    result = best("tradeoff")
    lines = [
        [_time(at[0]), f"{at[1]:,} B, {at[2]}", *_beside(result, at[0], names)]
        for at, names in _places(result)
        if figure(result, names.get("adaptive()", ""), "rows_lost") is not None
    ]
    heads = [
        "a call takes",
        "results",
        "`adaptive()`",
        "cheapest N that loses no more",
        "its price",
    ]
    return markdown([*heads, "`adaptive()` is"], lines)


def _beside(result: Result | None, seconds: float, names: Names) -> list[str]:
    mine = names["adaptive()"]
    cost, most = "overhead_pct" if seconds else "us_per_row", figure(result, mine, "rows_lost")
    prices = {
        save: figure(result, name, cost)
        for save, name in names.items()
        if save.startswith("every(rows")
        and (lost := figure(result, name, "rows_lost")) is not None
        and lost <= most
    }
    save = min(prices, key=prices.__getitem__)
    verdict = _verdict(result, mine, names[save], cost)
    return [_price(result, mine), f"`{save}`", _price(result, names[save]), verdict]


def _verdict(result: Result | None, mine: str, other: str, cost: str) -> str:
    """Return which is cheaper, if all runs of one were cheaper than all runs of the other."""
    times = figure(result, mine, cost) / figure(result, other, cost)
    if figure(result, mine, f"{cost} high") < figure(result, other, f"{cost} low"):
        return f"cheaper, {times:.2f} times its cost"
    if figure(result, mine, f"{cost} low") > figure(result, other, f"{cost} high"):
        return f"dearer, {times:.2f} times its cost"
    return "as cheap, within the spread"


def _places(result: Result | None) -> Iterator[tuple[Place, Names]]:
    found: dict[Place, Names] = {}
    for name, case in (result["cases"] if result else {}).items():
        asked = case["parameters"]
        place = (asked["seconds"], asked["size"], asked["durability"])
        found.setdefault(place, {})[asked["save"]] = name
    return iter(sorted(found.items()))


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:g} ms" if seconds else "no time"


def _with_rule(save: str) -> str:
    return f"`{save}`, `by_size({BY_SIZE[save]:_})`" if save in BY_SIZE else f"`{save}`"


def _price(result: Result | None, name: str | None) -> str:
    """Return what a policy costs and what a kill loses: rows that had returned, and seconds."""
    if name is None or (lost := figure(result, name, "rows_lost")) is None:
        return NOT_SAID
    percent = figure(result, name, "overhead_pct")
    us = f"{number(figure(result, name, 'us_per_row'))} µs"
    cost = us if percent is None else f"{number(percent)} %"
    if not lost:
        return f"{cost}, nothing"
    return f"{cost}, {number(lost)} rows, {number(figure(result, name, 'seconds_lost'))} s"
