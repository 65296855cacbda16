"""Ship a store to a bucket once, when somebody says so."""

from __future__ import annotations

from ..errors import BucketError
from ..file.log import Log
from . import note as notes
from .bucket import Bucket
from .note import Note
from .shipment import Pushed, Shipment


def push(log: Log, url: str) -> Pushed:
    """Ship what is new of a store; the first time, all of it: see `Store.push`."""
    bucket = Bucket(url)
    manifest = bucket.manifest(create=True)
    assert manifest is not None
    log.commit_buffers()
    note = notes.of(log, manifest)
    if note is None:
        note = Note(manifest.id, url)
        notes.write(log, note)
    shipment = Shipment(log, bucket, note)
    try:
        done = shipment.ship(last=True)
    finally:
        shipment.close()
    if done is None:
        raise BucketError(f"{url}: another process ships {log.path} there; leave it to that", url)
    return done
