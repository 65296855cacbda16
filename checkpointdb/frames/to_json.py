"""Any value as builtins, and as JSON, for people and programs. Knows values; knows no package."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

import msgspec

from ..values.plain import is_plain

_KEPT = (bytes, date, datetime, time, timedelta, Decimal, UUID)


def plain(value: Any) -> Any:
    """Return `value` made of builtin types: objects of user classes are dicts, arrays lists.

    Dates and the like stay. What has more digits than they have is the text that `ticks` makes.
    """
    if is_plain(value) or type(value) in _KEPT:
        return value
    if type(value) is dict:
        return {name: plain(child) for name, child in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if isinstance(value, set | frozenset):
        return [plain(child) for child in value]
    return msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=_fields)


def to_json(value: Any) -> bytes:
    """Return any value as JSON, for people and programs. What JSON lacks becomes text.

    Half of a surrogate pair is written as its escape, which JSON allows: `json` reads it back.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_fields)
    except (TypeError, UnicodeEncodeError):  # keys that are no strings; lone surrogates
        # inside of JSON's quotes a backslash escape is the character itself
        text = json.dumps(_spelled(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """Return `text` with its lone surrogates, which no file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _spelled(value: Any) -> Any:
    """Return a value of types that the standard library writes as JSON, and only those."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        pairs = [(_name(name), _spelled(child)) for name, child in value.items()]
        named = dict(pairs)
        return named if len(named) == len(pairs) else pairs
    if isinstance(value, list | tuple | set | frozenset):
        return [_spelled(child) for child in value]
    return _spelled(msgspec.to_builtins(value, enc_hook=_fields))


def _name(name: Any) -> str:
    """Return the key of a dict as text, the same that msgspec makes of it."""
    if isinstance(name, str):
        return name
    try:
        (text,) = msgspec.json.decode(msgspec.json.encode({name: None}, enc_hook=_fields))
    except UnicodeEncodeError:
        text = str(name)
    return str(text)


def _fields(value: Any) -> Any:
    """Return what a value that is no builtin is made of, or else its text."""
    if type(value).__name__ in ("NaTType", "NAType"):  # of pandas
        return None
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if hasattr(value, "to_pydatetime") and not value.nanosecond:  # of pandas
        return value.to_pydatetime()
    if hasattr(value, "dtype") and hasattr(value, "tolist") and value.dtype.kind not in "mM":
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)
