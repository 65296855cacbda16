"""Every command and option is explained twice, in its help and in docs/cli.md, and the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_helpers import invoke

import checkpointdb as ck
from checkpointdb.cli import cli
from checkpointdb.file.records import SentCall

DOCS = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ckpt (\w+)\n(.*?)(?=^## |\Z)", DOCS, re.S | re.M))
COMMANDS = sorted(cli.commands)


SHAPES = [(), (0,), ("steps", 0), ("runs", 0), ("report",), ("plan",), ("calls", 0)]
SHAPES += [("failures", 0), ("failures", 0, "history", 0)]


def options(command):
    return [
        name
        for parameter in cli.commands[command].params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    ]


def test_every_command_is_documented_and_no_other():
    assert sorted(SECTIONS) == COMMANDS
    assert all(f"[`ckpt {command}`](#ckpt-{command})" in DOCS for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented_and_no_other(command):
    tables = "\n".join(re.findall(r"^\| (`-.*?) \|", SECTIONS[command], re.M))
    assert sorted(re.findall(r"(?<=`)--?[a-z][a-z-]*", tables)) == sorted(options(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_has_an_example(command):
    shown = invoke(command, "--help")
    assert shown.exit_code == 0
    assert re.search(rf"Examples?:\n +ckpt {command}", shown.stdout)
    assert all(name in shown.stdout for name in options(command))
    assert invoke(command, "-h").stdout == shown.stdout
    assert "\x08" not in shown.stdout and "\\b" not in shown.stdout
    for parameter in cli.commands[command].params:
        assert isinstance(parameter, click.Argument) or parameter.help


def test_the_first_help_names_every_command():
    shown = invoke("--help").stdout
    assert all(re.search(rf"^  {command} +\w", shown, re.M) for command in COMMANDS)
    assert "..." not in shown.split("Commands:")[1]


@pytest.mark.parametrize(
    ("section", "n", "arguments"),
    [
        ("inspect", 0, ("inspect", "rows.ckpt", "--failures", "--json")),
        ("inspect", 1, ("inspect", "rows.ckpt", "KEY", "--json")),
        (
            "run",
            1,
            ("run", "step.py:label", "rows.jsonl", "-o", "o.csv", "--on-error", "record", "--json"),
        ),
        ("plan", 0, ("plan", "step.py:label", "rows.jsonl", "--json")),
        ("watch", 0, ("watch", "rows.ckpt", "--until-end", "--json")),
        ("why", 0, ("why", "rows.ckpt", '{"n": 2}', "--json")),
    ],
)
def test_json_has_the_documented_fields(section, n, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"n": 0}\n{"n": 1}\n')
    Path("step.py").write_text(
        "import checkpointdb as ck\n"
        "@ck.step('rows.ckpt', version=1)\n"
        "def label(row):\n    return row if row['n'] != 1 else 1 / 0\n"
    )
    assert invoke("run", "step.py:label", "rows.jsonl", "--on-error", "record").exit_code == 3
    with ck.Store("rows.ckpt") as store:
        key = bytes.fromhex(ck.key_of("label", 1, {"n": 9}))
        store.log.send(1, 1, [SentCall(key, 9, '{"n": 9}', 0)])
    key = ck.key_of("label", 1, {"n": 0})
    done = invoke(*(key if argument == "KEY" else argument for argument in arguments))
    wanted = json.loads(re.findall(r"```json\n(.*?)```", SECTIONS[section], re.S)[n])
    given = json.loads(done.stdout)
    for path in SHAPES:
        one, other = given, wanted
        try:
            for part in path:
                one, other = one[part], other[part]
        except (KeyError, IndexError, TypeError):
            continue
        assert isinstance(one, list) or set(other) <= set(one), path


def test_help_needs_none_of_what_only_some_commands_need():
    """`ckpt --help` answers at once: no rich, no pyarrow, no sockets."""
    script = (
        "import sys\n"
        "from checkpointdb.cli import cli\n"
        "try:\n    cli(['run', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'rich', 'pyarrow', 'pydantic', 'xml', 'html', 'click.shell_completion'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20
    )
    assert done.stderr == "[]\n"


def test_wrong_use_is_told_how_to_get_help():
    done = invoke("run", "step.py:label")
    assert done.exit_code == 2
    assert "ckpt" in done.stderr or "cli" in done.stderr
    assert "--help" in done.stderr
