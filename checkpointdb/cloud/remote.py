"""A store that is opened with `remote=`: the file comes from the bucket, or is known there."""

from __future__ import annotations

import os

from ..errors import BucketError, StoreError
from ..file.log import Log
from ..file.verify import unseen
from ..policy import SavePolicy, every
from . import note as notes
from .bucket import Bucket, Manifest
from .note import Note
from .pull import pull_from
from .segment import Mark
from .shipper import Shipper


def fetch(url: str, path: str) -> None:
    """Make the file of what is in the bucket, perhaps nothing, if it is not there.

    If another process makes it first, theirs is kept.

    Raises:
        BucketError: the bucket cannot be reached, say: what it has would be paid for again.
    """
    if os.path.lexists(path):
        return
    bucket = Bucket(url)
    manifest = bucket.manifest(create=True)
    assert manifest is not None
    try:
        pull_from(bucket, manifest, path, unseen)
    except StoreError:
        if not os.path.lexists(path):
            raise


def ship(log: Log, url: str, policy: SavePolicy | None) -> Shipper:
    """Begin to ship an open store.

    Raises:
        BucketError: it cannot be shipped there.
    """
    bucket = Bucket(url)
    try:
        manifest = bucket.manifest(create=True)
        assert manifest is not None
        note = notes.of(log, manifest) or _adopted(log, bucket, manifest)
    except BucketError as error:
        known = [it for it in notes.all_of(log) if it.url == url]
        if not error.passing or len(known) != 1:
            raise
        note = known[0]  # shipped there before: the run goes on, and shipping catches up
    shipper = Shipper(log, bucket, note, every(seconds=30) if policy is None else policy)
    shipper.start()
    return shipper


def _adopted(log: Log, bucket: Bucket, manifest: Manifest) -> Note:
    """Return the note of a store that the bucket does not know, if neither has anything.

    Raises:
        BucketError: one of them has: they may be of two jobs.
    """
    if log.newer(0, 0)[0] or bucket.segments():
        raise BucketError(
            f"{bucket.url} does not know {log.path}: this store was neither shipped there nor "
            "pulled from there. If it belongs there, `ckpt push STORE URL` brings all of it. If "
            "what is in the bucket is to be used, move the file away, and the run pulls. Else give "
            "another prefix. Nothing was changed",
            bucket.url,
        )
    note = Note(manifest.id, bucket.url, Mark())
    notes.write(log, note)
    return note
