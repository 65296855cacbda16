"""`Step.map` and what a store gives as tables: the same kind of frame, nothing of it lost."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import sys
import typing

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from frames_docs import run_docs

import checkpointdb as ckpt
from checkpointdb.frames.packages import TableError

ROWS = [{"text": text, "n": n} for n, text in enumerate(["good", "bad", "ugly", "good", "odd"])]


class Paid:
    """Steps over one store, and the rows that they were called for."""

    def __init__(self, path):
        self.path, self.calls = path, []

    def step(self, fn, annotation=None, **options):
        def label(row):
            self.calls.append(row)
            return fn(row)

        if annotation is not None:
            label.__annotations__["return"] = annotation
        return ckpt.step(self.path, version=1, **options)(label)


@pytest.fixture
def paid(store_path):
    return Paid(store_path)


def judge(row):
    return {"label": row["text"].upper(), "size": len(row["text"]) if row["n"] else None}


JUDGED = [row | judge(row) for row in ROWS]


def arrow():
    return pa.Table.from_pylist(ROWS)


# how each kind is made, its class, and how its rows are read
KINDS = {
    "pandas": (lambda: pd.DataFrame(ROWS), pd.DataFrame, lambda it: pl.from_pandas(it).to_dicts()),
    "polars": (lambda: pl.DataFrame(ROWS), pl.DataFrame, lambda it: it.to_dicts()),
    "table": (arrow, pa.Table, lambda it: it.to_pylist()),
    "batch": (lambda: arrow().to_batches()[0], pa.RecordBatch, lambda it: it.to_pylist()),
    "reader": (
        lambda: arrow().to_reader(2), pa.RecordBatchReader, lambda it: it.read_all().to_pylist()
    ),
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)
each_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "batch"])


@every_kind
def test_a_frame_comes_back_as_the_same_kind_with_the_results_joined(paid, kind):
    """In order, with equal rows called once; what is known already is not called again."""
    make, cls, rows = KINDS[kind]
    step = paid.step(judge)
    out = step.map(make())
    assert isinstance(out, cls)
    assert rows(out) == JUDGED
    assert rows(step.map(make())) == JUDGED
    assert list(step.run(ROWS)) == [judge(row) for row in ROWS]  # the same keys
    assert paid.calls == ROWS


@pytest.mark.parametrize("kind", ["pandas", "reader"])
def test_threads_batches_and_async_steps_map_too(paid, kind, tmp_path):
    """The options of a run are those of map."""
    make, _, rows = KINDS[kind]
    assert rows(paid.step(judge).map(make(), concurrency=3)) == JUDGED

    @ckpt.step(tmp_path / "b.ckpt", version=1)
    def batch(several: list[dict]) -> list[dict]:
        return [judge(row) for row in several]

    assert rows(batch.map(make(), batch_size=2)) == JUDGED

    @ckpt.step(tmp_path / "a.ckpt", version=1)
    async def label(row):
        return judge(row)

    assert rows(label.map(make(), concurrency=3)) == JUDGED


@each_kind
def test_a_result_that_is_no_dict_has_the_steps_name(paid, kind):
    make, _, rows = KINDS[kind]
    step = paid.step(lambda row: row["n"] * 1.5)
    assert [row["label"] for row in rows(step.map(make()))] == [0.0, 1.5, 3.0, 4.5, 6.0]


@each_kind
def test_columns_say_what_a_row_is(paid, kind):
    """A list of names: a dict of these; one name: the value itself. Nothing else is in the key."""
    make, _, rows = KINDS[kind]
    step = paid.step(lambda row: row if isinstance(row, str) else row["text"])
    assert [row["label"] for row in rows(step.map(make(), columns=["text"]))] == [
        row["text"] for row in ROWS
    ]
    assert [row["label"] for row in rows(step.map(make(), columns="text"))] == [
        row["text"] for row in ROWS
    ]
    texts = ["good", "bad", "ugly", "odd"]  # equal rows are one
    assert paid.calls == [*({"text": text} for text in texts), *texts]
    with pytest.raises(ValueError, match="no column 'txt'; it has 'text', 'n'"):
        step.map(make(), columns="txt")


@every_kind
def test_failures_are_a_column(paid, kind):
    """Under on_error="record": null results there, and a text that says why."""
    make, _, rows = KINDS[kind]

    def fussy(row):
        if row["text"] == "bad":
            raise ValueError("no luck")
        return row["text"].upper()

    step = paid.step(fussy)
    found = rows(step.map(make(), on_error="record", prefix="my_", error_column="why"))
    assert [row["my_why"] for row in found] == [None, "ValueError: no luck", None, None, None]
    assert [row["my_label"] for row in found] == ["GOOD", None, "UGLY", "GOOD", "ODD"]
    with pytest.raises(ValueError, match="no luck"):
        step.map(make())


@each_kind
def test_no_failure_is_a_column_of_texts_all_the_same(paid, kind):
    """The columns do not depend on luck."""
    make, _, rows = KINDS[kind]
    found = rows(paid.step(judge).map(make(), on_error="record"))
    assert found == [row | {"error": None} for row in JUDGED]


# --- names


class Judged(typing.TypedDict):
    n: int
    text_size: int


@dataclasses.dataclass
class Record:
    label: str
    n: int | None = None


@each_kind
@pytest.mark.parametrize(
    ("annotation", "name"), [(Judged, "n"), (Record, "n"), (str, "label"), (list[int], "label")]
)
def test_a_name_that_is_taken_is_refused_before_the_first_call(paid, kind, annotation, name):
    """Where the annotation tells; with a prefix there is no clash."""
    make, *_ = KINDS[kind]
    step = paid.step(lambda row: {"n": 1, "text_size": 2}, annotation)
    frame = make() if name == "n" else _with_label(kind)
    with pytest.raises(ValueError, match=f"a column '{name}'.*prefix='new_'.*No call was made"):
        step.map(frame)
    assert not paid.calls


def _with_label(kind):
    table = arrow().append_column("label", pa.array([0] * len(ROWS)))
    made = {
        "pandas": table.to_pandas, "polars": lambda: pl.from_arrow(table), "table": lambda: table,
        "batch": lambda: table.to_batches()[0], "reader": table.to_reader,
    }  # fmt: skip
    return made[kind]()


@each_kind
def test_a_name_that_only_a_result_tells_is_refused_and_nothing_paid_is_lost(paid, kind):
    make, _, rows = KINDS[kind]
    step = paid.step(lambda row: {"n": -row["n"]})
    with pytest.raises(ValueError, match=r"a column 'n'.*All that was computed is saved"):
        step.map(make())
    seen = len(paid.calls)
    assert 1 <= seen < len(ROWS)
    assert [row["other n"] for row in rows(step.map(make(), prefix="other "))] == [
        0,
        -1,
        -2,
        -3,
        -4,
    ]
    assert paid.calls == ROWS


def test_an_error_column_that_is_taken_is_refused(paid):
    with pytest.raises(ValueError, match=r"a column 'n'"):
        paid.step(judge).map(pd.DataFrame(ROWS), on_error="record", error_column="n")
    with pytest.raises(ValueError, match=r"a column 'error'.*All that was computed is saved"):
        paid.step(lambda row: {"error": 1}).map(pd.DataFrame(ROWS), on_error="record")
    assert len(paid.calls) == 1


def test_two_keys_of_a_result_that_would_be_one_column_are_refused(paid):
    with pytest.raises(ValueError, match=r"columns of one name: 1, '1'.*is saved"):
        paid.step(lambda row: {1: "a", "1": "b"}).map(pd.DataFrame(ROWS))


# --- results of all shapes

ODD = [None, {"a": 1}, {"b": {"deep": [1, 2]}}, {"a": None, "c": dt.date(2024, 2, 29)}, {}]
JOINED = [
    {"a": None, "b": None, "c": None},
    {"a": 1, "b": None, "c": None},
    {"a": None, "b": {"deep": [1, 2]}, "c": None},
    {"a": None, "b": None, "c": dt.date(2024, 2, 29)},
    {"a": None, "b": None, "c": None},
]


@each_kind
def test_keys_that_differ_are_united_and_what_is_missing_is_null(paid, kind):
    make, _, rows = KINDS[kind]
    found = rows(paid.step(lambda row: ODD[row["n"]]).map(make()))
    assert found == [row | more for row, more in zip(ROWS, JOINED, strict=True)]


@each_kind
def test_nothing_but_null_is_a_column_of_nulls(paid, kind):
    make, _, rows = KINDS[kind]
    found = rows(paid.step(lambda row: None).map(make()))
    assert found == [row | {"label": None} for row in ROWS]


@each_kind
def test_records_and_numpy_come_in_columns(paid, kind):
    """A dataclass has its fields; numpy's numbers are numbers, its arrays lists."""
    make, _, rows = KINDS[kind]
    step = paid.step(lambda row: Record(row["text"], row["n"] or None), Record)
    assert rows(step.map(make(), prefix="r."))[1] == ROWS[1] | {"r.label": "bad", "r.n": 1}
    other = paid.step(
        lambda row: {"x": np.float32(row["n"] / 2), "v": np.arange(2.0)}, name="vectors"
    )
    last = rows(other.map(make()))[1]
    assert (last["x"], list(last["v"])) == (0.5, [0.0, 1.0])


def test_what_shares_no_type_is_text_in_arrow_and_itself_in_pandas(paid):
    """Nothing is cut or lost: the whole JSON of each value; pandas holds objects."""
    mixed = paid.step(lambda row: {"m": [1, "two", [3], None, 2**70][row["n"]]}, name="mixed")
    assert mixed.map(arrow())["m"].to_pylist() == ["1", "two", "[3]", None, str(2**70)]
    assert list(mixed.map(pd.DataFrame(ROWS))["m"]) == [1, "two", [3], None, 2**70]


@every_kind
def test_an_empty_frame_stays_one_with_the_columns_that_are_known(paid, kind):
    """With their types: an empty part of a table must fit the others."""
    empty = arrow().slice(0, 0)
    made = {
        "pandas": empty.to_pandas, "polars": lambda: pl.from_arrow(empty), "table": lambda: empty,
        "batch": lambda: pa.RecordBatch.from_pylist([], empty.schema), "reader": empty.to_reader,
    }  # fmt: skip
    out = paid.step(judge, str).map(made[kind]())
    table = out.read_all() if kind == "reader" else out
    names = list(table.schema if kind == "polars" else getattr(table, "columns", ()))
    names = table.schema.names if kind in ("table", "batch", "reader") else names
    assert names == ["text", "n", "label"]
    assert table.shape == (0, 3)
    if kind == "polars":
        assert table.schema["label"] == pl.String
    elif kind != "pandas":
        assert table.schema.field("label").type == pa.string()
    assert not paid.calls


# --- what a frame has besides its rows

INDEXES = {
    "several levels": pd.MultiIndex.from_arrays([list("aabbc"), range(5)], names=["i", "j"]),
    "duplicates": pd.Index([7, 7, 7, 8, 8]),
    "named": pd.Index(list("vwxyz"), name="id"),
    "times": pd.date_range("2024-01-01", periods=5, tz="Europe/Paris"),
    "range": pd.RangeIndex(10, 20, 2),
}


@pytest.mark.parametrize("name", INDEXES)
def test_pandas_keeps_its_index_dtypes_and_attributes(paid, name):
    frame = pd.DataFrame(ROWS, index=INDEXES[name])
    frame["kind"] = pd.Categorical(list("uvuvu"), categories=["v", "u"], ordered=True)
    frame["many"] = pd.array([1, None, 3, 4, 5], dtype="Int64")
    frame["at"] = pd.Timestamp("2024-01-01 00:00:00.000000001", tz="UTC")
    frame["small"] = np.arange(5, dtype="int8")
    frame.attrs["source"] = "here"
    before = frame.copy()
    out = paid.step(judge).map(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert out.index.identical(frame.index)
    pd.testing.assert_frame_equal(out[frame.columns], frame)
    assert out.attrs == {"source": "here"}
    assert list(out["label"]) == [row["label"] for row in JUDGED]
    assert out["size"].dtype == "Int64"  # floats would not hold every integer


def test_pandas_columns_of_several_levels_stay_so(paid):
    frame = pd.DataFrame(ROWS)
    frame.columns = pd.MultiIndex.from_tuples([("a", "text"), ("a", "n")])
    out = paid.step(lambda row: row["a", "text"]).map(frame)
    assert list(out.columns) == [("a", "text"), ("a", "n"), ("label", "")]


class Frame(pd.DataFrame):
    @property
    def _constructor(self):
        return Frame


def test_a_subclass_is_the_frame_that_it_is(paid):
    """geopandas and others: its rows are rows, for `run` too, and it comes back as its class."""
    step = paid.step(judge)
    assert type(step.map(Frame(ROWS))) is Frame
    assert list(step.run(Frame(ROWS))) == [judge(row) for row in ROWS]


def test_polars_keeps_its_types(paid):
    frame = pl.DataFrame(ROWS).with_columns(
        kind=pl.col("text").cast(pl.Categorical), small=pl.col("n").cast(pl.Int8),
        at=pl.lit(dt.datetime(2024, 1, 1)).dt.cast_time_unit("ns"),
    )  # fmt: skip
    out = paid.step(judge).map(frame)
    assert out.select(frame.columns).equals(frame)
    assert out.schema == frame.schema | {"label": pl.String, "size": pl.Int64}


@pytest.mark.parametrize("kind", ["table", "batch", "reader"])
def test_arrow_keeps_types_and_metadata(paid, kind):
    schema = pa.schema(
        [
            pa.field("text", pa.large_string(), nullable=False, metadata={"note": "field"}),
            pa.field("n", pa.int8()),
            pa.field("kind", pa.dictionary(pa.int8(), pa.string())),
            pa.field("at", pa.timestamp("ns", "UTC")),
        ],
        metadata={"source": "here"},
    )
    rows = [row | {"kind": row["text"], "at": row["n"]} for row in ROWS]
    table = pa.Table.from_pylist(rows, schema)
    made = {"table": table, "batch": table.combine_chunks().to_batches()[0], "reader": table}
    frame = made[kind].to_reader(2) if kind == "reader" else made[kind]
    out = paid.step(judge).map(frame)
    out = out.read_all() if kind == "reader" else out
    assert out.schema.metadata == schema.metadata
    assert pa.schema(list(out.schema)[:4]).equals(schema, check_metadata=False)
    assert out.schema.field("text").metadata == {b"note": b"field"}
    assert out.schema.names[4:] == ["label", "size"]


def test_a_row_of_arrow_is_the_row_that_ckpt_run_reads(paid):
    """The same keys, whether pandas is installed or not: nanoseconds are text, not cut."""
    table = pa.table({"at": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns"))})
    assert list(paid.step(lambda row: row["at"]).run(table)) == ["2023-11-14T22:13:20.000000001"]


def test_a_stream_is_read_as_its_rows_are_computed(paid):
    """A reader of any length: its batches are not gathered in memory ahead of the calls."""
    read, most = [0], [0]

    def batches():
        for n in range(40):
            read[0] = n * 50
            yield pa.RecordBatch.from_pylist([{"n": n * 50 + i} for i in range(50)])

    def slow(row):
        most[0] = max(most[0], read[0] - row["n"])
        return row["n"]

    schema = pa.schema([("n", pa.int64())])
    out = paid.step(slow).map(pa.RecordBatchReader.from_batches(schema, batches()))
    assert sum(batch.num_rows for batch in out) == 2000
    assert most[0] <= 300


# --- series


@pytest.mark.parametrize("make", [pd.Series, pl.Series])
def test_a_series_gives_a_series(paid, make):
    series = (
        make([row["text"] for row in ROWS], name="t")
        if make is pd.Series
        else make("t", [row["text"] for row in ROWS])
    )
    step = paid.step(str.upper)
    out = step.map(series)
    assert type(out) is type(series)
    assert out.name == "t"
    assert list(out) == [row["text"].upper() for row in ROWS]
    assert list(step.map(series[:0])) == []
    structs = paid.step(lambda text: {"size": len(text)}, name="sizes").map(series)
    assert structs[1] == {"size": 3}
    for options in {"on_error": "record"}, {"columns": "t"}:
        with pytest.raises(TypeError, match="series"):
            step.map(series, **options)


def test_a_series_keeps_its_index(paid):
    series = pd.Series(["a", "b"], index=pd.Index(["x", "x"], name="id"))
    assert paid.step(str.upper).map(series).index.identical(series.index)


# --- what is refused, before anything is paid for


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (pl.LazyFrame(ROWS), r"frame\.collect\(\)"),
        (ROWS, "not a builtins list: for other rows, use run"),
        ("rows.csv", "use run"),
        (pa.chunked_array([["a"]]), r"pa\.table\("),
        (pd.DataFrame([[1, 2]], columns=["n", "n"]), "two columns of the name 'n'"),
    ],
)
def test_what_cannot_be_mapped_is_refused_with_the_line_to_write(paid, frame, text):
    with pytest.raises(TypeError, match=text):
        paid.step(judge).map(frame)
    assert not paid.calls


def test_wrong_use_is_refused_at_the_call(paid):
    step, frame = paid.step(judge), pd.DataFrame(ROWS)
    with pytest.raises(TypeError, match="leave ordered= out"):
        step.map(frame, ordered=False)
    with pytest.raises(TypeError, match="did you mean columns"):
        step.map(frame, column="text")

    @ckpt.step(paid.path, version=1)
    def size(text: str) -> int:
        return len(text)

    with pytest.raises(TypeError, match=r"takes a str.*columns='text'"):
        size.map(frame)
    assert list(size.map(frame, columns="text")["size"]) == [4, 3, 4, 4, 3]
    assert not paid.calls


def test_a_polars_frame_without_pyarrow_is_refused_before_anything_is_paid(paid, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TableError, match=r"pip install 'checkpointdb\[arrow\]'"):
        paid.step(judge).map(pl.DataFrame(ROWS))
    assert not paid.calls


# --- as their users write them


def test_pandas_own_ways_take_a_step(paid):
    """`apply` gives a Series for a row; its key is the row's as a dict."""
    step, frame = paid.step(judge), pd.DataFrame(ROWS)
    found = frame.apply(step, axis=1)
    assert list(found) == [judge(row) for row in ROWS]
    step.map(frame)
    upper = paid.step(str.upper, name="upper")
    assert list(frame["text"].map(upper)) == list(frame["text"].apply(upper))
    assert len(paid.calls) == len(ROWS) + 4


def test_polars_own_ways_take_a_step(paid):
    step, frame = paid.step(judge), pl.DataFrame(ROWS)
    upper = paid.step(str.upper, name="upper")
    for it in frame, frame.lazy():
        out = it.with_columns(
            up=pl.col("text").map_elements(upper, return_dtype=pl.String),
            all=pl.struct("text", "n").map_elements(
                step, return_dtype=pl.Struct({"label": pl.String, "size": pl.Int64})
            ),
        )
        out = out.collect() if it is not frame else out
        assert out["up"].to_list() == [row["text"].upper() for row in ROWS]
        assert out["all"].to_list() == [judge(row) for row in ROWS]
    assert len(paid.calls) == len(ROWS) + 4


# --- stores as tables


def test_a_store_gives_its_rows_as_dicts_and_tables(paid):
    """Input and result side by side, in input order; failed rows are left out."""
    step = paid.step(lambda row: judge(row) if row["n"] != 2 else 1 / 0)
    list(step.run(ROWS, on_error="record"))
    good = [row for row in JUDGED if row["n"] != 2]
    with ckpt.Store(paid.path) as store:
        assert list(store.rows("label")) == list(store.rows()) == good[:2] + good[2:]
        table = store.to_arrow("label", version=1)
        assert table.to_pylist() == good
        assert table.schema.field("size").type == pa.int64()
        frame = store.to_pandas("label", prefix="its ")
        assert list(frame.columns) == ["text", "n", "its label", "its size"]
        assert frame["its size"].dtype == "Int64"


def test_rows_that_are_no_dicts_have_a_column_too(paid):
    step = paid.step(str.upper)
    list(step.run(["a", "b"]))
    assert list(step.store.rows()) == [
        {"input": "a", "label": "A"}, {"input": "b", "label": "B"}
    ]  # fmt: skip
    assert step.store.to_pandas()["label"].tolist() == ["A", "B"]


def test_a_store_of_several_steps_wants_to_be_told_which(paid):
    step = paid.step(lambda row: {"n": row["n"]})
    list(step.run(ROWS))
    with pytest.raises(ValueError, match="no such step; its steps: 'label' version 1"):
        step.store.rows("lable")
    list(ckpt.run(judge, ROWS, store=step.store, version=2, name="label"))
    with pytest.raises(ValueError, match=r"several steps.*'label' version 1, 'label' version 2"):
        step.store.to_pandas("label")
    with pytest.raises(ValueError, match=r"a column 'n'.*prefix"):
        step.store.to_arrow("label", version=1)
    assert len(step.store.to_pandas("label", version=2)) == len(ROWS)


def test_saved_results_of_rows_are_given_without_a_call(paid):
    """In the order of the rows, MISS where there is none; no store is made."""
    step = paid.step(judge)
    assert list(step.results(ROWS)) == [ckpt.MISS] * len(ROWS)
    assert not os.path.exists(paid.path)
    list(step.run(ROWS[:2]))
    del paid.calls[:]
    wanted = [judge(ROWS[0]), judge(ROWS[1]), ckpt.MISS, ckpt.MISS, ckpt.MISS]
    for rows in ROWS, iter(ROWS), pd.DataFrame(ROWS), pl.DataFrame(ROWS), arrow():
        assert list(step.results(rows)) == wanted
    with pytest.raises(TypeError, match="must be an iterable of rows"):
        step.results("text")
    with pytest.raises(ckpt.EncodeError):
        list(step.results([ROWS[0], object()]))
    assert not paid.calls


def test_saved_results_of_equal_rows_are_those_of_each(paid):
    step = paid.step(lambda row: len(paid.calls), duplicates="separate")
    list(step.run(["a", "a", "b"]))
    assert list(step.results(["a", "b", "a", "a"] + ["c"] * 600))[:5] == [1, 3, 2] + [ckpt.MISS] * 2


def test_given_arguments_and_means_reach_a_step_over_a_frame(paid):
    """`given=` is in the keys, `using=` is not: as in any other run."""

    @ckpt.step(paid.path, version=1, using=("client",))
    def ask(text: str, client, heat=0.0) -> str:
        paid.calls.append(text)
        return f"{client} {text} {heat}"

    frame, options = pd.DataFrame(ROWS[:2]), {"columns": "text", "using": {"client": "c"}}
    assert list(ask.map(frame, given={"heat": 0.5}, **options)["ask"]) == [
        "c good 0.5",
        "c bad 0.5",
    ]
    assert ask("good", "other", heat=0.5) == "c good 0.5"
    assert list(ask.map(frame, **options)["ask"]) == ["c good 0.0", "c bad 0.0"]
    assert paid.calls == ["good", "bad"] * 2


def test_the_code_of_the_docs_runs(tmp_path, monkeypatch):
    """docs/frames.md is true; the part about datasets is in test_datasets.py."""
    monkeypatch.chdir(tmp_path)
    assert run_docs(tmp_path, lambda block: "datasets" not in block) >= 6


class TestColumns:
    """A dict of columns: what Ray Data, and `datasets` under `batched=True`, hand over."""

    def test_arrays_give_arrays(self, paid):
        """Rows have values of Python; a column has a type of numpy's if that changes no value."""
        batch = {"n": np.array([1, 2]), "text": np.array(["a", None], object), "v": np.eye(2)}
        kinds = []

        def judge(row):
            kinds.append([type(it) for it in row.values()])
            n = row["n"]
            return {"twice": 2 * n, "half": n / 2, "some": n if n > 1 else None, "v2": row["v"] * 2,
                    "many": [n] * n}  # fmt: skip

        found = paid.step(judge, name="judge").map(batch)
        assert kinds == [[int, str, np.ndarray], [int, type(None), np.ndarray]]
        assert list(found) == ["n", "text", "v", "twice", "half", "some", "v2", "many"]
        assert found["n"] is batch["n"]
        assert [str(it.dtype) for it in found.values()] == [
            "int64", "object", "float64", "int64", "float64", "object", "float64", "object",
        ]  # fmt: skip
        assert found["v2"].tolist() == [[2, 0], [0, 2]]
        assert [list(found[name]) for name in ("twice", "half", "some", "many")] == [
            [2, 4], [0.5, 1.0], [None, 2], [[1], [2, 2]],
        ]  # fmt: skip

    def test_a_row_is_the_same_as_of_other_frames(self, paid):
        step = paid.step(judge)
        step.map(pa.Table.from_pylist(ROWS))
        columns = {name: np.array([row[name] for row in ROWS]) for name in ("text", "n")}
        found = step.map(columns)
        assert list(found["label"]) == [row["label"] for row in JUDGED]
        assert len(paid.calls) == len(ROWS)

    def test_lists_give_lists(self, paid):
        found = paid.step(lambda n: n * 2, name="twice").map(
            {"n": [1, 2], "m": [3, 4]}, columns="n"
        )
        assert found == {"n": [1, 2], "m": [3, 4], "twice": [2, 4]}

    def test_datasets_hands_over_such(self, paid):
        datasets = pytest.importorskip("datasets")
        data = datasets.Dataset.from_list([{"text": "good"}, {"text": "bad"}])
        step = paid.step(lambda row: {"size": len(row["text"])}, name="size")
        mapped = data.map(lambda batch: step.map(dict(batch)), batched=True, keep_in_memory=True)
        assert mapped["size"][:] == [4, 3]

    @pytest.mark.parametrize("integers", [[2**63 + 1, -1], [2**70, 1], [-(2**63) - 1, 1]])
    def test_integers_that_numpy_does_not_hold_stay_what_they_are(self, paid, integers):
        step = paid.step(lambda row: integers[row["n"]], name="big")
        assert step.map({"n": np.arange(2)})["big"].tolist() == integers

    @pytest.mark.parametrize(
        "batch", [{"n": np.array([1]), "m": np.array([])}, {"n": [1, 2], "m": [1]}]
    )
    def test_columns_of_two_lengths_are_refused(self, paid, batch):
        with pytest.raises(ValueError, match="the columns are of lengths"):
            paid.step(judge).map(batch)

    @pytest.mark.parametrize("batch", [{"n": 1}, {"n": "text"}, {"n": np.float64(1)}])
    def test_what_is_no_batch_is_refused(self, paid, batch):
        with pytest.raises(TypeError, match="'n' is a"):
            paid.step(judge).map(batch)
        assert paid.calls == []
