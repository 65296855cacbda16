"""Nothing is paid for and then thrown away: results that cannot be stored, and what is asked of
rows, annotations and batches before the first call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
import threading
import time
import typing
import warnings

import pytest
from value_kinds import Label

import checkpointdb as ckpt

if typing.TYPE_CHECKING:
    from nowhere import Settings


class Odd:
    def __init__(self, answer, api_key="sk-secret"):
        self.answer, self.api_key = answer, api_key


def ask(store_path, sql):
    with contextlib.closing(sqlite3.connect(store_path)) as connection:
        return connection.execute(sql).fetchall()


def kept(store_path):
    return [text for (text,) in ask(store_path, "select error ->> 'repr' from records order by id")]


# --- a result that cannot be stored


@pytest.mark.parametrize("on_error", ["raise", "record"])
def test_the_first_result_that_cannot_be_stored_ends_the_run_and_is_kept(store_path, on_error):
    """It is a fault of the program: one call a run is paid for, and what it gave is in the store,
    without its secrets."""
    calls = []

    @ckpt.step(store_path, version=1)
    def step(row):
        calls.append(row)
        return {"score": Odd(f"answer {row}"), "n": row}

    for life in (1, 2):
        with pytest.raises(ckpt.EncodeError, match=r"\$\.score: a value of type .*Odd") as caught:
            list(step.run(range(50), on_error=on_error))
        assert caught.value.result["score"].answer == "answer 0"
        assert "key=" not in str(caught.value), "advice for a row, not for a result"
        assert calls == [0] * life
    assert kept(store_path) == ["{'score': Odd(answer='answer 0', api_key=<secret>), 'n': 0}"] * 2


def test_results_in_flight_are_kept_in_the_same_way(store_path):
    """64 calls are in flight when the first turns out to be unstorable: all are in the store."""
    calls, all_in = [], threading.Barrier(64)

    def step(row):
        calls.append(row)
        all_in.wait(20)
        return Odd(row) if row % 2 else {"n": row}

    with pytest.raises(ckpt.EncodeError):
        list(
            ckpt.run(step, range(500), store=store_path, version=1, concurrency=64,
                     on_error="record")
        )  # fmt: skip
    assert len(calls) == 64, "no call is begun after it"
    saved = ask(store_path, "select input, result, error ->> 'repr' from records")
    assert {int(row) for row, _, _ in saved} == set(calls)
    for row, result, text in saved:
        wanted = f"Odd(answer={row}, api_key=<secret>)" if int(row) % 2 else None
        assert text == wanted
        assert (result is None) == bool(int(row) % 2)


def test_no_call_is_begun_while_the_loop_waits_for_rows(store_path):
    """The thread whose result could not be stored does not take the next row, which is ready."""
    calls, waiting = [], threading.Event()

    def rows():
        yield from range(3)
        waiting.set()
        time.sleep(0.5)
        yield 3

    def step(row):
        calls.append(row)
        waiting.wait(20)
        time.sleep(0.25 * row)
        return Odd(row)

    with pytest.raises(ckpt.EncodeError):
        list(ckpt.run(step, rows(), store=store_path, version=1, concurrency=2))
    assert sorted(calls) in ([0], [0, 1])


def test_tasks_end_at_the_first_one_too(store_path):
    """An async step, run from sync code."""
    calls = []

    async def step(row):
        calls.append(row)
        await asyncio.sleep(0.01)
        return Odd(row)

    with pytest.raises(ckpt.EncodeError):
        list(ckpt.run(step, range(300), store=store_path, version=1, concurrency=8))
    assert len(calls) <= 16
    assert len(kept(store_path)) == len(calls)


def test_a_direct_call_that_cannot_be_stored_does_not_stop_the_next(store_path):
    """Direct calls have nothing to do with each other."""
    step = ckpt.step(store_path, version=1, name="s")(lambda row: Odd(row) if row == 1 else row)
    with pytest.raises(ckpt.EncodeError):
        step(1)
    assert step(2) == 2
    step.flush()
    assert kept(store_path)[0].startswith("Odd(answer=1")


def test_the_others_of_a_batch_are_kept(store_path):
    """What can be stored of it is a result, what cannot is kept as a text."""
    with pytest.raises(ckpt.EncodeError):
        list(
            ckpt.run(
                lambda rows: [Odd(row) if row == 1 else row for row in rows], range(6), name="s",
                store=store_path, version=1, batch_size=3,
            )
        )  # fmt: skip
    assert ask(store_path, "select input, result from records order by id") == [
        ("0", "0"), ("1", None), ("2", "2"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["x" * (3 << 20), [10**5000, object()], {"a": {1: object()}}])
def test_the_text_has_a_limit_and_is_made_of_what_can_be_written(store_path, value):
    """A mebibyte at most; a part without a text does not take the others with it."""
    with pytest.raises(ckpt.EncodeError):
        list(ckpt.run(lambda row: [value, Odd(1)], [1], name="s", store=store_path, version=1))
    (text,) = kept(store_path)
    assert len(text) <= 1 << 20
    assert "no repr" not in text


# --- before the first call


class Base:
    pass


class Derived(Base):
    pass


@dataclasses.dataclass
class Holds:
    client: Odd


@dataclasses.dataclass
class MayHold:
    client: Odd | None = None


REFUSED = [
    Odd, list[Odd], dict[str, Odd], tuple[int, Odd], Holds, list[Holds], threading.Event,
    typing.Iterator[str], typing.Generator[str, None, None], typing.Callable[[int], int],
    Odd | Holds, typing.Annotated[Odd, "x"], dict[str, list[Odd]],
]  # fmt: skip
LET_THROUGH = [
    typing.Any, object, Odd | str, MayHold, Base, list, typing.Sequence[Odd], typing.Iterable[int],
    typing.TypeVar("T"), dict[str, object], typing.Literal["a"], None, Label | None, "Settings",
    "list[Settings]", typing.Mapping[str, int], int | None,
]  # fmt: skip


@pytest.mark.parametrize("annotation", REFUSED, ids=str)
def test_an_annotation_that_no_result_can_be_stored_of_is_refused_before_the_call(
    store_path, annotation
):
    """The message names the class and where it is, and what to do; nothing was paid for."""
    calls = []
    step = ckpt.step(store_path, version=1, name="s")(lambda row: calls.append(row))
    step.__wrapped__.__annotations__["return"] = annotation
    for use in (lambda: list(step.run([1])), lambda: step(1)):
        with pytest.raises(ckpt.EncodeError, match=r"step 's': .* cannot be stored.*register\("):
            use()
    assert not calls


@pytest.mark.parametrize("annotation", LET_THROUGH, ids=str)
def test_an_annotation_of_which_some_result_can_be_stored_is_not(store_path, annotation):
    """A union, a base class, a name that only the type checker knows."""
    step = ckpt.step(store_path, version=1, name="s")(lambda row: None)
    step.__wrapped__.__annotations__["return"] = annotation
    assert list(step.run([1])) == [None]


def test_the_annotation_of_another_parameter_does_not_switch_off_that_of_the_result(store_path):
    """It may name what only the type checker imports."""

    @ckpt.step(store_path, version=1)
    def step(row: int, settings: Settings | None = None) -> list[Label]:
        return [Label("a")]

    for _ in range(2):
        assert list(step.run([1])) == [[Label("a")]]
    assert ask(store_path, "select result from records") == [('[{"text":"a","score":0.5}]',)]


def test_a_local_class_in_the_annotation_of_the_result_is_found(store_path):
    """Through the function's closure."""

    @dataclasses.dataclass
    class Local:
        x: int

    @ckpt.step(store_path, version=1)
    def step(row) -> Local | None:
        return Local(row)

    for _ in range(2):
        assert list(step.run([1])) == [Local(1)]


# --- a class that is not annotated


@dataclasses.dataclass
class Global:
    inside: Label | None = None


def test_a_global_of_the_function_comes_back_with_the_classes_in_its_fields(store_path):
    """`Label` is found through the fields of `Global`, which is one of the function's globals."""

    @ckpt.step(store_path, version=1)
    def step(row):
        return {"found": Global(Label("a"))}

    for _ in range(2):
        assert list(step.run([1])) == [{"found": Global(Label("a"))}]


def test_it_is_said_once_and_before_the_second_call_that_a_class_becomes_a_dict(store_path):
    """The first run has the object; a warning as an error ends it, with the result saved."""

    @dataclasses.dataclass
    class Local:
        x: int

    calls = []

    @ckpt.step(store_path, version=1)
    def step(row):
        calls.append(row)
        return Local(row)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"step 'step': a .*Local in a result comes"):
            list(step.run([1, 2, 3]))
    assert calls == [1]
    assert list(step.run([1, 2, 3])) == [{"x": 1}, Local(2), Local(3)]
    assert calls == [1, 2, 3]


def test_no_class_is_imported_by_a_name_from_the_file(store_path):
    """A store that names a class of a module that is there and not asked for."""
    step = ckpt.step(store_path, version=1, name="s")(lambda row: Label("a"))
    spec = step._spec
    data = ckpt.values.codec.Codec(Label).encode(Label("a", float("nan")))
    with pytest.raises(ckpt.DecodeError, match="neither in the annotation"):
        ckpt.values.codec.Codec(typing.Any, {"dataclasses": dataclasses}).decode(data)
    assert spec.codec.decode(data).text == "a", "here it is a global"


# --- batches


def test_an_array_that_a_batch_step_returns_is_the_results_of_its_rows(store_path):
    """One or two dimensions; and a frame, a series, a tuple."""
    numpy = pytest.importorskip("numpy")

    @ckpt.step(store_path, version=1)
    def embed(rows) -> numpy.ndarray:
        return numpy.array([[row, row + 0.5] for row in rows], "f4")

    for _ in range(2):
        got = list(embed.run(range(5), batch_size=2))
        assert [it.tolist() for it in got] == [[n, n + 0.5] for n in range(5)]
        assert {(type(it), it.dtype.str) for it in got} == {(numpy.ndarray, "<f4")}
    scores = ckpt.run(
        lambda rows: numpy.array(rows) / 2, [1, 2, 3], batch_size=2, store=store_path, version=1,
        name="scores",
    )  # fmt: skip
    assert [(type(it), it) for it in scores] == [(numpy.float64, n / 2) for n in (1, 2, 3)]


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_frame_or_a_series_that_a_batch_step_returns(store_path, package):
    """Its rows, never its columns."""
    module = pytest.importorskip(package)
    frames = ckpt.run(
        lambda rows: module.DataFrame({"a": rows, "b": rows}), [1, 2], batch_size=2, name="f",
        store=store_path, version=1,
    )  # fmt: skip
    assert list(frames) == [{"a": 1, "b": 1}, {"a": 2, "b": 2}]
    series = ckpt.run(
        lambda rows: module.Series(rows), [1, 2], batch_size=2, name="s", store=store_path,
        version=1,
    )  # fmt: skip
    assert list(series) == [1, 2]


@pytest.mark.parametrize(
    "returned", ["ab", {"a": 1, "b": 2}, {1, 2}, b"ab", 5, None, (it for it in [1, 2])], ids=type
)
def test_what_is_no_list_of_results_is_refused_and_attached(store_path, returned):
    """A text of two characters is not two results, nor is a dict."""
    with pytest.raises(ValueError, match="it must return a list of 2 results") as caught:
        list(
            ckpt.run(lambda rows: returned, [1, 2], batch_size=2, name="s", store=store_path,
                     version=1)
        )  # fmt: skip
    assert caught.value.result is returned


# --- frames and tables as rows


def frame(package):
    columns = {"text": ["a", "b"], "n": [1, 2]}
    module = pytest.importorskip(package)
    if package == "pyarrow":
        return module.table(columns)
    return module.DataFrame(columns)


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_a_table_is_taken_as_its_rows(store_path, package):
    """Dicts of Python's own values, equal to the same rows in a list; the run knows its length."""
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    step = ckpt.step(store_path, version=1, name="s")(lambda row: row)
    run = step.run(frame(package))
    assert len(run) == 2
    assert list(run) == rows
    again = step.run(rows)
    assert list(again) == rows
    assert again.report.hits == 2
    assert step.plan(frame(package)).hits == 2


def test_rows_of_a_frame_that_are_series_are_their_items(store_path):
    """`iterrows` gives a `Series` a row: its index label is no part of it."""
    step = ckpt.step(store_path, version=1, name="s")(lambda row: dict(row)["n"])
    rows = frame("pandas")
    assert list(step.run(row for _, row in rows.iterrows())) == [1, 2]
    run = step.run([{"text": "a", "n": 1}, {"text": "b", "n": 2}])
    assert list(run) == [1, 2]
    assert run.report.hits == 2


def refused_tables():
    pandas = pytest.importorskip("pandas")
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    indexed = frame("pandas").set_index("text")
    twice = pandas.DataFrame([[1, 2]], columns=["a", "a"])
    table = frame("pyarrow")
    return [
        (indexed, "reset_index"), (twice, "two columns of the name 'a'"),
        (polars.DataFrame({"a": [1]}).lazy(), r"rows\.collect\(\)"),
        (pyarrow.RecordBatchReader.from_batches(table.schema, table.to_batches()), "read_all"),
        ({"a": [1]}, "for one row, call the step itself"),
    ]  # fmt: skip


@pytest.mark.parametrize("n", range(5))
def test_a_table_whose_rows_would_lose_something_is_refused_with_the_line_to_write(store_path, n):
    """An index with a name, two columns of one name; what gives batches or nothing."""
    rows, line = refused_tables()[n]
    step = ckpt.step(store_path, version=1, name="s")(lambda row: row)
    with pytest.raises(TypeError, match=line):
        step.run(rows)


def test_rows_of_an_array_are_its_rows(store_path):
    """numpy's arrays are iterables of rows as they are."""
    numpy = pytest.importorskip("numpy")
    step = ckpt.step(store_path, version=1, name="s")(lambda row: float(row.sum()))
    assert list(step.run(numpy.ones((3, 2)))) == [2.0, 2.0, 2.0]


# --- a user's own types


class Celsius:
    def __init__(self, degrees):
        self.degrees = degrees


def test_a_hook_that_raises_or_is_not_there_is_an_error_that_names_it(store_path):
    """Of a row before its call; of a result with the result attached; of a saved one when read."""

    class Broken:
        pass

    def to(value):
        raise KeyError("no")

    ckpt.register(Broken, to=to, back=Broken)
    calls = []
    step = ckpt.step(store_path, version=1, name="s")(lambda row: calls.append(row) or Broken())
    with pytest.raises(ckpt.EncodeError, match=r"raised KeyError for a .*Broken"):
        list(step.run([[Broken()]]))
    assert not calls
    with pytest.raises(ckpt.EncodeError, match=r"raised KeyError") as caught:
        list(step.run([1]))
    assert type(caught.value.result) is Broken


@pytest.mark.parametrize(
    ("kind", "error"), [(5, TypeError), (int, ValueError), (Celsius, None), ("x", TypeError)]
)
def test_what_can_be_registered(kind, error):
    """A class of one's own; made again, as a notebook does, it replaces the one before."""
    if error is None:
        for _ in range(2):
            again = type("Celsius", (), {"__module__": __name__, "__qualname__": "Celsius"})
            ckpt.register(again, to=id, back=id)
        other = type("Celsius", (), {"__module__": "elsewhere"})
        with pytest.raises(ValueError, match="is registered under the name"):
            ckpt.register(other, to=id, back=id)
        return
    with pytest.raises(error):
        ckpt.register(kind, to=id, back=id)


class Client:
    def __init__(self, model, key):
        self.model, self.key, self.lock = model, key, threading.Lock()

    def __checkpoint_key__(self):
        return {"model": self.model}


def test_an_object_that_knows_its_identity_is_no_more_than_that(store_path):
    """A client among the arguments: the model is in the key, its API key is not in the file."""
    calls = []

    @ckpt.step(store_path, version=1)
    def label(row, client):
        calls.append(client.model)
        return row

    label(1, Client("m-1", "sk-one"))
    label(1, Client("m-1", "sk-two"))
    label(1, Client("m-2", "sk-one"))
    assert calls == ["m-1", "m-2"]
    label.store.close()
    with open(store_path, "rb") as file:
        assert b"sk-one" not in file.read()


def test_a_secret_is_refused_unless_it_is_asked_for(store_path):
    """A model's own JSON of it is stars: before the first call it says how to ask."""
    pydantic = pytest.importorskip("pydantic")
    import models

    class Open(models.Secret):
        @pydantic.field_serializer("x", when_used="json")
        def dump(self, value):
            return value.get_secret_value()

    step = ckpt.step(store_path, version=1, name="s")(lambda row: models.Secret(x="a"))
    step.__wrapped__.__annotations__["return"] = models.Secret
    with pytest.raises(ckpt.EncodeError, match=r"SecretStr in \$\.x.*register"):
        list(step.run([1]))
    asked = ckpt.step(store_path, version=1, name="t")(lambda row: Open(x="a"))
    asked.__wrapped__.__annotations__["return"] = Open
    for _ in range(2):
        assert next(asked.run([1])).x.get_secret_value() == "a"
