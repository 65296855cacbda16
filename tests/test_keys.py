"""Keys: what makes two rows equal, the same in every process and every version, for ever."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys
import uuid
import zoneinfo

import msgspec
import pytest
from xxhash import xxh3_128_digest

from checkpointdb import DecodeError, EncodeError, key_of
from checkpointdb.values.canonical import Arguments, canonical
from checkpointdb.values.codec import decode
from checkpointdb.values.keys import (
    ARGUMENTS,
    KEY,
    ROW,
    Keyer,
    depends_digest,
    depends_of,
    describe_recipe,
    digest,
    recipe_in_words,
    recipe_of,
    with_depends,
)
from checkpointdb.values.redact import Redactor

GOLDEN = os.path.join(os.path.dirname(__file__), "data", "golden_keys.json")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


class Struct(msgspec.Struct):
    name: str
    tags: list[str]


Pair = collections.namedtuple("Pair", "first second")


# What the expressions of the golden file may name.
NAMES = {
    "Arguments": Arguments,
    "Colour": Colour,
    "Level": Level,
    "Pair": Pair,
    "Point": Point,
    "Struct": Struct,
    "decimal": decimal,
    "dt": dt,
    "pathlib": pathlib,
    "uuid": uuid,
    "zoneinfo": zoneinfo,
}


def golden():
    with open(GOLDEN, encoding="utf-8") as file:
        return json.load(file)


def key_of_expression(entry):
    return key_of(entry["step"], entry["version"], eval(entry["row"], NAMES))


@pytest.mark.parametrize("entry", golden(), ids=lambda entry: entry["row"][:40])
def test_a_key_never_changes(entry):
    """A changed key is every user's store broken: this file only ever grows."""
    assert key_of_expression(entry) == entry["key"]


def test_no_two_golden_rows_share_a_key():
    """Every line of the golden file is another row, step or version."""
    assert len({entry["key"] for entry in golden()}) == len(golden())


@pytest.mark.parametrize("seed", ["0", "1", "2", "3", "random"])
def test_keys_are_the_same_in_every_process(seed):
    """The hash seed of the process, and so the order of sets and dicts, does not matter."""
    code = "import test_keys as t; print([t.key_of_expression(entry) for entry in t.golden()])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert eval(done.stdout) == [entry["key"] for entry in golden()]


def test_a_key_is_of_the_step_the_version_and_the_row():
    """Another name, another version, the version as text: each has other keys, all of 16 bytes."""
    keys = {
        key_of(name, version, row)
        for name in ("a", "b", "a1")
        for version in (1, 2, "1", "")
        for row in (1, "1", [1], {"a": 1})
    }
    assert len(keys) == 3 * 4 * 4
    assert {len(key) for key in keys} == {32}


@pytest.mark.parametrize("row", [{"a": 1}, 2**70, "é", (1, 2), {1: {2}}, None, [0.1, float("nan")]])
def test_a_keyer_gives_the_key_of_and_a_stored_form_that_reads_back(row):
    """The fast path of a run and `key_of` agree."""
    keyer = Keyer("s", 1)
    key, identity, plain = keyer.identify(row)
    assert key.hex() == key_of("s", 1, row)
    assert identity == hashlib.blake2b(canonical(row), digest_size=16).digest()
    stored, form, rest = keyer.stored(row, plain)
    assert repr(decode(stored)) == repr(row)
    assert (form, rest) == (ROW, None)
    assert keyer.of_stored(stored, form) == (key, identity)


def test_a_row_that_cannot_be_stored_is_refused():
    """Without `key=` the whole row must have a content."""
    with pytest.raises(EncodeError, match=r"^\$.f: "):
        Keyer("s", 1).identify({"f": len})
    with pytest.raises(EncodeError, match=r"^\$.f: "):
        Keyer("s", 1).stored({"f": len}, 0)


@dataclasses.dataclass
class Row:
    id: int
    text: str
    client: object = None


@pytest.mark.parametrize("recipe", ["id", ("id",), ["id"]])
def test_field_names_narrow_a_row_to_those_fields(recipe):
    """Whatever the other fields hold does not matter, in a dict or an object."""
    keyer = Keyer("s", 1, recipe)
    key, *_ = keyer.identify({"id": 1, "text": "a"})
    assert key == keyer.identify({"id": 1, "client": len})[0]
    assert key == keyer.identify(Row(1, "b", len))[0]
    assert key == keyer.identify(Arguments(id=1, n=2))[0]
    assert key != keyer.identify({"id": "1"})[0]


def test_a_callable_narrows_a_row_to_what_it_returns():
    """`key=` may compute the identity."""
    keyer = Keyer("s", 1, lambda row: row["text"].strip().lower())
    assert keyer.identify({"text": " A "})[0] == keyer.identify({"text": "a"})[0]
    assert keyer.identify({"text": "a"})[0].hex() == key_of("s", 1, "a")


def test_under_a_narrowed_identity_the_rest_of_a_row_may_be_anything():
    """A row that cannot be stored is then computed all the same, with no input kept."""
    keyer = Keyer("s", 1, "id")
    row = {"id": 1, "client": len}
    assert keyer.stored(row, False) == (None, ROW, None)
    row = {"id": 1, "text": "a"}
    stored, form, rest = keyer.stored(row, False)
    assert (decode(stored), form) == (row, ROW)
    assert rest == hashlib.blake2b(canonical(row), digest_size=16).digest()


@pytest.mark.parametrize("keep", ["row", "key", "none"])
@pytest.mark.parametrize("recipe", [None, "id", lambda row: row["id"]], ids=["row", "id", "f"])
@pytest.mark.parametrize("call", [False, True], ids=["row", "arguments"])
def test_what_is_kept_of_a_row_gives_its_key_again(keep, recipe, call):
    """As long as something is kept; arguments that `key=` leaves out never are."""
    row = {"id": dt.date(2024, 1, 2), "secret": "sk-123"}
    row = Arguments(row) if call else row
    keyer = Keyer("s", 1, recipe, keep)
    key, identity, plain = keyer.identify(row)
    stored, form, rest = keyer.stored(row, plain)
    if keep == "none":
        assert stored is None
    else:
        assert keyer.of_stored(stored, form) == (key, identity)
    left_out = recipe is not None and (call or keep != "row")
    assert ("sk-123" not in repr(stored)) == (left_out or keep == "none")
    assert (rest is None) == (recipe is None or call)


@pytest.mark.parametrize("row", [{"text": "a"}, Pair(1, 2), 5, {}])
def test_a_row_without_a_field_that_identifies_it_is_an_error_that_names_the_field(row):
    """Two rows are never taken for equal because both lack a field."""
    with pytest.raises(
        EncodeError, match=r"^\$.id: key= names this field, but the row does not have it"
    ) as caught:
        Keyer("s", 1, ("id",)).identify(row)
    assert caught.value.where == "$.id"


def test_what_narrows_a_row_must_have_a_content():
    """The identity itself cannot be a lambda."""
    with pytest.raises(EncodeError, match=r"^\$.f: "):
        Keyer("s", 1, "f").identify({"f": len})
    with pytest.raises(EncodeError):
        Keyer("s", 1, lambda row: row["f"]).identify({"f": len})


@pytest.mark.parametrize("recipe", [(), [], 5, (1,), {"a"}, b"id", ("id", None)])
def test_a_recipe_of_another_kind_is_a_type_error(recipe):
    """Also a set, which has no order to show."""
    with pytest.raises(TypeError, match="field names or a callable"):
        Keyer("s", 1, recipe)


def test_a_recipe_has_a_description_that_does_not_depend_on_order():
    """The store says what makes two rows of a step equal; the order of fields makes no key."""
    described = ["null", '["id"]', '["a","id"]', '{"function":"golden"}', '["row"]']
    recipes = [None, "id", ("id", "a"), golden, ("row",)]
    assert [describe_recipe(recipe) for recipe in recipes] == described
    assert describe_recipe(["a", "id"]) == describe_recipe(("id", "a"))
    words = [recipe_in_words(text) for text in described]
    assert words == ["row", "id", "a, id", "golden()", "row"]
    assert [recipe_of(text) for text in described[:3]] == [None, ("id",), ("a", "id")]
    with pytest.raises(ValueError, match="identified by the function golden"):
        recipe_of(described[3])
    assert Keyer("s", 1, ("id", "a")).identify({"id": 1, "a": 2}) == Keyer(
        "s", 1, ("a", "id")
    ).identify({"a": 2, "id": 1})


def test_the_nth_equal_row_has_a_key_of_its_own():
    """The first has the usual key; no counted key is the key of any row."""
    keyer = Keyer("s", 1)
    key, *_ = keyer.identify({"a": 1})
    keys = [keyer.nth(key, n) for n in range(1000)]
    assert keys[0] == key
    assert len(set(keys)) == 1000
    assert keys == [keyer.nth(key, n) for n in range(1000)]


EXPRESSIONS = """
{"id": 1, "text": "I liked it", "meta": {"lang": "en", "score": 0.5, "ok": True, "none": None}}
{"text": "naïve café ☕ 日本語 👩‍🚀", "": [], "nested": [[], {}, [[1]]]}
"plain text"
""
b"bytes"
0
-1
1
1.0
True
"1"
None
False
0.0
-0.0
1e300
5e-324
float("inf")
float("-inf")
float("nan")
2**63 - 1
2**63
2**64 - 1
2**64
-2**63
-2**63 - 1
10**40
-10**40
[]
{}
()
set()
frozenset()
[1, 2]
(1, 2)
{1, 2}
frozenset({1, 2})
{"a", 1, None, (1, "b")}
{"1": 2}
{1: 2}
{1.5: "a", None: "b", (1, 2): "c", "k": "d"}
[1, [2, (3, {4})], {"k": (5,)}]
decimal.Decimal("1.10")
decimal.Decimal("1.1")
decimal.Decimal("-0")
decimal.Decimal("NaN")
dt.datetime(2024, 2, 29, 23, 59, 59, 999999)
dt.datetime(2024, 2, 29, 23, 59, 59, tzinfo=dt.timezone.utc)
dt.datetime(2024, 2, 29, 23, 59, 59, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)))
dt.datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))
dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))
dt.date(2024, 2, 29)
dt.time(12, 30, 1, 5)
dt.time(12, 30, tzinfo=dt.timezone.utc)
dt.timedelta(days=-1, seconds=5, microseconds=7)
uuid.UUID("12345678-1234-5678-1234-567812345678")
pathlib.PurePosixPath("data/rows.csv")
Colour.RED
Level.LOW
Point(1.0, -0.0)
Struct("a", ["b", "c"])
Pair(1, [2])
{"rows": [Point(0.5, 1.5), {"when": dt.date(2024, 1, 1), "price": decimal.Decimal("9.99")}]}
Arguments(row={"id": 1}, model="m")
"""


def write_golden():
    """Add new expressions to the golden file: `python tests/test_keys.py`. Never changes a line."""
    try:
        entries = golden()
    except FileNotFoundError:
        entries = []
    known = {(e["step"], e["version"], e["row"]) for e in entries}
    for row in EXPRESSIONS.strip().splitlines():
        steps = [("label", 1)] if row != "[1, 2]" else [("label", 1), ("label", "1"), ("étape", 2)]
        for step, version in steps:
            if (step, version, row) not in known:
                entry = {"step": step, "version": version, "row": row}
                entries.append({**entry, "key": key_of_expression(entry)})
    with open(GOLDEN, "w", encoding="utf-8") as file:
        lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
        file.write("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    write_golden()


def test_what_a_step_depends_on_is_part_of_its_keys():
    """Its digest stands in the prefix, between the version and the row: for ever."""
    depends, row = {"model": "m-1", "t": 0.5}, {"a": 1}
    prefix = msgspec.msgpack.encode(("s", 1, digest(canonical(depends))))
    key = xxh3_128_digest(prefix + canonical(row))
    assert key_of("s", 1, row, dict(reversed(depends.items()))) == key.hex()
    assert Keyer("s", 1, depends=depends_digest(depends)).identify(row)[0] == key
    assert key_of("s", 1, row, {"model": "m-2", "t": 0.5}) != key.hex()
    assert depends_digest(None) is None is depends_digest({})
    assert key_of("s", 1, row, {}) == key_of("s", 1, row)


def test_a_description_has_the_names_that_a_step_depends_on():
    """In an object of both; without names it is that of the recipe alone."""
    described = {
        None: '{"key":null,"depends":["m","t"]}',
        ("b", "a"): '{"key":["a","b"],"depends":["m","t"]}',
        golden: '{"key":{"function":"golden"},"depends":["m","t"]}',
    }
    words = ["row, with m, t", "a, b, with m, t", "golden(), with m, t"]
    for (recipe, text), said in zip(described.items(), words, strict=True):
        assert describe_recipe(recipe, ["t", "m"]) == text
        assert depends_of(text) == ("m", "t") and recipe_in_words(text) == said
        assert with_depends(text, ()) == describe_recipe(recipe)
        assert with_depends(describe_recipe(recipe), ("t", "m")) == text
        assert depends_of(describe_recipe(recipe)) == ()
    assert recipe_of(described[None]) is None
    assert recipe_of(described["b", "a"]) == ("a", "b")
    with pytest.raises(ValueError, match="the function golden, which the store does not hold"):
        recipe_of(described[golden])


def test_a_callable_without_a_name_is_described_by_its_class():
    """Not by where it is in memory, which no other process has."""

    class First:
        def __call__(self, row):
            return row[0]

    where = "test_a_callable_without_a_name_is_described_by_its_class.<locals>.First"
    assert describe_recipe(First()) == f'{{"function":"{where}"}}'


@pytest.mark.parametrize(
    "described",
    [
        *('{"function":1}', "{}", "[]", "[1]", "5", '"id"', "true"),
        *('{"depends":"m","key":null}', '{"depends":[1],"key":null}', '{"depends":5}'),
    ],
)
def test_a_description_that_nobody_wrote_is_damage(described):
    """A flipped bit is not taken for another recipe."""
    for read in (depends_of, recipe_of, recipe_in_words):
        with pytest.raises(
            DecodeError, match=r"^the key recipe of a step is not one that checkpointdb writes$"
        ):
            read(described)


@pytest.mark.parametrize("described", ["", "{", None, 5, "[" * 100_000])
def test_a_description_that_is_no_json_is_damage(described):
    """Nor is what another type has taken the place of."""
    with pytest.raises(DecodeError, match="the key recipe of a step cannot be read: "):
        recipe_of(described)


def test_a_row_that_has_no_content_may_be_narrowed_and_the_message_says_so():
    """Only where `key=` is not there yet."""
    advice = r"; or leave it out of the row's identity with key=$"
    with pytest.raises(EncodeError, match=advice):
        Keyer("s", 1).identify({"f": len})
    with pytest.raises(EncodeError) as caught:
        Keyer("s", 1, "f").identify({"f": len})
    assert "key=" not in str(caught.value)


def test_bound_arguments_are_part_of_the_row():
    """As arguments of one call, the row under the name that the step gives it."""
    keyer = Keyer("s", 1, bound={"n": 2}, row_name="text")
    assert not keyer.is_narrow and keyer.narrowed("a") == {"n": 2, "text": "a"}
    key, identity, plain = keyer.identify("a")
    assert (key.hex(), plain) == (key_of("s", 1, Arguments(n=2, text="a")), 0)
    assert keyer.identify(Arguments(text="a"))[0] == key != Keyer("s", 1).identify("a")[0]
    stored, form, whole = keyer.stored("a", plain)
    assert (decode(stored), form, whole) == ({"n": 2, "text": "a"}, ARGUMENTS, None)
    assert keyer.of_stored(stored, form) == (key, identity)
    assert Keyer("s", 1, bound={"n": 2}).narrowed("a") == {"n": 2, "row": "a"}
    own = Keyer("s", 1, bound={"n": 2})
    assert own.narrowed(Arguments(n=3)) == {"n": 3}
    assert Keyer("s", 1).narrowed("a") == "a"


def test_a_narrowed_row_with_bound_arguments_is_kept_as_the_row():
    """What `key=` leaves out of the identity is there to be read."""
    keyer = Keyer("s", 1, "id", bound={"n": 2})
    row = {"id": 1, "text": "a"}
    assert keyer.narrowed(row) == {"n": 2, "row": {"id": 1}}
    stored, form, whole = keyer.stored(row, 0)
    assert (decode(stored), form, whole) == (row, ROW, digest(canonical(row)))
    assert keyer.of_stored(stored, form) == keyer.identify(row)[:2]


@pytest.mark.parametrize(
    ("recipe", "keep", "row", "kept"),
    [
        (None, "row", {"id": 1, "pin": "0"}, ({"id": 1, "pin": "[redacted]"}, ROW)),
        ("pin", "row", {"id": 1, "pin": "0"}, ({"id": 1, "pin": "[redacted]"}, ROW)),
        ("pin", "key", {"id": 1, "pin": "0"}, ({"pin": "[redacted]"}, KEY)),
        (None, "row", Arguments(pin="0"), ({"pin": "[redacted]"}, ARGUMENTS)),
        ("pin", "row", Arguments(pin="0"), ({"pin": "[redacted]"}, KEY)),
    ],
)
def test_what_is_redacted_is_part_of_the_identity_and_not_kept(recipe, keep, row, kept):
    """In every form of a row; a plain row is not stored by the short way then."""
    keyer, other = (Keyer("s", 1, recipe, keep, redactor=r) for r in (Redactor("pin"), None))
    key, identity, plain = keyer.identify(row)
    stored, form, _ = keyer.stored(row, plain)
    assert (decode(stored), form) == kept and plain == 0
    assert (key, identity) == other.identify(row)[:2]


def test_a_redactor_without_rules_costs_nothing():
    """A plain row goes the short way."""
    assert (
        Keyer("s", 1, redactor=Redactor(())).identify({"a": 1})[2]
        == Keyer("s", 1).identify({"a": 1})[2]
        != 0
    )


def test_another_version_has_the_same_recipe():
    """Each part of it makes the keys and the stored forms of both."""
    parts = {
        "recipe": "pin", "keep": "key", "depends": depends_digest({"m": 1}),
        "bound": {"n": 2}, "row_name": "text", "redactor": Redactor("pin"),
    }  # fmt: skip
    mine, row = Keyer("s", 1, **parts), {"pin": "0", "text": "a"}
    again = Keyer("t", "1", **parts).under("s", 1)
    assert again.identify(row) == mine.identify(row)
    assert again.stored(row, 0) == mine.stored(row, 0)
    assert again.narrowed(row) == mine.narrowed(row) and again.depends == mine.depends
    assert mine.under("s", 2).identify(row)[0] != mine.identify(row)[0]
    assert mine.under("t", 1).identify(row)[0] != mine.identify(row)[0]


@pytest.mark.parametrize(
    ("recipe", "before", "after", "is_unchanged"),
    [
        (None, {"a": 1}, {"a": 1}, True),
        (None, {"a": 1}, {"a": 1.0}, False),
        (None, {"a": 1}, {"a": "\ud800"}, False),
        (None, {"a": 1}, {"a": len}, False),
        (None, {"a": (1,)}, {"a": (1,)}, True),
        (None, {"a": (1,)}, {"a": [1]}, False),
        (None, {"a": (1,)}, {"a": len}, False),
        ("a", {"a": 1, "b": 1}, {"a": 1, "b": 1}, True),
        ("a", {"a": 1, "b": 1}, {"a": 1, "b": 2}, False),
        ("a", {"a": 1, "b": 1}, {"a": 2, "b": 1}, False),
        ("a", {"a": 1, "b": len}, {"a": 1, "b": len}, True),
        ("a", Arguments(a=1, b=1), Arguments(a=1, b=2), True),
    ],
)
def test_a_row_that_the_step_changed_is_seen(recipe, before, after, is_unchanged):
    """Whatever of it changed, what `key=` leaves out too, as far as that has a content."""
    keyer = Keyer("s", 1, recipe)
    _, identity, plain = keyer.identify(before)
    stored, _, whole = keyer.stored(before, plain)
    assert whole == keyer.row_digest(before)
    assert keyer.is_unchanged(after, identity, plain, stored, whole) == is_unchanged


def test_rows_of_which_nothing_is_kept_are_told_apart_too():
    """By their identity: nothing stored equals nothing."""
    keyer = Keyer("s", 1, keep="none")
    _, identity, plain = keyer.identify({"a": 1})
    assert plain and keyer.stored({"a": 1}, plain) == (None, ROW, None)
    assert keyer.is_unchanged({"a": 1}, identity, plain, None)
    assert not keyer.is_unchanged({"a": 2}, identity, plain, None)


def test_the_key_of_the_nth_equal_row_never_changes():
    """It is the first one's key, a byte that no row has, and the number."""
    assert Keyer("s", 1).nth(b"k" * 16, 12) == xxh3_128_digest(b"k" * 16 + b"\xc112")


def test_a_plain_row_is_stored_by_the_short_way():
    """By default the whole row is kept, and its text is that of the long way."""
    keyer, row = Keyer("s", 1), {"b": 1, "a": [1.5]}
    _, identity, plain = keyer.identify(row)
    short, long = keyer.stored(row, plain), keyer.stored(row, 0)
    assert short == long == ('{"b":1,"a":[1.5]}', ROW, None)
    assert keyer.is_unchanged(row, identity, plain, short[0])
    assert not keyer.is_unchanged(row, identity, plain, "of another row")


def test_stored_arguments_give_the_key_that_the_call_had():
    """Whatever `key=` makes of them, which sees arguments and not a dict."""
    keyer = Keyer("s", 1, lambda call: [type(call).__name__, call["a"]])
    call = Arguments(a=1, b=2)
    assert keyer.of_stored('{"a":1,"b":2}', ARGUMENTS) == keyer.identify(call)[:2]
    assert keyer.of_stored('{"a":1,"b":2}', ROW) == keyer.identify({"a": 1, "b": 2})[:2]
    assert keyer.identify(call)[:2] != keyer.identify(dict(call))[:2]


def test_a_stored_row_of_a_class_that_is_gone_gives_its_key_all_the_same():
    """Its bytes say the name of the class and the fields."""
    row = {"p": Point(1.0, 2.0)}
    keyer = Keyer("s", 1)
    stored, form, _ = keyer.stored(row, 0)
    assert type(stored) is bytes and keyer.of_stored(stored, form) == keyer.identify(row)[:2]


def test_a_row_with_a_vector_is_stored_as_bytes_and_known_again():
    """In nine bytes a number; one that differs in its last bit is another row."""
    row = {"n": 1, "vector": [n / 7 for n in range(200)]}
    keyer = Keyer("s", 1)
    key, identity, plain = keyer.identify(row)
    stored, form, whole = keyer.stored(row, plain)
    assert isinstance(stored, bytes) and len(stored) < 9 * 200 + 20
    assert (decode(stored), form, whole) == (row, ROW, None)
    assert keyer.of_stored(stored, form) == (key, identity)
    assert keyer.is_unchanged(row, identity, plain, stored)
    row["vector"][199] = math.nextafter(199 / 7, 30)
    assert not keyer.is_unchanged(row, identity, plain, stored)
