"""The package as its users and its reviewers see it: public names, and what its code never does."""

from __future__ import annotations

import ast
import glob
import inspect
import os
import subprocess
import sys
import types

import pytest
from test_connection import ROOT, run_script

import checkpointdb

HERE = os.path.dirname(checkpointdb.__file__)
SOURCES = sorted(glob.glob(os.path.join(HERE, "**", "*.py"), recursive=True))
LIBRARY = [path for path in SOURCES if os.path.relpath(path, HERE).split(os.sep)[0] != "cli"]


def trees():
    for path in LIBRARY:
        with open(path, encoding="utf-8") as file:
            yield os.path.relpath(path, HERE), ast.parse(file.read())


def calls(tree):
    """Yield the text of what is called, such as `os.open`, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_all_lists_every_public_name_and_nothing_else():
    """What the package shows is what it promises."""
    public = {
        name
        for name, value in vars(checkpointdb).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(checkpointdb.__all__) == public
    assert len(checkpointdb.__all__) == len(set(checkpointdb.__all__))


def test_the_names_of_the_design_are_there():
    """A name that was public stays."""
    assert set(checkpointdb.__all__) >= {
        *("step", "run", "arun", "Step", "Run", "Store", "Record", "key_of"),
        *("every", "adaptive", "by_size", "on_exit", "SavePolicy", "Pending"),
        *("CheckpointError", "StoreError", "StoreLockedError", "StoreCorruptError"),
        *("StoreVersionError", "StoreFullError", "EncodeError", "DecodeError"),
    }


def public_objects():
    for name in checkpointdb.__all__:
        value = getattr(checkpointdb, name)
        yield name, value
        if inspect.isclass(value):
            for member, of in vars(value).items():
                is_code = inspect.isroutine(of) or isinstance(of, property | staticmethod)
                if not member.startswith("_") and is_code:
                    yield f"{name}.{member}", of


@pytest.mark.parametrize(
    ("name", "value"), list(public_objects()), ids=[name for name, _ in public_objects()]
)
def test_every_public_name_has_a_docstring(name, value):
    """`help()` says something true about each."""
    doc = inspect.getdoc(value)
    assert doc, name
    assert len(doc.splitlines()[0]) > 5


def test_every_error_of_ours_is_a_checkpoint_error_with_its_attributes():
    """One `except` catches all; misuse is a builtin error instead."""
    errors = [
        value
        for value in vars(checkpointdb).values()
        if isinstance(value, type)
        and issubclass(value, Exception)
        and not issubclass(value, Warning)
    ]
    assert len(errors) >= 8
    assert checkpointdb.StaleResultsError("m", 3, ("a",)).changes == ("a",)
    assert issubclass(checkpointdb.StaleResultsWarning, UserWarning)
    assert all(issubclass(error, checkpointdb.CheckpointError) for error in errors)
    assert checkpointdb.StoreFullError("m", "p").path == "p"
    assert repr(checkpointdb.EncodeError("m").result) == "MISSING"
    assert checkpointdb.DecodeError("m").key is None


def test_the_package_neither_unpickles_nor_evaluates_nor_prints():
    """A store is data: nothing in it is ever run."""
    for name, tree in trees():
        for called, line in calls(tree):
            where = f"{name}:{line}: {called}"
            assert called not in ("eval", "exec", "compile", "__import__", "input"), where
            # the progress that the caller asked for goes to stderr
            assert called != "print" or name == "loops/progress.py", where
            assert not called.endswith((".load_extension", ".enable_load_extension")), where
            assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), where
        forbidden = {"marshal", "shelve", "dill", "cloudpickle", "sqlite3"} & set(imports(tree))
        assert not forbidden, f"{name} imports {forbidden}"


def test_only_what_must_names_pickle_or_imports_by_name():
    """A step that travels to another process is pickled by its executor; `ckpt run` imports it."""
    assert {n for n, tree in trees() if "pickle" in set(imports(tree))} == {"loops/executors.py"}
    by_name = ("importlib.import_module", "importlib.util.spec_from_file_location")
    named = {n for n, tree in trees() for called, _ in calls(tree) if called in by_name}
    assert named == {"integrations/httpx.py"}  # which of two packages of one face it is for


def test_nothing_of_the_process_is_changed_at_import():
    """No hook for every connection, no configuration of apsw, no file, no heavy import."""
    for name, tree in trees():
        for called, line in calls(tree):
            assert "bestpractice" not in called, f"{name}:{line}"
            assert called not in ("apsw.config", "apsw.initialize", "apsw.set_default_vfs")
        assert "connection_hooks" not in ast.unparse(tree), name
    heavy = [
        "rich",
        "click",
        "pyarrow",
        "pydantic",
        "numpy",
        "sqlite3",
        "asyncio",
        "ssl",
        "email",
        "tempfile",
        "hashlib",
    ]
    code = f"""
        import os, sys
        before = sorted(os.listdir("."))
        import checkpointdb
        print([name for name in {heavy!r} if name in sys.modules])
        assert sorted(os.listdir(".")) == before
    """
    assert run_script(code).strip() == "[]"


def test_the_modules_that_know_the_file_open_nothing_by_path():
    """Only SQLite does: closing another descriptor of a store drops its locks in this process."""
    of_proc = {"system.py"}  # which read /proc
    found = {}
    for name, tree in trees():
        for called, _ in calls(tree):
            if name not in of_proc and called in (
                "open",
                "io.open",
                "os.open",
                "os.fdopen",
                "Path.open",
            ):
                found[name, called] = found.get((name, called), 0) + 1
    assert found == {
        # before SQLite sees it; one that a kill left; a segment before it is read
        ("file/temporary.py", "os.open"): 3,
        ("integrations/folder.py", "open"): 2,  # a copy that is closed, and its copy before SQLite
        ("integrations/mirror.py", "os.open"): 1,  # a lock next to a store
        ("integrations/scratch.py", "os.open"): 2,  # directories
    }


NO_OPEN = """
    import os, sys
    directory, path = os.path.dirname(sys.argv[1]), sys.argv[1]
    bad = []

    def watch(event, args):
        if event == "open" and isinstance(args[0], str):
            if args[0] in (path, path + "-wal", path + "-shm"):
                bad.append((event, args))

    sys.addaudithook(watch)
    import warnings
    import checkpointdb as ckpt
    from checkpointdb.cli import main

    @ckpt.step(path, version=1, save=ckpt.every(rows=2))
    def label(row):
        return {"row": row}

    list(label.run(range(5)))
    label(7)
    label.flush()

    def ckpt_command(*arguments):
        sys.argv[1:] = arguments
        try:
            main()
        except SystemExit as done:
            assert not done.code, arguments

    store = label.store
    store.steps(), store.runs(), list(store.records()), store.verify()
    ckpt_command("inspect", path)
    ckpt_command("inspect", path, "--runs", "--json")
    ckpt_command("inspect", path, ckpt.key_of("label", 1, 7))
    ckpt_command("export", path, "--all", "-o", directory + "/out.jsonl")
    with ckpt.Store(path) as other:
        other.flush()
    store.close()
    assert bad == [], bad
    open(path).close()
    assert bad, "the watch does not see"
"""


def test_nothing_in_a_whole_life_of_a_store_opens_its_files_but_sqlite(store_path):
    """Seen by Python itself, for every `open` in the process, the command line included."""
    run_script(NO_OPEN, store_path)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs mypy")
def test_the_types_of_the_public_api_are_what_users_rely_on():
    """`tests/typing/api.py` is only type-checked, in strict mode."""
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", os.path.join("tests", "typing", "api.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    own = [line for line in done.stdout.splitlines() if line.startswith("tests/")]
    assert own == [], "\n".join(own)
