"""Rows out of files and into files: nothing guessed, nothing half, every error with its line."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import json
import os
import pathlib
import stat
import sys
import warnings
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointdb import system
from checkpointdb.cli import json_rows
from checkpointdb.cli.csv_sink import _cell, is_formula
from checkpointdb.cli.shape import Shape
from checkpointdb.cli.sinks import writing
from checkpointdb.cli.sources import Source
from checkpointdb.frames import columns, spool
from checkpointdb.frames.packages import TableError
from checkpointdb.frames.to_json import plain, to_json

ROWS = [
    {"title": "Alien³", "gross": 159_773_600, "score": 6.3, "director": None},
    {"title": 'say "hi", twice\nplease', "gross": -1, "score": 7, "director": "L. Čeh"},
    {"title": "", "gross": 0, "score": None, "director": "日本"},
]


@pytest.fixture
def path(tmp_path):
    return lambda name, content=None: _file(tmp_path / name, content)


def _file(path, content):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(path):
    with Source(path) as source:
        return list(source)


def write(path, rows):
    with writing(path, force=True) as write_rows:
        for row in rows:
            write_rows([row])


def read_until_error(path):
    rows = []
    with Source(path) as source, pytest.raises(TableError) as caught:
        rows.extend(row for row in source)
    return rows, str(caught.value)


# --- there and back


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
def test_rows_come_back_as_they_were(path, name):
    write(path(name), ROWS)
    assert read(path(name)) == ROWS


def test_csv_comes_back_as_text(path):
    """CSV has no types: None is an empty cell, and numbers are their digits."""
    write(path("rows.csv"), ROWS)
    assert read(path("rows.csv")) == [
        {k: "" if v is None else str(v) for k, v in row.items()} for row in ROWS
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_no_rows_is_a_file_without_rows(path, name):
    write(path(name), [])
    assert read(path(name)) == []


def test_parquet_keeps_its_own_types(path):
    rows = [{"day": dt.date(2024, 2, 29), "at": dt.datetime(2024, 1, 1, 12), "raw": b"\x00\xff"}]
    pq.write_table(pa.Table.from_pylist(rows), path("in.parquet"))
    write(path("out.parquet"), read(path("in.parquet")))
    assert read(path("out.parquet")) == rows
    assert pq.read_schema(path("out.parquet")) == pq.read_schema(path("in.parquet"))


# --- reading


def test_json_lines_as_they_are_found_in_the_wild(path):
    """A byte order mark, Windows line ends, empty lines, NaN, no line end at the end."""
    content = b'\xef\xbb\xbf{"a": 1}\r\n\r\n   \n{"a": NaN}\n[1, 2]\n"text"\n{"a": 2}'
    rows = read(path("rows.jsonl", content))
    assert rows[0] == {"a": 1} and rows[1]["a"] != rows[1]["a"]
    assert rows[2:] == [[1, 2], "text", {"a": 2}]


@pytest.mark.parametrize(
    "bad", [b'{"a": 1', b"{'a': 1}", b'{"a": "\xff"}', b"[" * 5000, b'{"a": NaN', b"nonsense"]
)
def test_a_bad_line_is_named_and_what_came_before_is_given_out(path, bad):
    name = path("rows.jsonl", b'{"a": 0}\n\n{"a": 1}\n' + bad + b'\n{"a": 2}\n')
    rows, error = read_until_error(name)
    assert rows == [{"a": 0}, {"a": 1}]
    assert error.startswith(f"{name}:4: ")


@pytest.mark.parametrize(
    ("content", "line", "before"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', 3, 1),
        ('[\n{"a": 1},\n{"a": 2}', 3, 2),
        ('[\n{"a": 1},\n{"a": 2', 3, 1),
        ('[\n{"a": 1}\n{"a": 2}\n]', 3, 1),
        ('[\n{"a": 1},\n]', 3, 1),
        ("[1, 2]\n\n3", 3, 2),
        ('{"rows": []}', 1, 0),
        ("", 1, 0),
        ("[" * 5000, 1, 0),
    ],
)
def test_a_bad_json_array_is_an_error_that_names_the_line(path, content, line, before):
    name = path("rows.json", content)
    rows, error = read_until_error(name)
    assert error.startswith(f"{name}:{line}: ")
    assert len(rows) == before


def test_json_lines_named_json_are_told_their_name(path):
    assert "name the file .jsonl" in read_until_error(path("rows.json", '{"a": 1}\n{"a": 2}\n'))[1]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(values), chunk=st.integers(1, 40), indent=st.none() | st.integers(0, 2))
def test_a_json_array_is_read_the_same_in_chunks_of_any_size(tmp_path_factory, rows, chunk, indent):
    """No value may be cut where a chunk ends: 12 and 34 are not 1234's halves."""
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK", chunk)
        assert read(str(path)) == rows


def test_a_json_array_is_read_in_bounded_memory(path, monkeypatch):
    """What was given out is forgotten: the buffer holds a chunk, however long the array is."""
    monkeypatch.setattr(json_rows, "CHUNK", 1000)
    name = path("rows.json", json.dumps([{"n": n, "text": "x" * 50} for n in range(2000)]))
    with open(name, "rb") as file:
        array = json_rows.JsonArray(name, file)
        assert max(len(array._buffer) for _ in array.values()) < 3000


def test_csv_cells_may_hold_anything(path):
    name = path("rows.csv", 'a,b\n"x\ny","say ""hi"""\n\n,"1,5"\r\n007,' + "z" * 200_000 + "\n")
    assert read(name) == [
        {"a": "x\ny", "b": 'say "hi"'},
        {"a": "", "b": "1,5"},
        {"a": "007", "b": "z" * 200_000},
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'a,b\n"1\n1",2\n3\n', 4),
        (b"a,b\n1,2\n1,2,3\n", 3),
        (b'a,b\n1,2\n1,"2\n3,4\n', 3),
        (b"a,b\n1,2\n1,\xff\n", 3),
        (b"a,a\n1,2\n", 1),
    ],
)
def test_a_bad_csv_line_is_an_error_that_names_it(path, content, line):
    name = path("rows.csv", content)
    assert read_until_error(name)[1].startswith(f"{name}:{line}: ")


def test_what_is_no_parquet_file_is_said_to_be_none(path):
    with pytest.raises(TableError, match=r"rows\.parquet: not a Parquet file"):
        Source(path("rows.parquet", "a,b\n1,2\n"))


def test_a_damaged_parquet_file_is_an_error_that_names_the_row(path):
    name = path("rows.parquet")
    pq.write_table(pa.table({"a": list(range(100_000))}), name, compression="none")
    with open(name, "r+b") as file:
        file.seek(20)
        file.write(b"\xff" * 200_000)
    assert "after row 0" in read_until_error(name)[1]


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.txt.gz"])
def test_an_unknown_ending_is_refused_with_those_known(path, name):
    with pytest.raises(TableError, match=r"\.jsonl, \.json, \.csv, \.tsv or \.parquet"):
        Source(path(name, ""))
    with pytest.raises(TableError, match=r"\.jsonl, \.json, \.csv, \.tsv or \.parquet"):
        write(path(name), [])


def test_a_missing_file_is_an_error_at_once(path):
    with pytest.raises(TableError, match=r"gone\.csv: No such file"):
        Source(path("gone.csv"))


def test_without_pyarrow_a_parquet_file_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TableError, match=r"pip install 'checkpointdb\[arrow\]'"):
        Source(path("rows.parquet", "x"))
    with pytest.raises(TableError, match=r"pip install 'checkpointdb\[arrow\]'"):
        write(path("out.parquet"), ROWS)
    assert os.listdir(os.path.dirname(path("x"))) == ["rows.parquet"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_how_far_and_how_many_is_known_for_files(path, name):
    write(path(name), [{"n": n, "text": "x" * 100} for n in range(5000)])
    with Source(path(name)) as source:
        assert source.count() == 5000
        iterator = iter(source)
        list(itertools.islice(iterator, 2500))
        assert 0.4 < source.fraction() < 0.65
        list(iterator)
        assert source.fraction() == 1.0


# --- writing


class _StopError(Exception):
    pass


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_a_file_appears_whole_or_not_at_all(path, name, tmp_path):
    """The old file stays until the new one is whole; a failure leaves nothing beside it."""
    target = path(name, "old")
    with pytest.raises(_StopError), writing(target, force=True) as write_rows:
        write_rows([ROWS[0]])
        assert (tmp_path / name).read_text() == "old"
        raise _StopError
    assert (tmp_path / name).read_text() == "old"
    assert os.listdir(tmp_path) == [name]
    write(target, ROWS)
    assert len(read(target)) == 3
    assert os.listdir(tmp_path) == [name]


def test_where_no_file_can_be_nameless_the_promises_are_the_same(path, monkeypatch, tmp_path):
    monkeypatch.setattr(system, "nameless", lambda directory: None)
    test_a_file_appears_whole_or_not_at_all(path, "rows.csv", tmp_path)


def test_output_gets_the_permissions_of_any_new_file(path):
    write(path("rows.jsonl"), ROWS)
    open(path("other"), "w").close()
    modes = [stat.S_IMODE(os.stat(path(name)).st_mode) for name in ("rows.jsonl", "other")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "to", ["elsewhere/rows.csv", "elsewhere/none.csv", "elsewhere", "rows.csv"]
)
def test_nothing_is_written_through_a_link(path, force, to):
    """Whoever may write to the directory could name any file of ours: forced or not."""
    os.mkdir(path("elsewhere"))
    path("elsewhere/rows.csv", "old")
    os.symlink(path(to), path("rows.csv"))
    refused = pytest.raises(TableError, match="a symbolic link, and nothing is written through")
    with refused, writing(path("rows.csv"), force=force):
        pytest.fail("must be known before anything is paid for")
    with open(path("elsewhere/rows.csv")) as file:
        assert file.read() == "old"
    assert sorted(os.listdir(path("."))) == ["elsewhere", "rows.csv"]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_file_that_is_there_stays_even_one_that_comes_meanwhile(path, monkeypatch, nameless):
    """Unless it is forced."""
    if not nameless:
        monkeypatch.setattr(system, "nameless", lambda directory: None)
    refused = pytest.raises(TableError, match="it exists, and only --force replaces it")
    with refused, writing(path("rows.csv")) as write_rows:
        write_rows([ROWS[0]])
        path("rows.csv", "theirs")
    with refused, writing(path("rows.csv")):
        pytest.fail("must be known before anything is paid for")
    with open(path("rows.csv")) as file:
        assert file.read() == "theirs"
    assert os.listdir(path(".")) == ["rows.csv"]


def test_a_link_that_comes_meanwhile_is_replaced_and_not_followed(path):
    """Its target stays as it was."""
    path("target", "old")
    refused = pytest.raises(TableError, match="symbolic link")
    with refused, writing(path("rows.csv"), force=True) as write_rows:
        write_rows([ROWS[0]])
        os.symlink(path("target"), path("rows.csv"))
    with open(path("target")) as file:
        assert file.read() == "old"


@pytest.mark.parametrize("name", ["no/such/rows.csv", "."])
def test_a_place_that_cannot_be_written_is_refused_at_once(path, name):
    refused = pytest.raises(TableError, match=r"cannot be written here|ending must name")
    with refused, writing(path(name)):
        pytest.fail("must be known before anything is paid for")


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_file(path):
    """A step's ConnectionError is the step's, although it is an OSError."""
    with pytest.raises(ConnectionResetError), writing(path("rows.csv")):
        raise ConnectionResetError(104, "reset")


FORMULAS = [
    *("=1+1", "+cmd", "-a", "@x", "\tx", "\rx", "\nx", "\r\n=1", "'=1+1", "''@x", "'-5"),
    *(" =1+1", "\xa0=1", "\u3000=1", "\ufeff=1+1", "\u200b@x", "\0=1", "\x0b=1", "\x0c=1"),
    *("\uff1d1+1", "\uff0bcmd", "\uff0da", "\uff20x", "-5+cmd|' /C calc'!A0", "- a list", "=", "-"),
]
PLAIN = ["-5", "+1.5e-3", "a=b", "'tis", "'", "", " x", "(=1)", '"=1', "{=1}", "x\t=1", "-.5", "１"]


def test_csv_text_that_a_spreadsheet_would_run_gets_a_quote(path):
    """Headers too. Numbers stay numbers, as values and as text."""
    cells = [*FORMULAS, *PLAIN]
    rows = [{"=head": cell, "n": n} for cell, n in zip(cells, itertools.cycle([-5, -0.5]))]
    with pytest.warns(
        UserWarning, match=rf"rows\.csv: {len(FORMULAS) + 1} cells begin like a form"
    ):
        write(path("rows.csv"), rows)
    found = read(path("rows.csv"))
    assert [row["'=head"] for row in found] == ["'" + cell for cell in FORMULAS] + PLAIN
    assert {row["n"] for row in found} == {"-5", "-0.5"}
    assert all(is_formula(row["'=head"]) for row in found[: len(FORMULAS)])


@given(st.lists(st.text(alphabet="'=+-@\t\r\n 1a\uff1d\ufeff", max_size=6), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_what_was_before_the_quotes_can_be_had_again(path, cells):
    """By one rule: of a cell that begins with quotes and a formula, one quote goes."""
    with warnings.catch_warnings(action="ignore"):
        write(path("rows.csv"), [{"n": n, "a": cell} for n, cell in enumerate(cells)])
    found = [row["a"] for row in read(path("rows.csv"))]
    assert all(not is_formula(cell) or cell[0] == "'" for cell in found)
    assert [cell[1:] if is_formula(cell) else cell for cell in found] == cells


class Colour(enum.Enum):
    RED = "=1+1"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (Colour.RED, "'=1+1"),
        (pathlib.PurePosixPath("=cmd"), "'=cmd"),
        (b"\xfb\xff\xfe", "'+//+"),
        (dt.timedelta(days=-1), "'-P1D"),
        (pathlib.PurePosixPath('a"b'), 'a"b'),
        (["=1+1", {"@": "-1"}], '["=1+1",{"@":"-1"}]'),
        ({"=1": "=1"}, '{"=1":"=1"}'),
        (Decimal("-1.5"), "-1.5"),
        (float("-inf"), "-inf"),
        (-7, "-7"),
    ],
    ids=str,
)
def test_whatever_becomes_text_is_guarded(value, cell):
    """A path, bytes, an enum; JSON begins with a bracket, and a number with its sign."""
    assert _cell(value) == cell


def test_csv_writes_nested_values_as_json(path):
    day = dt.date(2024, 2, 29)
    write(path("rows.csv"), [{"a": {"b": [1, None]}, "c": True, "d": day, "e": None, "f": 1e300}])
    assert read(path("rows.csv")) == [
        {"a": '{"b":[1,null]}', "c": "true", "d": "2024-02-29", "e": "", "f": "1e+300"}
    ]


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_column_that_comes_late_is_a_column_of_all_rows(path, name, monkeypatch):
    monkeypatch.setattr(spool, "BATCH_ROWS", 2)
    write(path(name), [{"a": "1"}, {"a": "2"}, {"a": "3"}, {"b": "4"}, {"a": "5", "c": "6"}])
    none = "" if name.endswith("csv") else None
    assert read(path(name))[3:] == [
        {"a": none, "b": "4", "c": none},
        {"a": "5", "b": none, "c": "6"},
    ]


MIXED = {
    "a title that is a number": (["Alien", 300, None, "1776"], ["Alien", "300", None, "1776"]),
    "int and float": ([8, 6.1, None, 7], [8.0, 6.1, None, 7.0]),
    "null, then int": ([None, None, None, 5], [None, None, None, 5]),
    "int too large": ([1, 2, 2**70, 3], ["1", "2", str(2**70), "3"]),
    "int too large for the floats": ([0.5, 1, 2**60, 3], ["0.5", "1", str(2**60), "3"]),
    "true and 1": ([True, False, 1, 0], ["true", "false", "1", "0"]),
    "day and moment": (
        [dt.date(2024, 1, 1), None, dt.datetime(2024, 1, 1, 12, 30), None],
        ['"2024-01-01"', None, '"2024-01-01T12:30:00"', None],
    ),
    "struct without fields": ([{}, {}, {}, {}], ["{}", "{}", "{}", "{}"]),
    "struct that grows": (
        [{"a": 1}, None, {"b": "x"}, {}],
        [{"a": 1, "b": None}, None, {"a": None, "b": "x"}, {"a": None, "b": None}],
    ),
    "struct in struct without fields": (
        [{"a": {}}, None, {"a": None}, {"a": {}}],
        ['{"a":{}}', None, '{"a":null}', '{"a":{}}'],
    ),
    "lists": ([[1], [], None, [2, 3]], [[1], [], None, [2, 3]]),
    "lists of everything": ([[1], ["a"], None, 5], ["[1]", '["a"]', None, "5"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("batch", [1, 2, 100])
def test_a_parquet_column_has_one_type_that_loses_nothing(path, kind, batch, monkeypatch):
    """If its values share none, it is text; however the rows fall into batches."""
    monkeypatch.setattr(spool, "BATCH_ROWS", batch)
    given_values, wanted = MIXED[kind]
    write(path("rows.parquet"), [{"x": value, "n": n} for n, value in enumerate(given_values)])
    rows = read(path("rows.parquet"))
    assert [row["x"] for row in rows] == wanted
    assert [row["n"] for row in rows] == [0, 1, 2, 3]


def test_large_rows_make_small_batches(path, monkeypatch):
    """Memory is bounded by bytes too: documents of a megabyte are not held by the thousand."""
    monkeypatch.setattr(spool, "BATCH_BYTES", 1000)
    seen = []
    learn = columns.Columns.learn
    monkeypatch.setattr(
        columns.Columns, "learn", lambda self, rows: seen.append(len(rows)) or learn(self, rows)
    )
    write(path("rows.parquet"), [{"text": "x" * 400} for _ in range(10)])
    assert seen == [3, 3, 3, 1]


# --- the shape of a row of output


def test_a_result_is_one_more_column_and_overwrites_none():
    shape = Shape()
    assert shape.join({"a": 1}, {"a": 2}, "") == {"a": 1, "result": {"a": 2}}
    assert shape.join([1], 5, "") == {"input": [1], "result": 5}
    with pytest.raises(TableError, match="row 3 has a column 'result' of its own"):
        shape.check({"result": 1}, "row 3")
    Shape("label").check({"result": 1}, "row 3")


def test_merge_adds_the_fields_of_a_result_and_refuses_a_clash():
    shape = Shape(merge=True)
    shape.check({"result": 1}, "row 0")
    assert shape.join({"a": 1}, {"b": 2}, "") == {"a": 1, "b": 2}
    assert shape.join({"a": 1}, {"a": 1, "b": 2}, "") == {"a": 1, "b": 2}
    for clash in (2, 1.5, "1", True):
        with pytest.raises(TableError, match="row 3: --merge would overwrite column 'a'"):
            shape.join({"a": 1}, {"a": clash}, "row 3")
    with pytest.raises(TableError, match="needs results that are dicts, not a int"):
        shape.join({"a": 1}, 5, "row 3")


def test_anything_can_be_shown_as_json():
    class Odd:
        def __str__(self):
            return "odd"

    assert to_json({"n": float("nan")}) == b'{"n":null}'
    assert to_json({"n": 2**70}) == b'{"n":%d}' % 2**70
    assert to_json({(1, 2): Odd()})
    assert to_json("\ud800")
    assert plain({"a": Odd(), "d": dt.date(2024, 1, 1)}) == {"a": "odd", "d": dt.date(2024, 1, 1)}
