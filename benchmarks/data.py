"""The rows and results that every measurement uses: about 230 and 300 bytes of JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import xxhash

TEXT = (
    "The plot is thin and the ending can be seen from a mile away, but the two leads carry it: "
    "there is not a dull minute between them, and the music alone is worth the price of a ticket. "
)
ANSWER = (
    "The review praises the leading actors and the music and finds fault with a thin plot and an "
    "ending that surprises nobody; on the whole it is favourable, with some reservations. "
)
LABELS = ("positive", "negative", "mixed")
encode = msgspec.json.encode
_canonical = msgspec.json.Encoder(order="deterministic").encode


def row(i: int) -> dict[str, Any]:
    """Return the i-th row."""
    text = TEXT[i % 20 : i % 20 + 150]
    return {"id": i, "user": f"user-{i % 9973}", "lang": "en", "stars": i % 5, "text": text}


def rows(n: int) -> Iterator[dict[str, Any]]:
    """Yield n rows, in order."""
    return map(row, range(n))


def shuffled(n: int) -> Iterator[dict[str, Any]]:
    """Yield the same n rows in an order with nothing left of the first, in no memory."""
    stride = int(n * 0.6180339887) | 1
    while n % stride == 0 or _gcd(n, stride) != 1:
        stride += 2
    return (row(i * stride % n) for i in range(n))


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def answer(row: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a row: the step without its cost."""
    i = row["id"]
    return {
        "label": LABELS[i % 3], "score": i % 1000 / 1000, "topics": ["plot", "cast", "music"],
        "answer": ANSWER, "model": f"model-{i % 7}",
    }  # fmt: skip


def fast_key(row: Any) -> bytes:
    """Return a key the fastest way there is."""
    return xxhash.xxh3_128_digest(_canonical(row))


def hand_key(row: Any) -> str:
    """Return a key the way people write it by hand."""
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def same_bytes(n: int) -> list[tuple[bytes, bytes, bytes]]:
    """Return key, input and result of n rows, as bytes: what a bare store would have to keep."""
    return [(fast_key(r), encode(r), encode(answer(r))) for r in rows(n)]
