"""Two rows with one key, made on purpose: the second is refused, never given the first's answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct

import apsw
import msgspec
import pytest

import checkpointdb as ckpt
from checkpointdb import KeyCollisionError, Store, every, key_of, on_exit
from checkpointdb.file.read import Reader
from checkpointdb.values.keys import Keyer

# The secret of XXH3, from its specification: a lane of input that equals it contributes nothing.
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff"
    "7221b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b532ea371644897a20df94e3819ef46a9"
    "deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364ecc5ac8334d3ebc3c581a0"
    "fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428af"
    "d7fbcabb4b407e"
)


def colliding(name, version=1, size=2000):
    """Return two rows with the same XXH3-128 under a step, and other content.

    The low half of a lane that equals the secret's makes its product 0, whatever the high half is;
    what is left is a plain sum. So add to the high half in one stripe and take it away in another.
    """
    prefix = msgspec.msgpack.encode((name, version))
    pack = msgspec.msgpack.Encoder(order="deterministic").encode
    head = len(prefix + pack({"page": bytes(size)})) - size
    one = bytearray(random.Random(1).randbytes(size))
    lane = 3
    places = [stripe * 64 + lane * 8 - head for stripe in (1, 4)]
    for stripe, at in zip((1, 4), places, strict=True):
        start = 8 * (stripe + lane)
        one[at : at + 4] = SECRET[start : start + 4]
        one[at + 4 : at + 8] = struct.pack("<I", 0x40404040)
    other = bytearray(one)
    for at, by in zip(places, (1234567, -1234567), strict=True):
        other[at + 4 : at + 8] = struct.pack("<I", 0x40404040 + by)
    return {"page": bytes(one)}, {"page": bytes(other)}


ONE, OTHER = colliding("f")


def last(row):
    return row["page"][-9:].hex()


def test_the_rows_do_collide():
    """Else this file tests nothing."""
    assert key_of("f", 1, ONE) == key_of("f", 1, OTHER)
    assert ONE != OTHER
    (key, identity, _), (same, another, _) = (Keyer("f", 1).identify(r) for r in (ONE, OTHER))
    assert key == same
    assert identity != another


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "pending"])
def test_a_saved_row_is_not_answered_for_another(store_path, committed):
    """From the store, or from what is pending; the error names key, position and record."""
    calls = []
    with Store(store_path) as store:
        save = every(rows=1) if committed else on_exit()
        step = ckpt.step(store, version=1, name="f", save=save)(lambda r: calls.append(r) or 1)
        step(ONE)
        with pytest.raises(KeyCollisionError, match="The step was not called") as caught:
            list(step.run([1, OTHER, 2]))
        assert caught.value.key == key_of("f", 1, ONE)
        assert caught.value.position == 1
        assert caught.value.record == (1 if committed else None)
        with pytest.raises(KeyCollisionError):
            step(OTHER)
        assert calls == [ONE, 1]
        assert step(ONE) == 1


@pytest.mark.damages_store
def test_an_identity_that_has_rotted_is_not_taken_for_a_collision(store_path):
    """The record is named, as any other that is not what was written."""
    step = ckpt.step(store_path, version=1, name="f")(last)
    step(ONE)
    step.store.close()
    with contextlib.closing(apsw.Connection(store_path)) as db:
        db.execute("update records set identity = randomblob(16)")
    with pytest.raises(ckpt.StoreCorruptError, match="record 1 "):
        step(ONE)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_rows_of_one_run_that_collide_do_not_share_a_call(store_path, concurrency):
    """Nor does one wait for the other; the rest of the run goes on if failures are recorded."""
    step = ckpt.step(store_path, version=1, name="f")(last)
    rows = [ONE, OTHER, dict(ONE)]
    results = list(step.run(rows, concurrency=concurrency, on_error="record"))
    assert results[0] == results[2] == last(ONE)
    assert results[1].error_type == "KeyCollisionError"
    with Reader(store_path) as reader:
        assert [record.input for record in reader.records()] == [ONE]


def test_rows_of_an_async_run_that_collide_do_not_share_a_call(store_path):
    """The same in tasks."""

    async def wait(row):
        await asyncio.sleep(0.01)
        return last(row)

    step = ckpt.step(store_path, version=1, name="f")(wait)

    async def go():
        return [r async for r in step.arun([ONE, OTHER], concurrency=2, on_error="record")]

    first, second = asyncio.run(go())
    assert first == last(ONE)
    assert second.error_type == "KeyCollisionError"


def test_a_failed_row_is_not_tried_again_as_another(store_path):
    """A failure holds its key too: attempts and history are the first row's."""
    step = ckpt.step(store_path, version=1, name="f")(lambda row: 1 / 0)
    list(step.run([ONE], on_error="record"))
    with pytest.raises(KeyCollisionError):
        list(step.run([OTHER]))
