"""What zstd would save of texts, JSON and vectors, a row at a time. The store does not use it."""

from __future__ import annotations

import glob
import os
import random
import sysconfig
import time
from array import array
from collections.abc import Callable
from typing import Any

from .harness import Case, Figures, child

QUESTION = "What would zstd save, and what would it cost?"
LEVELS = (1, 3, 9)
MOST = 1_000  # rows of a kind
TRAINED = 300  # other rows that a dictionary is made of


def cases(quick: bool) -> list[Case]:
    """Return each kind of value, as the store keeps it."""
    return [
        Case(kind, measure, {"kind": kind, "most": MOST // (5 if quick else 1)}) for kind in KINDS
    ]


def measure(folder: str, kind: str, most: int) -> Figures:
    """Measure in a fresh process."""
    figures = child("zstd:compressed", folder, kind=kind, most=most)
    del figures["memory_mb"]
    return figures


# --- in the child


def compressed(kind: str, most: int) -> Figures:
    """Compress each row by itself, at each level; then with a dictionary of other rows."""
    import zstandard

    values = KINDS[kind]()
    random.Random(1).shuffle(values)
    rows, others = values[:most], values[most : most + TRAINED]
    size = sum(map(len, rows))
    figures: Figures = {"rows": len(rows), "bytes": size / len(rows)}
    for level in LEVELS:
        found = _passed(zstandard.ZstdCompressor(level), zstandard.ZstdDecompressor(), rows)
        figures |= {f"{name}_{level}": value for name, value in found.items()}
    trained = zstandard.train_dictionary(32_768, others) if len(others) == TRAINED else None
    if trained:
        packer = zstandard.ZstdCompressor(3, dict_data=trained)
        found = _passed(packer, zstandard.ZstdDecompressor(dict_data=trained), rows)
        figures |= {f"{name}_dictionary": value for name, value in found.items()}
    return figures


def _passed(packer: Any, reader: Any, rows: list[bytes]) -> Figures:
    began = time.process_time()
    packed = [packer.compress(row) for row in rows]
    between = time.process_time()
    assert [reader.decompress(row) for row in packed] == rows
    ended = time.process_time()
    size = sum(map(len, packed))
    return {
        "ratio": size / sum(map(len, rows)),
        "us": (between - began) / len(rows) * 1e6,
        "read_us": (ended - between) / len(rows) * 1e6,
    }


def _descriptions() -> list[bytes]:
    """Return the README of each installed package, as its metadata has it."""
    pattern = os.path.join(sysconfig.get_path("purelib"), "*.dist-info", "METADATA")
    texts = [_read(path).partition("\n\n")[2] for path in sorted(glob.glob(pattern))]
    return [text.encode() for text in texts if len(text) > 500]


def _paragraphs() -> list[bytes]:
    """Return their paragraphs of the length of an answer."""
    found = [p.strip() for text in _descriptions() for p in text.decode().split("\n\n")]
    return [p.encode() for p in dict.fromkeys(found) if 200 <= len(p) <= 1_000]


def _sources() -> list[bytes]:
    """Return the modules of Python's standard library."""
    pattern = os.path.join(sysconfig.get_path("stdlib"), "*.py")
    packages = os.path.join(sysconfig.get_path("stdlib"), "[a-r]*", "*.py")
    paths = [*glob.glob(pattern), *(p for p in glob.glob(packages) if "site-packages" not in p)]
    return [text.encode() for path in sorted(paths) if len(text := _read(path)) > 500]


def _answers() -> list[bytes]:
    """Return what a chat endpoint answers, in JSON, each with one of the paragraphs."""
    from .data import encode

    made = random.Random(1)
    return [
        encode({
            "id": f"chatcmpl-{made.getrandbits(140):029x}", "object": "chat.completion",
            "created": 1_760_000_000 + made.randrange(10**6), "model": "gpt-4o-mini-2024-07-18",
            "choices": [{
                "index": 0, "finish_reason": "stop", "logprobs": None,
                "message": {"role": "assistant", "content": text.decode(), "refusal": None,
                            "annotations": []},
            }],
            "usage": {
                "prompt_tokens": made.randrange(50, 900), "completion_tokens": len(text) // 4,
                "total_tokens": len(text) // 4 + 400,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "service_tier": "default", "system_fingerprint": f"fp_{made.getrandbits(40):010x}",
        })
        for text in _paragraphs()
    ]  # fmt: skip


def _labels() -> list[bytes]:
    """Return the small results of the other questions: 300 bytes of JSON, much alike."""
    from . import data

    return [data.encode(data.answer(row)) for row in data.rows(MOST + TRAINED)]


def _vectors() -> list[list[float]]:
    made, found = random.Random(1), []
    for _ in range(600):
        vector = [made.gauss(0, 1) for _ in range(1536)]
        length = sum(x * x for x in vector) ** 0.5
        found.append([x / length for x in vector])
    return found


def _as_json() -> list[bytes]:
    """Return vectors as an API writes them: floats of 32 bits with as many digits as they need."""
    from .data import encode

    return [encode([float(f"{x:.8g}") for x in vector]) for vector in _vectors()]


def _doubles() -> list[bytes]:
    """Return vectors as the store keeps lists of floats: MessagePack, nine bytes each."""
    import msgspec

    return [msgspec.msgpack.encode(vector) for vector in _vectors()]


def _doubles_of_32_bits() -> list[bytes]:
    """Return the same where each float is one of 32 bits, as a model makes them."""
    import msgspec

    return [msgspec.msgpack.encode(list(array("f", vector))) for vector in _vectors()]


def _singles() -> list[bytes]:
    """Return vectors of float32, four bytes each."""
    return [array("f", vector).tobytes() for vector in _vectors()]


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


KINDS: dict[str, Callable[[], list[bytes]]] = {
    "READMEs of the installed packages": _descriptions,
    "their paragraphs of 200 to 1,000 characters": _paragraphs,
    "answers of a chat endpoint, JSON, each with such a paragraph": _answers,
    "small results of the other questions, JSON": _labels,
    "modules of Python's standard library": _sources,
    "1,536 floats as JSON with 8 digits": _as_json,
    "1,536 floats as the store keeps them (MessagePack)": _doubles,
    "the same, of floats that had 32 bits": _doubles_of_32_bits,
    "1,536 floats of 32 bits": _singles,
}
