"""What a report's sections are made of: tables, bars, places for charts. Knows no store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from ..markup import Child, element
from .display import number

Row = Sequence[Child]


def section(name: str, intro: str, *children: Child) -> Element:
    """Return a section with its title and a sentence about it."""
    title = f"{name.lower()}-title"
    head = element("h2", name, id=title)
    said = element("p", intro, class_="soft") if intro else None
    return element("section", head, said, *children, id=name.lower(), aria_labelledby=title)


def table(caption: str, heads: Sequence[str], rows: Iterable[Row], numbers: str = "") -> Element:
    """Return a table whose columns named in `numbers` stand to the right."""
    right = [{"class_": "number"} if name and name in numbers.split(", ") else {} for name in heads]
    top = [
        element("th", name, scope="col", **side) for name, side in zip(heads, right, strict=True)
    ]
    body = []
    for row in rows:
        cells = [element("th", row[0], scope="row", **right[0])]
        cells += [
            element("td", cell, **side) for cell, side in zip(row[1:], right[1:], strict=True)
        ]
        body.append(element("tr", *cells))
    made = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *top)),
        element("tbody", *body),
    )
    return element("div", made, class_="wide", tabindex="0", role="region", aria_label=caption)


def legend() -> Element:
    """Say what the colours of bars mean."""
    kinds = (("hit", "hits"), ("made", "computed"), ("bad", "failed"))
    items = [
        element("li", element("svg", rect(0, 100, kind), aria_hidden="true"), name)
        for kind, name in kinds
    ]
    return element("ul", *items, class_="legend")


def bar(run: dict[str, Any], most: int) -> Element:
    """Return what a run did as a bar; the more rows, the longer."""
    said = f"{number(run['hits'])} hits, {number(run['computed'])} computed, "
    said += f"{number(run['failed'])} failed"
    parts, at = [], 0.0
    for name, kind in (("hits", "hit"), ("computed", "made"), ("failed", "bad")):
        wide = 100 * run[name] / most
        parts.append(rect(at, wide, kind))
        at += wide
    return element("svg", *parts, class_="bar", role="img", aria_label=said)


def rect(at: float, wide: float, kind: str) -> Element:
    """Return a part of a bar; places in percent of its length."""
    return element("rect", class_=kind, x=f"{at:.3f}%", width=f"{wide:.3f}%", y="0", height="100%")


def chart(id: str, title: str, said: str, *more: Child) -> Element:
    """Return a place that the page's script draws a chart in."""
    place = element("div", id=id, class_="chart", role="img", aria_label=f"{title}. {said}")
    words = element("p", said, class_="soft")
    return element("figure", element("figcaption", title), words, place, *more, id=f"{id}-figure")
