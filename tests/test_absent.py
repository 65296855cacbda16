"""Values of packages that are not installed where a store is read, and other rare values."""

from __future__ import annotations

import array
import dataclasses
import datetime as dt
import enum
import sqlite3
import sys
import threading
import typing
from collections.abc import Callable

import dateutil.tz
import msgspec
import numpy
import pandas
import PIL.Image
import pydantic
import pytest
import pytz
import typing_extensions

import checkpointdb as ckpt
from checkpointdb import DecodeError, EncodeError
from checkpointdb.values import zones
from checkpointdb.values.arrays import revive_array
from checkpointdb.values.canonical import canonical, canonical_of, ordered
from checkpointdb.values.classes import classes_in
from checkpointdb.values.codec import Codec, decode, encode
from checkpointdb.values.records import same

OF_PACKAGES = {
    "numpy": numpy.float32(1.5),
    "pandas": pandas.Timestamp(2026, 1, 1),
    "PIL": PIL.Image.new("L", (2, 2)),
    "pydantic": pydantic.HttpUrl("http://localhost/"),
    "pytz": pytz.timezone("Europe/Zurich").localize(dt.datetime(2026, 1, 1)),
}


@pytest.mark.parametrize("package", OF_PACKAGES)
def test_a_value_of_a_package_that_is_not_installed_says_so(package, monkeypatch):
    """Nothing is made up in its place."""
    data = encode(OF_PACKAGES[package])
    hidden = {name: None for name in sys.modules if name.partition(".")[0] == package}
    for name in {package, *hidden}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DecodeError, match="not installed"):
        decode(data)


@pytest.mark.parametrize("dtype", ["<f8", "<i4", "|u1"])
def test_an_array_is_a_memoryview_where_numpy_is_not_installed(dtype, monkeypatch):
    """Of the same shape and numbers; one of a type that Python has none for is an error."""
    stored = numpy.arange(6).astype(dtype).reshape(2, 3)
    data, other = encode(stored), encode(stored.astype("<f2" if dtype == "<f8" else ">i4"))
    hidden = [name for name in sys.modules if name.partition(".")[0] == "numpy"]
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)
    view = decode(data)
    assert isinstance(view, memoryview)
    assert view.tolist() == stored.tolist()
    if dtype != "<f8":
        with pytest.raises(DecodeError, match="install numpy to read it"):
            decode(other)


def test_a_memoryview_of_no_dimension_comes_back():
    """One number, of the type that it was."""
    stored = memoryview(array.array("i", [7])).cast("B").cast("i", [])
    again = decode(encode(stored))
    assert (again.shape, again.format, again.tolist()) == ((), "i", 7)


def test_register_takes_two_functions():
    """At the call, not when the first value comes."""

    class Mine:
        pass

    with pytest.raises(TypeError, match="to= and back= must be functions"):
        ckpt.register(Mine, to="text", back=Mine)
    with pytest.raises(TypeError, match="to= and back= must be functions"):
        ckpt.register(Mine, to=str, back=None)


# --- values that are seldom


@pytest.mark.parametrize("value", [{"v": (0.5,) * 3, "w": [0.25] * 999}, array.array("f", [1.5])])
def test_the_identity_of_a_vector_is_that_of_its_stored_form(value):
    """Its bytes stand as they are in both."""
    assert canonical_of(ordered(value)) == canonical(value)


@pytest.mark.parametrize("value", [{"\ud800": ("\udc80",)}, [("\udfff", {1: "\ud800"})]])
def test_text_that_no_file_can_hold_comes_back(value):
    """As a value, and as a name."""
    assert decode(encode(value)) == value


@dataclasses.dataclass(eq=False)
class Angry:
    n: int

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None


class Moody(enum.Enum):
    ONLY = Angry(1)


def test_a_member_that_its_value_does_not_lead_to_comes_back_by_its_name():
    """Whatever the value's own comparison does."""
    codec = Codec(Moody)
    assert codec.decode(codec.encode(Moody.ONLY)) is Moody.ONLY


@pytest.mark.parametrize("by", ["sqlite3", "pandas"])
def test_a_row_with_two_values_of_one_name_is_refused(by):
    """Neither of them is dropped in silence."""
    if by == "pandas":
        row = pandas.Series([1, 2], index=["a", "a"])
    else:
        connection = sqlite3.connect(":memory:")
        connection.row_factory = sqlite3.Row
        row = connection.execute("select 1 as a, 2 as a").fetchone()
        connection.close()
    with pytest.raises(EncodeError, match="two values of this row have the same name"):
        canonical(row)


class Guarded(pydantic.BaseModel):
    n: int
    _lock: typing.Any = pydantic.PrivateAttr(default_factory=threading.Lock)
    _seen: list = pydantic.PrivateAttr(default_factory=list)


def test_a_models_private_attribute_that_cannot_be_stored_is_made_anew():
    """If its class makes such a one itself; else the result is refused."""
    codec, value = Codec(Guarded), Guarded(n=1)
    value._seen.append(7)
    again = codec.decode(codec.encode(value))
    assert (again.n, again._seen) == (1, [7])
    assert type(again._lock) is type(value._lock) and again._lock is not value._lock
    value._seen = threading.Lock()
    with pytest.raises(EncodeError, match=r"\$\._seen: a value of type _thread\.lock"):
        codec.encode(value)


# --- annotations that are seldom


@dataclasses.dataclass
class Place:
    x: int


Alias = typing_extensions.TypeAliasType("Alias", list[Place])
Bound = typing.TypeVar("Bound", bound=Place)


@pytest.mark.parametrize(
    "annotation",
    [
        Alias,
        Bound,
        Callable[[int], Place],
        typing.NewType("New", Place),
        typing.Annotated[Place, "of the map"],
        typing.TypeVar("Either", Place, str),
    ],
    ids=str,
)
def test_a_class_is_found_in_an_annotation_of_any_kind(annotation):
    """What a callable takes is none of its results."""
    found = set(classes_in(annotation))
    assert Place in found and bytes not in found


def test_one_field_of_no_known_type_does_not_hide_the_others():
    """An instance comes back, and what is in it too."""
    namespace = {"dataclasses": dataclasses, "Place": Place, "__name__": __name__}
    source = "@dataclasses.dataclass\nclass Trip:\n  a: 'Nowhere'\n  b: 'list[Place]'\n"
    exec(compile(source, "trip.py", "exec", dont_inherit=True), namespace)
    Trip = namespace["Trip"]
    codec = Codec(Trip)
    again = codec.decode(codec.encode(Trip(1, [Place(2)])))
    assert type(again) is Trip and (again.a, again.b) == (1, [Place(2)])


class Lost(typing.TypedDict):
    a: Nowhere  # noqa: F821
    b: Place


def test_a_typed_dict_with_a_field_of_no_known_type_is_read_as_it_was_written():
    """Its other fields keep their types."""
    codec = Codec(Lost)
    assert codec.decode(codec.encode({"a": 1, "b": Place(2)})) == {"a": 1, "b": Place(2)}


class Sealed:
    """Content that only pydantic can write, with a comparison that raises if it is told to."""

    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        if self.n < 0:
            raise RuntimeError("no comparison")
        return self.n == other.n

    __hash__ = None

    @classmethod
    def __get_pydantic_core_schema__(cls, _source, _handler):
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda it: it if isinstance(it, cls) else cls(it),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda it: it.n),
        )


class Envelope(pydantic.BaseModel):
    inside: Sealed


class Blind(pydantic.BaseModel):
    inside: Sealed
    more: list[Sealed] = []

    @pydantic.field_serializer("inside")
    def _none(self, _value):
        return 0


def test_what_only_pydantic_can_write_comes_back_if_it_is_the_same():
    """Else it is refused: for another number, and for a comparison that raises."""
    codec = Codec(Envelope)
    assert codec.decode(codec.encode(Envelope(inside=7))).inside.n == 7
    with pytest.raises(EncodeError, match="cannot be stored"):
        codec.encode(Envelope(inside=-7))
    with pytest.raises(EncodeError, match="cannot be stored"):
        Codec(Blind).encode(Blind(inside=7))


# --- classes that have changed


def stored_as(old, new, **fields):
    """Store an instance of a class, and read it as that of another one of its name."""
    new.__name__ = new.__qualname__ = old.__name__ = old.__qualname__ = "Kept"
    data = Codec(old).encode(old(**fields))
    if isinstance(data, str):
        data = ordered_of(old, old(**fields))
    return Codec(new).decode(data)


def ordered_of(kind, value):
    """Return the form in which a class is built field by field."""
    from checkpointdb.values.canonical import ordered_result
    from checkpointdb.values.classes import Scope

    return ordered_result(value, Scope(kind), {})


def structs():
    class Old(msgspec.Struct):
        a: int

    class New(msgspec.Struct):
        a: int
        b: list[int] = msgspec.field(default_factory=lambda: [3])
        c: str = "x"

    return Old, New


def keyword_structs():
    class Old(msgspec.Struct, kw_only=True):
        z: int

    class New(msgspec.Struct, kw_only=True):
        b: list[int] = []
        z: int
        c: str = "x"

    return Old, New


def dataclasses_():
    @dataclasses.dataclass
    class Old:
        a: int

    @dataclasses.dataclass
    class New:
        a: int
        b: list[int] = dataclasses.field(default_factory=lambda: [3])
        c: str = "x"

    return Old, New


def named_tuples():
    class Old(typing.NamedTuple):
        a: int

    class New(typing.NamedTuple):
        a: int
        c: str = "x"

    return Old, New


def models():
    class Old(pydantic.BaseModel):
        a: int

    class New(pydantic.BaseModel):
        a: int
        b: list[int] = pydantic.Field(default_factory=lambda data: [data["a"] + 2])
        c: str = "x"
        _seen: list = pydantic.PrivateAttr(default_factory=lambda: [1])
        _none: int = pydantic.PrivateAttr()

    return Old, New


KINDS = [structs, keyword_structs, dataclasses_, named_tuples, models]


@pytest.mark.parametrize("kinds", KINDS)
def test_a_field_that_was_added_gets_its_default(kinds):
    """Made for each instance, where it is made by a function."""
    old, new = kinds()
    names = {"z"} if kinds is keyword_structs else {"a"}
    again = stored_as(old, new, **dict.fromkeys(names, 1))
    assert type(again) is new and again.c == "x" and all(getattr(again, n) == 1 for n in names)
    if hasattr(again, "b"):
        assert again.b == ([] if kinds is keyword_structs else [3])
    if kinds is models:
        assert again._seen == [1] and "_none" not in again.__pydantic_private__


@pytest.mark.parametrize("kinds", KINDS)
def test_a_field_that_is_gone_and_one_without_a_default_are_errors(kinds):
    """Nothing is made up, nothing dropped."""
    old, new = kinds()
    given = {"z": 1, "b": [], "c": ""} if kinds is keyword_structs else {"a": 1, "c": ""}
    with pytest.raises(DecodeError, match=r"has no field '[bc]' any more"):
        stored_as(new, old, **given)

    class Other(pydantic.BaseModel):
        other: int

    @dataclasses.dataclass
    class Plain:
        other: int

    empty = type("Empty", (pydantic.BaseModel,), {}) if kinds is models else None
    if empty is None:
        empty = dataclasses.make_dataclass("Empty", [])
    with pytest.raises(DecodeError, match="has a field 'other' now, which was not saved"):
        stored_as(empty, Other if kinds is models else Plain)


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        (1, True, False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ({"a": [1]}, {"a": [1.0]}, False),
        ([1, (2,)], [1, (2,)], True),
        ([1], [1, 2], False),
        (Place(1), Place(1), True),
        (Place(1), Place(1.0), False),
    ],
)
def test_same_is_equal_and_of_equal_types_all_the_way_down(one, other, are_same):
    """The order of a dict counts too, for it is what the user would see."""
    assert same(one, other) is are_same


# --- arrays and zones that are seldom


def test_an_array_that_numpy_itself_cannot_describe_is_refused():
    """With what to do about it."""
    value = numpy.zeros(2, [("a", object)])
    with pytest.raises(EncodeError, match=r"cannot be stored: convert it with \.astype"):
        encode(value)


def test_an_array_of_items_without_bytes_keeps_its_shape():
    """It has a length, and nothing in it."""
    value = numpy.zeros((2, 3), "V0")
    again = decode(encode(value))
    assert (again.shape, again.dtype) == (value.shape, value.dtype)


def test_an_array_of_the_wrong_length_is_damage_without_numpy_too(monkeypatch):
    """A flipped bit in its shape makes no other array."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ValueError, match="does not have 16 bytes"):
        revive_array("<f8", [3], bytes(16))


def test_a_zone_without_a_name_is_none_of_those_that_come_back():
    """It is a fixed offset from then on, and the user is told."""
    zone = dateutil.tz.tzrange("EST", dt.timedelta(hours=-5), "EDT")
    assert zones.describe(zone) is None and not zones.is_exact(zone)
    codec = Codec()
    again = codec.decode(codec.encode(dt.datetime(2026, 1, 1, tzinfo=zone)))
    assert again.utcoffset() == dt.timedelta(hours=-5)
    assert "the same offset" in codec.notices[0]


@pytest.mark.parametrize("zone", [["nobody", "Europe/Paris"], ["dateutil", "/etc/passwd"]])
def test_a_zone_that_nobody_wrote_is_damage(zone):
    """Nor does it have a file read."""
    with pytest.raises(ValueError, match="no time zone"):
        zones.restore(zone)
