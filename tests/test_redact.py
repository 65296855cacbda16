"""`redact=` keeps values out of what is stored and shown; results are kept as they are."""

from __future__ import annotations

import dataclasses
import re

import pytest
from cli_helpers import invoke
from drivers import each_driver
from stores import files_beside

import checkpointdb as ckpt
from checkpointdb.values.redact import REDACTED, Redactor

EMAIL = "zorro@example.org"
ROW = {"id": 7, "user": {"email": EMAIL, "name": "Diego"}, "text": "call 555-1234 now"}


def failing(row):
    raise ValueError(f"no answer for {row['user']['email']} at 555-1234")


RULES = {
    "a name": ("email", "555-1234"),
    "a pattern": (re.compile(r"\S+@\S+"), "555-1234"),
    "a function": (lambda text: text.replace(EMAIL, "?"), "555-1234"),
    "all of them": (("email", re.compile(r"\d{3}-\d{4}"), str.upper), None),
}


@each_driver
@pytest.mark.parametrize(("rules", "stays"), RULES.values(), ids=RULES)
def test_no_byte_of_it_is_in_the_file_or_in_a_log(driver, store_path, caplog, rules, stays):
    """Input, message, traceback and the log line; what no rule names stays."""
    step = driver.step(failing, store_path, name="s", redact=rules)
    (failed,) = driver.run(step, [ROW], on_error="record")
    assert EMAIL not in failed.message and EMAIL not in failed.traceback
    step.store.close()
    data = b"".join(files_beside(store_path).values())
    assert EMAIL.encode() not in data and EMAIL not in caplog.text
    assert stays is None or stays.encode() in data
    assert EMAIL not in invoke("inspect", store_path, "--failures").stdout


def test_the_row_is_called_and_found_as_it_is(store_path):
    """The step sees the whole row, its key is of the whole row, and the result is not touched."""

    def echo(row):
        return row["user"]["email"]

    for computed in (1, 0):
        run = ckpt.run(echo, [ROW, ROW], store=store_path, version=1, redact="email")
        assert (list(run), run.report.computed) == ([EMAIL, EMAIL], computed)
    with ckpt.Store(store_path) as store:
        (record,) = store.records()
    assert record.input["user"] == {"email": REDACTED, "name": "Diego"}
    assert record.result == EMAIL
    done = invoke("adopt", store_path, "--step", "echo", "--from", "1", "--to", "2", "--yes")
    assert done.exit_code == 1 and "cannot be made from what is stored" in done.stderr


def test_a_result_that_is_refused_is_not_in_the_message(store_path):
    """`valid=` shows what it refused; so does a result that cannot be stored."""
    options = {"store": store_path, "version": 1, "redact": re.compile("Zorro")}
    (failed,) = ckpt.run(
        lambda row: "Zorro", [1], name="a", valid=lambda r: False, on_error="record", **options
    )
    assert "Zorro" not in failed.message
    with pytest.raises(ckpt.EncodeError):
        list(ckpt.run(lambda row: {"Zorro": print}, [1], name="b", on_error="record", **options))
    with ckpt.Store(store_path) as store:
        assert all("Zorro" not in str(record.error) for record in store.records())


def test_a_captured_value_is_compared_and_not_shown(store_path, monkeypatch):
    """Its name and its digest stay: a change is still noticed."""
    for prompt in ("for Zorro", "for Bernardo"):
        monkeypatch.setitem(globals(), "PROMPT", prompt)
        step = ckpt.step(store_path, version=1, redact="PROMPT")(asking)
        if prompt == "for Zorro":
            list(step.run([1]))
            continue
        with pytest.warns(ckpt.StaleResultsWarning, match="global PROMPT differs;") as caught:
            list(step.run([1]))
        assert "Zorro" not in str(caught[0].message)
    step.store.close()
    assert all(b"for Zorro" not in data for data in files_beside(store_path).values())


PROMPT = ""


def asking(row):
    return [len(PROMPT), row]


@dataclasses.dataclass
class Patient:
    name: str
    age: int


def test_records_and_several_arguments_are_cleaned_too(store_path):
    """A dataclass is stored as its fields; arguments of a call by their names."""
    with pytest.raises(TypeError, match="redact takes"):
        ckpt.step(store_path, version=1, redact=7)
    step = ckpt.step(store_path, version=1, name="p", redact="name")(lambda row, name=None: 1)
    step(Patient("Zorro", 40))
    step(1, name="Zorro")
    assert step(Patient("Zorro", 40)) == step(1, name="Zorro") == 1
    step.store.close()
    assert all(b"Zorro" not in data for data in files_beside(store_path).values())


def test_short_values_are_not_searched_for():
    """Or a row with a 1 would blank each 1 of a traceback."""
    redactor = Redactor("n")
    assert redactor.text("line 1 of 12", {"n": 1}) == "line 1 of 12"
    assert redactor.value([{"n": 1}, ("a", {"m": 2})]) == [{"n": REDACTED}, ("a", {"m": 2})]


def test_texts_in_a_named_field_are_found_in_a_text_as_it_quotes_them():
    """Those of a list in it too; what is too short to tell is left."""
    redactor = Redactor("pin")
    row = {"pin": ["abcd", ("x\ny", 4), {"deep": "efgh"}], "other": "ijkl"}
    text = redactor.text("KeyError: 'x\\ny' of abcd, efgh, ijkl, 4", row)
    assert text == f"KeyError: '{REDACTED}' of {REDACTED}, {REDACTED}, ijkl, 4"
