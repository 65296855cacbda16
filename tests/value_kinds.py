"""Classes that the tests of values and their models share."""

from __future__ import annotations

import dataclasses
import enum
import typing


@dataclasses.dataclass
class Label:
    text: str
    score: float = 0.5


class Pair(typing.NamedTuple):
    first: str
    second: int


class Colour(enum.Enum):
    RED = "red"
