"""What TAB offers in real shells: files, and from the store its steps and versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import click
import pytest
from click.shell_completion import BashComplete

import checkpointdb as ck
from checkpointdb.cli import cli
from checkpointdb.cli.completion import files, steps, versions

BASH = """
eval "$(_CKPT_COMPLETE=bash_source ckpt)"
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_ckpt_completion ckpt
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = "_CKPT_COMPLETE=fish_source ckpt | source; complete --do-complete={words}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a store, and `ckpt` on the path."""
    monkeypatch.chdir(tmp_path)
    with ck.Store("rows.ckpt") as store:
        for name, version in (("label", 1), ("label", "2024-05"), ("tag", 3), ("a\x1b[31m", 1)):
            list(ck.run(str, [1], name=name, store=store, version=version))
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ckpt"
    program.write_text(f"#!{sys.executable}\nfrom checkpointdb.cli import main\nmain()\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_every_store_file_and_step_is_completed():
    """Each argument and option that is a file, a step or a version of a store."""
    kinds = {
        "into": files,
        "sources": files,
        "dest": files,
        "store": files,
        "input": files,
        "output": files,
        "rows": files,
        "version": versions,
    }
    for command in cli.commands.values():
        names = [parameter.name for parameter in command.params]
        of_store = isinstance(command.params[names.index("store")], click.Argument) if (
            "store" in names
        ) else False  # fmt: skip
        wanted = kinds | {"step": steps if of_store else files, "old": versions, "new": versions}
        for parameter in command.params:
            if parameter.name in wanted:
                assert parameter._custom_shell_complete is wanted[parameter.name], parameter


def run_shell(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout.splitlines()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.slow
def test_bash_completes_steps_and_versions(here):
    """And what is offered steers no terminal: a step with an escape in its name is left out."""
    words = "ckpt export rows.ckpt --step ''"
    assert run_shell("bash", "-c", BASH.format(words=words)) == ["label", "tag"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
@pytest.mark.soak
def test_zsh_is_offered_the_same(here):
    environment = {
        **os.environ,
        "_CKPT_COMPLETE": "zsh_complete",
        "COMP_WORDS": "ckpt head rows.ckpt --step l",
        "COMP_CWORD": "4",
    }
    done = subprocess.run(["zsh", "-c", "ckpt"], env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n")[:3] == ["plain", "label", "2 results"]
    script = 'autoload -U compinit; compinit -u; eval "$(_CKPT_COMPLETE=zsh_source ckpt)"; '
    script += "echo $_comps[ckpt]"
    assert run_shell("zsh", "-fc", script) == ["_ckpt_completion"]


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.soak
def test_fish_completes_versions(here):
    said = run_shell(
        "fish", "-c", FISH.format(words="'ckpt head rows.ckpt --step label --version '")
    )
    assert said == ["1\t1 results", "2024-05\t1 results"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("export", "rows.ckpt", "--step", "ta"), ["tag"]),
        (("export", "--step", "tag", "rows.ckpt", "--version", ""), ["3"]),
        (("adopt", "rows.ckpt", "--step", "label", "--from", "2"), ["2024-05"]),
        (("head", "gone.ckpt", "--step", ""), []),
        (("head", "bin", "--step", ""), []),
        (("head", "--step", ""), []),
        (("why", "rows.ckpt", "{}", "--step", "l"), ["label"]),
    ],
)
def test_steps_and_versions_come_from_the_store(here, words, found):
    """A store that cannot be read offers nothing, and says nothing in the middle of a line."""
    complete = BashComplete(cli, {}, "ckpt", "_CKPT_COMPLETE")
    got = complete.get_completions(list(words[:-1]), words[-1])
    assert [item.value for item in got] == found
    assert {item.type for item in got} <= {"plain"}


def test_files_are_left_to_the_shell(here):
    complete = BashComplete(cli, {}, "ckpt", "_CKPT_COMPLETE")
    for words in (["inspect"], ["run"], ["run", "a.py:f"], ["export", "rows.ckpt", "-o"]):
        assert [it.type for it in complete.get_completions(words, "ro")] == ["file"]
