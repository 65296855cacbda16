"""What a result cost: dollars, and token counts by name. Knows records; no provider, no store."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..file.usage import MOST, as_json
from ..values.records import fields_of
from .options import Options

MOST_NAMES = 100  # of one result: a name is a kind of token, not an id
_SAVED = "; the result is saved"


class Paid(msgspec.Struct, frozen=True):
    """What a result cost, as far as that is known.

    Attributes:
        cost: dollars.
        usage: token counts by name.
    """

    cost: float | None = None
    usage: dict[str, int] | None = None

    def as_json(self) -> str | None:
        """Return the token counts as they are stored, None for none."""
        return as_json(self.usage) if self.usage else None


NOTHING_SAID = Paid()


def asked(options: Options, result: Any, paid: Paid) -> tuple[Paid, BaseException | None]:
    """Return what a result cost, asked of `cost=` and `usage=`, and what they raised first.

    One that raises takes nothing from the other. What `paid` has is not asked for.
    """
    cost, usage, problem = paid.cost, paid.usage, None
    try:
        if cost is None and options.cost is not None:
            cost = dollars(options.cost(result), "cost= returned", _SAVED)
    except BaseException as error:  # noqa: BLE001 - the result is paid for: it is kept first
        problem = error
    try:
        if usage is None and options.usage is not None:
            usage = usage_of(options.usage, result)
    except BaseException as error:  # noqa: BLE001 - likewise
        problem = problem or error
    return Paid(cost, usage), problem


def dollars(cost: Any, what: str, more: str = "") -> float:
    """Return a cost; raise `ValueError` if it is not one."""
    if isinstance(cost, int | float) and 0 <= cost < math.inf:
        return float(cost)
    raise ValueError(f"{what} {cost!r}: it must be dollars, 0 or more{more}")


def usage_of(asked: Any, result: Any) -> dict[str, int]:
    """Return the token counts of a result, {} if it has none.

    Args:
        asked: a function from a result to its counts, or the name of the field that has them.
        result: what the step returned.

    Raises:
        ValueError: they are not counts.
    """
    if not isinstance(asked, str):
        return counts(asked(result), "usage= returned", _SAVED)
    try:
        found = result[asked] if isinstance(result, Mapping) else getattr(result, asked)
    except (KeyError, AttributeError):
        raise ValueError(
            f"usage={asked!r} names a field that the result does not have{_SAVED}"
        ) from None
    return counts(found, f"usage={asked!r} is", _SAVED)


def counts(usage: Any, what: str, more: str = "") -> dict[str, int]:
    """Return token counts by name; a count within another has both names, with a dot between.

    None, texts, lists and booleans describe a call and count nothing: they are left out.

    Args:
        usage: a mapping, a record such as a provider's usage object, or None.
        what: how the error begins.
        more: how it ends.

    Raises:
        ValueError: it is neither, or has a number that is no count.
    """
    if usage is None:
        return {}
    if (of := _fields(usage)) is None:
        said = "it must be a mapping of token counts, or a record of them"
        raise ValueError(f"{what} {usage!r:.200}: {said}{more}")
    found = {name: _count(name, value, what, more) for name, value in _flat(of)}
    for name in found:
        if not name.isprintable():  # nor can half of a surrogate pair be stored
            raise ValueError(f"{what} a count named {name!r:.200}: that is no text to print{more}")
    if len(found) > MOST_NAMES:
        raise ValueError(f"{what} {len(found):,} counts: at most {MOST_NAMES} are kept{more}")
    return found


def _fields(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else fields_of(value)


def _flat(of: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in of.items():
        if (inner := _fields(value)) is not None:
            yield from _flat(inner, f"{within}{name}.")
        elif not (value is None or isinstance(value, str | bool | list | tuple)):
            yield f"{within}{name}", value


def _count(name: str, value: Any, what: str, more: str) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if 0 <= count <= MOST:
        return count
    said = f"it must be a whole number from 0 to 2**53 - 1{more}"
    raise ValueError(f"{what} {name}={value!r:.200}: {said}")
