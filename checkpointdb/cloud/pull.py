"""Make a store of all that is in a bucket: a merge of its segments. Only reads the bucket."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from ..errors import BucketError, StoreCorruptError, StoreError
from ..file import connection as files
from ..file.log import Log
from ..file.probe import check_sqlite
from ..file.read import Reader
from ..file.sqlite_errors import mapped
from ..file.temporary import beside, check_target, half_made, taken
from ..file.verify import OnProgress, unseen
from . import note as notes
from .bucket import Bucket, Manifest
from .names import Name, in_order
from .note import Note
from .segment import mark_of

_MERGED = "merged"  # the row of `system_state`: JSON, {writer: number}
MOST_LISTS = 10  # of names that are gone when they are asked for


class Pulled(msgspec.Struct):
    """What was pulled.

    Attributes:
        segments: how many objects were read.
        bytes: their size.
        records: how many records the store has.
    """

    segments: int = 0
    bytes: int = 0
    records: int = 0


def pull(
    url: str, path: str | os.PathLike[str], *, on_progress: OnProgress | None = None
) -> Pulled:
    """Make a new store of all that was shipped to a bucket, by whomever.

    Promise: `path` appears whole, verified, on the disk and mode 0600, or not at all. The bucket
    is only read; others may ship and compact meanwhile. What `forget` deleted in one of the stores
    is not in it. A run with `remote=` goes on from it and ships what is new.

    Args:
        url: as `Bucket` takes it: `s3://bucket/prefix`, `file:///folder`.
        path: the new store.
        on_progress: called as by `Store.verify`.

    Raises:
        BucketError: nothing of ours is there; a segment is missing or damaged; the bucket cannot
            be reached.
        StoreError: there is a file, or it cannot be written.
    """
    bucket = Bucket(url)
    manifest = bucket.manifest()
    if manifest is None:
        raise BucketError(f"{url}: nothing was pushed there", url)
    return pull_from(bucket, manifest, os.path.abspath(os.fspath(path)), on_progress or unseen)


def pull_from(bucket: Bucket, manifest: Manifest, path: str, progress: OnProgress) -> Pulled:
    """Make a new store of all that is in a bucket, perhaps nothing: see `pull`."""
    check_sqlite()
    check_target(path, path, force=None)
    try:
        with half_made(path) as temporary:
            with mapped(path):
                files.lay(temporary)
            done = _Pulling(bucket, temporary, progress, {}).pull(manifest)
            _check(temporary, bucket.url, progress)
    except FileExistsError as error:
        raise taken(path, has_force=False) from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})", path) from error
    return done


def refresh(bucket: Bucket, path: str) -> None:
    """Bring what is new in a bucket into a store that nothing else is written to.

    Promise: each segment is asked for once, after a kill too. The store is made if it is not there.

    Args:
        bucket: only read.
        path: of the store; one process at a time may do this.

    Raises:
        BucketError: as `pull`. What was read before is there.
    """
    if not os.path.lexists(path):
        files.create(path)
    log = Log(path, "process")
    try:
        known = log.state(_MERGED).get(_MERGED, "{}")
        _Pulling(bucket, path, unseen, msgspec.json.decode(known, type=dict[str, int])).merge(log)
    finally:
        log.close()


class _Pulling:
    """Segments on their way into a store.

    Args:
        bucket: where they are.
        path: of the store.
        progress: what is told.
        merged: the last segment of each writer that is in the store.
    """

    def __init__(
        self, bucket: Bucket, path: str, progress: OnProgress, merged: Mapping[str, int]
    ) -> None:
        self._bucket, self._path, self._progress = bucket, path, progress
        self._done, self._merged = Pulled(), dict(merged)

    def pull(self, manifest: Manifest) -> Pulled:
        """Merge all segments, and note where what is new begins."""
        log = Log(self._path, "process")
        try:
            self.merge(log)
            with Reader(self._path) as reader:
                mark = mark_of(reader.connection)
            notes.write(log, Note(manifest.id, self._bucket.url, mark))
            self._done.records = mark.to
        finally:
            log.close()
        return self._done

    def merge(self, log: Log) -> None:
        """Merge all segments that are not here."""
        for _ in range(MOST_LISTS):
            if self._merge_all(log):
                return
        raise BucketError(f"{self._bucket.url}: segments vanish while they are read")

    def _merge_all(self, log: Log) -> bool:
        """Merge what is listed now; False if something of it was gone when it was asked for.

        A compaction has deleted it then, and what takes its place is in the next list.
        """
        left = [
            name
            for name in in_order(self._bucket.segments())
            if name.last > self._merged.get(name.writer, 0)
        ]
        for n, name in enumerate(left):
            data = self._bucket.get(name)
            if data is None:
                return False
            self._merge(log, name, data)
            self._merged[name.writer] = name.last
            log.set_state(_MERGED, msgspec.json.encode(self._merged).decode())
            self._done.segments += 1
            self._done.bytes += len(data)
            self._progress("segments", (n + 1) / len(left))
        return True

    def _merge(self, log: Log, name: Name, data: bytes) -> None:
        try:
            with beside(self._path, data) as file, Reader(file) as reader:
                log.merge(reader)
        except StoreCorruptError as error:
            raise BucketError(
                f"{self._bucket.url}: segment {name.path} is damaged, and was when it was shipped: "
                f"{error}",
                self._bucket.url,
            ) from error


def _check(temporary: str, url: str, progress: OnProgress) -> None:
    with Reader(temporary) as reader:
        problems = reader.verify(progress)
    if problems:
        raise StoreError(f"{url}: what was pulled is not sound: {problems[0]}", url)
