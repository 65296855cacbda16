"""The README is true: its code runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

import checkpointdb
from checkpointdb.cli import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_code_block_runs_one_after_the_other(tmp_path, monkeypatch, capsys):
    """The blocks run in one namespace, in an empty folder, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    space = {
        "call_a_paid_model": lambda row: {"label": row["text"].upper()},
        "rows": [{"text": "good"}, {"text": "bad"}],
    }
    assert len(BLOCKS) >= 6
    for number, block in enumerate(BLOCKS):
        path = tmp_path / f"block_{number}.py"
        path.write_text(block)
        exec(compile(block, str(path), "exec"), space)
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["GOOD", "BAD"]
    assert len(out) == 3
    assert out[2].startswith("a miss: new content")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_to_a_file(link):
    """A link in the README is to a file that is there."""
    assert (ROOT / link).exists()


def test_every_command_named_is_one():
    """Each `ckpt NAME` in the README is a command, and each command is in the README."""
    named = set(re.findall(r"\bckpt ([a-z]+)", README)) - {"as"}
    assert named == set(cli.commands)


def test_every_name_used_is_public():
    """`ckpt.NAME` in the README's code is in `__all__`."""
    used = set(re.findall(r"\bckpt\.([a-zA-Z_]+)", "\n".join(BLOCKS)))
    assert used <= set(checkpointdb.__all__)


def test_the_first_two_commands_are_a_line_each_and_do_all_set_up():
    """The demo needs no development tools; the tests need no other command before them."""
    assert re.findall(r"^    (pip install .*)$", README, re.MULTILINE) == [
        "pip install uv && uv run --no-dev ckpt demo",
        "pip install uv && uv run pytest",
    ]


def test_the_contributing_page_names_what_is_there():
    """Each recipe and each file that CONTRIBUTING.md names exists."""
    recipes = set(re.findall(r"^(\w+).*:$", (ROOT / "justfile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`just (\w+)`", CONTRIBUTING)) <= recipes
    named = {path for path in re.findall(r"`([\w./]+)`", CONTRIBUTING) if "/" in path}
    missing = {
        path
        for path in named - {"checkpointdb/cli/NAME.py"}
        if not (ROOT / path).exists() and not (ROOT / "checkpointdb" / path).exists()
    }
    assert not missing


def test_the_version_stands_once():
    """What is installed has the version of `checkpointdb/__init__.py`."""
    assert importlib.metadata.version("checkpointdb") == checkpointdb.__version__
    assert "\nversion =" not in (ROOT / "pyproject.toml").read_text()


def test_the_design_lists_no_method_that_does_not_exist():
    """What docs/design.md says a step and a store can do is there."""
    design = (ROOT / "docs" / "design.md").read_text()
    methods = re.search(r"^    Store\(path.*?\): (.*?); context manager", design, re.M | re.S)[1]
    of_store = set(re.findall(r"\w+(?=\()", methods))
    assert {"steps", "forget", "close"} <= of_store
    assert [name for name in of_store if not hasattr(checkpointdb.Store, name)] == []
    step = checkpointdb.step("unused.ckpt", version=1, name="label")(lambda row: row)
    of_step = set(re.findall(r"\blabel\.(\w+)", design))
    opens_a_file = {"store"}
    assert [name for name in of_step - opens_a_file if not hasattr(step, name)] == []
