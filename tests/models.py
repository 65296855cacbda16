"""pydantic models for the tests of values, at the top level of a module, as users have them."""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import typing

import msgspec
import pydantic
from value_kinds import Colour, Label, Pair

T = typing.TypeVar("T")


class Model(pydantic.BaseModel):
    x: int = 1
    y: str = "a"


class Web(pydantic.BaseModel):
    url: pydantic.HttpUrl
    dsn: pydantic.PostgresDsn
    address: ipaddress.IPv4Network
    queue: collections.deque[int]


class Sized(pydantic.BaseModel):
    size: pydantic.ByteSize


class Aliased(pydantic.BaseModel, populate_by_name=True):
    a: int = pydantic.Field(alias="A")
    b: int = pydantic.Field(validation_alias="B")
    c: int = pydantic.Field(serialization_alias="C")
    d: int = pydantic.Field(validation_alias=pydantic.AliasChoices("D", "DD"))
    e: int = pydantic.Field(validation_alias=pydantic.AliasPath("E", 0))


class Private(pydantic.BaseModel):
    x: int
    _n: int = 0


class Secret(pydantic.BaseModel):
    x: pydantic.SecretStr


class Extra(pydantic.BaseModel, extra="allow"):
    x: int


class Generic(pydantic.BaseModel, typing.Generic[T]):
    x: T


class Outer(pydantic.BaseModel):
    label: Label
    pair: Pair
    colour: Colour


class Held(msgspec.Struct):
    m: Model


class Tupled(typing.NamedTuple):
    m: Model


@dataclasses.dataclass
class Holding:
    m: Model
    n: Model | None = None


@pydantic.dataclasses.dataclass
class Checked:
    m: Model
