"""A fingerprint changes when the code does, and for no other reason."""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import subprocess
import sys
import textwrap
import types

import pytest

from checkpointdb.engine.fingerprint import changed, fingerprint, tree_of

pytestmark = pytest.mark.loops


def print_of(tmp_path, source):
    """Define `source` in a module file, as users do, and return its fingerprint."""
    path = tmp_path / "steps.py"
    path.write_text(textwrap.dedent(source))
    linecache.clearcache()
    namespace = {"__name__": "steps", "functools": functools}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return fingerprint(namespace["f"])


ORIGINAL = '''
    def f(row, n=2):
        """What it does."""
        parts = row["text"].split()
        return {"words": len(parts), "label": f"{row['id']}:{n}"}
'''

SAME = {
    "comments": ORIGINAL.replace("return", "# a comment\n        return"),
    "blank lines": ORIGINAL.replace("        parts", "\n\n        parts"),
    "quotes": ORIGINAL.replace('"text"', "'text'"),
    "docstring": ORIGINAL.replace("What it does.", "What it really does."),
    "no docstring": ORIGINAL.replace('        """What it does."""\n', ""),
    "line breaks": ORIGINAL.replace(".split()", "\\\n            .split()"),
    "a decorator": ORIGINAL.replace("    def", "    @functools.cache\n    def"),
    "moved down": "\n    import os\n\n" + ORIGINAL,
    "another function beside it": ORIGINAL + "\n    def g(): pass\n",
}

OTHER = {
    "a constant": ORIGINAL.replace('"words"', '"count"'),
    "a default": ORIGINAL.replace("n=2", "n=3"),
    "an argument": ORIGINAL.replace("n=2", "m=2").replace("{n}", "{m}"),
    "a call": ORIGINAL.replace("len(parts)", "sum(parts)"),
    "a new line": ORIGINAL.replace("        return", "        print(parts)\n        return"),
    "the order of lines": ORIGINAL.replace("split()", "split()\n        row = dict(row)"),
    "async": ORIGINAL.replace("def f", "async def f"),
    "a string inside an f-string": ORIGINAL.replace("['id']", "['ID']"),
}


@pytest.mark.parametrize("source", SAME.values(), ids=SAME)
def test_what_does_not_change_the_code_does_not_change_the_fingerprint(tmp_path, source):
    """Formatting, comments, docstrings and decorators are not code."""
    before = print_of(tmp_path, ORIGINAL)
    assert before is not None
    assert print_of(tmp_path, source) == before


@pytest.mark.parametrize("source", OTHER.values(), ids=OTHER)
def test_a_change_of_code_changes_the_fingerprint(tmp_path, source):
    """With the source at hand, and with the byte code alone."""
    assert changed(print_of(tmp_path, ORIGINAL), print_of(tmp_path, source))
    if source not in (OTHER["a default"], OTHER["an argument"]):  # byte code holds neither
        assert changed(fingerprint(compiled(ORIGINAL)), fingerprint(compiled(source)))


def compiled(source):
    """Define `source` where no file holds it: a REPL, `exec`."""
    namespace = {"functools": functools}
    exec(compile(textwrap.dedent(source), "<nowhere>", "exec"), namespace)
    return namespace["f"]


def test_a_change_in_a_nested_function_or_a_name_is_seen_without_source():
    """Byte code names what it calls by number: the names count too, at any depth."""
    source = "def f(rows):\n    return [(lambda r: {}(r, {}))(row) for row in rows]"
    prints = {
        fingerprint(compiled(source.format(name, constant)))
        for name in ("str", "repr")
        for constant in ("1", "2", "{'a', 'b'}")
    }
    assert len(prints) == 6


def test_without_source_another_python_is_unknown_and_not_changed():
    """Byte code differs between versions: that is no reason to warn."""
    present = fingerprint(compiled(ORIGINAL))
    version, _, digest = present.rpartition(":")
    assert version == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert not changed(f"2.7:{digest[::-1]}", present)
    assert changed(f"{version}:{digest[::-1]}", present)
    assert not changed(digest, present)
    assert not changed(None, present)
    assert not changed(present, None)


# Written by Python 3.11, 3.12 and 3.13 alike: `ast.unparse` and `ast.dump` differ between them.
TRICKY = r'''
    def f(row, /, *rest, key: "str" = 'a', **more) -> dict[str, int]:
        """doc"""
        a = f"{row['x']}" + f'{row["y"]!r:>{10}}' "tail" + '\n\'"' + f"{row=}"
        async def g(x: int, /, *, y: str = "é") -> None:
            """inner"""
            async with a as b, c:
                yield
        match row:
            case {"a": [1, *_], **kw} if kw: pass
            case int() | None: ...
        try: ...
        except (ValueError, TypeError) as error: raise
        else: return lambda z: (yield), -1 ** 2, f"{'a' 'b'}{{}}", 1_000, 0x1f, b"\x00", 1e5
'''


def test_a_fingerprint_is_the_same_in_every_python(tmp_path):
    """An upgrade of Python is not a change of code; nor is another fingerprint a new release."""
    assert print_of(tmp_path, TRICKY) == "393921ecb405abd3"


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_a_fingerprint_is_the_same_in_every_process(seed):
    """A set of constants has another order in every process; it is the same code."""
    code = (
        "from checkpointdb.engine.fingerprint import fingerprint; ns = {};"
        "exec(\"def f(r): return r in {'a', 'b', 'c', ('d', 1)}\", ns); print(fingerprint(ns['f']))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": s, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for s in (seed, "7")
    }
    assert len(outputs) == 1


class Callable:
    def __call__(self, row):
        return row


def test_partials_wrappers_and_callable_objects_show_the_code_inside():
    """The user's function is what counts, however it is wrapped."""

    def plain(row, n=0):
        return row

    @functools.wraps(plain)
    def wrapper(row):
        return plain(row)

    inside = fingerprint(plain)
    assert fingerprint(functools.partial(plain, n=1)) == inside
    assert fingerprint(functools.partial(functools.partial(plain), n=1)) == inside
    assert fingerprint(wrapper) == inside
    assert fingerprint(Callable()) == fingerprint(Callable.__call__)
    assert fingerprint(Callable().__call__) == fingerprint(Callable.__call__)


def test_a_builtin_has_no_fingerprint():
    """There is no code to see: nothing is said about it."""
    assert fingerprint(len) is None
    assert fingerprint(str.upper) is None
    assert not changed(None, None)


def test_a_lambda_has_a_fingerprint():
    """Even where its line is not a statement of its own."""
    prints = [fingerprint(fn) for fn in (lambda row: row + 1, lambda row: row + 2)]
    assert None not in prints


def test_no_module_is_asked_for_the_source_of_a_step(monkeypatch):
    """Python's own look-up asks all that are loaded for their file: thousands beside torch."""
    asked = []

    class Module(types.ModuleType):
        def __getattribute__(self, name):
            if name == "__file__":
                asked.append(name)
            return super().__getattribute__(name)

    def label(row):
        return row

    monkeypatch.setattr(inspect, "modulesbyfile", {})  # what it found before
    monkeypatch.setitem(sys.modules, "asked_for_its_file", Module("asked_for_its_file"))
    assert tree_of(label.__code__).name == "label"
    assert tree_of((lambda row: row).__code__) is not None
    assert asked == []
