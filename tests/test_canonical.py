"""Canonical bytes: equal values, and only those, have equal bytes; what has no content is named."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import itertools
import pathlib
import random
import string
import sys
import uuid
import zoneinfo

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointdb import DecodeError, EncodeError
from checkpointdb.values.canonical import MAX_DEPTH, Arguments, canonical
from checkpointdb.values.plain import is_plain
from checkpointdb.values.revive import uncanonical

NOON = dt.datetime(2024, 3, 31, 12, 0)
PARIS = zoneinfo.ZoneInfo("Europe/Paris")
UUID = uuid.UUID("12345678123456781234567812345678")


class Colour(enum.Enum):
    RED = "red"


class Shade(enum.Enum):
    RED = "red"


class Text(str, enum.Enum):  # noqa: UP042 - as users write it
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Bits(enum.Flag):
    ONE = 1


class OtherBits(enum.IntFlag):
    ONE = 1


@dataclasses.dataclass(frozen=True)
class Data:
    x: int = 1


class Struct(msgspec.Struct, frozen=True):
    x: int = 1


class Named(collections.namedtuple("Named", "x")):
    pass


class Model(pydantic.BaseModel):
    x: int = 1


class Numpyish(float):
    """A stand-in for `numpy.float64`: a subclass of float with `tolist`."""

    def tolist(self):
        return float(self)


FAMILIES = {
    "numbers": [1, 1.0, True, "1", Number.ONE, Bits.ONE, OtherBits.ONE, decimal.Decimal(1), b"1"],
    "zeros": [0, 0.0, -0.0, False, "0", "", b"", None, [], {}, (), set(), frozenset()],
    "not a number": [
        float("nan"),
        None,
        "NaN",
        "null",
        decimal.Decimal("NaN"),
        float("inf"),
        "inf",
    ],
    "decimals": [decimal.Decimal("1.0"), decimal.Decimal("1.00"), "1.0", 1.0, "1.00"],
    "times": [
        NOON,
        NOON.replace(tzinfo=dt.UTC),
        NOON.replace(tzinfo=PARIS),
        NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))),
        NOON.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        NOON.replace(fold=1),
        NOON.isoformat(),
        NOON.date(),
        NOON.date().isoformat(),
        NOON.time(),
        NOON.time().replace(tzinfo=PARIS),
        NOON.time().replace(tzinfo=dt.UTC),
        NOON.time().isoformat(),
        NOON.timestamp(),
    ],
    "time spans": [dt.timedelta(1), 86400, 86400.0, "1 day, 0:00:00", dt.timedelta(seconds=1)],
    "enums": [Colour.RED, Shade.RED, Text.RED, "red", b"red", ["Colour", "red"]],
    "collections": [
        [1, 2],
        (1, 2),
        {1, 2},
        frozenset({1, 2}),
        {1: 2},
        [2, 1],
        {"1": 2},
        [[1, 2]],
        [(1, 2)],
        ([1, 2],),
        {0: 1, 1: 2},
        [(0, 1), (1, 2)],
    ],
    "objects": [
        Data(),
        Struct(),
        Named(1),
        Model(),
        {"x": 1},
        (1,),
        [1],
        Arguments(x=1),
        [["x", 1]],
    ],
    "keys": [
        {1: 0},
        {"1": 0},
        {1.0: 0},
        {True: 0},
        {None: 0},
        {b"1": 0},
        {(1,): 0},
        {Number.ONE: 0},
        {Text.RED: 0},
        {"red": 0},
    ],
    "bytes": [b"a", "a", "YQ==", [97]],
    "identities": [UUID, str(UUID), UUID.hex, UUID.bytes, UUID.int],
    "paths": [pathlib.Path("a/b"), "a/b", b"a/b", ["a", "b"]],
    "large": [2**64, 2**64 - 1, float(2**64), str(2**64), -(2**63), -(2**63) - 1, -(2**64)],
    "surroundings": [[2**64], [str(2**64)], {"a": 2**64}, {"a": (2**64,)}, [[2**64]]],
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_values_that_other_encodings_confuse_have_different_bytes(family):
    """No two of these are the same row, alone or inside a row."""
    for wrap in (lambda v: v, lambda v: [v], lambda v: {"a": v}, lambda v: ({"k": [v]},)):
        encoded = [canonical(wrap(value)) for value in family]
        for (i, a), (j, b) in itertools.combinations(enumerate(encoded), 2):
            assert a != b, f"{family[i]!r} and {family[j]!r} have the same bytes"


def test_no_two_values_of_different_families_have_the_same_bytes():
    """What differs in type or content differs in bytes, across all kinds of value."""
    values = {}
    for value in itertools.chain.from_iterable(FAMILIES.values()):
        identity = type(value), repr(value)
        assert values.setdefault(canonical(value), identity) == identity


@pytest.mark.parametrize("value", list(itertools.chain.from_iterable(FAMILIES.values())), ids=repr)
def test_every_value_comes_back_as_it_was_or_says_that_it_is_an_object(value):
    """Decoding gives an equal value of the same type; only user classes come back as builtins."""
    back, has_objects = uncanonical(canonical(value))
    if not has_objects:
        assert type(back) is type(value) or isinstance(value, Arguments)
        assert canonical(back) == canonical(value) or isinstance(value, Arguments)


def test_the_order_of_a_dict_does_not_matter_and_the_order_of_a_list_does():
    """Dicts are equal whatever their order, at any depth and with keys of any type."""
    assert canonical({"a": 1, "b": {"c": 2, "d": 3}}) == canonical({"b": {"d": 3, "c": 2}, "a": 1})
    assert canonical({1: "a", (2,): "b"}) == canonical({(2,): "b", 1: "a"})
    assert canonical([1, 2]) != canonical([2, 1])


def test_a_set_has_the_same_bytes_whatever_order_it_iterates_in():
    """Members are sorted by their bytes, also when Python cannot compare them."""
    members = ["a", 1, None, (1, "b"), b"a", 2.5, frozenset({"x"})]
    first = canonical(set(members))
    for seed in range(20):
        random.Random(seed).shuffle(members)
        assert canonical(set(members)) == first
        assert canonical({"s": set(members)}) == canonical({"s": set(members)})


@dataclasses.dataclass
class Backwards:
    b: int
    a: int


def test_a_subclass_of_dict_is_the_dict_that_it_equals():
    """OrderedDict, defaultdict and Counter are equal to the dict of the same items."""
    plain = canonical({"a": 1})
    assert canonical(collections.OrderedDict(a=1)) == plain
    assert canonical(collections.defaultdict(int, a=1)) == plain
    assert canonical(collections.Counter("a")) == plain


def test_every_nan_is_one_value():
    """A NaN of any sign or payload, computed anyhow, has the same bytes."""
    nans = [float("nan"), -float("nan"), float("inf") - float("inf")]
    nans.append(msgspec.msgpack.decode(b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x01"))
    assert len({canonical(nan) for nan in nans}) == 1


class Extended(pydantic.BaseModel, extra="allow"):
    x: int

    @property
    def double(self):
        return 2 * self.x


class Rooted(pydantic.RootModel[list[int]]):
    def __iter__(self):
        return iter(self.root)


def test_a_pydantic_model_is_its_fields_and_extras_and_nothing_cached():
    """Iteration overridden by the user, and cached properties, do not change what it is."""
    from functools import cached_property

    class Cached(pydantic.BaseModel):
        x: int

        @cached_property
        def double(self):
            return 2 * self.x

    used = Cached(x=1)
    assert used.double == 2
    assert canonical(used) == canonical(Cached(x=1))
    assert canonical(Extended(x=1, y=2)) != canonical(Extended(x=1))
    assert canonical(Rooted([1, 2])) != canonical(Rooted([1, 3]))


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def cycle():
    value = {"a": []}
    value["a"].append(value)
    return value


def open_file():
    return {"meta": [0, 1, 2, {"file": sys.stdin}]}


NO_CONTENT = {
    "a lambda": (lambda: {"fn": lambda: 0}, "$.fn", "lambda|function"),
    "an open file": (open_file, r"$.meta[3].file", "give what it is made from"),
    "a plain object": (lambda: [object()], "$[0]", "dataclass"),
    "a class": (lambda: {"type": Data}, "$.type", "type"),
    "an exception": (lambda: (ValueError(),), "$[0]", "ValueError"),
    "an ellipsis": (lambda: {"a b": ...}, "$['a b']", "ellipsis"),
    "a str subclass": (lambda: {"a": type("Str", (str,), {})("x")}, "$.a", "plain str"),
    "a list subclass": (lambda: {"a": type("List", (list,), {})()}, "$.a", "plain list|JSON types"),
    "a numpy scalar": (lambda: {"score": Numpyish(0.5)}, "$.score", r"\.tolist\(\)"),
    "inside a set": (lambda: {"s": {1, len}}, "$.s{…}", "builtin"),
    "inside a dict key": (lambda: {"s": {len: 1}}, "$.s.keys()", "builtin"),
    "under a key that is no str": (lambda: {1: {2: len}}, "$[1][2]", "builtin"),
    "inside a dataclass": (lambda: {"d": Data(x=len)}, "$.d.x", "builtin"),
    "inside a namedtuple": (lambda: (Named({"f": len}),), "$[0].x.f", "builtin"),
    "a generator": (lambda: {"rows": (i for i in [])}, "$.rows", "generator"),
}


@pytest.mark.parametrize(("make", "where", "message"), NO_CONTENT.values(), ids=NO_CONTENT)
def test_what_has_no_content_is_an_error_that_names_the_place(make, where, message):
    """The error says where inside the value, of what type, and what to do."""
    with pytest.raises(EncodeError, match=message) as caught:
        canonical(make())
    assert caught.value.where == where
    assert str(caught.value).startswith(where)


@pytest.mark.parametrize("make", [cycle, lambda: nested(100_000), lambda: nested(MAX_DEPTH + 1)])
def test_a_cycle_or_too_deep_a_nesting_is_an_error(make):
    """A value that contains itself, or is deeper than 128, raises at once and not for ever."""
    with pytest.raises(EncodeError, match="deeper than 128") as caught:
        canonical(make())
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: {1: v}]
)
def test_the_depth_limit_is_the_same_for_every_container(wrap):
    """128 levels are encoded and decoded, 129 refused, whatever they are made of."""
    value = 0
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert uncanonical(canonical(value))[0] == value
    with pytest.raises(EncodeError, match="deeper than 128"):
        canonical(wrap(value))


def test_the_keys_of_a_dict_count_towards_its_depth():
    """A tuple of 127 levels may be a key, one of 128 not."""
    key = 0
    for _ in range(MAX_DEPTH - 1):
        key = (key,)
    assert uncanonical(canonical({key: 0}))[0] == {key: 0}
    with pytest.raises(EncodeError, match="deeper than 128"):
        canonical({(key,): 0})


def test_a_time_whose_zone_has_neither_offset_nor_name_is_an_error():
    """Such a time would come back as a naive one."""

    class Zone(dt.tzinfo):
        def utcoffset(self, when):
            return None if when is None else dt.timedelta(hours=1)

        def dst(self, when):
            return None

    assert canonical(NOON.replace(tzinfo=Zone())) == canonical(
        NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=1)))
    )
    with pytest.raises(EncodeError, match="neither offset nor name"):
        canonical({"t": NOON.time().replace(tzinfo=Zone())})


def test_objects_in_a_set_or_as_keys_come_back_as_lists():
    """A dict of fields cannot be in a set: the rows of a store stay readable all the same."""
    assert uncanonical(canonical({Data(1)})) == ([{"x": 1}], True)
    assert uncanonical(canonical({Data(1): "a"})) == ([({"x": 1}, "a")], True)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (msgspec.msgpack.encode(msgspec.msgpack.Ext(99, b"\x00")), DecodeError),
        (b"\xc1", msgspec.DecodeError),
        (b"\x00\x00", msgspec.DecodeError),
        (b"\xdd\xff\xff\xff\xff", msgspec.DecodeError),
        (b"\x91" * 100_000, RecursionError),
    ],
)
def test_bytes_of_another_kind_are_refused_quickly(data, error):
    """Unknown extensions, trailing bytes, huge lengths and endless nesting never become a value."""
    with pytest.raises(error):
        uncanonical(data)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=12,
)
FIXED = st.timezones() | st.just(dt.UTC) | st.none()
HASHABLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.binary(max_size=8)
    | st.decimals().filter(lambda number: not number.is_snan())  # not hashable
    | st.uuids()
    | st.dates()
    | st.timedeltas()
    | st.datetimes(timezones=FIXED)
    | st.times(timezones=FIXED)
    | st.builds(pathlib.PurePosixPath, st.text(string.ascii_letters + "/. ", max_size=6)).map(
        pathlib.Path
    )
)
KEYS = st.recursive(
    HASHABLE,
    lambda c: st.lists(c, max_size=3).map(tuple) | st.frozensets(c, max_size=3),
    max_leaves=4,
)
ANY = st.recursive(
    HASHABLE,
    lambda c: (
        st.lists(c, max_size=4)
        | st.lists(c, max_size=4).map(tuple)
        | st.dictionaries(KEYS, c, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=12,
)


def image(value):
    """Rebuild `value` so that `==` and `hash` on the image say what `equal in types too` means."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, frozenset((image(k), image(v)) for k, v in value.items())
    if isinstance(value, set | frozenset):
        return kind, tuple(sorted(map(repr, map(image, value))))
    if isinstance(value, list | tuple):
        return kind, tuple(map(image, value))
    if isinstance(value, float | decimal.Decimal):
        return kind, repr(value)
    if isinstance(value, dt.datetime | dt.time):
        return kind, value.isoformat(), value.fold, getattr(value.tzinfo, "key", None)
    return kind, value


@given(ANY)
def test_any_nesting_of_builtin_types_comes_back_equal(value):
    """Decoding canonical bytes gives an equal value of equal types, at any depth."""
    back, has_objects = uncanonical(canonical(value))
    assert not has_objects
    assert image(back) == image(value)


@pytest.mark.slow
@given(ANY, ANY)
def test_two_values_have_equal_bytes_if_and_only_if_they_are_equal(a, b):
    """Equal in types too: `1`, `1.0` and `True` are three values."""
    assert (canonical(a) == canonical(b)) == (image(a) == image(b))


@given(PLAIN)
def test_plain_values_take_the_fast_path_and_its_bytes_are_those_of_the_slow_one(value):
    """A row of JSON types has the same bytes whether or not it is looked at twice."""
    from checkpointdb.values.canonical import _IDENTITY, _pack, _tag

    assert is_plain(value)
    assert canonical(value) == _pack(_tag(value, "$", MAX_DEPTH, _IDENTITY))


@pytest.mark.slow
@given(ANY)
def test_only_plain_values_are_plain(value):
    """`is_plain` is true just for trees of exact JSON types with finite numbers."""
    if is_plain(value):
        assert image(msgspec.json.decode(msgspec.json.encode(value))) == image(value)
