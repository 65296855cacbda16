"""HTML for notebooks and reports: every text is escaped. Knows no run and no store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from xml.etree.ElementTree import Element, tostring

from .wording import safe

Child = Element | str | None
_TABLE = "border-collapse: collapse; font-variant-numeric: tabular-nums"
# a line that is seen on light and on dark, and no other colour than that of the notebook
_CELL = "padding: 0.2em 0.8em 0.2em 0; border-bottom: 1px solid rgba(128, 128, 128, 0.3)"


def element(tag: str, *children: Child, **attributes: str) -> Element:
    """Return an element; an underscore in a name becomes a hyphen, one at its end is dropped."""
    names = {name.rstrip("_").replace("_", "-"): text for name, text in attributes.items()}
    made = Element(tag, names)
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child and len(made):
            made[-1].tail = (made[-1].tail or "") + visible(child)
        elif child:
            made.text = (made.text or "") + visible(child)
    return made


def visible(text: str) -> str:
    """Return a text, escaping what would deceive a reader; line breaks and tabs stay."""
    return "".join(part if part in "\n\t" else safe(part) for part in _parts(text))


def _parts(text: str) -> Iterable[str]:
    start = 0
    for at, char in enumerate(text):
        if char in "\n\t":
            yield text[start:at]
            yield char
            start = at + 1
    yield text[start:]


def to_html(made: Element) -> str:
    """Return an element as HTML."""
    return tostring(made, encoding="unicode", method="html")


def facts(title: str, of: Mapping[str, str], *more: Child) -> str:
    """Return a title and a table of names and values, for a notebook; empty values are left out."""
    rows = [
        element(
            "tr",
            element("th", name, scope="row", style=f"text-align: left; opacity: 0.7; {_CELL}"),
            element("td", value, style=f"text-align: left; {_CELL}"),
        )
        for name, value in of.items()
        if value
    ]
    table = element("table", element("tbody", *rows), style=_TABLE) if rows else None
    return to_html(element("div", element("strong", title), table, *more))


def grid(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    """Return a table with heads, for a notebook."""
    style = f"text-align: left; {_CELL}"
    head = element("tr", *(element("th", name, scope="col", style=style) for name in heads))
    body = [element("tr", *(element("td", cell, style=style) for cell in row)) for row in rows]
    return element(
        "table",
        element("caption", caption, style="text-align: left; opacity: 0.7"),
        element("thead", head),
        element("tbody", *body),
        style=_TABLE,
    )


def fold(title: str, text: str) -> Element:
    """Return a long text that is opened by a click."""
    lines = element("pre", text, style="white-space: pre-wrap")
    return element("details", element("summary", title), lines)
