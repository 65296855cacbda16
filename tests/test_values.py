"""docs/values.md says of each type what comes back; here real steps show that it is so."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import io
import ipaddress
import math
import pathlib
import sqlite3
import types
import typing
import uuid
import warnings
import zoneinfo
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from value_kinds import Colour, Label, Pair

import checkpointdb as ckpt
from checkpointdb.values.canonical import canonical, canonical_of
from checkpointdb.values.codec import Codec, decode, encode
from checkpointdb.values.records import fields_of, state_of

PAGE = Path(__file__).parent.parent / "docs" / "values.md"


@dataclasses.dataclass
class Stateful:
    x: int

    def __post_init__(self):
        self.seen = [self.x]


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int


class Struct(msgspec.Struct):
    x: int


class Odd(enum.Enum):
    PAIR = (1, 2)
    HALF = 0.5
    NAN = math.nan
    LIST = [1]
    NOTHING = None
    OBJECT = object()


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)

    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius


class Level(enum.IntEnum):
    LOW = 1


class Text(enum.StrEnum):
    A = "a"


class Bits(enum.Flag):
    R = 1
    W = 2


class IntBits(enum.IntFlag):
    R = 1
    W = 2


class Typed(typing.TypedDict):
    label: Label


T = typing.TypeVar("T")


@dataclasses.dataclass
class Box(typing.Generic[T]):
    inside: T


class Client:
    """It knows its identity; a store has nothing else of it."""

    def __init__(self, model, key="sk-secret"):
        self.model, self.key = model, key

    def __checkpoint_key__(self):
        return self.model


class Temperature:
    def __init__(self, degrees):
        self.degrees = degrees

    def __eq__(self, other):
        return type(other) is Temperature and other.degrees == self.degrees

    __hash__ = None


ckpt.register(Temperature, to=lambda it: it.degrees, back=Temperature)


class Plain:
    pass


class Str(str):
    __slots__ = ()


class OwnDict(dict):
    pass


def sqlite_row():
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row = connection.execute("select 1 as a, 'x' as b").fetchone()
    connection.close()
    return row


def numpy():
    return pytest.importorskip("numpy")


def pandas():
    return pytest.importorskip("pandas")


def image(mode="RGB"):
    made = pytest.importorskip("PIL.Image").new(mode, (3, 2))
    made.putpixel((1, 1), 7 if len(made.getbands()) == 1 else (1, 2, 3, 4)[: len(made.getbands())])
    return made


def opened_image():
    data = io.BytesIO()
    image().save(data, "PNG")
    return pytest.importorskip("PIL.Image").open(data)


NOON = dt.datetime(2024, 10, 27, 2, 30)


def pydantic_models():
    pytest.importorskip("pydantic")
    import models

    return models


def model(name, **fields):
    return lambda: getattr(pydantic_models(), name)(**fields)


def web():
    return pydantic_models().Web(
        url="https://example.org/a?b=c", dsn="postgresql://u:p@h:5/db", address="10.0.0.0/8",
        queue=[1, 2],
    )  # fmt: skip


def aliased():
    return pydantic_models().Aliased(A=1, B=2, c=3, DD=4, E=[5])


def private():
    made = pydantic_models().Private(x=1)
    made._n = 5
    return made


def holding(name):
    its = pydantic_models()
    return lambda: getattr(its, name)(its.Model(x=2))


def attrs_instance():
    attrs = pytest.importorskip("attrs")

    @attrs.define
    class Attrs:
        x: int
        _y: int = 2

    return Attrs(1, 5)


def zone(package, name):
    module = pytest.importorskip(package)
    return module.tz.gettz(name) if package == "dateutil" else module.timezone(name)


def pytz_time(is_dst):
    return zone("pytz", "Europe/Paris").localize(NOON, is_dst=is_dst)


def dateutil_time(fold):
    import_tz = pytest.importorskip("dateutil.tz")
    return NOON.replace(tzinfo=import_tz.gettz("Europe/Paris"), fold=fold)


def url(name, text):
    return getattr(pytest.importorskip("pydantic"), name)(text)


# What stands in the first column of the page: the values that it speaks of.
VALUES: dict[str, list[Callable[[], typing.Any]]] = {
    "`str`, `int`, `float`, `bool`, `None`, lists and dicts of them": [
        lambda: {"a": [1, 2.5, True, None, "é"]}, lambda: "", lambda: [[], {}], lambda: -0.0,
    ],
    "`int` of any size": [lambda: 2**64, lambda: -(10**40), lambda: 10**5000, lambda: [10**5000]],
    "`nan`, `inf`": [lambda: math.nan, lambda: [math.inf, -math.inf]],
    "`bytes`, `bytearray`, `memoryview`": [
        lambda: b"\0\xff", lambda: bytearray(b"ab"), lambda: memoryview(b"ab"), lambda: bytearray(),
        lambda: memoryview(b"abcdef").cast("B", [2, 3]), lambda: memoryview(b"12345678").cast("d"),
    ],
    "`tuple`, `set`, `frozenset`, `range`": [
        lambda: (1, (2,)), lambda: {1, "a"}, lambda: frozenset({(1,)}), lambda: range(1, 9, 3),
        lambda: range(2**70), tuple, set,
    ],
    "dict with keys other than `str`": [lambda: {1: "a", (2, 3): "b", None: 1}],
    "`deque`": [lambda: collections.deque([1, (2,)]), lambda: collections.deque([1], maxlen=3)],
    "`OrderedDict`, `Counter`": [
        lambda: collections.OrderedDict(b=1, a=2), lambda: collections.Counter("abca"),
        lambda: {"in": [collections.OrderedDict({1: 2})]},
    ],
    "`defaultdict` of one of Python's own types": [
        lambda: collections.defaultdict(list, a=[1]), lambda: collections.defaultdict(None, a=1),
    ],
    "`defaultdict` of another function": [lambda: collections.defaultdict(lambda: 3, a=1)],
    "any other mapping (`sqlite3.Row`, HF's `LazyRow`, a `Series`), a dict of your own class": [
        sqlite_row,
        lambda: types.MappingProxyType({"a": 1}), lambda: collections.ChainMap({"a": 1}),
        lambda: pandas().Series({"a": 1, "b": "x"}), lambda: OwnDict(a=1),
        lambda: collections.UserDict(a=1),
    ],
    "`Decimal`, `Fraction`, `complex`": [
        lambda: decimal.Decimal("1.10"), lambda: fractions.Fraction(-2**70, 3), lambda: 1 - 2j,
        lambda: complex(math.nan, -0.0), lambda: decimal.Decimal("-Infinity"),
    ],
    "`UUID`, `Path`, `PurePath`": [
        lambda: uuid.UUID(int=5), lambda: pathlib.Path("a/b"), lambda: pathlib.PurePosixPath("a"),
        lambda: pathlib.PureWindowsPath("a\\b"),
    ],
    "IP addresses, networks and interfaces": [
        lambda: ipaddress.ip_address("10.0.0.1"), lambda: ipaddress.ip_network("10.0.0.0/8"),
        lambda: ipaddress.ip_interface("10.0.0.1/8"), lambda: ipaddress.ip_address("fe80::1%eth0"),
        lambda: ipaddress.ip_network("::/0"), lambda: ipaddress.ip_interface("::1/128"),
    ],
    "`date`, `time`, `datetime`, `timedelta`": [
        lambda: NOON, lambda: NOON.replace(fold=1), lambda: NOON.date(), lambda: NOON.time(),
        lambda: dt.timedelta(-1, 5, 7), lambda: dt.datetime(1, 1, 1), lambda: dt.datetime.max,
        lambda: NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
        lambda: NOON.time().replace(tzinfo=dt.UTC),
    ],
    "times in zones of `zoneinfo`, `dateutil`, `pytz`": [
        lambda: NOON.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Paris"), fold=0),
        lambda: NOON.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Paris"), fold=1),
        lambda: NOON.time().replace(tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo")),
        lambda: dateutil_time(0), lambda: dateutil_time(1), lambda: dateutil_time(1).timetz(),
        lambda: NOON.replace(tzinfo=pytest.importorskip("dateutil.tz").UTC),
        lambda: NOON.replace(tzinfo=pytest.importorskip("dateutil.tz").tzoffset("X", 3600)),
        lambda: NOON.replace(tzinfo=pytest.importorskip("dateutil.tz").tzlocal()),
        lambda: pytz_time(True), lambda: pytz_time(False),
        lambda: NOON.replace(tzinfo=zone("pytz", "Europe/Paris")),  # as many write it
        lambda: NOON.replace(tzinfo=zone("pytz", "UTC")),
        lambda: NOON.replace(tzinfo=pytest.importorskip("pytz").FixedOffset(90)),
        lambda: pytz_time(True).timetz().replace(tzinfo=zone("pytz", "Europe/Paris")),
    ],
    "`Enum` of any value, `IntEnum`, `StrEnum`, `Flag`": [
        lambda: Colour.RED, *(lambda it=it: it for it in Odd), lambda: Level.LOW, lambda: Text.A,
        lambda: Bits.R | Bits.W, lambda: Bits(0), lambda: IntBits.R | IntBits.W,
        lambda: Planet.EARTH,
    ],
    "dataclass, attrs class, `msgspec.Struct`, named tuple, `SimpleNamespace`": [
        lambda: Label("a", math.nan), lambda: Stateful(1), lambda: Slotted(1), lambda: Struct(1),
        lambda: Pair("a", 1), lambda: Box(Label("x")), lambda: types.SimpleNamespace(x=1),
        lambda: argparse.Namespace(x=1), attrs_instance,
    ],
    "pydantic model, with aliases, extra fields, and which fields were set": [
        model("Model", x=2, y="b"), model("Model"), model("Model", x=1), web, aliased,
        model("Extra", x=1, z=2), lambda: pydantic_models().Generic[int](x=1),
    ],
    "models in dataclasses, structs, and the other way round": [
        lambda: holding("Holding")(), lambda: holding("Held")(), lambda: holding("Tupled")(),
        lambda: pydantic_models().Outer(label=Label("a"), pair=Pair("a", 1), colour=Colour.RED),
        lambda: pydantic_models().Checked(pydantic_models().Model()),
    ],
    "pydantic's `ByteSize` and other types that pydantic alone can write": [
        model("Sized", size="1 MiB"),
    ],
    "a model's private attributes that can be stored": [private],
    "a model with a `SecretStr`": [model("Secret", x="sk")],
    "pydantic's URLs": [
        lambda: url("HttpUrl", "https://example.org/"), lambda: url("AnyUrl", "a://b"),
        lambda: url("PostgresDsn", "postgresql://u:p@h:5/db"),
    ],
    "numpy scalars": [
        lambda: numpy().float64(0.1), lambda: numpy().float16(1), lambda: numpy().int8(-3),
        lambda: numpy().uint64(2**64 - 1), lambda: numpy().bool_(True), lambda: numpy().str_("é"),
        lambda: numpy().bytes_(b"a"), lambda: numpy().complex64(1 + 2j), lambda: numpy().str_(""),
        lambda: numpy().datetime64("2024-01-01T00:00:00.000000001"),
        lambda: numpy().datetime64("NaT", "s"), lambda: numpy().timedelta64(5, "h"),
        lambda: numpy().zeros(1, [("a", "<i4"), ("b", ">f8")])[0], lambda: numpy().longdouble(1),
        lambda: {"score": numpy().float32(0.1)},
    ],
    "numpy arrays": [
        lambda: numpy().arange(6, dtype="<f4").reshape(2, 3), lambda: numpy().array(5),
        lambda: numpy().arange(3, dtype=">i8"), lambda: numpy().array([True, False]),
        lambda: numpy().zeros((0, 3)), lambda: numpy().asfortranarray(numpy().ones((2, 3))),
        lambda: numpy().array(["a", "bcd"]), lambda: numpy().array([b"a"]),
        lambda: numpy().array(["2024-01-01"], "M8[ns]"), lambda: numpy().array([1], "m8[s]"),
        lambda: numpy().zeros(2, [("a", "<i4"), ("b", ">f8", (2,))]),
        lambda: numpy().array(["a", None, 2**70], object), lambda: numpy().ones(2, "c16"),
        lambda: numpy().arange(10)[::2], lambda: [numpy().ones(3, "f2")],
        lambda: numpy().array(["", ""]),
    ],
    "masked arrays, matrices and other array classes": [lambda: numpy().ma.array([1, 2])],
    "pandas `Timestamp`, `Timedelta`, `NaT`, `NA`, `Period`, `Interval`": [
        lambda: pandas().Timestamp("2024-01-01 00:00:00.123456789"),
        lambda: pandas().Timestamp("2024-10-27 00:30", tz="UTC").tz_convert("Europe/Paris"),
        lambda: pandas().Timestamp("2024-01-01", tz=dt.timezone(dt.timedelta(hours=1))),
        lambda: pandas().Timestamp("2024-01-01", tz="UTC").as_unit("ms"),
        lambda: pandas().Timestamp(pytz_time(True)), lambda: pandas().Timestamp(dateutil_time(1)),
        lambda: pandas().NaT, lambda: pandas().NA, lambda: pandas().Timedelta("1s 5ns"),
        lambda: pandas().Period("2024-01", "M"), lambda: pandas().Interval(0, 1.5, "both"),
        lambda: [pandas().NaT, {"a": pandas().NA}],
    ],
    "`PIL.Image.Image`": [
        image, lambda: image("L"), lambda: image("P"), lambda: image("RGBA"), lambda: image("1"),
        lambda: image("F"), lambda: image("I;16"),
    ],
    "an image that was opened (`PngImageFile` and its kind)": [opened_image],
    "your own type, under `ckpt.register`": [lambda: Temperature(5), lambda: [Temperature((1, 2))]],
    "an object with `__checkpoint_key__`": [lambda: Client("m-1")],
    "anything else: functions, files, locks, your own classes": [
        Plain, lambda: Str("a"), lambda: open, lambda: ValueError("x"), lambda: (it for it in [1]),
        lambda: pandas().DataFrame({"a": [1]}),
    ],
}  # fmt: skip

NUMBERED = [
    pytest.param(name, make, id=f"{name} {n}") for name, makes in VALUES.items()
    for n, make in enumerate(makes)
]  # fmt: skip


def page() -> dict[str, tuple[str, ...]]:
    """Return the table of the page: a row's cells by its first."""
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| value")
    ]
    return {row[0].strip(): tuple(cell.strip(" |") for cell in row[1:]) for row in rows}


def image_of(value):  # noqa: C901 - a kind of value a line
    """Rebuild a value so that `==` says whether another is equal, in types and state too."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return kind, value.name, id(value) if value.name and "|" not in value.name else value.value
    if kind.__module__ == "numpy" and hasattr(value, "dtype"):
        data = image_of(value.tolist()) if value.dtype.hasobject else value.tobytes()
        return kind, value.dtype.str, str(value.dtype), value.shape, data
    if kind.__module__.startswith("PIL"):
        return kind, value.mode, value.size, value.tobytes(), value.getpalette(), value.info
    if kind is memoryview:
        return kind, value.format, value.shape, value.tobytes()
    if isinstance(value, dt.datetime | dt.time) and value.tzinfo is not None:
        tz = value.tzinfo
        return kind, value.isoformat(), value.fold, type(tz), str(tz), value.utcoffset()
    if isinstance(value, collections.deque):
        return kind, value.maxlen, [image_of(it) for it in value]
    if isinstance(value, collections.abc.Mapping):
        factory = getattr(value, "default_factory", None)
        return kind, factory, [(image_of(k), image_of(it)) for k, it in value.items()]
    if kind.__module__.startswith("pandas"):
        return kind, repr(value), str(getattr(value, "unit", None))
    if (fields := fields_of(value)) is not None:
        return kind, image_of(fields), image_of(state_of(value))
    if isinstance(value, list | tuple):
        return kind, [image_of(it) for it in value]
    if isinstance(value, set | frozenset):
        return kind, sorted(repr(image_of(it)) for it in value)
    if isinstance(value, float | complex | decimal.Decimal) or not hasattr(kind, "__eq__"):
        return kind, repr(value)
    return kind, value


def outcome(store_path, value, annotation) -> str:
    """Return, in the words of the page, what becomes of a result in a second life of a step."""
    calls = []

    def paid(row):
        calls.append(row)
        return value

    paid.__annotations__ = {} if annotation is None else {"return": annotation}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            results = list(ckpt.run(paid, [1, 2], store=store_path, version=1))
        except ckpt.EncodeError:
            if not calls:
                return "refused before the call"
            assert calls == [1], "it ends the run at the first one"
            return "refused, its text kept"
        assert results[0] is value
        back, _ = list(ckpt.run(paid, [1, 2], store=store_path, version=1))
    assert calls == [1, 2], "the second life pays for nothing"
    said = [str(it.message) for it in caught if "comes back as" in str(it.message)]
    assert len(said) == len(set(said))
    if image_of(back) == image_of(value):
        assert not said
        return "equal"
    assert said, f"{value!r} came back as {back!r} and nobody said so"
    if type(back) is dict:
        return "a dict, said once"
    return "an `Image`, said once" if "PIL" in type(back).__module__ else "its value, said once"


@pytest.mark.parametrize(("name", "make"), NUMBERED)
def test_a_result_comes_back_as_the_page_says(store_path, tmp_path, name, make):
    """Annotated and not annotated, in a store that another life of the step reads."""
    value = make()
    _, annotated, bare = page()[name]
    assert outcome(store_path, value, type(value)) in annotated.split(", or ")
    assert outcome(str(tmp_path / "bare.ckpt"), value, None) in bare.split(", or ")


@pytest.mark.parametrize(("name", "make"), NUMBERED)
def test_a_row_is_taken_or_refused_as_the_page_says(store_path, name, make):
    """Before the call; two equal rows are one; and what the record has of it."""
    value, calls = make(), []

    def paid(row):
        calls.append(row)
        return 1

    as_row = page()[name][0]
    try:
        list(ckpt.run(paid, [[value]], store=store_path, version=1))
    except ckpt.EncodeError:
        assert "refused" in as_row
        assert not calls
        return
    list(ckpt.run(paid, [[make()]], store=store_path, version=1))
    assert len(calls) == 1, "an equal row is a hit"
    assert calls[0][0] is value
    with ckpt.Store(store_path) as store:
        (record,) = store.records()
    (back,) = record.input
    if image_of(back) == image_of(value):
        assert "equal" in as_row
    else:
        assert "identified by" in as_row, f"{value!r} is stored as {back!r}"


def test_the_page_names_each_kind_of_value():
    """No more and no fewer than are tested."""
    assert list(page()) == list(VALUES)


def test_no_two_values_of_the_page_have_one_identity():
    """What differs in type or content differs in its canonical bytes."""
    seen: dict[bytes, typing.Any] = {}
    for makes in VALUES.values():
        for make in makes:
            try:
                value = make()
                encoded = canonical(value)
            except (ckpt.EncodeError, pytest.skip.Exception):
                continue
            assert encoded not in seen or _are_meant_equal(seen[encoded], value)
            seen[encoded] = value


@pytest.mark.parametrize(("name", "make"), NUMBERED)
def test_the_identity_of_a_row_can_be_made_again_from_what_is_stored(name, make):
    """So that results are adopted under another name or version."""
    try:
        stored = encode(make())
    except ckpt.EncodeError:
        return
    form = canonical_of(stored) if isinstance(stored, bytes) else canonical(decode(stored))
    assert form == canonical(make())


def _are_meant_equal(one, other):
    mappings = collections.abc.Mapping, sqlite3.Row
    is_dict = isinstance(one, mappings) or type(one).__name__ == "Series"
    is_image = "PIL" in type(one).__module__  # which file it came from is no part of it
    return is_dict or is_image or type(one) is type(other)  # a model is its fields, given or not


HOSTILE = [
    None,
    [],
    {},
    "x",
    b"x",
    5,
    -1,
    [None],
    [1, 2, 3],
    ["x", "y"],
    ["<f8", [2**60], b"x"],
    [[["a", "O"]], [1], b"12345678"],
    ["RGB", [60_000, 60_000], None, {}, b"x"],
    ["defaultdict", {}, "eval"],
    ["OrderedDict", 5],
    ["Timestamp", "x", "ns", None],
    ["Timestamp", 1, "parsec", None],
    ["os", "system"],
    ["Timestamp", 1, "ns", ["pytz", "Nowhere/At"]],
    ["2024-01-01T00:00:00", 0, ["dateutil", "../x"]],
    ["2024-01-01T00:00:00", 0, ["pytz", "Europe/Paris"]],
    ["HttpUrl", 5],
    ["BaseModel", "x"],
    [-1, [1]],
    ["IPv4Address", "x"],
    ["Path", "x"],
    [0, 0],
    [1, 0],
    ["d", [2], b"x"],
    [[2, 3], [1]],
    ["Label", {"x": 1}],
    ["Label", []],
    ["Label", {"text": 1}, {"own": 5}],
    ["Label", {"text": 1}, {"own": {"__class__": 1}}],
]


@pytest.mark.parametrize("code", [*range(1, 16), *range(18, 36)])
def test_hostile_bytes_are_a_decode_error_and_nothing_else(code):
    """Whatever a file says under a code that we know: no other error, nothing run, no memory."""
    for payload in HOSTILE:
        data = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode(payload)))
        for read in (decode, Codec(Label).decode, Codec(typing.Any, globals()).decode):
            with contextlib.suppress(ckpt.DecodeError):
                read(data)
