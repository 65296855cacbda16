"""Values for people, cut so that each of their parts can be seen. Knows values and columns."""

from __future__ import annotations

from typing import Any

from ..frames.to_json import plain, to_json
from .display import Json, safe, width

# Characters of a text and members of a list that stay, until the whole fits.
_CUTS = ((1000, 100), (200, 20), (80, 6), (40, 4), (12, 2), (6, 1), (24, 3))


def fitted(value: Any, room: int) -> Json:
    """Return a value as JSON in `room` columns, long texts and lists cut before any field is.

    If no cut lets all fields be seen, the JSON itself is cut at `room`.
    """
    value = plain(value)
    for characters, members in _CUTS:
        text = safe(to_json(_cut(value, characters, members)).decode("utf-8", "backslashreplace"))
        if width(text) <= room:
            return Json(text)
    return Json(clipped(text, room))


def clipped(text: str, room: int) -> str:
    """Return a text in `room` columns."""
    text = safe(text)
    if width(text) <= room:
        return text
    while width(text) >= room:
        text = text[: min(len(text) - 1, room - 1)]
    return text + "…"


def _cut(value: Any, characters: int, members: int) -> Any:
    if isinstance(value, str) and len(value) > characters:
        return value[:characters].rstrip() + "…"
    if isinstance(value, bytes) and len(value) > characters:
        return _cut(value.hex(), characters, members)
    if isinstance(value, dict):
        return {name: _cut(child, characters, members) for name, child in value.items()}
    if isinstance(value, list | tuple):
        kept = [_cut(child, characters, members) for child in value[:members]]
        return kept if len(value) <= members else [*kept, f"… {len(value) - members:,} more"]
    return value
