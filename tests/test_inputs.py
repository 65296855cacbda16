"""What is kept of a row: all, what makes its key, or nothing; and what never is."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from cli_helpers import invoke
from stores import files_beside

import checkpointdb as ckpt
from checkpointdb.file.read import Reader

SECRET = "sk-LIVE-SECRET"
ROWS = [{"id": 1, "name": "Ada Lovelace"}, {"id": 2, "name": "Alan Turing"}]


@dataclasses.dataclass
class Client:
    api_key: str


def double(row):
    return row["id"] * 2


def is_in_file(path, text):
    return any(text.encode() in data for data in files_beside(path).values())


@pytest.mark.parametrize(
    ("input", "key", "kept", "inputs"),
    [
        ("row", None, "row", ROWS),
        ("row", "id", "row", ROWS),
        ("key", None, "row", ROWS),
        ("key", "id", "key", [{"id": 1}, {"id": 2}]),
        ("key", double, "key", [2, 4]),
        ("none", None, "nothing", [None, None]),
        ("none", "id", "nothing", [None, None]),
    ],
)
def test_a_row_is_kept_as_far_as_input_says(store_path, input, key, kept, inputs):
    """In every case a resume finds it, and `why` and `plan` go on working."""
    calls = []

    def step():
        return ckpt.step(store_path, version=1, name="s", key=key, input=input)(
            lambda row: calls.append(row) or double(row)
        )

    first = step()
    assert list(first.run(ROWS)) == [2, 4]
    first.store.close()
    assert is_in_file(store_path, "Ada Lovelace") == (kept == "row")
    again = step()
    assert list(again.run(ROWS)) == [2, 4]
    assert len(calls) == 2
    with Reader(store_path) as reader:
        records = list(reader.records())
    assert [(record.kept, record.input) for record in records] == [(kept, i) for i in inputs]
    assert again.plan(ROWS).hits == 2
    assert again.why(ROWS[0]).status == "hit"
    told = str(again.why({"id": 3, "name": "Grace Hopper"}))
    assert ("nothing is kept of the rows" in told) == (kept == "nothing")


@pytest.mark.parametrize("key", ["asked", ("asked",), lambda call: call["asked"]])
@pytest.mark.parametrize("ledger", [False, True])
def test_an_argument_that_key_leaves_out_is_never_stored(store_path, key, ledger):
    """It is a client with a secret in it; the rest of the call is kept."""

    def ask(asked, client):
        assert client.api_key == SECRET
        return asked.upper()

    step = ckpt.step(store_path, version=1, key=key)(ask)
    assert step("hello", Client(SECRET)) == "HELLO"
    assert step("hello", client=Client(SECRET)) == "HELLO"
    assert not is_in_file(store_path, SECRET)
    step.store.close()
    assert not is_in_file(store_path, SECRET)
    with Reader(store_path) as reader:
        (record,) = reader.records()
    assert record.kept == "key"
    assert record.input in ({"asked": "hello"}, "hello")


def test_arguments_that_are_all_json_are_stored_as_json(store_path):
    """For SQL to read; a row that is a dict of the same fields is another row."""
    step = ckpt.step(store_path, version=1, name="s")(lambda a, b=0: a)
    step(1, 2)
    step({"a": 1, "b": 2})
    step.store.close()
    with Reader(store_path) as reader:
        records = list(reader.records())
        stored = reader._connection.execute("select input from records").fetchall()
    assert stored == [('{"a":1,"b":2}',)] * 2
    assert [record.kept for record in records] == ["arguments", "row"]
    assert records[0].key != records[1].key


def test_rows_that_are_not_kept_cannot_be_adopted_and_say_so(store_path):
    """Their keys under the new version cannot be made."""
    step = ckpt.step(store_path, version=1, name="s", input="none")(double)
    list(step.run(ROWS))
    step.store.close()
    done = invoke("adopt", store_path, "--step", "s", "--from", "1", "--to", "2", "--yes")
    assert done.exit_code == 1
    assert "what is stored of it; nothing was changed" in done.stderr


def test_an_adopted_row_keeps_its_form(store_path):
    """Adopt takes over what `key=` made, too."""

    def step(version):
        return ckpt.step(store_path, version=version, name="s", key="id", input="key")(double)

    first = step(1)
    list(first.run(ROWS))
    first.store.close()
    invoke("adopt", store_path, "--step", "s", "--from", "1", "--to", "2", "--yes")
    run = step(2).run(ROWS)
    assert list(run) == [2, 4]
    assert run.report.hits == 2


def test_an_export_says_that_inputs_were_not_kept(store_path, tmp_path):
    """Their column is empty, and the last line says why."""
    step = ckpt.step(store_path, version=1, name="s", input="none")(double)
    list(step.run(ROWS))
    step.store.close()
    done = invoke("export", store_path, "-o", str(tmp_path / "out.jsonl"))
    assert "2 without their input, which was not kept" in done.stderr
    assert (tmp_path / "out.jsonl").read_text() == (
        '{"input":null,"result":2}\n{"input":null,"result":4}\n'
    )


def test_a_change_of_what_a_key_leaves_out_can_be_noticed(store_path):
    """The digest of the whole row is kept, whatever is kept of its text."""
    for input in ("row", "key", "none"):
        step = ckpt.step(store_path, version=1, name=input, key="id", input=input)(double)
        list(step.run([*ROWS, {"id": 3, "at": dt.date(2024, 1, 2)}]))
    step.store.close()
    with Reader(store_path) as reader:
        digests = reader._connection.execute("select distinct row_digest from records").fetchall()
        lengths = {len(digest) for (digest,) in digests}
    assert len(digests) == 3
    assert lengths == {16}


def test_another_word_is_refused():
    """At decoration."""
    with pytest.raises(ValueError, match="input must be 'row' or 'key' or 'none', got 'all'"):
        ckpt.step("s.ckpt", version=1, input="all")
