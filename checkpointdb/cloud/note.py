"""What a store knows of a bucket: what it has shipped there. A row of `system_state` a bucket."""

from __future__ import annotations

import msgspec

from ..errors import StoreCorruptError
from ..file.log import Log
from .bucket import Manifest
from .segment import Mark

_PREFIX = "bucket "


class Sending(msgspec.Struct, frozen=True):
    """A segment on its way. Written down before it is sent: whoever comes next looks if it came."""

    path: str
    mark: Mark


class Note(msgspec.Struct, frozen=True):
    """What a store has shipped to a bucket.

    Attributes:
        bucket: the bucket's id; a prefix that was emptied and begun again has another.
        url: by which it was reached.
        mark: up to where the log is there.
        writer: who shipped last.
        sending: a segment that may be there.
    """

    bucket: str
    url: str
    mark: Mark = Mark()
    writer: str = ""
    sending: Sending | None = None

    @property
    def claim(self) -> bytes:
        """What whoever ships a store to the bucket claims, as if it were the key of a row."""
        return b"ship" + bytes.fromhex(self.bucket)[:12]


def of(log: Log, manifest: Manifest) -> Note | None:
    """Return what a store knows of a bucket, None if nothing was shipped to it or pulled."""
    return next((it for it in all_of(log) if it.bucket == manifest.id), None)


def all_of(log: Log) -> list[Note]:
    """Return what a store knows of each bucket."""
    try:
        texts = log.state(_PREFIX).values()
        return [msgspec.json.decode(text, type=Note) for text in texts]
    except (msgspec.DecodeError, TypeError) as error:
        raise StoreCorruptError(f"{log.path}: a note of a bucket is damaged: {error}") from error


def write(log: Log, note: Note) -> None:
    """Keep a note; not synced, for a power cut that undoes it makes segments ship twice at most."""
    log.set_state(_PREFIX + note.bucket, msgspec.json.encode(note).decode())
