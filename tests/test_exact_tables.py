"""Parquet in and out without losing anything, and what text files may look like."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import random
import subprocess
import sys
import zoneinfo
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import CKPT, invoke, read_rows

from checkpointdb.cli.formats import Dialect
from checkpointdb.cli.shape import Shape
from checkpointdb.cli.sinks import writing
from checkpointdb.cli.sources import Source
from checkpointdb.file.read import Reader
from checkpointdb.frames import ticks
from checkpointdb.frames.packages import TableError
from checkpointdb.frames.to_json import to_json
from checkpointdb.values.canonical import canonical
from checkpointdb.values.codec import Codec, decode, encode

PLAIN = ("--store", "x.ckpt", "--version", "1")
PARIS = zoneinfo.ZoneInfo("Europe/Paris")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a step that returns its row, in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step.py").write_text("def same(row):\n    return row\n")
    return tmp_path


def run(*arguments, code=0):
    done = invoke("run", "step.py:same", *arguments, *PLAIN)
    assert done.exit_code == code, done.output
    return done


def read(path, **dialect):
    with Source(str(path), Dialect(**dialect)) as source:
        return list(source)


def write(path, rows, *, declared=None, **shape):
    with writing(str(path), Shape(**shape), declared, force=True) as write_rows:
        for row in rows:
            write_rows([row])


def counts(values, kind):
    whole = pa.int32() if kind.bit_width == 32 else pa.int64()
    return pa.array(values, whole).view(kind)


# --- Parquet

EXACT = {
    "ns whole": (counts([1_577_836_800_000_000_000], pa.timestamp("ns")), dt.datetime(2020, 1, 1)),
    "ns": (counts([1001], pa.timestamp("ns")), "1970-01-01T00:00:00.000001001"),
    "ns before 1970": (counts([-1], pa.timestamp("ns")), "1969-12-31T23:59:59.999999999"),
    "ns in a zone": (
        counts([1001], pa.timestamp("ns", "Europe/Paris")), "1970-01-01T01:00:00.000001001+01:00"),
    "us in a zone": (
        counts([5], pa.timestamp("us", "Europe/Paris")),
        dt.datetime(1970, 1, 1, 1, 0, 0, 5, PARIS)),
    "an offset": (
        counts([0], pa.timestamp("us", "-03:30")),
        dt.datetime(1969, 12, 31, 20, 30, tzinfo=dt.timezone(-dt.timedelta(hours=3.5)))),
    "after 9999": (counts([253_402_300_800_000_005], pa.timestamp("us")),
                   "+10000-01-01T00:00:00.000005000"),
    "after 9999, utc": (counts([253_402_300_800], pa.timestamp("s", "UTC")),
                        "+10000-01-01T00:00:00+00:00"),
    "a day after 9999": (counts([2_932_897], pa.date32()), "+10000-01-01"),
    "a day before 1": (counts([-719_529], pa.date32()), "-0001-12-31"),
    "a day": (counts([0], pa.date32()), dt.date(1970, 1, 1)),
    "time ns": (counts([1001], pa.time64("ns")), "00:00:00.000001001"),
    "24:00": (counts([86_400_000_000], pa.time64("us")), "24:00:00"),
    "time before midnight": (counts([-3_600_000], pa.time32("ms")), "-01:00:00"),
    "time": (counts([5], pa.time32("s")), dt.time(0, 0, 5)),
    "duration ns": (counts([-1001], pa.duration("ns")), "-PT0.000001001S"),
    "duration": (counts([1_000_000_000], pa.duration("ns")), dt.timedelta(seconds=1)),
    "a long duration": (counts([1 << 62], pa.duration("s")), "PT4611686018427387904S"),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "int8": (pa.array([-5], pa.int8()), -5),
    "float16": (pa.array([1.5], pa.float16()), 1.5),
    "float32": (pa.array([0.1], pa.float32()), pa.array([0.1], pa.float32()).to_pylist()[0]),
    "decimal": (pa.array([Decimal("1.50")], pa.decimal128(9, 2)), Decimal("1.50")),
    "decimal256": (pa.array([Decimal(10**60)], pa.decimal256(70, 0)), Decimal(10**60)),
    "dictionary": (pa.array(["b"]).dictionary_encode(), "b"),
    "a large string": (pa.array(["b"], pa.large_string()), "b"),
    "bytes": (pa.array([b"\x00\xff"], pa.binary(2)), b"\x00\xff"),
    "uuid": (pa.array([UUID(int=7)], pa.uuid()), UUID(int=7)),
    "a map": (pa.array([[("a", 1), ("a", None)]], pa.map_(pa.string(), pa.int32())),
              [("a", 1), ("a", None)]),
    "a map of days": (pa.array([[(dt.date(2020, 1, 1), b"x")]], pa.map_(pa.date32(), pa.binary())),
                      [(dt.date(2020, 1, 1), b"x")]),
    "a list of ns": (
        pa.ListArray.from_arrays([0, 2], counts([1001, None], pa.timestamp("ns"))),
        ["1970-01-01T00:00:00.000001001", None]),
    "a struct of ns": (
        pa.StructArray.from_arrays([counts([1001], pa.duration("ns"))], ["d"]),
        {"d": "PT0.000001001S"}),
    "a list of structs of lists": (
        pa.array([[{"a": [1, None], "b": None}, None]],
                 pa.list_(pa.struct([("a", pa.list_(pa.int16())), ("b", pa.string())]))),
        [{"a": [1, None], "b": None}, None]),
    "fixed lists": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), [1, 2]),
    "nothing": (pa.array([None], pa.null()), None),
    "text with NUL": (pa.array(["a\0b"]), "a\0b"),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXACT)
def test_parquet_keeps_each_value_and_its_type(here, kind):
    """The step gets the value, exactly; what is written has the column's own type again."""
    array, wanted = EXACT[kind]
    table = pa.table({"x": pa.concat_arrays([array, pa.nulls(1, array.type)]), "n": [0, 1]})
    pq.write_table(table, "in.parquet")
    stored = pq.read_table("in.parquet")  # Parquet has no seconds, and Arrow reads what it wrote
    rows = read("in.parquet")
    assert canonical(rows) == canonical([{"x": wanted, "n": 0}, {"x": None, "n": 1}])
    run("in.parquet", "-o", "out.parquet")
    invoke("export", "x.ckpt", "-o", "exported.parquet", "--rows", "in.parquet")
    for name in ("out.parquet", "exported.parquet"):
        written = pq.read_table(name).select(["x", "n"])
        assert written.schema.types == stored.schema.types
        assert written.equals(stored)
    assert canonical([row["result"] for row in read_results("x.ckpt")]) == canonical(rows)


def read_results(store):
    with Reader(store) as reader:
        return [{"result": record.result} for record in reader.records()]


def test_int96_keeps_its_nanoseconds_and_its_years(here):
    """Arrow wraps what is after 2262 when it reads nanoseconds, and cuts them when it does not."""
    moments = [dt.datetime(2500, 1, 1, 0, 0, 0, 1), dt.datetime(1500, 6, 1), None]
    fine = counts([1001, 5, -1], pa.timestamp("ns"))
    for name, array in (("wide", pa.array(moments, pa.timestamp("us"))), ("fine", fine)):
        pq.write_table(
            pa.table({"x": array}), f"{name}.parquet", use_deprecated_int96_timestamps=True
        )
    assert [row["x"] for row in read("wide.parquet")] == moments
    assert [row["x"] for row in read("fine.parquet")] == [
        "1970-01-01T00:00:00.000001001",
        "1970-01-01T00:00:00.000000005",
        "1969-12-31T23:59:59.999999999",
    ]
    run("wide.parquet", "-o", "out.parquet")
    assert pq.read_table("out.parquet").column("x").to_pylist() == moments


def test_rows_of_parquet_do_not_depend_on_pandas(here):
    """The same file makes the same keys on a machine without it."""
    pq.write_table(pa.table({"x": counts([1001, 2000], pa.timestamp("ns"))}), "in.parquet")
    script = (
        "import sys\n"
        "sys.modules['pandas'] = None\n"
        "from checkpointdb.cli.sources import Source\n"
        "print(list(Source('in.parquet')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == str(read("in.parquet")), done.stderr


def test_a_zone_that_is_not_known_is_an_error_that_names_it(here):
    pq.write_table(pa.table({"x": counts([1], pa.timestamp("us", "Not/There"))}), "in.parquet")
    with pytest.raises(TableError, match=r"in\.parquet: the time zone 'Not/There' is not known"):
        read("in.parquet")


def test_two_columns_of_one_name_are_refused(here):
    """A dict would keep the last one without a word."""
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, "in.parquet")
    with pytest.raises(TableError, match=r"two columns of one name.*'a': rename"):
        read("in.parquet")
    inner = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["b", "b"])
    pq.write_table(pa.table({"s": inner}), "nested.parquet")
    with pytest.raises(TableError, match=r"s has two columns of one name.*'b'"):
        read("nested.parquet")


def test_ticks_come_back_from_what_they_became():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    zones = (None, dt.UTC, ticks.zone_of("-03:30", ""), PARIS)
    for _ in range(3000):
        n = rng.randrange(-(2**63), 2**63) * rng.choice([1, 1, 1000, 10**6])
        for zone in zones:
            assert ticks.of_moment(ticks.to_moment(n, zone)) == n, (n, zone)
        assert ticks.of_duration(ticks.to_duration(n)) == n
        day, time = rng.randrange(-(2**31), 2**31), rng.randrange(-ticks.DAY, ticks.DAY * 2)
        assert ticks.of_moment(ticks.to_date(day)) == day * ticks.DAY
        assert ticks.of_time(ticks.to_time(time)) == time


D, T = dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 5, 6)
UTC = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
# no column type holds both: each is its JSON, or the text it is
TEXT = {
    "day and moment": [D, T],
    "the same in a struct": [{"d": D}, {"d": T}],
    "the same in a list": [[D, T], None],
    "the same in a list of structs": [[{"d": D}], [{"d": T}]],
    "with and without a zone": [UTC, T],
    "two zones": [UTC, UTC.astimezone(PARIS)],
    "a time with a zone": [dt.time(1, tzinfo=dt.UTC), None],
    "text and bytes in a struct": [{"d": "a"}, {"d": b"b"}],
    "past uint64": [2**64, 1],
    "past int64 and negative": [2**63, -1],
    "not a number": [Decimal("NaN"), Decimal(1)],
    "one and true": [{"x": 1}, {"x": True}],
    "an odd offset": [UTC.astimezone(dt.timezone(dt.timedelta(seconds=1))), None],
    "a key that is no text": [{1: 2}, None],
}
# and these have one
TYPED = {
    "uint64": ([2**64 - 1, 5], pa.uint64()),
    "in one zone": ([UTC.astimezone(PARIS), None], pa.timestamp("us", "Europe/Paris")),
    "moments": ([T, None], pa.timestamp("us")),
    "decimals": ([Decimal("1.5"), Decimal("-100.0")], pa.decimal128(4, 1)),
    "pairs": ([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64())),
    "durations": ([dt.timedelta(1), None], pa.duration("us")),
    "times": ([dt.time(1), None], pa.time64("us")),
    "uuids": ([UUID(int=1), None], pa.uuid()),
    "bytes": ([b"\xff", None], pa.binary()),
}


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("batch", [1, 100])
def test_what_shares_no_type_is_text_and_loses_nothing(here, kind, batch, monkeypatch):
    monkeypatch.setattr("checkpointdb.frames.spool.BATCH_ROWS", batch)
    write("out.parquet", [{"x": value} for value in TEXT[kind]])
    assert pq.read_schema("out.parquet").field("x").type == pa.string()
    assert pq.read_table("out.parquet").column("x").to_pylist() == [
        None if value is None else to_json(value).decode() for value in TEXT[kind]
    ]


@pytest.mark.parametrize("kind", TYPED)
@pytest.mark.parametrize("batch", [1, 100])
def test_what_shares_a_type_has_it(here, kind, batch, monkeypatch):
    monkeypatch.setattr("checkpointdb.frames.spool.BATCH_ROWS", batch)
    values, wanted = TYPED[kind]
    write("out.parquet", [{"x": value} for value in values])
    assert pq.read_schema("out.parquet").field("x").type == wanted
    assert canonical(pq.read_table("out.parquet").column("x").to_pylist()) == canonical(values)


def test_a_declared_type_that_would_change_a_value_is_let_go(here):
    declared = {"x": pa.timestamp("ms"), "y": pa.int8(), "z": pa.float32()}
    rows = [{"x": T, "y": 1, "z": 0.5}, {"x": T.replace(microsecond=1), "y": 300, "z": 0.1}]
    write("out.parquet", rows, declared=declared)
    assert pq.read_table("out.parquet").to_pylist() == rows


def test_fields_that_may_not_be_null_are_where_their_struct_is(here):
    """And a struct without fields, which Parquet's writer refuses, costs nothing."""
    inner = pa.struct([pa.field("a", pa.int8(), nullable=False)])
    column = pa.array([[{"a": 1}], [None], None], pa.list_(inner))
    pq.write_table(pa.table({"x": column}), "in.parquet")
    run("in.parquet", "-o", "out.parquet")
    out = pq.read_table("out.parquet")
    assert out.column("x").to_pylist() == column.to_pylist()
    assert out.schema.field("x").type.value_type.field("a").type == pa.int8()
    whole = pa.array([[{"a": 1}]], pa.list_(inner))
    write("whole.parquet", [{"x": [{"a": 1}]}], declared={"x": whole.type})
    assert pq.read_schema("whole.parquet").field("x").type == whole.type
    write("none.parquet", [{"x": None}], declared={"x": pa.struct([("s", pa.struct([]))])})
    assert pq.read_table("none.parquet").to_pylist() == [{"x": None}]


# --- half of a surrogate pair

HALF = "a\ud83d"


def test_half_of_a_surrogate_pair_is_a_value_like_any_other():
    for value in (HALF, [HALF], {HALF: 1}, {"a": {HALF: HALF}}, {HALF, "b"}, ("x", HALF)):
        assert decode(encode(value)) == value
        assert Codec().decode(Codec().encode(value)) == value
    assert canonical(HALF) != canonical("a?") != canonical(HALF.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "tsv.gz"])
def test_half_of_a_surrogate_pair_costs_no_output(here, ending):
    """In the row, in its result and in the message of a failure."""
    (here / "step.py").write_text(
        "def same(row):\n    if row['n']: raise ValueError(row['t'])\n    return row['t']\n"
    )
    (here / "in.jsonl").write_text('{"n":0,"t":"a\\ud83d"}\n{"n":1,"t":"a\\ud83d"}\n')
    run("in.jsonl", "-o", f"out.{ending}", "--on-error", "record", code=3)
    if ending == "jsonl":
        one, other = read_rows(here / "out.jsonl")
        assert one == {"n": 0, "t": HALF, "result": HALF}
        assert other["error"]["message"] == r"a\ud83d"
    elif ending != "json":  # text is UTF-8 there: the escape, for people to see
        assert read(f"out.{ending}")[0]["t"] == r"a\ud83d"


def test_half_of_a_surrogate_pair_is_shown_by_every_command(here):
    (here / "step.py").write_text("def same(row):\n    return {'t': row['t']}\n")
    (here / "in.jsonl").write_text('{"t":"a\\ud83d"}\n')
    run("in.jsonl")
    for command in (
        ("inspect", "x.ckpt", read_key("x.ckpt"), "--json"),
        ("why", "x.ckpt", '{"t":"a\\ud83d"}', "--json"),
        ("inspect", "x.ckpt", read_key("x.ckpt")),
    ):
        done = invoke(*command)
        assert done.exit_code == 0 and r"a\ud83d" in done.stdout, done.output
        assert "--json" not in command or json.loads(done.stdout)


def read_key(store):
    with Reader(store) as reader:
        return next(reader.records()).key


def test_a_key_that_is_no_text_does_not_cost_the_row_its_shape():
    row = {"a": 1, "b": {(1, 2): "x", "y": float("nan")}, "d": D}
    assert json.loads(to_json(row)) == {"a": 1, "b": {"(1, 2)": "x", "y": None}, "d": "2020-01-01"}
    assert json.loads(to_json(row | {"t": HALF})) == json.loads(to_json(row)) | {"t": HALF}
    assert json.loads(to_json({1: HALF, "1": 2})) == [["1", HALF], ["1", 2]]


def test_arrays_and_times_of_other_libraries_are_written_whole(here):
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    result = {
        "array": numpy.arange(2000.0),
        "scalar": numpy.int64(5),
        "at": pandas.Timestamp("2020-01-01 05:06"),
        "ns": pandas.Timestamp(1001),
        "pairs": [("a", 1), ("b", 2)],
    }
    wanted = {
        "array": [float(n) for n in range(2000)],
        "scalar": 5,
        "at": T,
        "ns": "1970-01-01T00:00:00.000001001",
        "pairs": [("a", 1), ("b", 2)],
    }
    assert Shape().join({"n": numpy.int64(1)}, result, "") == {"n": 1, "result": wanted}
    write("out.parquet", [Shape().join({}, result, "")])
    assert pq.read_table("out.parquet").to_pylist() == [{"result": wanted}]


# --- CSV


@pytest.mark.parametrize(
    ("name", "text", "option", "wanted"),
    [
        ("r.csv", "a;b\n1;2\n", "';'", {"a": "1", "b": "2"}),
        ("r.csv", "a\tb\n1\t2\n", "tab", {"a": "1", "b": "2"}),
        ("r.csv", "a|b\n1|2\n", "'|'", {"a": "1", "b": "2"}),
        ("r.csv", "a;b,c;d\n1;2;3\n", "';'", {"a": "1", "b,c": "2", "d": "3"}),
        ("r.tsv", "a,b\n1,2\n", "','", {"a": "1", "b": "2"}),
        ("r.csv", '"a;b"\n1\n', "','", {"a;b": "1"}),
        ("r.csv.gz", "a;b\n1;2\n", "';'", {"a": "1", "b": "2"}),
    ],
)
def test_another_delimiter_is_an_error_that_names_the_option(here, name, text, option, wanted):
    """Never one column unasked; what a person names is right whatever the header has."""
    with (gzip.open if name.endswith("gz") else open)(name, "wb") as file:
        file.write(text.encode())
    done = run(name, code=1)
    assert f"{name}:1: the header has more of" in done.stderr
    assert f"--delimiter {option}" in done.stderr
    assert read_results("x.ckpt") == []
    run(name, "--delimiter", option.strip("'"))
    assert [row["result"] for row in read_results("x.ckpt")] == [wanted]


def test_a_delimiter_is_one_character(here):
    (here / "r.csv").write_text("a\n1\n")
    for wrong in ("", ";;", '"'):
        assert "is not one character" in run("r.csv", "--delimiter", wrong, code=2).stderr


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "cp1252", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_the_encoding_is_said_by_an_option(here, encoding, ending):
    text = {"csv": "Ä,b\ré,2\r\n", "jsonl": '{"Ä":"é","b":"2"}\n', "json": '[{"Ä":"é","b":"2"}]'}
    (here / f"r.{ending}").write_bytes(text[ending].encode(encoding))
    if encoding != "utf-8-sig":
        assert "--encoding" in run(f"r.{ending}", code=1).stderr
    run(f"r.{ending}", "--encoding", encoding)
    assert [row["result"] for row in read_results("x.ckpt")] == [{"Ä": "é", "b": "2"}]


def test_a_wrong_encoding_names_the_line(here):
    (here / "r.csv").write_bytes(b"a,b\n1,2\n3,\xff\n")
    assert "r.csv:3: not UTF-8: byte 0xff" in run("r.csv", code=1).stderr
    assert len(read_results("x.ckpt")) == 1
    (here / "r.jsonl").write_bytes(b'{"a":1}\n{"a":"\x81"}\n')
    assert "r.jsonl:2: not cp1252" in run("r.jsonl", "--encoding", "cp1252", code=1).stderr
    assert "is not an encoding of text" in run("r.csv", "--encoding", "rot13", code=2).stderr


def test_an_empty_line_of_one_column_is_an_empty_value(here):
    (here / "r.csv").write_text('a\nx\n\n""\ny\n')
    assert [row["a"] for row in read("r.csv")] == ["x", "", "", "y"]
    run("r.csv", "-o", "out.csv")
    assert read("out.csv") == read("r.csv")
    (here / "two.csv").write_text("a,b\n1,2\n\n3,4\n")  # where there are two it is nothing
    assert len(read("two.csv")) == 2


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz"])
def test_a_header_without_rows_is_a_header_without_rows(here, ending):
    (here / "r.csv").write_text("\ufeffa,b\n")
    run("r.csv", "-o", f"out.{ending}")
    with Source(f"out.{ending}") as source:
        assert list(source) == [] and list(source.columns) == ["a", "b", "result"]
    invoke("export", "x.ckpt", "-o", f"exp.{ending}", "--rows", "r.csv")
    assert (here / f"exp.{ending}").read_bytes() == (here / f"out.{ending}").read_bytes()


def test_a_table_without_rows_keeps_its_types(here):
    schema = pa.schema([("a", pa.int8()), ("b", pa.timestamp("ns", "UTC"))])
    pq.write_table(schema.empty_table(), "in.parquet")
    run("in.parquet", "-o", "out.parquet")
    out = pq.read_schema("out.parquet")
    assert out.names == ["a", "b", "result"] and out.types[:2] == schema.types


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a,b\n1,2\n1,2,3\n", 3, "3 fields, but the header has 2: quote a field"),
        ("a,b\n1,2\n1\n", 3, "1 fields, but the header has 2: write empty fields"),
        ('a,b\n"x\ny",2\n"z" w,2\n', 4, "text follows a closing quote"),
        ('a,b\n1,"2\n3,4\n', 2, "never closed"),
        ("a,b,a\n1,2,3\n", 1, "the header names a column twice"),
        ("a,,\n1,2,3\n", 1, "twice"),
    ],
)
def test_a_csv_that_cannot_be_read_says_why(here, text, line, said):
    (here / "r.csv").write_text(text)
    with pytest.raises(TableError, match=rf"r\.csv:{line}: .*{said}"):
        read("r.csv")


def test_lines_may_end_as_on_any_machine(here):
    for end in ("\n", "\r\n", "\r"):
        (here / "r.csv").write_bytes(f'a,b{end}1,"x{end}y"{end}2,NUL\0{end}'.encode())
        assert read("r.csv") == [{"a": "1", "b": f"x{end}y"}, {"a": "2", "b": "NUL\0"}]


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "csv", "tsv"])
def test_gzip_in_and_out(here, ending):
    rows = [{"a": "1", "b": "é\n"}, {"a": "2", "b": ""}]
    write(f"r.{ending}.gz", rows)
    write(f"again.{ending}.gz", rows)
    assert read(f"r.{ending}.gz") == rows
    assert (here / f"r.{ending}.gz").read_bytes() == (here / f"again.{ending}.gz").read_bytes()
    whole = (here / f"r.{ending}.gz").read_bytes()
    for broken in (whole[:-12], whole[:20], b"no gzip"):
        (here / f"bad.{ending}.gz").write_bytes(broken)
        with pytest.raises(TableError, match="damaged after line"):
            read(f"bad.{ending}.gz")


@pytest.mark.parametrize(
    ("format", "text"),
    [("csv", "a,b\n1,2\n"), ("tsv", "a\tb\n1\t2\n"), ("json", '[{"a":"1","b":"2"}]'),
     ("jsonl", '{"a":"1","b":"2"}\n')],
)  # fmt: skip
def test_any_text_comes_on_standard_input(here, format, text):
    command = [*CKPT, "run", "step.py:same", "-", "--format", format, "-o", "-", *PLAIN]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=here)
    assert json.loads(done.stdout)["result"] == {"a": "1", "b": "2"}, done.stderr


def test_the_format_may_be_said_of_a_file(here):
    (here / "r.txt").write_text("a,b\n1,2\n")
    assert "--format" in run("r.txt", code=1).stderr
    run("r.txt", "--format", "csv")
    assert "is read from its end" in run("-", "--format", "parquet", code=1).stderr


def test_a_result_that_is_a_dict_becomes_columns_of_csv(here):
    """Its own names, but never another value under the name of a column of the row."""
    rows = [
        {"id": "1", "text": "a", "result": {"id": "1", "label": "x", "text": "A"}},
        {"id": "2", "text": "b", "result": {"label": "y", "more": [1]}},
        {"id": "3", "text": "c", "result": None},
    ]
    write("out.csv", rows)
    with open("out.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["id", "text", "label", "result.text", "more"]
    assert lines == [["1", "a", "x", "A", ""], ["2", "b", "y", "", "[1]"], ["3", "c", "", "", ""]]
    write("out.csv", [*rows, {"id": "4", "text": "d", "result": "no dict"}])
    assert read("out.csv")[3]["result"] == "no dict" and read("out.csv")[0]["label"] == "x"
    write("one.csv", rows, merge=False)
    assert json.loads(read("one.csv")[0]["result"]) == rows[0]["result"]


def test_the_columns_of_rows_and_of_results_cannot_meet_by_chance(here):
    rows = [
        {"a": "1", "result": {"result": "x", "a": "2", "result.a": "3"}},
        {"a": "1", "result": {}},
        {"a": "1", "b": "late", "result": {"b": "other"}},
    ]
    write("out.csv", rows)
    back = read("out.csv")
    assert back[0] == {
        "a": "1", "result": "", "b": "", "result.result": "x", "result.a": "2",
        "result.result.a": "3", "result.b": "",
    }  # fmt: skip
    assert back[1]["result"] == "{}"
    assert back[2]["b"] == "late" and back[2]["result.b"] == "other"


# --- errors of a row name file and line


@pytest.mark.parametrize("options", [(), ("--concurrency", "3"), ("-o", "out.jsonl")])
@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("r.csv", 'n\n"a\nb"\n3\n4\n', "r.csv:4"),
        ("r.jsonl", '{"n":"1"}\n\n{"n":"3"}\n', "r.jsonl:3"),
        ("r.json", '[{"n":"1"},\n\n\n{"n":\n"3"}]', "r.json:4"),
    ],
)
def test_what_the_step_raises_names_the_line_of_its_row(here, options, name, text, place):
    (here / "step.py").write_text(
        "def same(row):\n    if row['n'] == '3': raise ValueError('three')\n"
    )
    (here / name).write_text(text)
    assert f"in {place}\n" in run(name, *options, code=1).stderr
    assert f"{place}: same: row 1 failed" in run(name, "--on-error", "record", code=3).stderr


def test_a_result_that_has_no_place_names_the_line_of_its_row(here):
    (here / "step.py").write_text("def same(row):\n    return {'n': 0}\n")
    (here / "r.csv").write_text('n,m\n0,"x\ny"\n1,2\n')
    assert (
        "r.csv:2: --merge would overwrite column 'n'"
        in run("r.csv", "-o", "out.csv", "--merge", code=1).stderr
    )


def test_a_table_that_has_fewer_rows_than_it_says_is_damaged(here):
    pq.write_table(pa.table({"n": [1, 2, 3, 4, 5]}), "in.parquet")
    data = (here / "in.parquet").read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    at = data.index(b"\x16\x0a", footer)  # the number of rows, 5, as Thrift writes it
    (here / "in.parquet").write_bytes(data[:at] + b"\x16\x0c" + data[at + 2 :])
    assert pq.ParquetFile("in.parquet").metadata.num_rows == 6
    said = run("in.parquet", code=1).stderr
    assert "in.parquet: damaged: 5 rows, but it says that it has 6" in said
    assert len(read_results("x.ckpt")) == 5
