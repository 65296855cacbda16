"""A result that cannot be stored, as a text to keep: it was paid for. Knows no store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..values.records import fields_of
from .plain import is_secret, is_secret_value

LIMIT = 1 << 20  # characters
_DEPTH = 16


def as_text(value: Any) -> str:
    """Return a text like `repr`, of each part that has one, and of at most a mebibyte.

    An object without a `repr` of its own shows its public attributes; secrets are left out.
    """
    return _text(value, _DEPTH)[:LIMIT]


def _text(value: Any, depth: int) -> str:
    kind: Any = type(value)
    if depth == 0:
        return "…"
    if kind is int and value.bit_length() > 10_000:  # Python refuses to write it in decimal
        return hex(value)
    if isinstance(value, Mapping):
        pairs = _items(value)
        return "{" + ", ".join(f"{_repr(k)}: {_member(k, v, depth)}" for k, v in pairs) + "}"
    if kind in (list, tuple, set, frozenset):
        around = {"list": "[]", "tuple": "()"}.get(kind.__name__, "{}")
        return around[0] + ", ".join(_text(it, depth - 1) for it in value) + around[1]
    if is_secret_value(value):
        return f"<{kind.__qualname__}>"
    fields = fields_of(value)
    if fields is None and kind.__repr__ is object.__repr__:
        fields = {name: it for name, it in _vars(value).items() if not name.startswith("_")}
    if not fields:
        return _repr(value)
    shown = ", ".join(f"{name}={_member(name, it, depth)}" for name, it in fields.items())
    return f"{kind.__qualname__}({shown})"


def _member(name: Any, value: Any, depth: int) -> str:
    return "<secret>" if is_secret(name) else _text(value, depth - 1)


def _items(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    try:
        return [(name, value[name]) for name in value]
    except Exception:  # noqa: BLE001 - the user's own mapping: what it is stands in its repr
        return []


def _vars(value: Any) -> dict[str, Any]:
    found = getattr(value, "__dict__", {})
    return found if isinstance(found, dict) else {}


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as problem:  # noqa: BLE001 - a text is no reason to lose a row
        return f"<no repr: {type(problem).__name__} in {type(value).__qualname__}.__repr__>"
