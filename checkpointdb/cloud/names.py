"""The names of segments, which tell all that a reader must know. Knows no bucket and no SQL.

The list of names is the manifest: an object is there, whole, or it is not, and nothing is ever
written over. A writer is one opening of a store. Its folder begins with its age, one more than that
of every writer that was there before: so what a store had pulled, or shipped before, comes first.
A segment's name has the numbers of the first and the last segment of its writer that are in it (one
and the same, before a compaction) and the digest of its bytes.
"""

from __future__ import annotations

import os
import re
from _blake2 import blake2b  # what hashlib.blake2b is; hashlib itself takes 2 ms to import
from collections.abc import Iterable
from typing import Self

import msgspec

from ..errors import BucketError

_PATTERN = re.compile(r"(\d{6,}-[0-9a-f]{16})/(\d{8,})-(\d{8,})-([0-9a-f]{32})\.ckpt")


class Name(msgspec.Struct, frozen=True):
    """The name of a segment, and its size if that is known."""

    writer: str
    first: int
    last: int
    digest: str
    size: int = 0

    @classmethod
    def parse(cls, path: str, size: int = 0) -> Self | None:
        """Return the name that a path is; None if it is none."""
        found = _PATTERN.fullmatch(path)
        return found and cls(found[1], int(found[2]), int(found[3]), found[4], size)

    @classmethod
    def of(cls, writer: str, first: int, last: int, data: bytes) -> Self:
        """Return the name of a segment with these bytes."""
        return cls(writer, first, last, digest(data), len(data))

    @property
    def path(self) -> str:
        """The path under the prefix."""
        return f"{self.writer}/{self.first:08}-{self.last:08}-{self.digest}.ckpt"

    @property
    def age(self) -> int:
        """The age of its writer."""
        return int(self.writer.partition("-")[0])


def digest(data: bytes) -> str:
    """Return what tells a segment's bytes from damaged ones."""
    return blake2b(data, digest_size=16).hexdigest()


def new_writer(names: Iterable[Name]) -> str:
    """Return a writer that comes after all those of `names`, and is no other's."""
    return f"{1 + max((name.age for name in names), default=0):06}-{os.urandom(8).hex()}"


def has(names: Iterable[Name], name: Name) -> bool:
    """Tell whether a segment is there, by itself or in a bigger one."""
    return any(
        it.writer == name.writer and it.first <= name.first and name.last <= it.last for it in names
    )


def in_order(names: Iterable[Name]) -> list[Name]:
    """Return the segments that are to be read, in order; those that are in bigger ones are not.

    Raises:
        BucketError: one is missing.
    """
    chosen: list[Name] = []
    writer, reached = "", 0
    for name in sorted(names, key=lambda it: (it.age, it.writer, it.first, -it.last, it.digest)):
        if name.writer != writer:
            writer, reached = name.writer, 0
        if name.first > reached + 1:
            raise BucketError(
                f"segment {reached + 1} of writer {writer} is missing, and later ones are there: "
                "somebody deleted it, for checkpointdb does so only once a bigger one has it all. "
                "Put it back: what comes after it may need it"
            )
        if name.last > reached:
            chosen.append(name)
            reached = name.last
    return chosen
