"""Keep what `redact=` names out of texts and out of what is stored. Knows values; no store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from .records import fields_of

Redact = str | re.Pattern[str] | Callable[[str], str]
REDACTED = "[redacted]"
_SHORTEST = 3  # characters: a shorter value is not searched for in texts


class Redactor:
    """Names of fields and variables, patterns, and functions from a text to what may be kept.

    Args:
        rules: any of these.

    Raises:
        TypeError: something else.
    """

    def __init__(self, rules: Redact | tuple[Redact, ...]) -> None:
        rules = tuple(rules) if isinstance(rules, tuple | list) else (rules,)
        for rule in rules:
            if not isinstance(rule, str | re.Pattern) and not callable(rule):
                raise TypeError(
                    f"redact takes names, compiled patterns and functions on a text, not {rule!r}"
                )
        self._names = frozenset(rule for rule in rules if isinstance(rule, str))
        self._patterns = [rule for rule in rules if isinstance(rule, re.Pattern)]
        self._functions = [
            rule for rule in rules if not isinstance(rule, str | re.Pattern) and callable(rule)
        ]

    def __bool__(self) -> bool:
        return bool(self._names or self._patterns or self._functions)

    def hides(self, name: Any) -> bool:
        """Tell whether a value of this name is to be kept out."""
        return name in self._names

    def text(self, text: str, row: Any = None) -> str:
        """Return a text without what matches and without the values of named fields of `row`."""
        for value in sorted(self._values(row), key=len, reverse=True):
            text = text.replace(value, REDACTED)
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        for function in self._functions:
            text = function(text)
        return text

    def value(self, value: Any) -> Any:
        """Return a value with named fields replaced and its texts cleaned."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value)(map(self.value, value))
        fields = _fields(value)
        if fields is None:
            return value
        return {
            name: REDACTED if self.hides(name) else self.value(child)
            for name, child in fields.items()
        }

    def _values(self, value: Any, hidden: bool = False) -> Iterator[str]:
        """Yield the texts of what is under the names."""
        if not self._names:
            return
        fields = _fields(value)
        if fields is not None:
            for name, child in fields.items():
                yield from self._values(child, hidden or self.hides(name))
        elif isinstance(value, list | tuple | set | frozenset):
            for child in value:
                yield from self._values(child, hidden)
        elif hidden and len(text := str(value)) >= _SHORTEST:
            yield text
            if (quoted := repr(value)[1:-1]) != text and isinstance(value, str):
                yield quoted


def _fields(value: Any) -> dict[Any, Any] | None:
    """Return the items of a dict, or the fields of a record; None if it has none."""
    if isinstance(value, dict):
        return value
    return None if hasattr(type(value), "__checkpoint_key__") else fields_of(value)
