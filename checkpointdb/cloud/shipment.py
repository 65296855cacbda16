"""Ship what is new of a store to a bucket. Knows no thread and no clock.

A segment is noted in the store, put, and noted again; it is there once it is put. A kill before the
put leaves nothing; one between put and note leaves a note by which the next opening sees that it is
there. Every opening is a writer of its own, so no two write one name, and copies of one store do
not collide. Among the processes that have a store open one ships, which holds a claim: it may die
at any time.
"""

from __future__ import annotations

import contextlib
import functools

import msgspec

from ..errors import BucketError
from ..file.leases import new_worker
from ..file.log import Log
from . import note as notes
from .ahead import Ahead
from .bucket import Bucket
from .compaction import AT_ONCE, compact
from .names import Name, has, new_writer
from .note import Note, Sending
from .segment import Mark, Slice, cut

_Segment = tuple[Name, Slice]


class Pushed(msgspec.Struct):
    """What was shipped.

    Attributes:
        segments: how many objects were created.
        records: how many records are in them.
        bytes: their size.
    """

    segments: int = 0
    records: int = 0
    bytes: int = 0


class Shipment:
    """The way of one store to one bucket; used by one thread at a time.

    Args:
        log: the store.
        bucket: where to.
        note: what it knows of the bucket.
    """

    def __init__(self, log: Log, bucket: Bucket, note: Note) -> None:
        self._log, self._bucket, self._id = log, bucket, note.bucket
        self._claim, self.worker = note.claim, new_worker()
        self._writer, self._number = "", 0
        self._runs: dict[int, str] | None = None  # that this writer has shipped
        self._ready: _Segment | None = None  # noted, and perhaps put
        self._next: Ahead[_Segment | None] | None = None  # cut while that is put

    def ship(self, last: bool = False) -> Pushed | None:
        """Ship all that is committed; None if another process ships this store.

        Args:
            last: whether to ship counts of runs, too, if nothing else is new.

        Raises:
            BucketError: what was not shipped is shipped the next time.
        """
        if not self._log.claim(self.worker, [self._claim]):
            return None
        done = Pushed()
        while True:
            note = self._note()
            if note.writer != self._writer or not self._writer:
                note = self._begin(note)
            if self._ready is None and not self._prepare(note, last):
                return done
            self._send(done, last)

    def close(self) -> None:
        """Let another process ship."""
        self._log.release_claims(self.worker)

    def _note(self) -> Note:
        note = next((it for it in notes.all_of(self._log) if it.bucket == self._id), None)
        if note is None:
            raise BucketError(f"{self._log.path}: its note of {self._bucket.url} is gone")
        return note

    @property
    def has_shipped(self) -> bool:
        """Whether this opening has shipped anything."""
        return self._runs is not None

    def _begin(self, note: Note) -> Note:
        """Become a new writer, after all that are there; see if the last segment arrived."""
        there = self._bucket.segments()
        sending, mark = note.sending, note.mark
        if sending is not None and (name := Name.parse(sending.path)) and has(there, name):
            mark = sending.mark
        self._writer, self._number, self._runs = new_writer(there), 0, None
        self._ready = self._next = None
        note = Note(self._id, self._bucket.url, mark, self._writer)
        notes.write(self._log, note)
        return note

    def _prepare(self, note: Note, last: bool) -> bool:
        """Have the next segment, and note that it is on its way; False if there is none."""
        ahead, self._next = self._next, None
        self._ready = ahead.result() if ahead else self._cut(note.mark, self._runs, last)
        if self._ready is None:
            return False
        name, slice = self._ready
        sending = Sending(name.path, slice.mark)
        notes.write(self._log, msgspec.structs.replace(note, sending=sending))
        return True

    def _cut(self, since: Mark, runs: dict[int, str] | None, last: bool) -> _Segment | None:
        found, number = cut(self._log.path, since, runs, last), self._number + 1
        if found is None:
            return None
        return Name.of(self._writer, number, number, found.data), found

    def _send(self, done: Pushed, last: bool) -> None:
        """Put the segment that is ready, the very bytes that were noted; note that it is there."""
        assert self._ready is not None
        name, found = self._ready
        self._number, self._runs = name.last, {**(self._runs or {}), **found.runs}
        self._put(name, found, last)
        done.segments += 1
        done.records += found.records
        done.bytes += len(found.data)
        self._ready = None
        note = self._note()
        if note.writer == self._writer:  # or another machine took this process for dead
            notes.write(self._log, msgspec.structs.replace(note, mark=found.mark, sending=None))
        if name.last % AT_ONCE == 0:
            self._compact()

    def _put(self, name: Name, found: Slice, last: bool) -> None:
        """Put a segment while the next one is cut: one waits for the network, one for the disk."""
        if found.is_full and self._next is None:
            self._next = Ahead(functools.partial(self._cut, found.mark, self._runs, last))
        try:
            self._bucket.put(name, found.data)
        finally:
            if self._next is not None:
                self._next.wait()

    def _compact(self) -> None:
        """Bring own segments together; if that fails, the next time does it."""
        with contextlib.suppress(BucketError):
            own = [it for it in self._bucket.segments() if it.writer == self._writer]
            compact(self._bucket, own)
