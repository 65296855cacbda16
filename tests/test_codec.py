"""Values to what is stored and back: an encoding that gives back an equal value, or an error."""

from __future__ import annotations

import array
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import random
import sys
import tracemalloc
import typing
import uuid
import warnings

import msgspec
import pydantic
import pytest
from hypothesis import given
from test_canonical import ANY, PLAIN, image

from checkpointdb import DecodeError, EncodeError
from checkpointdb.values import codec
from checkpointdb.values.canonical import canonical, canonical_of
from checkpointdb.values.codec import Codec, decode, encode
from checkpointdb.values.vectors import packed_vector

NAN = float("nan")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Label:
    text: str
    score: float = 0.5
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Event:
    when: dt.datetime
    price: decimal.Decimal
    colour: Colour = Colour.RED
    ids: set[int] = dataclasses.field(default_factory=set)
    pair: tuple[int, str] = (1, "a")


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int


class Struct(msgspec.Struct):
    text: str
    score: float = 0.5


class Keyed(typing.TypedDict):
    text: str
    score: float


class Dated(typing.TypedDict):
    day: dt.date


class Pair(typing.NamedTuple):
    first: str
    second: int


class Model(pydantic.BaseModel):
    text: str
    score: float = 0.5
    when: dt.datetime | None = None


class Aliased(pydantic.BaseModel):
    is_ok: bool = pydantic.Field(alias="isOk")
    n: int = pydantic.Field(serialization_alias="N", default=1)

    @pydantic.computed_field
    @property
    def double(self) -> int:
        return 2 * self.n


class Strict(pydantic.BaseModel, extra="forbid"):
    n: int

    @pydantic.computed_field
    @property
    def double(self) -> int:
        return 2 * self.n


NOON = dt.datetime(2024, 3, 31, 12, tzinfo=dt.UTC)

# annotation, value, whether it is stored as JSON text
TYPED = {
    "any plain value": (typing.Any, {"a": [1, 2.5, True, None, "é"]}, True),
    "no annotation, tuple": (typing.Any, (1, 2), False),
    "no annotation, nan": (typing.Any, {"score": NAN}, False),
    "no annotation, datetime": (typing.Any, {"at": NOON}, False),
    "no annotation, bytes": (typing.Any, b"\x00\xff", False),
    "no annotation, int keys": (typing.Any, {1: "a"}, False),
    "dict": (dict, {"a": 1}, True),
    "dict of lists": (dict[str, list[int]], {"a": [1]}, True),
    "none": (None, None, True),
    "str": (str, "é", True),
    "float that is an int": (float, 1, True),
    "big int": (int, 2**80, True),
    "negative zero": (float, -0.0, True),
    "infinity": (float, float("inf"), False),
    "literal": (typing.Literal["a", "b"], "a", True),
    "optional str": (str | None, None, True),
    "dataclass": (Label, Label("good", 0.75, ["a"]), True),
    "dataclass with rich fields": (Event, Event(NOON, decimal.Decimal("1.10"), ids={2, 1}), True),
    "dataclass with a nan": (Label, Label("good", NAN), False),
    "optional dataclass, there": (Label | None, Label("good"), True),
    "optional dataclass, none": (Label | None, None, True),
    "old optional": (typing.Optional[Label], Label("good"), True),  # noqa: UP045
    "list of dataclasses": (list[Label], [Label("a"), Label("b")], True),
    "dict of dataclasses": (dict[str, Label], {"x": Label("a")}, True),
    "struct": (Struct, Struct("good"), True),
    "list of structs": (list[Struct], [Struct("a", -0.0)], True),
    "struct with a nan": (Struct, Struct("good", NAN), False),
    "typed dict": (Keyed, {"text": "a", "score": 1.5}, True),
    "typed dict with dates": (Dated, {"day": NOON.date()}, True),
    "typed dict with more": (Dated, {"day": NOON.date(), "more": 1}, False),
    "named tuple": (Pair, Pair("a", 1), True),
    "list of named tuples": (list[Pair], [Pair("a", 1)], True),
    "tuple": (tuple[int, str], (1, "a"), True),
    "tuple of any length": (tuple[float, ...], (1.0, 2.5), True),
    "tuple with a nan": (tuple[float, ...], (1.0, NAN), False),
    "set": (set[int], {3, 1, 2}, True),
    "frozenset": (frozenset[str], frozenset("ab"), True),
    "set of dataclasses": (set[Point], {Point(1, 2), Point(3, 4)}, True),
    "enum": (Colour, Colour.BLUE, True),
    "int enum": (Level, Level.LOW, True),
    "list of enums": (list[Colour], [Colour.BLUE, Colour.RED], True),
    "datetime": (dt.datetime, NOON, True),
    "naive datetime": (dt.datetime, NOON.replace(tzinfo=None), True),
    "date": (dt.date, NOON.date(), True),
    "timedelta": (dt.timedelta, dt.timedelta(days=3, microseconds=1), True),
    "uuid": (uuid.UUID, uuid.UUID(int=5), True),
    "decimal": (decimal.Decimal, decimal.Decimal("1.10"), True),
    "bytes": (bytes, b"\x00\xff", True),
    "path": (pathlib.Path, pathlib.Path("a/b"), False),
    "pydantic": (Model, Model(text="a", score=0.5, when=NOON), True),
    "pydantic, not all set": (Model, Model(text="a", when=NOON), False),
    "pydantic with a nan": (Model, Model(text="a", score=NAN), False),
    "optional pydantic": (Model | None, Model(text="a", score=1, when=None), True),
    "list of pydantic": (list[Model], [Model(text="a", score=1, when=None)], True),
    "dict of pydantic": (dict[str, Model], {"x": Model(text="a", score=1, when=None)}, True),
    "pydantic with aliases": (Aliased, Aliased(isOk=True), False),
    "pydantic that forbids more": (Strict, Strict(n=1), True),
}


@pytest.mark.parametrize(("annotation", "value", "is_json"), TYPED.values(), ids=TYPED)
def test_a_result_comes_back_equal_by_the_annotation(annotation, value, is_json):
    """The first encoding that gives back the same is stored: JSON text if that does."""
    typed = Codec(annotation)
    data = typed.encode(value)
    back = typed.decode(data)
    assert type(back) is type(value)
    assert back == value or "nan" in repr(value)
    assert repr(back) == repr(value) or isinstance(value, Model | set | frozenset)
    if annotation is not Aliased:
        assert isinstance(data, str) == is_json
    if isinstance(data, str):
        json.loads(data)


def test_a_datetime_in_a_named_zone_keeps_its_zone():
    """Its offset alone would be wrong the next summer."""
    import zoneinfo

    paris = NOON.astimezone(zoneinfo.ZoneInfo("Europe/Paris"))
    for annotation in (typing.Any, dt.datetime):
        back = Codec(annotation).decode(Codec(annotation).encode(paris))
        assert back == paris
        assert back.tzinfo is paris.tzinfo


# annotation, value: the annotation is wrong, or vaguer than the value
MISFITS = {
    "dict for a dataclass": (Label, {"text": "a", "score": 0.5, "tags": []}),
    "incomplete dict for a dataclass": (Label, {"error": "none"}),
    "str for a dataclass": (Label, "sorry"),
    "none for a dataclass": (Label, None),
    "tuple for a list": (list[int], (1, 2)),
    "list for a tuple": (tuple[int, int], [1, 2]),
    "list for a named tuple": (Pair, ["a", 1]),
    "str for an int": (int, "1"),
    "int for a str": (str, 1),
    "bool for an int": (int, True),
    "int for a bool": (bool, 1),
    "str for an enum": (Colour, "red"),
    "str for a datetime": (dt.datetime, "2024-03-31T12:00:00Z"),
    "int for a datetime": (dt.datetime, 5),
    "float for a decimal": (decimal.Decimal, 1.5),
    "dict for pydantic": (Model, {"text": "a", "score": 0.5, "when": None}),
    "list for pydantic": (list[Model], [{"text": "a"}]),
    "wide for pydantic": (Model, "a"),
    "tuple for a typed dict": (Dated, (1,)),
    "set for a list": (list[int], {1}),
    "a type nobody knows": (typing.Callable, {"a": 1}),
    "an undefined name": ("Nobody", {"a": (1,)}),
    "too large for its constraint": (typing.Annotated[int, msgspec.Meta(le=5)], 7),
}


@pytest.mark.parametrize(("annotation", "value"), MISFITS.values(), ids=MISFITS)
def test_an_annotation_that_does_not_fit_the_result_loses_nothing(annotation, value):
    """Users' annotations are often wrong: what the step returned is what comes back."""
    typed = Codec(annotation)
    back = typed.decode(typed.encode(value))
    assert type(back) is type(value)
    assert back == value


class Throws(pydantic.BaseModel):
    n: int

    @pydantic.model_validator(mode="after")
    def check(self):
        raise KeyError("validators may raise anything")


@dataclasses.dataclass
class Picky:
    n: int
    seen: bool = False

    def __post_init__(self):
        if self.seen:
            raise LookupError("as may __post_init__")


class Unknown:
    pass


def unknown():
    return {"rows": [Unknown()]}


# annotation, value: there is no way to give the value back
UNSTORABLE = {
    "an object": (typing.Any, unknown()),
    "an object in a dataclass": (Label, Label("a", tags=[Unknown()])),
    "a dataclass in a set, no annotation": (typing.Any, {Point(1, 2)}),
    "a dataclass as key, no annotation": (typing.Any, {Point(1, 2): 1}),
    "a generator": (typing.Any, (i for i in [])),
    "too deep": (typing.Any, eval("[" * 129 + "]" * 129)),
}


@pytest.mark.parametrize(("annotation", "value"), UNSTORABLE.values(), ids=UNSTORABLE)
def test_a_result_that_cannot_be_stored_is_attached_to_the_error(annotation, value):
    """It was paid for: `.result` is the very object, and the message says what to do."""
    with pytest.raises(EncodeError) as caught:
        Codec(annotation).encode(value)
    assert caught.value.result is value


def test_a_result_that_would_come_back_as_something_else_says_how_to_annotate():
    """The message names the type returned and the annotation there is."""
    with pytest.raises(EncodeError, match=r"a set, would come back.*it is not annotated"):
        Codec().encode({Point(1, 2)})
    with pytest.raises(EncodeError, match=r"a set, would come back.*it is Label"):
        Codec(Label).encode({Point(1, 2)})


ELSEWHERE = {
    "a dataclass": (typing.Any, Label("a"), {"text": "a", "score": 0.5, "tags": []}),
    "an enum": (typing.Any, Colour.RED, "red"),
    "an int enum": (int, Level.LOW, 1),
    "another dataclass": (Label, Point(1, 2), {"x": 1, "y": 2}),
    "a struct for a dataclass": (Label, Struct("a"), {"text": "a", "score": 0.5}),
    "a model": (dict, Model(text="a"), {"text": "a", "score": 0.5, "when": None}),
    "a named tuple for a tuple": (tuple[str, int], Pair("a", 1), {"first": "a", "second": 1}),
}


@pytest.mark.parametrize(("annotation", "value", "wanted"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_class_that_is_neither_annotated_nor_a_global_comes_back_as_a_dict(
    annotation, value, wanted
):
    """It is said once for each class; with the class among the globals it comes back as it was."""
    typed = Codec(annotation)
    back = typed.decode(typed.encode(value))
    assert (type(back), back) == (type(wanted), wanted)
    typed.encode(value)
    (said,) = typed.notices
    assert f"a {type(value).__name__} in a result comes back as" in said
    known = Codec(annotation, {type(value).__name__: type(value)})
    assert known.decode(known.encode(value)) == value
    assert type(known.decode(known.encode(value))) is type(value)
    assert known.notices == []
    for wrong in (Unknown, Grown):
        with pytest.raises(DecodeError):
            Codec(typing.Any, {type(value).__name__: wrong}).decode(known.encode(value))
    other = Codec(annotation, {"Other": type(value)})
    assert type(other.decode(other.encode(value))) is type(wanted), "under another name it is not"


def test_a_global_under_another_name_than_its_own_stands_for_nothing():
    """`Label = Twin` in a later version of the module does not make a Twin of a saved Label."""
    twin = dataclasses.make_dataclass("Twin", ["text", "score", "tags"])
    data = Codec(typing.Any, {"Label": Label}).encode(Label("a"))
    with pytest.raises(DecodeError, match="neither in the annotation"):
        Codec(typing.Any, {"Label": twin}).decode(data)


EXACTLY = {
    "a mixed list": (list[Label], [Label("a"), {"text": "b"}]),
    "__post_init__ that raises": (Picky, Picky(1, False)),
    "a validator that raises": (Throws, Throws.model_construct(n=1)),
    "a dataclass as key": (dict[Point, int], {Point(1, 2): 1}),
}
EXACTLY["__post_init__ that raises"][1].seen = True


@pytest.mark.parametrize(("annotation", "value"), EXACTLY.values(), ids=EXACTLY)
def test_what_json_cannot_give_back_is_built_as_it_was(annotation, value):
    """No validator and no `__post_init__` runs: they may raise, or change it."""
    typed = Codec(annotation)
    back = typed.decode(typed.encode(value))
    assert (type(back), back) == (type(value), value)


def test_mutated_models_raise_no_warning():
    """Serialising a model whose field was set to another type is not the user's business here."""
    model, typed = Model(text="a"), Codec(Model)
    model.text = 5
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert typed.decode(typed.encode(model)).text == 5
    assert caught == []


@dataclasses.dataclass
class Grown:
    text: str
    language: str


@pytest.mark.parametrize("value", [Label("a"), Label("a", NAN)])
def test_an_annotation_changed_later_is_an_error_that_says_what_to_do(value):
    """A saved result that no longer fits is never made to fit."""
    data = Codec(Label).encode(value)
    for annotation in (Grown, Strict, Colour):
        with pytest.raises(
            DecodeError, match="restore the annotation, or raise the step's version"
        ):
            Codec(annotation).decode(data)


def test_a_result_saved_without_annotation_is_decoded_by_one_added_later():
    """Dicts that were saved become the dataclass that has their fields."""
    assert Codec(Label).decode(Codec(dict).encode({"text": "a"})) == Label("a")


@pytest.mark.parametrize(
    "data", ["", "{", "nonsense", "\x00", b"", b"\xc1", b"\x00\x00", b"\xc7\x01\x63a"]
)
def test_stored_bytes_that_are_no_value_are_a_decode_error(data):
    """A file that another program wrote raises our error, not its parser's."""
    for annotation in (typing.Any, Label, Model):
        with pytest.raises(DecodeError):
            Codec(annotation).decode(data)
    with pytest.raises(DecodeError):
        decode(data)


def test_a_value_over_the_limit_is_refused_and_one_at_the_limit_is_not(monkeypatch):
    """The limit is of bytes, not of characters, for text and for blobs."""
    monkeypatch.setattr(codec, "MAX_BYTES", 100)
    assert len(encode("a" * 98)) == 100
    for value in ("a" * 99, "é" * 50, b"a" * 120, ["a" * 120, (1,)]):
        with pytest.raises(EncodeError, match="over the limit of 100: store large data in a file"):
            encode(value)
        with pytest.raises(EncodeError, match="over the limit") as caught:
            Codec().encode(value)
        assert caught.value.result is value


def test_the_limit_is_64_mib():
    """A value of 64 MiB and a little is refused, with memory for a few copies of it."""
    assert codec.MAX_BYTES == 64 * 2**20
    tracemalloc.start()
    with pytest.raises(EncodeError, match="67,108,865 bytes is over the limit of 67,108,864"):
        encode("a" * (codec.MAX_BYTES - 1))
    assert tracemalloc.get_traced_memory()[1] < 5 * codec.MAX_BYTES
    tracemalloc.stop()


@given(PLAIN)
def test_a_plain_value_is_json_text(value):
    """Any SQLite tool can read it, and it comes back equal in types too."""
    for data in (encode(value), Codec().encode(value), Codec(dict).encode(value)):
        assert isinstance(data, str)
        assert image(decode(data)) == image(json.loads(data)) == image(value)


@given(ANY)
def test_any_value_comes_back_equal(value):
    """Whatever the annotation says about it."""
    assert image(decode(encode(value))) == image(value)
    for annotation in (typing.Any, dict[str, dt.datetime], list[float], tuple[int, ...], set[str]):
        typed = Codec(annotation)
        assert image(typed.decode(typed.encode(value))) == image(value)


# --- order of keys


ORDERED = [
    {"z": dt.date(2020, 1, 1), "a": 1, "m": {"y": (1,), "b": float("nan")}},
    {"z": 1, 3: 2, "a": {2: 1, 1: 2}},
    {"z": [{"y": b"", "a": None}], "a": decimal.Decimal("1.5")},
]


def keys_of(value):
    """Return the keys of all dicts in a value, in their order."""
    if isinstance(value, dict):
        return [(key, keys_of(child)) for key, child in value.items()]
    return [keys_of(child) for child in value] if isinstance(value, list | tuple) else None


@pytest.mark.parametrize("value", ORDERED, ids=repr)
def test_keys_come_back_in_the_order_they_had(value):
    """JSON or not: columns of a file are in the order of the file."""
    codec = Codec()
    assert keys_of(codec.decode(codec.encode(value))) == keys_of(value)
    assert keys_of(decode(encode(value))) == keys_of(value)


@given(ANY)
def test_the_canonical_form_of_a_stored_value_is_that_of_the_value(value):
    """So its key can be made again from what is stored."""
    stored = encode(value)
    if isinstance(stored, bytes):
        assert canonical_of(stored) == canonical(value)
    else:
        assert canonical(decode(stored)) == canonical(value)


# --- vectors


@pytest.mark.parametrize("n", [63, 64, 1536, 65_535, 65_536])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"label": "x", "embedding": v}])
def test_long_vectors_are_messagepack_and_come_back_equal(n, wrap):
    """Half the room of JSON, alone or in a dict; short ones stay JSON, for SQL to read."""
    value = wrap([random.Random(n).uniform(-1, 1) for _ in range(n)])
    codec = Codec()
    stored = codec.encode(value)
    assert type(stored) is (str if n < 64 else bytes)
    assert codec.decode(stored) == value == decode(encode(value))
    assert n < 64 or len(stored) < 0.55 * len(msgspec.json.encode(value))


class Float(float):
    """A float of the user's own, which must not come back as a plain one."""


@pytest.mark.parametrize(
    "odd",
    [1, True, None, "x" * 8, [0.5], b"12345678", 2**63, -(2**40), "\xcb" * 4, float("inf"), 1e308],
    ids=repr,
)
@pytest.mark.parametrize("at", [0, 1, 70, -1])
def test_what_only_looks_like_a_vector_is_none(odd, at):
    """One element of another kind, wherever: it comes back as what it was."""
    value = [0.25] * 100
    value[at] = odd
    if odd == 1e308:
        value = [1e308] * 100  # whose sum is infinite
    codec = Codec()
    back = codec.decode(codec.encode(value))
    assert back == value
    assert list(map(type, back)) == list(map(type, value))
    assert packed_vector(value) is None


def test_a_float_of_another_class_is_refused_among_many():
    """Its class would be lost."""
    value = [0.25] * 100
    value[50] = Float(1)
    assert packed_vector(value) is None
    with pytest.raises(EncodeError, match=r"\$\[50\]"):
        Codec().encode(value)


@pytest.mark.parametrize("typecode", ["f", "d"])
def test_arrays_of_floats_come_back_as_such(typecode):
    """`array.array`, in rows and results; other type codes are refused by name."""
    value = array.array(typecode, [0.1, -2.5, float("inf")])
    back = Codec().decode(Codec().encode(value))
    assert (type(back), back.typecode, back) == (array.array, typecode, value)
    assert canonical(value) != canonical(array.array("df"["df".index(typecode) - 1], value))
    with pytest.raises(EncodeError, match="type code 'i'"):
        encode(array.array("i", [1]))


def extension(code, payload):
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, payload))


@pytest.mark.parametrize("shape", [[6], [2, 3], [1, 2, 3], [0], [2, 0]])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i8", "|u1", "|b1"])
def test_an_array_with_a_shape_is_read_with_numpy_and_without(dtype, shape, monkeypatch):
    """Readers know the form before anything writes it: dtype, shape, little-endian bytes."""
    numpy = pytest.importorskip("numpy")
    wanted = numpy.ones(shape, numpy.dtype(dtype))
    data = extension(18, msgspec.msgpack.encode([dtype, shape, wanted.tobytes()]))
    found = decode(data)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert (found == wanted).all()
    assert found.flags.writeable
    monkeypatch.setitem(sys.modules, "numpy", None)
    plain = decode(data)
    assert isinstance(plain, memoryview)
    assert plain.tobytes() == wanted.tobytes()
    if 0 not in shape:
        assert list(plain.shape) == shape


@pytest.mark.parametrize(
    "value",
    [["<f4", [3], bytes(8)], ["<f4", [-1, -2], bytes(8)], ["<O8", [1], bytes(8)], [1, 2, 3], []],
)
def test_an_array_that_is_none_is_a_decode_error(value):
    """A hostile one: no object, no other number of bytes."""
    with pytest.raises(DecodeError):
        decode(extension(18, msgspec.msgpack.encode(value)))


def test_an_extension_code_that_is_not_known_is_refused_by_name():
    """It was written by a newer version."""
    with pytest.raises(DecodeError, match=r"extension code 99.*upgrade checkpointdb"):
        decode(extension(99, b""))
