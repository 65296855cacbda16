"""The face that users see: keywords, runs that say what they are, methods, parameters, names."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
import functools
import gc
import inspect
import subprocess
import sys
import textwrap
import typing
import warnings

import pytest

import checkpointdb as ckpt
from checkpointdb.engine.options import Options, StepSettings


def label(row, client=None):
    return {"of": row}


async def alabel(row):
    return {"of": row}


def step_of(fn, path, **options):
    return ckpt.step(path, version=1, **options)(fn)


# --- options


@pytest.mark.parametrize(
    ("written", "checked"), [(ckpt.RunOptions, Options), (ckpt.StepOptions, StepSettings)]
)
def test_what_is_written_is_what_is_checked(written, checked):
    """The keywords that callers write are those that are checked, of the same types."""
    types = typing.get_type_hints(written)
    ours = typing.get_type_hints(checked)
    assert sorted(types) == sorted(
        ours
    )  # the typed dicts have those that overloads tell apart last
    assert {name for name in types if types[name] != ours[name]} <= {
        "stop_on",
        "pause_on",
    }  # tuples
    assert list(ours) == [
        line.strip().split(":")[0]
        for line in inspect.cleandoc(written.__doc__).splitlines()
        if line.startswith("    ") and line.strip().split(":")[0] in types
    ]


def test_the_functions_take_what_step_and_run_take():
    """`run` and `arun` have every keyword of the step and of its run, and no other."""
    both = ckpt.StepOptions.__annotations__ | ckpt.RunOptions.__annotations__
    ours = dict(ckpt.AllOptions.__annotations__)
    assert "tuple" in str(ours.pop("using")) and both.pop("using")  # names, or values by name
    assert ours == both


WAYS = {
    "step": lambda path, **options: ckpt.step(path, version=1, **options),
    "Step": lambda path, **options: ckpt.Step(label, path, version=1, **options),
    "label.run": lambda path, **options: step_of(label, path).run([], **options),
    "label.arun": lambda path, **options: step_of(alabel, path).arun([], **options),
    "run": lambda path, **options: ckpt.run(label, [], store=path, version=1, **options),
    "arun": lambda path, **options: ckpt.arun(alabel, [], store=path, version=1, **options),
}


@pytest.mark.parametrize(
    ("way", "options", "said"),
    [
        (
            "label.run",
            {"concurency": 2},
            r"^run\(\) got an unknown keyword 'concurency': did you mean concurrency\?$",
        ),
        ("label.arun", {"Batch_size": 2}, r"^arun\(\) got .* 'Batch_size': did you mean batch_siz"),
        ("step", {"duplicate": "share"}, r"^step\(\) got .*: did you mean duplicates\?$"),
        ("Step", {"saves": None}, r"^step\(\) got .*: did you mean save\?$"),
        ("run", {"durabilty": "power"}, r"^run\(\) got .*: did you mean durability\?$"),
        ("arun", {"onerror": "raise"}, r"^arun\(\) got .*: did you mean on_error\?$"),
        ("label.run", {"save": None}, r"^save= belongs to step\(...\), not to run\(...\)$"),
        ("label.run", {"store": "x"}, r"^store= belongs to step\(...\), not to run\(...\)$"),
        ("label.arun", {"version": 2}, r"^version= belongs to step\(...\), not to arun\(...\)$"),
        ("step", {"ordered": True}, r"^ordered= belongs to run\(...\), not to step\(...\)$"),
        ("label.run", {"durabilty": "power"}, "did you mean durability, which belongs to step"),
        ("step", {"zzz": 1}, r"^step\(\) got .* 'zzz'; it takes store, version, name, key"),
        ("label.run", {"zzz": 1}, r"^run\(\) got .* 'zzz'; it takes concurrency, "),
    ],
)
def test_a_keyword_that_is_not_known_says_which_was_meant(store_path, way, options, said):
    """A misspelt keyword, or one of the other function, is a TypeError that says what to write."""
    with pytest.raises(TypeError, match=said):
        WAYS[way](store_path, **options)


@pytest.mark.parametrize("way", [way for way in WAYS if "." not in way])
def test_every_keyword_of_a_step_is_checked_however_it_is_made(store_path, way):
    """The values of a step's keywords are checked at once, by whichever name it is made."""
    with pytest.raises(ValueError, match=r"^durability must be 'power' or 'process', got 'disk'$"):
        WAYS[way](store_path, durability="disk")


def test_a_step_saved_elsewhere_keeps_its_other_options(store_path, tmp_path):
    """`replace` changes what it names and nothing else."""
    options = {
        "name": "n",
        "key": "id",
        "save": ckpt.every(rows=3),
        "durability": "process",
        "duplicates": "separate",
        "input": "key",
        "meta": {"model": "m"},
        "on_change": "error",
        "depends": {"model": "m"},
        "on_changed_input": "reuse",
        "redact": "email",
        "ignore": ("STARTED",),
        "on_error": "record",
        "valid": bool,
        "cost": float,
        "usage": "usage",
        "shared": True,
        "ledger": True,
        "timeout": 60.0,
        "on_event": print,
        "pause_on": (OSError,),
        "using": ("client",),
        "replay": False,
        "remote": None,
        "ship": None,
    }
    first = step_of(label, store_path, **options)
    other = first.replace(store=tmp_path / "b.ckpt", save=ckpt.on_exit())
    assert other.path == str(tmp_path / "b.ckpt")
    assert other._options() == options | {"save": ckpt.on_exit()}
    assert (other.name, other.version, other.__wrapped__) == ("n", 1, label)


# --- public names


def test_dir_shows_what_is_public():
    """`dir(checkpointdb)` shows the public names: no module of the package is among them."""
    assert set(dir(ckpt)) == {*ckpt.__all__, "__version__"}
    assert {"engine", "loops", "file", "values", "events", "errors"}.isdisjoint(dir(ckpt))


def test_what_users_are_handed_can_be_imported(store_path):
    """The type of everything that a user is given is a public name."""
    events = []
    step = step_of(label, store_path)
    with step.run([1, 2], on_event=events.append) as run:
        results = list(run)
    with ckpt.Store(store_path) as store:
        given = [
            *(step, run, run.report, step.plan([1]), step.why(1), store, *events),
            *(*store.steps(), *store.runs(), *store.records()),
        ]
    assert len(results) == 2
    for value in given:
        assert getattr(ckpt, type(value).__name__) is type(value)
    for name in ("RunOptions", "StepOptions", "Call", "Event", "RowFailed", "CameLate"):
        assert name in ckpt.__all__


def test_a_step_has_a_path(store_path, tmp_path, monkeypatch):
    """`Step.path` is where its store is, whether given as a path, a Path or an open store."""
    monkeypatch.chdir(tmp_path)
    assert step_of(label, store_path).path == store_path
    assert step_of(label, "rows.ckpt").path == store_path
    with ckpt.Store(store_path) as store:
        assert step_of(label, store).path == store_path


# --- runs


def test_a_run_says_what_it_is(store_path):
    """The repr names the step, and says whether the run was started, with counts once it was."""
    step = step_of(label, store_path)
    run = step.run([1, 2, 2])
    assert repr(run) == "<run of step 'label' version 1: not started>"
    next(run)
    assert "running, 1 rows: 0 hits, 1 computed, 0 failed" in repr(run)
    list(run)
    assert "ended, 3 rows: 1 hits, 2 computed, 0 failed" in repr(run)
    with step.run([1]) as run:
        pass
    assert "closed before it was started" in repr(run)


ROWS = {
    "list": (lambda: [1, 2, 3], 3),
    "range": (lambda: range(4), 4),
    "empty": (list, 0),
    "dict view": (lambda: {1: 0, 2: 0}.keys(), 2),
    "generator": (lambda: (n for n in range(3)), None),
    "broken": (lambda: Broken(), None),
}


class Broken:
    """Rows that cannot say how many they are, and say so in a way of their own."""

    def __iter__(self):
        return iter(range(3))

    def __len__(self):
        raise OSError("the database is away")


@pytest.mark.parametrize("kind", ROWS)
def test_a_run_is_as_long_as_its_rows(store_path, kind):
    """len() of a run is that of its rows, else a TypeError; list() works, and a run is true."""
    make, length = ROWS[kind]
    run = step_of(label, store_path).run(make())
    assert bool(run) is True
    if length is None:
        with pytest.raises(TypeError, match="this run has no length"):
            len(run)
    else:
        assert len(run) == length
    assert len(list(run)) == (3 if length is None else length)
    assert bool(run) is True


def test_a_list_of_the_rest_of_a_run(store_path):
    """A run whose first result was taken gives the others to list()."""
    run = step_of(label, store_path).run([1, 2, 3])
    assert next(run) == {"of": 1}
    assert list(run) == [{"of": 2}, {"of": 3}]


def failing(row):
    if row == 2:
        raise KeyError(row)
    return row


@pytest.mark.parametrize("how", ["exhausted", "failed", "closed", "closed before", "with"])
def test_a_second_loop_over_a_run_is_an_error(store_path, how):
    """A loop over a run that has ended raises and says so: it is never silently empty."""
    run = step_of(failing, store_path).run([1, 2] if how == "failed" else [1, 3])
    if how == "exhausted":
        assert list(run) == [1, 3]
    elif how == "failed":
        with pytest.raises(KeyError):
            list(run)
    elif how == "with":
        with run:
            next(run)
    else:
        if how == "closed":
            next(run)
        run.close()
    with pytest.raises(RuntimeError, match=r"'failing' version 1 has ended .* call run\(\) again"):
        list(run)
    with pytest.raises(StopIteration):
        next(run)


def test_a_loop_goes_on_after_a_break(store_path):
    """A run that was left by break is not at its end: another loop goes on."""
    run = step_of(label, store_path).run(range(4))
    for result in run:
        if result["of"] == 1:
            break
    assert [result["of"] for result in run] == [2, 3]


def test_a_second_async_loop_over_a_run_is_an_error(store_path):
    """The same for `async for`; `anext` is at its end."""

    async def main():
        run = step_of(alabel, store_path).arun([1, 2])
        async for _ in run:
            break
        assert [result async for result in run] == [{"of": 2}]
        with pytest.raises(RuntimeError, match="has ended"):
            [result async for result in run]
        assert await anext(run, "end") == "end"
        closed = step_of(alabel, store_path).arun([1])
        await closed.aclose()
        assert await anext(closed, "end") == "end"

    asyncio.run(main())


@pytest.mark.parametrize("fn", [label, alabel], ids=["sync", "async"])
@pytest.mark.parametrize("use", ["run", "arun", "ckpt.run", "ckpt.arun"])
def test_a_run_that_is_never_iterated_warns(store_path, fn, use):
    """A run that nobody iterates computes nothing: it warns, at the line that made it."""
    if "arun" in use and fn is label:
        pytest.skip("arun() needs an async def")
    step = step_of(fn, store_path)
    with pytest.warns(RuntimeWarning, match=r"version 1 was never iterated") as caught:
        if use.startswith("ckpt."):
            getattr(ckpt, use[5:])(fn, [1], store=store_path, version=1)
        else:
            getattr(step, use)([1])
        line = inspect.currentframe().f_lineno
        gc.collect()
    assert [(w.filename, line - 5 <= w.lineno < line) for w in caught] == [(__file__, True)]


def test_a_run_that_was_used_does_not_warn(store_path):
    """Not a run that was iterated, nor one that was closed, nor one that a TypeError refused."""
    step, astep = step_of(label, store_path), step_of(alabel, store_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(step.run([1]))
        next(step.run([1]))
        iter(step.run([1]))
        step.run([1]).close()
        with step.run([1]):
            pass
        asyncio.run(astep.arun([1]).aclose())
        for refused, use in ((astep.arun([1]), iter), (astep.run([1]), aiter)):
            with pytest.raises(TypeError, match="iterate with"):
                use(refused)
        assert list(refused) == [{"of": 1}]  # the right way, after the wrong one
        with pytest.raises(TypeError):
            step.run([1], concurency=1)
        gc.collect()
    assert caught == []


@pytest.mark.parametrize("line", ["label.run([1, 2])", "kept = label.run([1, 2])"])
def test_a_script_that_did_nothing_says_so(store_path, line):
    """By default the warning is seen on stderr, with the line, even at the end of the program."""
    script = f"""
        import sys
        import checkpointdb as ckpt

        @ckpt.step(sys.argv[1], version=1)
        def label(row):
            return row

        {line}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), store_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert (
        "<string>:9: RuntimeWarning: a run of step 'label' version 1 was never iterated"
        in done.stderr
    )


# --- methods


def decorated(path, **options):
    return ckpt.step(path, version=1, **options)


def methods(path):
    """A class with steps in all the places where a class can have them."""

    class Model:
        factor = 2

        @decorated(path)
        def method(self, row):
            return row * self.factor

        @classmethod
        @decorated(path)
        def of_class(cls, row):
            return row * cls.factor

        @decorated(path)
        async def amethod(self, row):
            return row

        @decorated(path)
        def __call__(self, row):
            return row

        @decorated(path)
        def alone(self):
            return self.factor

        by_lambda = decorated(path, name="l")(lambda self, row: row)

    class Child(Model):
        factor = 3

        def method(self, row):
            return super().method(row)

    return Model, Child


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("Model.method", lambda Model, Child: Model().method(1)),
        ("Model.method", lambda Model, Child: Model().method.run([1])),
        ("Model.method", lambda Model, Child: Child().method(1)),
        ("Model.of_class", lambda Model, Child: Model.of_class(1)),
        ("Model.of_class", lambda Model, Child: Child().of_class(1)),
        ("Model.amethod", lambda Model, Child: Model().amethod(1)),
        ("Model.__call__", lambda Model, Child: Model()(1)),
        ("Model.alone", lambda Model, Child: Model().alone()),
        ("Model.<lambda>", lambda Model, Child: Model().by_lambda(1)),
    ],
)
def test_a_step_that_is_a_method_says_what_to_write(store_path, name, use):
    """One object's result never answers for another's: the first use names the method, shows the
    lines to write instead, and opens nothing."""
    with pytest.raises(TypeError) as caught:
        use(*methods(store_path))
    said = str(caught.value)
    assert f"{name} is a step and a method" in said
    assert f"@ckpt.step({store_path!r}, version=1)" in said
    assert "(row, self.model)" in said
    assert "@staticmethod" in said


def test_what_a_class_holds_and_does_not_bind_is_a_step(store_path):
    """A static method, a step made elsewhere, and one on an instance are called without object."""
    outside = step_of(label, store_path)

    class Model:
        by_name = outside

        @staticmethod
        @decorated(store_path)
        def static(row):
            return [row]

        def __init__(self):
            self.own = outside

    assert Model().static(1) == Model.static(1) == [1]
    assert list(Model().static.run([1, 2])) == [[1], [2]]
    assert Model().by_name(1) == Model.by_name(1) == Model().own(1) == {"of": 1}
    assert Model.by_name is outside


def test_an_object_with_content_is_an_argument_as_any_other(store_path):
    """Called through its class, a method of a dataclass has its object in the key: no object's
    result answers for another's, and a plain object is refused for want of content."""
    calls = []

    @dataclasses.dataclass
    class Model:
        factor: int

        @decorated(store_path)
        def scaled(self, row):
            calls.append(row)
            return row * self.factor

    class Plain(Model):
        scaled = Model.scaled

    assert [Model.scaled(Model(n), 5) for n in (2, 3, 2)] == [10, 15, 10]
    assert calls == [5, 5]
    with pytest.raises(TypeError, match="is a step and a method"):
        Plain(2).scaled(5)
    with pytest.raises(ckpt.EncodeError, match=r"\$\.self"):
        Model.scaled(object(), 5)


def test_a_property_over_a_step_never_mixes_objects(store_path):
    """property(step) passes the object as the row: known by its content, or refused."""

    class Plain:
        @property
        @decorated(store_path)
        def size(self):
            return 1

    @dataclasses.dataclass
    class Sized:
        n: int
        size = Plain.__dict__["size"]

    with pytest.raises(ckpt.EncodeError, match="Plain"):
        Plain().size
    assert Sized(1).size == 1


def test_an_abstract_step_stays_abstract(store_path):
    """A step over an abstract method is one that a subclass must define."""

    class Base(abc.ABC):
        @decorated(store_path)
        @abc.abstractmethod
        def method(self, row): ...

    class Done(Base):
        def method(self, row):
            return row

    with pytest.raises(TypeError, match="abstract"):
        Base()
    assert Done().method(1) == 1


# --- parameters


def test_parameters_of_every_kind(  # noqa: C901 - a function a kind
    store_path,
):
    """However a function takes its arguments, a call gives what the function gives, once."""
    calls = []

    def only(*, x):
        return ["only", x]

    def keywords(**more):
        return ["keywords", more]

    def rest(*rows):
        return ["rest", list(rows)]

    def mixed(a, /, b, *rest, c=3, **more):
        return [a, b, list(rest), c, more]

    def ours(self, name=1, *, store=2, run=3, key=4, args=5, kwargs=6):
        return [self, name, store, run, key, args, kwargs]

    def defaults(a=1, b=2):
        return [a, b]

    uses = [
        (only, lambda f: f(x=1)),
        (only, lambda f: f(x={"a": 1})),
        (keywords, lambda f: f(x=1, y=2)),
        (keywords, lambda f: f()),
        (keywords, lambda f: f(self=1, fn=2, row=3)),
        (rest, lambda f: f(1, 2)),
        (rest, lambda f: f((1, 2))),
        (rest, lambda f: f()),
        (mixed, lambda f: f(1, 2)),
        (mixed, lambda f: f(1, b=2, a=4)),
        (mixed, lambda f: f(1, 2, 3, 4, c=5, d=6)),
        (ours, lambda f: f(1)),
        (ours, lambda f: f(self=1)),
        (ours, lambda f: f(self=2, name=3, store=4, run=5, key=6, args=7, kwargs=8)),
        (defaults, lambda f: f()),
        (defaults, lambda f: f(b=1)),
        (defaults, lambda f: f(a=2)),
    ]
    steps = {}
    for fn, _ in uses:

        def counted(*args, _fn=fn, **kwargs):
            calls.append(_fn)
            return _fn(*args, **kwargs)

        steps[fn] = step_of(functools.wraps(fn)(counted), store_path)
    for _ in range(2):
        for fn, use in uses:
            assert use(steps[fn]) == use(fn)
    assert len(calls) == len(uses) - 1  # ours(1) is ours(self=1)


def test_the_row_by_name_is_the_row(store_path):
    """label(row), label(row=row) and label.run([row]) share one key, that of `key_of`."""
    keys = []

    @ckpt.step(store_path, version=1)
    def keyed(row, name="n"):
        keys.append(ckpt.current_key())
        return row

    assert keyed({"id": 1}) == keyed(row={"id": 1}) == next(keyed.run([{"id": 1}]))
    assert keys == [ckpt.key_of("keyed", 1, {"id": 1})]


def test_a_default_is_not_an_argument(store_path, tmp_path):
    """A value given and the same value left to its default are two keys, so a later default is
    never answered by what was computed under an earlier one, if it is given."""
    source = "def scale(row, by=2):\n    calls.append(by)\n    return row * by\n"
    calls = []

    def step(name, text):
        path = tmp_path / name
        path.write_text(text)
        scope = {"calls": calls}
        exec(compile(text, str(path), "exec"), scope)
        return step_of(scope["scale"], store_path)

    before = step("before.py", source)
    assert before(5) == before(5, 2) == before(5, by=2) == 10
    assert calls == [2, 2]
    before.store.close()
    after = step("after.py", source.replace("by=2", "by=3"))
    with pytest.warns(UserWarning, match="its code changed"):
        assert after(5, 3) == after(5, by=3) == 15
    assert after(5, 2) == 10
    assert calls == [2, 2, 3]


class Ours:
    """A callable object whose attributes have the names of ours."""

    def __init__(self):
        self.name, self.version, self.run, self.arun = "theirs", 7, "fast", None
        self.store, self.path, self.plan, self.why, self.flush = 1, 2, 3, 4, 5
        self._store = self._lock = self._spec = self._where = self._parts = self._save = None
        self.weights = [1]

    def __call__(self, row):
        return [row, self.name, self.run, self.path]


def test_a_callable_objects_attributes_do_not_replace_ours(store_path):
    """A step is itself whatever its function has for attributes; the others it shows."""
    fn = Ours()
    step = step_of(fn, store_path, name="n")
    assert (step.name, step.version, step.path, step.weights) == ("n", 1, store_path, [1])
    assert step(1) == [1, "theirs", "fast", 2]
    assert list(step.run([1, 2])) == [[1, "theirs", "fast", 2], [2, "theirs", "fast", 2]]
    assert step.plan([1, 3]).hits == 1
    assert step.why(1).status == "hit"
    assert repr(step) == f"<step 'n' version 1 in {store_path!r}>"
    assert (fn.name, fn.run, fn.path) == ("theirs", "fast", 2)


def test_a_functions_attributes_do_not_replace_ours(store_path):
    """The same for attributes of a function, as other decorators leave them."""

    @functools.wraps(label)
    def fn(row):
        return row

    fn.run, fn.name, fn.retry = "theirs", "theirs", "shown"
    step = step_of(fn, store_path)
    assert list(step.run([1])) == [1]
    assert (step.name, step.retry, step.__wrapped__) == ("label", "shown", fn)


# --- async steps


class AsyncModel:
    async def label(self, row):
        return row

    async def __call__(self, row):
        return row


async def scaled(by, row):
    return row * by


ASYNC = {
    "function": alabel,
    "partial": functools.partial(scaled, 2),
    "method": AsyncModel().label,
    "callable object": AsyncModel(),
}


@pytest.mark.parametrize("kind", ASYNC)
def test_an_async_step_is_a_coroutine_function(store_path, kind):
    """inspect, asyncio and those who use them take an async step for what it is; no other."""
    from starlette._utils import is_async_callable

    step = step_of(ASYNC[kind], store_path, name="n")
    plain = step_of(label, store_path)
    checks = [inspect.iscoroutinefunction, is_async_callable]
    if sys.version_info < (3, 14):
        checks.append(asyncio.iscoroutinefunction)
    for check in checks:
        assert check(step)
        assert check(functools.partial(step, 1))
        assert check(step.replace(save=ckpt.on_exit()))
        assert not check(plain)
    assert list(inspect.signature(step).parameters) == ["row"]
    assert next(step.run([3])) == asyncio.run(step(3))


def test_a_step_over_an_async_step_is_async(store_path, tmp_path):
    """A step is a function like another: it can be a step's function, in another store."""
    inner = step_of(alabel, store_path)
    outer = step_of(inner, str(tmp_path / "outer.ckpt"))
    assert inspect.iscoroutinefunction(outer)
    assert list(outer.run([1, 2])) == [{"of": 1}, {"of": 2}]


def test_a_plain_wrapper_of_an_async_step_is_plain(store_path, tmp_path):
    """functools.wraps over an async step makes no coroutine function of a plain one, nor does a
    step over that."""
    inner = step_of(alabel, store_path)

    @functools.wraps(inner)
    def wrapper(row):
        return asyncio.run(inner(row))

    outer = step_of(wrapper, str(tmp_path / "outer.ckpt"))
    assert not inspect.iscoroutinefunction(wrapper)
    assert not inspect.iscoroutinefunction(outer)
    assert outer(1) == {"of": 1}


def test_decorators_above_an_async_step_await_it(store_path):
    """stamina and tenacity over an async step retry what it raises when awaited."""
    import stamina
    import tenacity

    tries = []

    async def flaky(row):
        tries.append(row)
        if len(tries) % 2:
            raise ConnectionError
        return row

    step = step_of(flaky, store_path)
    by_stamina = stamina.retry(on=ConnectionError, attempts=2, wait_initial=0.01)(step)
    by_tenacity = tenacity.retry(stop=tenacity.stop_after_attempt(2))(step)
    assert asyncio.run(by_stamina(1)) == 1
    assert asyncio.run(by_tenacity(2)) == 2
    assert tries == [1, 1, 2, 2]


def test_frameworks_await_an_async_step(store_path):
    """A FastAPI route, a Starlette background task and anyio call an async step as a coroutine."""
    anyio = pytest.importorskip("anyio")
    fastapi = pytest.importorskip("fastapi")
    from starlette.background import BackgroundTask
    from starlette.testclient import TestClient

    threads = []

    @ckpt.step(store_path, version=1)
    async def square(n: int) -> int:
        threads.append(asyncio.get_running_loop())
        return n * n

    app = fastapi.FastAPI()
    app.get("/square")(square)
    with TestClient(app) as client:
        assert client.get("/square", params={"n": 7}).json() == 49
    asyncio.run(BackgroundTask(square, 3)())
    assert anyio.run(square, 4) == 16
    assert len(threads) == 3
    with contextlib.closing(square.store):
        assert list(square.run([7, 3, 4])) == [49, 9, 16]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect.markcoroutinefunction is new")
def test_a_function_marked_as_async_is_an_async_step(store_path):
    """What is marked as a coroutine function by other decorators makes an async step."""

    class Wrapper:
        def __call__(self, row):
            return alabel(row)

    step = step_of(inspect.markcoroutinefunction(Wrapper()), store_path, name="n")
    assert list(step.run([1])) == [{"of": 1}]
