"""The one writer of a store's records, and its look-ups. Knows bytes and SQL; no rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import apsw

from .. import interrupts
from ..errors import StoreError
from . import codes, lifetime, sqlite_errors
from .append import (
    ENTRIES_PER_STATEMENT,
    delete_keys,
    insert,
    insert_all,
    supersede,
    transaction,
    update_run,
)
from .compact import drop_superseded, shrink
from .delete import check_alone, choose, delete
from .incoming import Source
from .key_index import extend, last_id
from .merge import Merged, Merging, bring_forgotten
from .opened import Durability
from .read import Reader
from .records import Appended, Entry, Found, Made, RunInfo
from .registry import Registry


class Buffer(Protocol):
    """Entries of a run on their way to a log."""

    id: int

    @property
    def pending(self) -> Mapping[bytes, Entry]:
        """The newest entry of each key that is not committed."""

    def commit(self) -> None:
        """Commit them."""

    @interrupts.whole
    def close(self) -> None:
        """Commit them and take no more."""

    def forked(self) -> None:
        """Make new locks, in a forked child."""


class Log(Registry):
    """An open store file as the engine sees it: append, find, claim; safe to share by threads.

    Promises: a commit is all or nothing; what it acknowledged survives a power cut
    (`durability="power"`) or the death of the process (`"process"`); after `sync` all of it
    survives a power cut.

    Args:
        path: an existing store, absolute.
        durability: of commits.
        vfs: name of an SQLite VFS to use instead of the system's.
    """

    def __init__(self, path: str, durability: Durability, vfs: str | None = None) -> None:
        self._buffers: set[Buffer] = set()
        self.calls: Any = None  # numbers the direct calls: see `engine/occurrences.py`
        super().__init__(path, durability, vfs)

    @interrupts.whole
    def close(self) -> None:
        """Commit what is on its way and close the file, synced. Can be repeated."""
        if not self.closed:
            if not self._is_closing:
                self._save_all()
            self._close()
        if not self.is_forked:
            lifetime.closed(self)

    def _save_all(self) -> None:
        """Write what is left to write, before the file is closed."""
        self.close_buffers()
        if self.closed:  # the last of them had the last handle to the store, which closed it
            return
        try:
            self._give_up_the_rest()
            self._shorten_tail()
            self.sync()
            self.finish()
        except StoreError:
            # another thread, a finalizer's perhaps, has closed it meanwhile
            if not self.closed:  # pragma: no branch - a race
                raise

    def finish(self) -> None:
        """End what runs next to the store."""
        if self.companion is not None and not self.is_forked:
            self.companion.finish()

    def forked(self) -> list[Any]:
        """In a forked child, make new locks; return the SQLite connections, to be left alone."""
        for buffer in list(self._buffers):
            buffer.forked()
        return super().forked()

    def _shorten_tail(self) -> None:
        """Save the next process that opens the store from reading a long tail."""
        if self._finder.index.is_worth_extending:
            # nothing is lost without it, so a full disk is no reason not to close
            with contextlib.suppress(StoreError), self._writing() as writer, transaction(writer):
                extend(writer)
                self._unsynced = self.durability != "power"

    # --- what is on its way

    def attach(self, buffer: Buffer) -> None:
        """Find the entries of `buffer` too, and have them committed when the store is flushed."""
        self._buffers.add(buffer)

    def detach(self, buffer: Buffer) -> None:
        """Forget a buffer."""
        self._buffers.discard(buffer)

    def is_alone(self, buffer: Buffer) -> bool:
        """Tell whether nothing else is on its way here."""
        return self._buffers == {buffer}

    def commit_buffers(self) -> None:
        """Commit what is on its way."""
        for buffer in list(self._buffers):
            buffer.commit()

    @interrupts.whole
    def flush(self) -> None:
        """Commit what is on its way, and make it survive a power cut."""
        self.commit_buffers()
        self.sync()

    def close_buffers(self) -> None:
        """Commit what is on its way; nothing more will come."""
        for buffer in list(self._buffers):
            buffer.close()

    def find(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return the newest outcome of each key, pending or committed, None where there is none.

        A pending failure hides no result that somebody else has saved meanwhile.

        Raises:
            StoreCorruptError: a record is not what was written; the message names it.
        """
        self._check_open()
        self.check_file()  # before the next call is paid
        # pending before committed: a row passes from here to there, never back
        here: dict[bytes, tuple[int, Entry]] = {}
        for run, pending in [(buffer.id, buffer.pending) for buffer in list(self._buffers)]:
            for entry in filter(None, map(pending.get, keys)):
                if entry.key not in here or _outranks(entry, here[entry.key][1]):
                    here[entry.key] = run, entry
        if not here:
            return self._committed(keys)
        unsure = [key for key in keys if key not in here or here[key][1].error is not None]
        there = dict(zip(unsure, self._committed(unsure) if unsure else (), strict=True))
        return [_pending(*here[key], there.get(key)) if key in here else there[key] for key in keys]

    def saved(self, key: bytes) -> Found | None:
        """Return the result of a key if it is found at once; None proves nothing: see `find`."""
        with self._reading:
            self._check_open()
            self._file.check_name()
            for buffer in list(self._buffers):
                if key in buffer.pending:
                    return None
            return self._finder.saved(key)

    def _committed(self, keys: Sequence[bytes]) -> list[Found | None]:
        with self._reading, sqlite_errors.mapped(self.path):
            self._check_open()
            return self._finder.find(keys)

    def row_digests(self, ids: Sequence[int]) -> dict[int, bytes | None]:
        """Return the digest of the whole row of some records, by id; None where there is none."""
        with self._reading, sqlite_errors.mapped(self.path):
            self._check_open()
            return self._finder.row_digests(ids)

    def check(self, id: int) -> None:
        """Raise unless a record is what was written, its identity and input too.

        Raises:
            StoreCorruptError: it is not; the message names it.
        """
        with Reader(self.path, self._vfs) as reader:
            reader.check(id)

    @interrupts.whole
    def append(
        self,
        step: int,
        run: int,
        entries: Sequence[Entry],
        counts: dict[str, Any] | None = None,
        answered: bool = False,
        worker: str | None = None,
    ) -> Appended:
        """Commit `entries` as new records, and a run's counts: all or, after any crash, nothing.

        Args:
            step: id.
            run: id.
            entries: in the order in which they returned.
            counts: columns of `runs` to bring up to date.
            answered: whether the calls were recorded by `send` and are now answered.
            worker: under `shared=True`, whose claims the entries fulfil.

        Raises:
            StoreFullError: no space. StoreLockedError: another process holds the lock.
        """
        with self._writing() as writer:
            self._file.check_replaced()
            full = self._finder.index.is_full_with(len(entries))
            replaced = [entry.replaces for entry in entries if entry.replaces]
            failed = [entry for entry in entries if entry.error is not None]
            more = counts or answered or full or worker or replaced or failed
            if len(entries) <= ENTRIES_PER_STATEMENT and not more:
                insert(writer, step, run, entries)
                keys = [entry.key for entry in entries]
                return self._appended(writer, writer.last_insert_rowid(), keys)
            # the index in memory shrinks as the one on disk grows: nobody looks in between
            with self._reading if full else contextlib.nullcontext():
                with transaction(writer):
                    late = self._late(entries if worker else failed)
                    entries = [it for it in entries if it not in late] if late else entries
                    insert_all(writer, step, run, entries)
                    last = writer.last_insert_rowid()  # of a record: `supersede` inserts too
                    if replaced:
                        supersede(writer, replaced)
                    if counts:
                        update_run(writer, run, counts)
                    if answered:
                        delete_keys(writer, "sent_calls", [*entries, *late])
                    if worker:
                        delete_keys(writer, "system_claims", entries)
                    if full:
                        extend(writer)
                keys = [entry.key for entry in entries]
                appended = self._appended(writer, last, keys, replaced, late)
                if full:
                    self._finder.index.forget_indexed()
            return appended

    def _late(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries whose key has a success by now; under the write lock."""
        if not entries:
            return []
        there = self._committed([entry.key for entry in entries])
        return [
            entry
            for entry, found in zip(entries, there, strict=True)
            if found is not None and found.error is None and found.id != entry.replaces
        ]

    def _appended(
        self,
        writer: apsw.Connection,
        last: int,
        keys: Sequence[bytes],
        said: Collection[int] = (),
        late: Sequence[Entry] = (),
    ) -> Appended:
        if keys:
            with self._reading:
                repeated = self._finder.index.added(keys, last - len(keys) + 1, last)
            # A retry has said so in its own transaction. What is left are rows that two computed at
            # the same time; if we die right here, the next extension of the index notes them.
            if unsaid := set(repeated).difference(said):
                with contextlib.suppress(apsw.FullError, apsw.BusyError):  # they are committed
                    supersede(writer, sorted(unsaid))
        self._unsynced = self.durability != "power"
        self._file.save_if_gone()
        return Appended(last - len(keys) + 1, last, late) if keys else Appended(late=late)

    @interrupts.whole
    def append_all(self, step: int, run: int, batches: Iterable[Sequence[Entry]]) -> int:
        """Commit all batches as new records in one transaction; return how many records."""
        total = 0
        with self._writing() as writer, transaction(writer):
            for entries in batches:
                insert_all(writer, step, run, entries)
                total += len(entries)
            self._unsynced = self.durability != "power"
        return total

    @interrupts.whole
    def merge(self, reader: Reader, on_page: Callable[[int], object] | None = None) -> Merged:
        """Bring the records of another store here: see `Store.merge`."""
        self.commit_buffers()
        with self._writing() as writer, transaction(writer):
            source = Source(reader, writer)
            source.register(writer)
            deleted = bring_forgotten(writer, source, self._check_alone)
        merging = Merging(self.path, source)
        merging.merged.deleted = deleted
        while page := source.page():
            self._merge_page(merging, page)
            if on_page is not None:
                on_page(source.last)
        self.sync()
        return merging.merged

    def _merge_page(self, merging: Merging, page: Sequence[Any]) -> None:
        """Commit a page of another store's records: all or nothing."""
        with self._writing() as writer, self._reading:
            self._file.check_replaced()
            index = self._finder.index
            full = index.is_full_with(len(page))
            with transaction(writer):
                keys, superseded = merging.take(writer, index, page)
                last = last_id(writer)
                if superseded:
                    supersede(writer, superseded)
                if full:
                    extend(writer)
            self._appended(writer, last, keys, superseded)
            if full:
                index.forget_indexed()

    def made_by(self, step: int, ids: Sequence[int]) -> Made:
        """Return what some of a step's codes made; what is pending is committed first."""
        if ids:
            self.commit_buffers()
        with self.lock, sqlite_errors.mapped(self.path):
            return codes.made_by(self._reader, step, ids)

    @interrupts.whole
    def forget(
        self,
        step: str | None,
        version: int | str | None,
        failed: bool,
        where: str | None,
        dry_run: bool,
    ) -> int:
        """Delete what is chosen, in one transaction; return how many: see `Store.forget`."""
        self.commit_buffers()
        with self.lock:
            self._check_open()
            with self._reading:
                ids = choose(self._reader, self.path, step, version, failed, where)
            if not ids or dry_run:
                return len(ids)
            self._check_alone()
            with self._writing() as writer, transaction(writer):
                delete(writer, ids)
            self._unsynced = self.durability != "power"
        self.sync()
        return len(ids)

    @interrupts.whole
    def compact(self, keep: int, dry_run: bool) -> int:
        """Drop superseded records and give back their room: see `Store.compact`."""
        self.commit_buffers()
        with self.lock:
            self._check_open()
            check_alone(self.path, self._runs(), ())
            with self._writing() as writer:
                count = drop_superseded(writer, keep, dry_run)
                self._unsynced = self.durability != "power"
                if not dry_run:
                    shrink(writer)
        self.sync()
        return count

    def _check_alone(self) -> None:
        check_alone(self.path, self._runs(), self._open_runs)

    def _runs(self) -> list[RunInfo]:
        with Reader(self.path, self._vfs) as reader:
            return reader.runs()


def _outranks(one: Entry | Found, other: Entry | Found) -> bool:
    """Tell whether an outcome counts before a failure: a result does, or one tried more often."""
    return one.error is None or (other.error is not None and one.attempts > other.attempts)


def _pending(run: int, entry: Entry, committed: Found | None) -> Found:
    """Return a pending entry as `Found`, or the committed one if that counts before it."""
    if committed is not None and _outranks(committed, entry) and committed.id != entry.replaces:
        return committed
    return Found(
        0, entry.identity, entry.attempts, entry.error, entry.result, run, entry.row_digest
    )
