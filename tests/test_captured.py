"""An edit of what a step captures is named in every run; a run without one is silent.

Each case is a program of its own, run twice, as users do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from cli_helpers import invoke

import checkpointdb as ckpt

HEAD = """
import sys
import checkpointdb as ckpt
"""
TAIL = """
if __name__ == "__main__":
    print(list(f.run(["x", "y"])))
"""
STEP = "@ckpt.step('s.ckpt', version=1)\n"


def run(folder, *command, **environment):
    """Run a program in `folder`; return what it wrote on standard output and error."""
    done = subprocess.run(
        [sys.executable, *command] if command else [sys.executable, "job.py"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def write(folder, source, name="job.py"):
    text = HEAD + textwrap.dedent(source) + TAIL if name == "job.py" else source
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)


def some_slow(cases):
    """Return the cases, all but the first twelve as slow ones: each is some processes."""
    return [
        pytest.param(*values, id=name, marks=[pytest.mark.slow] if n >= 12 else [])
        for n, (name, values) in enumerate(cases.items())
    ]


# before, after, how it is named; A becomes B
EDITS = {
    "a global": (
        f"PROMPT = 'A '\n{STEP}def f(row): return PROMPT + row",
        "global PROMPT differs ('A ' → 'B ')",
    ),
    "an item of a nested dict": (
        f"C = {{'llm': {{'model': 'A', 't': 0.2}}}}\n{STEP}"
        "def f(row): return C['llm']['model'] + row",
        "global C['llm']['model'] differs ('A' → 'B')",
    ),
    "a dict that is read whole": (
        f"C = {{'a': [1, {{'x': 'A'}}]}}\n{STEP}def f(row): return str(C) + row",
        "global C['a'][1]['x'] differs",
    ),
    "a value from the command line": (
        "import argparse\nP = argparse.ArgumentParser()\nP.add_argument('--m', default='A')\n"
        f"ARGS = P.parse_args()\n{STEP}def f(row): return ARGS.m + row",
        "global ARGS.m differs",
    ),
    "a helper": (
        f"def helper(row): return 'A' + row\n{STEP}def f(row): return helper(row)",
        "function helper changed",
    ),
    "what a helper of a helper reads": (
        "TEXT = 'A'\ndef deep(row): return TEXT + row\ndef helper(row): return deep(row)\n"
        f"{STEP}def f(row): return helper(row)",
        "global TEXT differs",
    ),
    "a class attribute": (
        f"class Config:\n    model = 'A'\n{STEP}def f(row): return Config.model + row",
        "class Config.model differs ('A' → 'B')",
    ),
    "a method": (
        "class L:\n    def __init__(self): self.t = '!'\n"
        f"    def ask(self, row): return 'A' + row + self.t\nL1 = L()\n{STEP}"
        "def f(row): return L1.ask(row)",
        "function L.ask changed",
    ),
    "a method of an object that the step makes": (
        "class L:\n    def ask(self, row): return 'A' + row\n"
        f"{STEP}def f(row): return L().ask(row)",
        "function L.ask changed",
    ),
    "a method that super() finds": (
        "class B:\n    def ask(self, row): return 'A' + row\n"
        "class L(B):\n    def ask(self, row): return super().ask(row)\nL1 = L()\n"
        f"{STEP}def f(row): return L1.ask(row)",
        "function B.ask changed",
    ),
    "an argument bound in a helper": (
        "import functools\ndef add(a, row): return a + row\nhelper = functools.partial(add, 'A')\n"
        f"{STEP}def f(row): return helper(row)",
        "argument a of helper differs",
    ),
    "a variable of the environment": (
        f"import os\nos.environ['MODEL'] = 'A'\n{STEP}"
        "def f(row): return os.environ['MODEL'] + os.getenv('MODEL') + row",
        "global os.environ['MODEL'] differs",
    ),
    "a variable of the environment by another name": (
        f"import os\nos.environ['MODEL'] = 'A'\nENV = os.environ\n{STEP}"
        "def f(row): return ENV['MODEL'] + row",
        "global ENV['MODEL'] differs ('A' → 'B')",
    ),
    "an array": (
        f"import numpy\nW = numpy.array([ord('A')])\n{STEP}def f(row): return row * int(W[0])",
        "global W differs",
    ),
    "a field of an object": (
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n    model: str\n    n: int = 3\n"
        f"CONFIG = C('A')\n{STEP}def f(row): return CONFIG.model + row",
        "global CONFIG.model differs",
    ),
    "a default argument": (
        f"V = 'A'\n{STEP}def f(row, prompt=V): return prompt + row",
        "default prompt differs ('A' → 'B')",
    ),
    "the default of a lambda": (
        f"V = 'A'\nadd = lambda row, t=V: t + row\n{STEP}def f(row): return add(row)",
        "default t of add differs",
    ),
    "the body of a lambda": (
        f"add = lambda row: 'A' + row\n{STEP}def f(row): return add(row)",
        "function add changed",
    ),
    "a closure": (
        f"def make(prompt):\n    {STEP}    def f(row): return prompt + row\n    return f\n"
        "f = make('A')",
        "closure prompt differs ('A' → 'B')",
    ),
    "a bound object": (
        "class L:\n    def __init__(self, p): self.p = p\n"
        "    def ask(self, row): return self.p + row\n"
        "f = ckpt.step('s.ckpt', version=1, name='f')(L('A').ask)",
        "self.p differs ('A' → 'B')",
    ),
    "a table of functions": (
        "def a(row): return 'A' + row\n"
        f"TABLE = {{'a': a}}\n{STEP}def f(row): return TABLE['a'](row)",
        "function a changed",
    ),
    "a decorator of the user's": (
        "import functools\ndef shout(fn):\n    @functools.wraps(fn)\n    def wrapper(row):\n"
        f"        return fn(row) + 'A'\n    return wrapper\n{STEP}@shout\ndef f(row): return row",
        "function shout.wrapper changed",
    ),
    "a compiled pattern": (
        f"import re\nP = re.compile('A')\n{STEP}def f(row): return P.sub('_', row)",
        "global P differs ('A' → 'B')",
    ),
    "its code": (f"{STEP}def f(row): return 'A' + row", "its code changed"),
    "a method that is called by an operator": (
        "class C:\n    def __getitem__(self, row): return 'A' + row\nX = C()\n"
        f"{STEP}def f(row): return X[row]",
        "function C.__getitem__ changed",
    ),
    "an attribute that super() finds": (
        "class B:\n    t = 'A'\nclass L(B):\n    def ask(self, row): return super().t + row\n"
        f"L1 = L()\n{STEP}def f(row): return L1.ask(row)",
        "class B.t differs ('A' → 'B')",
    ),
    "a method of a member of an enumeration": (
        "import enum\nclass M(enum.Enum):\n    X = 1\n    def say(self): return 'A'\n"
        f"{STEP}def f(row): return M.X.say() + row",
        "function M.say changed",
    ),
    "a function that singledispatch chooses": (
        "import functools\n@functools.singledispatch\ndef h(row): return row\n@h.register\n"
        f"def texts(row: str): return 'A' + row\n{STEP}def f(row): return h(row)",
        "function texts changed",
    ),
    "a method that singledispatchmethod chooses": (
        "import functools\nclass C:\n    @functools.singledispatchmethod\n"
        "    def h(self, row): return row\n    @h.register\n"
        "    def texts(self, row: str): return 'A' + row\n"
        f"X = C()\n{STEP}def f(row): return X.h(row)",
        "function C.texts changed",
    ),
    "the default of a context variable": (
        "import contextvars\nMODEL = contextvars.ContextVar('m', default='A')\n"
        f"{STEP}def f(row): return MODEL.get() + row",
        "global MODEL differs ('A' → 'B')",
    ),
    "a string.Template": (
        f"import string\nT = string.Template('A $r')\n{STEP}def f(row): return T.substitute(r=row)",
        "global T differs ('A $r' → 'B $r')",
    ),
    "a data frame of pandas": (
        f"import pandas\nT = pandas.DataFrame({{'m': ['A']}})\n{STEP}"
        "def f(row): return T['m'][0] + row",
        "global T['m'] differs",
    ),
    "a data frame of polars": (
        f"import polars\nT = polars.DataFrame({{'m': ['A']}})\n{STEP}"
        "def f(row): return T['m'][0] + row",
        "global T['m'][0] differs ('A' → 'B')",
    ),
}


@pytest.mark.parametrize(("source", "named"), some_slow(EDITS))
def test_an_edit_is_named_in_every_run_and_shown_by_inspect(tmp_path, source, named):
    """The old answers are reused, never without a word: at the user's line, every time."""
    write(tmp_path, source)
    out, err = run(tmp_path)
    assert "Warning" not in err
    write(tmp_path, source.replace("'A", "'B"))
    for _ in range(2):
        again, err = run(tmp_path)
        assert again == out
        assert "StaleResultsWarning" in err and named in err and "the 2 results" in err
        assert "job.py:" in err.splitlines()[0]
    seen = invoke("inspect", str(tmp_path / "s.ckpt"))
    assert "2 of 2 results of f 1 were computed by other code" in seen.stdout
    assert named.partition(" (")[0] in seen.stdout


def test_an_edit_of_an_imported_module_is_named_with_it(tmp_path):
    """A value and a function of a sibling module, through the module and by name."""
    write(
        tmp_path,
        "import prompts\nfrom prompts import clean\n"
        f"{STEP}def f(row): return prompts.TEXT + clean(row)",
    )
    for value in ("A", "B"):
        write(
            tmp_path,
            f"TEXT = '{value}'\nEND = '{value}'\ndef clean(row): return row + END + '{value}'",
            "prompts.py",
        )
        _, err = run(tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert "function prompts.clean changed" in err
    assert "global prompts.TEXT differs ('A' → 'B')" in err
    assert "global prompts.END differs" in err


SILENT = {
    "a memo in a default": f"import time\n{STEP}def f(row, memo={{0: time.time()}}):\n"
    "    memo[row] = 1\n    return row",
    "an object that is written by its items": "class C:\n    def __init__(self): "
    "self.data = {id(self): 1}\n    def __getitem__(self, k): return self.data[k]\n"
    "    def __setitem__(self, k, v): self.data[k] = v\n"
    f"X = C()\n{STEP}def f(row):\n    X[row] = row\n    return X[row]",
    "another name of os.environ": "import os\nos.environ['RUN'] = str(os.getpid())\n"
    f"ENV = os.environ\n{STEP}def f(row): return ENV.get('HOME', '')[:0] + row",
    "a counter": f"N = 0\n{STEP}def f(row):\n    global N\n    N += 1\n    return row",
    "a cache": f"C = {{}}\n{STEP}def f(row): return C.setdefault(row, row)",
    "a log in a list": f"import time\nT = [time.time()]\n{STEP}def f(row):\n    T.append(1)\n"
    "    return row",
    "an item that is assigned": "import time\nS = {'at': time.time(), 'mode': 1}\n"
    f"{STEP}def f(row):\n    S['at'] = 0\n    return row * S['mode']",
    "a lock and a logger": "import logging, threading\nL, LOG = threading.Lock(), "
    f"logging.getLogger()\n{STEP}def f(row):\n    with L: LOG.info(row)\n    return row",
    "a secret that is rotated": "import uuid\nOPENAI_API_KEY = uuid.uuid4().hex\n"
    f"H = {{'Authorization': uuid.uuid4().hex}}\n{STEP}def f(row): return row + str(H)[:0] "
    "+ OPENAI_API_KEY[:0]",
    "a client": "import random\nclass Client:\n    def __init__(self): self.conn = object()\n"
    f"    def ask(self, row): return row\nCLIENT = Client()\n{STEP}"
    "def f(row): return CLIENT.ask(row)",
    "sets": f"WORDS = {{'a', 'b', 'c', 'd', 'x'}}\n{STEP}def f(row): return row in WORDS",
    "types, enums and patterns": "import enum, re, decimal, pathlib\n"
    "class Kind(enum.Enum):\n    A = 1\n    B = 2\nP = re.compile('x')\n"
    f"D = [decimal.Decimal(1), pathlib.Path('a'), Kind.A]\n{STEP}"
    "def f(row): return str(D) + str(P.match(row)) + Kind.B.name",
    "an lru_cache": "import functools\n@functools.lru_cache\ndef h(row): return row\n"
    f"{STEP}def f(row): return h(row)",
    "values that differ and are not read": "import time\nC = {'at': time.time(), 'm': 'a'}\n"
    f"{STEP}def f(row): return C['m'] + C.get('n', '') + row",
    "a model": "import dataclasses\n@dataclasses.dataclass\nclass M:\n    a: int\n"
    "    b: list = dataclasses.field(default_factory=list)\nX = M(1)\n"
    f"{STEP}def f(row): return dataclasses.asdict(X) and row and M(2).a",
    "an object that counts": "class O:\n    def __init__(self): self.n = id(self)\n"
    "    def ask(self, row):\n        self.n += 1\n        return row\n"
    f"OBJ = O()\n{STEP}def f(row): return OBJ.ask(row)",
    "an object that another name changes": "import time\nclass O:\n"
    "    def __init__(self): self.calls, self.at = [time.time()], time.time()\n"
    "    def ask(self, row):\n        self.calls.append(row)\n        self.at = 0\n"
    "        return row\n"
    "OBJ = O()\nBOTH = {'obj': OBJ, 'm': 'a'}\n"
    f"{STEP}def f(row): return str(BOTH) and OBJ.ask(row)[:0]",
    "a nonlocal": f"def make():\n    n = id(object())\n    {STEP}    def f(row):\n"
    "        nonlocal n\n        n += 1\n        return row\n    return f\nf = make()",
}


@pytest.mark.parametrize("source", some_slow({name: (source,) for name, source in SILENT.items()}))
def test_the_same_program_run_again_is_silent(tmp_path, source):
    """Under another hash seed too: what is assigned, has no content or is secret is no change."""
    write(tmp_path, source)
    first = run(tmp_path, PYTHONHASHSEED="1")
    assert first[1] == ""
    assert run(tmp_path, PYTHONHASHSEED="2") == first
    with ckpt.Store(tmp_path / "s.ckpt") as store:
        assert len({run.fingerprint for run in store.runs()}) == 1


EVERYTHING = f"""
import enum, re
WORDS = frozenset(("a", "b", "c", "x"))
class Kind(enum.Enum):
    A = 1
class Config:
    model = "m"
    words = {{"a", "b", "c"}}
    def ask(self, row, kind=Kind.A): return row + self.model + kind.name
def helper(row, more=WORDS): return Config().ask(row)
{STEP}def f(row): return helper(row) if row in WORDS else [Kind.A.name for _ in row]
"""


@pytest.mark.loops
def test_a_fingerprint_is_the_same_however_the_program_is_started(tmp_path):
    """Five hash seeds, fork, spawn, as a script and as a module of `ckpt run`."""
    write(tmp_path, EVERYTHING)
    for seed in range(5):
        run(tmp_path, PYTHONHASHSEED=str(seed))
    for method in ("fork", "spawn"):
        write(
            tmp_path,
            f"""
import multiprocessing
from job import f
def work(row): return f(row)
if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(1) as pool:
        pool.map(work, ["x"])
        pool.close()
        pool.join()
""",
            "pool.py",
        )
        assert run(tmp_path, "pool.py")[1] == ""
    with open(tmp_path / "rows.jsonl", "w") as file:
        file.write('"x"\n')
    assert "Warning" not in run(tmp_path, "-m", "checkpointdb", "run", "job.py:f", "rows.jsonl")[1]
    with ckpt.Store(tmp_path / "s.ckpt") as store:
        assert len({it.fingerprint for it in store.runs()}) == 1
        assert len(store.runs()) == 8


# Python 3.11, 3.12 and 3.13 give it this fingerprint alike.
TRICKY = """
import enum, re, functools, dataclasses
from checkpointdb.engine.captured import capture
WORDS = frozenset(("a", "b", "c", "x"))
class Kind(enum.Enum):
    A = 1
@dataclasses.dataclass
class D:
    m: str = "q"
    def ask(self, r): return [self.m for _ in r]
class Config:
    model = "m"
    words = {"a", "b", "c"}
    def ask(self, row, kind=Kind.A): return row + self.model + kind.name
class Sub(Config):
    def ask(self, row): return super().ask(row)
P = re.compile("x", re.I)
def helper(row, more=WORDS): return Config().ask(row) + Sub().ask(row) + str(P.match(row))
N = 0
C = {"a": {"b": [1, 2.5, None]}}
lam = lambda s, t="z": (s, t)
def f(row):
    global N
    N += 1
    def g(x): return [C["a"]["b"][1] for _ in x]
    more = [Kind.A.name for _ in row] + [lam(w) for w in WORDS]
    return helper(row) if row in WORDS else more + g(row) + D().ask(row)
print(capture(f).fingerprint)
"""


@pytest.mark.loops
def test_a_fingerprint_is_the_same_in_every_python(tmp_path):
    """An upgrade of Python is no change of what a step captures; nor is a new release of ours."""
    write(tmp_path, TRICKY, "tricky.py")
    assert run(tmp_path, "tricky.py")[0] == "bf096430be6d3fcc\n"


@pytest.mark.parametrize("name", ["API_KEY", "HF_TOKEN", "db_password"])
def test_a_secret_is_neither_compared_nor_stored(tmp_path, name):
    """By its name, its type, the look of its text: in globals, defaults, items, attributes."""
    secrets = ("hunter2-A", "sk-proj-A1b2C3d4E5f6G7h8I9")
    source = (
        f"import types\nclass SecretStr:\n    def __init__(self, v): self.v = v\n"
        f"{name} = {secrets[0]!r}\nURL = {secrets[1]!r}\nS = SecretStr({secrets[0]!r})\n"
        f"C = {{{name!r}: {secrets[0]!r}}}\nN = types.SimpleNamespace({name}={secrets[0]!r})\n"
        f"{STEP}def f(row, {name.lower()}={name}): return row + (str((URL, S, C, N, {name})))[:0]"
    )
    write(tmp_path, source)
    run(tmp_path)
    for secret in secrets:
        with open(tmp_path / "s.ckpt", "rb") as file:
            assert secret.encode() not in file.read()
    write(tmp_path, source.replace("-A", "-B").replace("A1b2", "Z9y8"))
    assert run(tmp_path)[1] == ""


def test_tokens_of_a_tokenizer_are_no_secrets(tmp_path):
    """Neither is a limit of tokens."""
    source = f"MAX_TOKENS, STOP_TOKEN = 100, 'A'\n{STEP}def f(row): return [MAX_TOKENS, STOP_TOKEN]"
    write(tmp_path, source)
    run(tmp_path)
    write(tmp_path, source.replace("100, 'A", "200, 'B"))
    err = run(tmp_path)[1]
    assert "global MAX_TOKENS differs (100 → 200)" in err and "global STOP_TOKEN differs" in err


def test_what_is_installed_is_not_followed(tmp_path):
    """An upgrade of a package is no change of the step."""
    place = tmp_path / "site-packages"
    place.mkdir()
    write(tmp_path, f"import lib\nfrom lib import ask\n{STEP}def f(row): return ask(row) + lib.V")
    for value in ("A", "B"):
        write(place, f"V = '{value}'\ndef ask(row): return row + '{value}'", "lib.py")
        _, err = run(tmp_path, PYTHONPATH=str(place), PYTHONDONTWRITEBYTECODE="1")
        assert err == ""


def test_a_value_too_large_counts_by_its_length(tmp_path):
    """More than 10,000 items are not gone through, and many leaves are stored as one."""
    source = f"T = list(range(20_000))\nU = [0] * 500\n{STEP}def f(row): return [T[0:0], U[0:0]]"
    write(tmp_path, source)
    run(tmp_path)
    assert os.path.getsize(tmp_path / "s.ckpt") < 300_000
    write(tmp_path, source.replace("20_000)", "20_001)").replace("[0] * 500", "[0] * 499 + [1]"))
    err = run(tmp_path)[1]
    assert "global T differs" in err and "global U differs" in err


LAZY = {
    "through the module": "import prompts\n    return prompts.TEXT + prompts.clean(row)",
    "by name": "from prompts import TEXT, clean as c\n    return TEXT + c(row)",
    "under another name": "import prompts as p\n    return p.TEXT + p.clean(row)",
    "of a package": "import kit.texts\n    return kit.texts.TEXT + kit.texts.clean(row)",
    "from a package": "from kit import texts\n    return texts.TEXT + texts.clean(row)",
    "from a function of it": "from kit.late import TEXT, clean\n    return TEXT + clean(row)",
    "of another module": "from kit import again\n    return again.TEXT + again.clean(row)",
}


@pytest.mark.parametrize("body", LAZY.values(), ids=LAZY)
def test_an_edit_of_a_module_that_a_function_imports_itself_is_named(tmp_path, body):
    """Before it is loaded: from its text, and without running it; an edit beside it is none."""
    os.mkdir(tmp_path / "kit")
    write(tmp_path, "", "kit/__init__.py")
    write(tmp_path, "from .texts import TEXT\nfrom . import texts\nclean = texts.clean",
          "kit/again.py")  # fmt: skip
    late = "def clean(row):\n    from .texts import clean\n    return clean(row)"
    write(tmp_path, f"from .texts import TEXT\n{late}", "kit/late.py")
    write(tmp_path, f"{STEP}def f(row):\n    {body}")
    errors = []
    for text, other in (("A", 1), ("A", 2), ("B", 2)):
        source = (
            f"import json\nTEXT = '{text}'\nEND = ['{text}']\nOTHER = {other}\n"
            f"def clean(row): return json.loads(json.dumps(row)) + END[0] + '{text}'\n"
            f"def other(): return {other}"
        )
        write(tmp_path, source, "prompts.py")
        write(tmp_path, source, "kit/texts.py")
        errors.append(run(tmp_path, PYTHONDONTWRITEBYTECODE="1")[1])
    assert errors[:2] == ["", ""]
    module = "prompts" if "prompts" in body else "kit.texts"
    assert f"global {module}.TEXT differs ('A' → 'B')" in errors[2]
    assert f"function {module}.clean changed" in errors[2]
    assert f"global {module}.END[0] differs" in errors[2]
