"""Where the user's code raised, IPython and pytest show the user's frames and none of ours."""

from __future__ import annotations

import asyncio
import os

import pytest
from _pytest._code import ExceptionInfo
from IPython.core.ultratb import VerboseTB

import checkpointdb as ckpt
from checkpointdb import EncodeError

pytestmark = pytest.mark.loops

OURS = os.path.dirname(ckpt.__file__)


def inner(n):
    return 1 // n


async def ainner(n):
    await asyncio.sleep(0)
    return inner(n)


def batch(rows):
    return [inner(row) for row in rows]


def broken():
    yield 1
    yield inner(0)


async def arun(step, rows):
    return [result async for result in step.arun(rows, concurrency=3)]


async def acall(step, row):
    return await step(row)


async def anext_of(step, rows):
    async with step.arun(rows) as run:
        return await anext(run)


WAYS = {
    "run": lambda step: list(step(inner).run([0])),
    "next": lambda step: next(step(inner).run([0])),
    "threads": lambda step: list(step(inner).run([0, 0, 1], concurrency=3)),
    "batches": lambda step: list(step(batch).run([0, 1], batch_size=2)),
    "call": lambda step: step(inner)(0),
    "async": lambda step: list(step(ainner).run([0, 1])),
    "async, many": lambda step: list(step(ainner).run([0, 1], concurrency=3)),
    "arun": lambda step: asyncio.run(arun(step(ainner), [0, 1])),
    "acall": lambda step: asyncio.run(acall(step(ainner), 0)),
    "anext": lambda step: asyncio.run(anext_of(step(ainner), [0])),
    "rows": lambda step: list(step(inner).run(broken())),
}


@pytest.mark.parametrize("way", WAYS)
def test_our_frames_are_left_out(store_path, way):
    with pytest.raises(ZeroDivisionError) as caught:
        WAYS[way](ckpt.step(store_path, version=1))
    info = ExceptionInfo.from_exception(caught.value)
    files = {str(entry.path) for entry in info.traceback.filter(info)}
    assert not [file for file in files if file.startswith(OURS)]
    assert __file__ in files and info.traceback.filter(info)[-1].name == "inner"
    if way == "threads":  # the slow form once
        text = VerboseTB(theme_name="nocolor").text(*caught._excinfo)
        assert "return 1 // n" in text and f"{OURS}/loops" not in text


def test_an_error_of_ours_keeps_its_frames(store_path):
    """It is not the user's code that raised: whoever reports it needs them."""
    with pytest.raises(EncodeError) as caught:
        list(ckpt.step(store_path, version=1)(inner).run([lambda: 1]))
    info = ExceptionInfo.from_exception(caught.value)
    assert any(str(entry.path).startswith(OURS) for entry in info.traceback.filter(info))
