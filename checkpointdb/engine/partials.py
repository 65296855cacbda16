"""The arguments that a partial has bound: part of the key, for they decide the answer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Container
from typing import Any

from ..errors import EncodeError
from ..values.canonical import canonical
from .plain import is_secret, is_secret_value


def bound_names(partial: functools.partial[Any]) -> dict[str, Any]:
    """Return the bound arguments by their names; by their places, where names cannot be told."""
    try:
        bound = inspect.signature(partial.func).bind_partial(*partial.args, **partial.keywords)
    except (TypeError, ValueError):
        return {f"argument {i}": it for i, it in enumerate(partial.args, 1)} | partial.keywords
    named = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named


def bound_in_key(fn: Any, using: Container[str] = ()) -> dict[str, Any]:
    """Return the bound arguments of a step's function that are in its key.

    Those without stable content (clients) are left out, and secrets, and those that `using` names.
    """
    if not isinstance(fn, functools.partial):
        return {}
    bound = bound_names(fn).items()
    return {name: value for name, value in bound if name not in using and _counts(name, value)}


def _counts(name: str, value: Any) -> bool:
    if is_secret(name) or is_secret_value(value):
        return False
    try:
        canonical(value)
    except EncodeError:
        return False
    return True
