"""Files that somebody made to do harm are refused or read: in a second, in 256 MiB, in our words."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys

import hostile
import pytest

HERE = os.path.dirname(__file__)
SECONDS = 1.0


class Handler:
    """A process that handles file after file, with little room; begun again if one kills it."""

    def __init__(self):
        self.process = None

    def __call__(self, path, *names):
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "hostile_life.py"], cwd=HERE, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        self.process.stdin.write(json.dumps([path, *names]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            return {"wrong": [f"it died: {self.process.returncode} {self.process.stderr.read()}"]}
        return json.loads(line)

    def close(self):
        if self.process is not None:
            self.process.communicate()


@pytest.fixture(scope="module")
def handle():
    handler = Handler()
    yield handler
    handler.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("whole") / "rows.ckpt")
    hostile.whole(path)
    return path


def bad(handle, whole, directory, make, *names):
    """Return what is wrong with how a file is handled, None if nothing is."""
    path = str(directory / "rows.ckpt")
    shutil.copy(whole, path)
    make(path)
    done = handle(path, *names)
    if done["wrong"]:
        return done["wrong"]
    if done["seconds"] > SECONDS:
        return f"{done['seconds']:.1f} s of processor time: {done['ends']}"
    return None


def test_a_whole_store_is_handled(handle, whole, tmp_path):
    """Or all the others would prove nothing."""
    path = str(tmp_path / "rows.ckpt")
    shutil.copy(whole, path)
    done = handle(path)
    assert set(done["ends"].values()) == {"ok"} and not done["wrong"], done


@pytest.mark.soak
@pytest.mark.parametrize("name", hostile.MAKERS)
def test_a_file_made_by_hand(handle, whole, tmp_path, name):
    assert bad(handle, whole, tmp_path, hostile.MAKERS[name]) is None
