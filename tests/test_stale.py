"""What a run does about results of other code, and how that is settled."""

from __future__ import annotations

import contextlib
import functools
import linecache
import re
import warnings

import pytest
from cli_helpers import invoke

import checkpointdb as ckpt
from checkpointdb.cli.adopt import adopt_command
from checkpointdb.values.keys import depends_digest

assert adopt_command  # the line that errors print names it


def made(path, prompt="A ", calls=None, **options):
    """The same program with another prompt, as a later state of a script: its code is made anew."""
    namespace = {"PROMPT": prompt, "calls": [] if calls is None else calls, "__name__": "job"}
    exec("def label(row):\n    calls.append(row)\n    return PROMPT + row", namespace)
    return ckpt.step(path, version=options.pop("version", 1), **options)(namespace["label"])


@contextlib.contextmanager
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def filled(path, **options):
    step = made(path, **options)
    list(step.run(["x", "y"], cost=lambda result: 0.5))
    step.store.close()


def test_results_of_the_present_code_are_never_stale(store_path):
    """Not even after an edit and back: each result knows the code that computed it."""
    filled(store_path)
    with pytest.warns(ckpt.StaleResultsWarning, match="the 2 results"):
        assert list(made(store_path, "B ").run(["x", "z"])) == ["A x", "B z"]
    with pytest.warns(ckpt.StaleResultsWarning, match="the 1 results"):
        run = made(store_path).run(["x", "y"])
        assert list(run) == ["A x", "A y"]
    assert run.stale == 1


def test_each_run_warns_though_python_shows_a_line_once(store_path):
    """A notebook runs one line again and again; by default Python says a thing once a line."""
    filled(store_path)
    after = made(store_path, "B ")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            list(after.run(["x"]))
    assert [it.category for it in caught] == [ckpt.StaleResultsWarning] * 3
    assert {it.filename for it in caught} == {__file__}


def test_accepting_settles_it_until_the_next_edit_and_can_be_undone(store_path):
    """`Step.accept`: nothing is copied or computed; the next edit warns of all of them again."""
    filled(store_path)
    after = made(store_path, "B ")
    assert after.plan(["x", "q"]).stale == 1
    assert "computed by other code: global PROMPT differs" in str(after.why("x"))
    assert after.accept() == 2
    with silent():
        assert list(after.run(["x"])) == ["A x"]
        assert list(made(store_path).run(["x"])) == ["A x"]  # the code before is as good, then
    assert after.plan(["x"]).stale == 0
    with pytest.warns(ckpt.StaleResultsWarning, match="the 2 results"):
        list(made(store_path, "C ").run(["x"]))
    assert after.accept(undo=True) == 2
    with pytest.warns(ckpt.StaleResultsWarning, match="the 2 results"):
        list(made(store_path, "B ").run(["x"]))


def test_reuse_is_silent_and_the_state_stays_visible(store_path):
    """`on_change="reuse"` says nothing; `inspect` and the end of the run still do."""
    filled(store_path)
    events = []
    with silent():
        list(made(store_path, "B ", on_change="reuse").run(["x"], on_event=events.append))
    assert events[-1].stale == 2
    assert (
        "2 of 2 results of label 1 were computed by other code"
        in invoke("inspect", store_path).stdout
    )


def test_inspect_names_what_a_run_now_would_meet(store_path):
    """Results of other code under a version that was raised since are met by no run any more."""
    filled(store_path)
    list(made(store_path, "B ", on_change="reuse").run(["x"]))
    list(made(store_path, "B ", version=2).run(["x"]))
    assert "computed by other code" not in invoke("inspect", store_path).stdout
    list(made(store_path, "B ", on_change="reuse").run(["x"]))
    assert "computed by other code" in invoke("inspect", store_path).stdout


@pytest.mark.parametrize("on_change", ["error", "recompute"])
def test_a_run_that_must_not_reuse_raises_before_its_first_call(store_path, on_change):
    """With count, expected cost and the line that keeps the old results; nothing is paid."""
    filled(store_path)
    calls = []
    step = made(store_path, "B ", calls, on_change=on_change)
    for _ in range(2):  # a supervisor that starts it again pays nothing either
        with pytest.raises(ckpt.StaleResultsError, match=r"2 saved results.*PROMPT.*\$1\.00") as e:
            list(step.run(["x", "new"]))
    assert e.value.results == 2 and calls == []
    if on_change == "recompute":
        (line,) = re.findall(r"`(ckpt adopt [^`]*)`", str(e.value))
        assert invoke(*line.split()[1:], "--yes").exit_code == 0
        kept = made(store_path, "B ", calls, on_change=on_change, version=2)
        with silent():
            assert list(kept.run(["x", "y"])) == ["A x", "A y"]
        assert calls == []


def test_edits_after_recompute_is_set_compute_again(store_path):
    """And replace what was saved: afterwards nothing is stale."""
    options = {"on_change": "recompute"}
    filled(store_path, **options)
    calls = []
    after = made(store_path, "B ", calls, **options)
    assert (after.plan(["x", "y"]).misses, after.plan(["x"]).stale) == (2, 1)
    with silent():
        assert list(after.run(["x"])) == ["B x"]
        assert list(after.run(["x", "y"], shared=True)) == ["B x", "B y"]
        assert list(after.run(["x", "y"])) == ["B x", "B y"]
    assert calls == ["x", "y"]
    assert after.plan(["x", "y"]).stale == 0
    assert len(list(after.store.records())) == 2


def test_on_change_is_a_keyword_of_run_and_of_the_command_line(store_path, tmp_path):
    """`ckpt.run(on_change=)` and `--on-change`, which overrides the decorator."""
    filled(store_path)
    fn = made(store_path, "B ").__wrapped__
    with pytest.raises(ckpt.StaleResultsError):
        list(ckpt.run(fn, ["x"], store=store_path, version=1, on_change="error"))
    with pytest.raises(ValueError, match="on_change must be"):
        ckpt.run(fn, ["x"], store=store_path, version=1, on_change="ignore")
    job = tmp_path / "job_on_change.py"
    job.write_text("def label(row):\n    return 'A ' + row")
    (tmp_path / "rows.jsonl").write_text('"x"\n')
    store_path = str(tmp_path / "b.ckpt")
    options = [
        f"{job}:label", str(tmp_path / "rows.jsonl"), "--store", store_path, "--version", "1",
    ]  # fmt: skip
    assert invoke("run", *options).exit_code == 0
    job.write_text("def label(row):\n    return 'C ' + row")
    linecache.clearcache()
    refused = invoke("run", *options, "--on-change", "error")
    assert refused.exit_code == 1 and "computed by other code" in refused.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = invoke("run", *options)
    assert "Warning: step 'label'" in done.stderr
    assert "1 saved results were computed by other code" in done.stderr
    assert "computed by other code" in invoke("plan", *options).stdout
    accepted = invoke("accept", f"{job}:label", "--store", store_path, "--version", "1")
    assert "1 result of label 1 accepted" in accepted.stderr
    assert "other code" not in invoke("run", *options).stderr
    undone = invoke("accept", f"{job}:label", "--store", store_path, "--version", "1", "--undo")
    assert "1 result of label 1 count as computed by other code again" in undone.stderr


# --- direct calls


def test_a_direct_call_notices_that_a_global_is_bound_anew(store_path):
    """A notebook: a new run with its own fingerprint; the same content bound again is no change."""
    step = made(store_path)
    scope = step.__wrapped__.__globals__
    assert step("x") == "A x"
    scope["PROMPT"] = "".join(["A", " "])
    with silent():
        assert step("x") == "A x"
    scope["PROMPT"] = "B "
    with pytest.warns(ckpt.StaleResultsWarning, match="global PROMPT differs"):
        assert step("y") == "B y"
    with silent():
        assert step("z") == "B z"
    assert len({run.fingerprint for run in step.store.runs()}) == 2


def test_a_direct_call_notices_that_a_container_was_changed(store_path):
    """Plain containers by their content, however deep."""
    scope = {"C": {"a": [{"model": "m"}]}, "__name__": "job"}
    exec("def label(row):\n    return C['a'][0]['model'] + row", scope)
    step = ckpt.step(store_path, version=1)(scope["label"])
    assert step("x") == "mx"
    scope["C"]["a"][0]["model"] = "n"
    with pytest.warns(ckpt.StaleResultsWarning, match="model'] differs"):
        assert step("y") == "ny"


# --- bindings


class Labeler:
    def __init__(self, prompt):
        self.prompt = prompt

    def label(self, row):
        return self.prompt + row


def bind(prompt):
    def label(row):
        return prompt + row

    return label


def model(row, prompt, client=None):
    return prompt + row


@pytest.mark.parametrize("make", [bind, lambda prompt: Labeler(prompt).label], ids=["c", "self"])
def test_one_code_bound_to_other_values_is_refused(store_path, make):
    """Whether or not the first one still lives; with `depends=` each has its own answers."""

    def go(prompt, **options):
        options = {"store": store_path, "version": 1, "name": "label", **options}
        return list(ckpt.run(make(prompt), ["x"], **options))

    assert go("A ") == ["A x"]
    assert go("".join(["A", " "])) == ["A x"]
    with pytest.raises(ckpt.BindingError, match=r"prompt differs.*depends=\{'prompt'"):
        go("B ")
    assert go("B ", name="other") == ["B x"]
    assert go("B ", depends={"prompt": "B "}, name="third") == ["B x"]
    assert go("A ", depends={"prompt": "A "}, name="third") == ["A x"]
    assert go("B ", depends={"prompt": "B "}, name="third") == ["B x"]


def test_an_object_that_was_changed_is_another_binding(store_path):
    """The same object with another prompt would get the answers of the one before."""
    labeler = Labeler("A ")
    step = ckpt.step(store_path, version=1)(labeler.label)
    assert step("x") == "A x"
    labeler.prompt = "B "
    with pytest.raises(ckpt.BindingError, match=r"self\.prompt differs"):
        step("x")
    with pytest.raises(ckpt.BindingError):
        list(step.run(["x"]))


def test_bound_arguments_of_a_partial_are_in_the_key(store_path):
    """As if they were given with each call; a client has no content, and is left out."""

    def go(*bound, key=None, rows=("x",), **named):
        fn = functools.partial(model, *bound, **named)
        run = ckpt.run(fn, rows, store=store_path, version=1, name="model", key=key)
        return list(run), run.report.computed

    assert go(prompt="A ") == (["A x"], 1)
    assert go(prompt="B ") == (["B x"], 1)
    assert go(prompt="A ", client=object()) == (["A x"], 0)
    assert go(prompt="A ", client=object()) == (["A x"], 0)
    direct = ckpt.step(store_path, version=1, name="model")(model)
    assert direct("x", prompt="A ") == direct("x", "B ")[:0] + "A x"
    assert direct.store.steps()[0].results == 2
    inside = functools.partial(model, prompt="A ")
    assert "a hit" in str(ckpt.step(store_path, version=1, name="model")(inside).why("x"))


def test_bound_arguments_count_beside_key(store_path):
    """`key=` narrows the row; the model that is bound still tells answers apart."""

    def go(prompt):
        fn = functools.partial(by_id, prompt=prompt)
        options = {"store": store_path, "version": 1, "name": "n", "key": "id"}
        return list(ckpt.run(fn, [{"id": 1, "at": 2}], **options))

    assert [go("A"), go("B"), go("A")] == [["A1"], ["B1"], ["A1"]]


def by_id(row, prompt):
    return f"{prompt}{row['id']}"


# --- depends=


def test_a_value_of_depends_is_in_the_key(store_path):
    """A changed value computes again, a former one finds its results; neither warns."""
    calls = []

    def go(prompt):
        return list(made(store_path, prompt, calls, depends={"prompt": prompt}).run(["x"]))

    with silent():
        assert [go("A "), go("B "), go("A ")] == [["A x"], ["B x"], ["A x"]]
    assert calls == ["x", "x"]
    key = ckpt.key_of("label", 1, "x", {"prompt": "B "})
    with ckpt.Store(store_path) as store:
        assert store.get(key).result == "B x"
        assert len(list(store.records())) == 2


def test_other_names_in_depends_raise_and_the_adopt_line_keeps_the_results(store_path):
    """From none to one, to two, and back to none: nothing is paid again."""
    filled(store_path)
    calls = []
    for depends in ({"prompt": "A "}, {"prompt": "A ", "model": ["m", 1]}, None):
        step = made(store_path, "A ", calls, depends=depends)
        with pytest.raises(ckpt.StaleResultsError, match=r"\d saved results.*\$1\.00") as caught:
            list(step.run(["x", "y"]))
        (line,) = re.findall(r"`(ckpt adopt [^`]*)`", str(caught.value))
        done = invoke(*line.split()[1:], "--yes")
        wanted = "2 results adopted" if depends else "0 results adopted"  # they are still there
        assert wanted in done.stderr, done.stderr
        with silent():
            assert list(step.run(["x", "y"])) == ["A x", "A y"]
        step.store.close()
    assert calls == []
    assert depends_digest({"a": 1, "b": 2}) == depends_digest({"b": 2, "a": 1})


def test_a_value_of_depends_that_changes_under_the_step_is_refused(store_path):
    """Its keys were made with the former one."""
    config = {"model": "m"}
    step = made(store_path, depends={"config": config})
    assert list(step.run(["x"])) == ["A x"]
    config["model"] = "n"
    with pytest.raises(ckpt.BindingError, match="value of depends= was changed"):
        list(step.run(["x"]))


@pytest.mark.parametrize("depends", [{"a": object()}, {1: 2}, ["a"]])
def test_depends_without_stable_content_is_wrong_use(store_path, depends):
    """Said at decoration."""
    with pytest.raises(TypeError, match="depends"):
        made(store_path, depends=depends)


def test_adopt_renames_a_step(store_path):
    """The results count for the new name too; the old ones stay."""
    filled(store_path)
    done = invoke("adopt", store_path, "--step", "label", "--from", "1", "--rename", "tag", "--yes")
    assert done.exit_code == 0 and "2 results adopted" in done.stderr
    calls = []
    with silent():
        assert list(made(store_path, calls=calls, name="tag").run(["x", "y"])) == ["A x", "A y"]
    assert calls == []


# --- ignore=


def test_what_differs_in_every_run_shows_the_line_that_ignores_it(store_path):
    """After three runs; with it, the fingerprint is the same again and nothing is stale."""
    texts = []
    filled(store_path, prompt="at 0 ")
    for n in range(1, 4):
        with pytest.warns(ckpt.StaleResultsWarning) as caught:
            list(made(store_path, f"at {n} ").run(["x"]))
        texts.append(str(caught[0].message))
    assert ["ignore=" in text for text in texts] == [False, True, True]
    assert "ignore=('PROMPT',)" in texts[-1]
    with silent():
        list(made(store_path, "at 9 ", ignore=("PROMPT",)).run(["x"]))
        list(made(store_path, "at 10 ", ignore=("PROMPT",)).run(["x"]))
