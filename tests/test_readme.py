"""The README is true: its code runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import checkpointdb
from checkpointdb.cli import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
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
