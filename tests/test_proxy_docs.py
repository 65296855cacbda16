"""docs/proxy.md is true: its commands and its code run, against a provider on loopback."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
from cli_helpers import start
from provider import text_of
from proxied import ASK, post, records, stop

from checkpointdb.cli import cli

PAGE = (Path(__file__).parent.parent / "docs" / "proxy.md").read_text()
SHELL = [textwrap.dedent(it) for it in re.findall(r"(?:^    .+\n)+", PAGE, re.MULTILINE)]
HERE, PROVIDER = "http://127.0.0.1:8787", "https://api.openai.com"
LABEL = """
from openai import OpenAI
messages = [{"role": "user", "content": "good or bad?"}]
done = OpenAI().chat.completions.create(model="gpt-4o-mini", messages=messages)
print(done.choices[0].message.content)
"""


def commands(beginning):
    """Return the page's commands that begin so."""
    found = [line for block in SHELL for line in block.splitlines() if line.startswith(beginning)]
    assert found, beginning
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch, at):
    """An empty folder with a program of the reader's; `ckpt` and `python` are these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (tmp_path / "label.py").write_text(LABEL)
    return tmp_path


@pytest.fixture
def serving(provider, folder):
    """Start a command of the page in front of the provider on loopback; give its address."""
    begun = []

    def serving(command, *more, **options):
        name, *given = shlex.split(command.replace(PROVIDER, provider.origin))
        assert name == "ckpt"
        process = start(*given, "--port", "0", *more, cwd=folder, **options)
        begun.append(process)
        said = process.stderr.readline()
        assert said.startswith("http"), said + process.stderr.read()
        return said.split()[0].removesuffix("/v1")

    yield serving
    for process in begun:
        stop(process)


def shell(script):
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_of_the_page_run(provider, serving, folder):
    """Copied into a shell, with the real SDK: the second time nothing is paid."""
    plain, priced = commands("ckpt proxy")
    label, sampled = (block for block in SHELL if block.startswith("export"))
    url = serving(plain)
    assert [shell(label.replace(HERE, url)) for _ in range(2)] == [text_of(1) + "\n"] * 2
    samples = shell(sampled.replace(HERE, url) + "python label.py\npython label.py")
    assert samples.splitlines() == [text_of(2), text_of(3)]
    assert "gpt-4o-mini /v1/chat/completions" in shell("ckpt inspect calls.ckpt")
    (folder / "prices.json").write_text(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    assert post(serving(priced) + "/v1/chat/completions", ASK).status_code == 402  # has no price
    provider.faults = [500]
    post(url + "/v1/chat/completions", ASK)
    assert "HTTP 500" in shell("ckpt inspect calls.ckpt --failures")
    assert len(provider.asked) == 4


def test_the_python_of_the_page_runs(provider, serving, folder, monkeypatch):
    """A store of the proxy serves the transport: nothing is paid again."""
    url = serving(commands("ckpt proxy")[0])
    monkeypatch.setenv("OPENAI_BASE_URL", url + "/v1")
    shell("python label.py")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.origin + "/v1")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    asked = LABEL.replace("OpenAI()", "client")
    (folder / "page.py").write_text(block + asked)
    assert shell("python page.py") == text_of(1) + "\n"
    assert len(provider.asked) == 1


def test_the_addresses_of_the_page(provider, serving, folder):
    """The table's base addresses, and one with the token in it."""
    bases = re.findall(rf"^\| .*{HERE}(.*?)` \|$", PAGE, re.MULTILINE)
    assert len(bases) == 3
    url = serving(commands("ckpt proxy")[0])
    paths = ["/chat/completions", "/v1/messages", "/v1beta/models/g-1:generateContent"]
    for base, path in zip(bases, paths, strict=True):
        assert post(url + base + path, ASK).headers["x-checkpointdb"] == "miss"
    (shown,) = re.findall(rf"`{HERE}(/token/.*?)`", PAGE)
    url = serving(commands("ckpt proxy")[0], env={"CKPT_PROXY_TOKEN": "0123456789"})
    assert post(url + "/v1/messages", ASK).status_code == 403
    answer = post(url + shown.replace("TOKEN", "0123456789") + "/chat/completions", ASK)
    assert answer.headers["x-checkpointdb"] == "hit"


def test_the_options_of_the_page(provider, serving, folder):
    """As the page writes them, they are options; what it says of replays holds."""
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert named <= {name for it in cli.commands["proxy"].params for name in it.opts}
    command = commands("ckpt proxy")[0]
    rerank = shlex.split(re.search(r"`(--path .*?)`", PAGE)[1])
    cost = shlex.split(re.search(r"`(--cost-per-token .*?)`", PAGE)[1])
    url = serving(command, *rerank, *cost)
    assert post(url + "/v1/rerank", {"model": "r"}).headers["x-checkpointdb"] == "miss"
    post(url + "/v1/chat/completions", ASK)
    assert records(str(folder / "calls.ckpt"))[-1].cost == pytest.approx(26e-6)
    url = serving(command, "--read-only")
    missing = post(url + "/v1/chat/completions", ASK | {"seed": 1})
    assert missing.status_code == 404 and "seed" in missing.json()["error"]["message"]
    assert httpx.get(url + "/v1/models").status_code == 404
    again = post(serving(command, "--record") + "/v1/chat/completions", ASK)
    assert json.loads(again.content)["id"] == "chatcmpl-3"
