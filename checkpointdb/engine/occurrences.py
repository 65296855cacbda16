"""Which of equal rows a row is, under `duplicates="separate"`. Knows keys and the log; not rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import apsw

from .. import interrupts
from ..errors import StoreError
from ..file.key_index import Filter
from ..file.leases import LEASE_SECONDS
from ..file.log import Log
from ..file.occurrences import Kind
from ..file.sql import rows

CACHE_KIB = 8 << 10
MOST_RECENT = 1 << 17  # keys: 20 MiB
MOST_STARTS = 1 << 16
POLL_EVERY = 0.1  # seconds


class Occurrences:
    """Number equal rows, from the first to the last of a run, or of a process's direct calls.

    Promises: among runs that live at the same time, and among the direct calls of live processes,
    each row has a number of its own, the lowest that is free. What one of them took is free again
    for those that begin after its end, and for all once it was killed; so the numbers have no gaps,
    and whoever runs the same again finds what was paid for.

    Its lock is held while the log is asked.

    Args:
        log: of the store.
        kind: what counts: a run or direct calls.
        shared: whether other runs pass over the same rows, and number them as this one does.
    """

    def __init__(self, log: Log, kind: Kind, shared: bool = False) -> None:
        self._lock = threading.Lock()
        self._log, self._kind = log, kind
        self._counter = log.begin_counter(kind, shared)
        self._starts: dict[bytes, int] = {}  # a number below which nothing is free, by content
        self._deaths = 0
        self._ended = threading.Event() if kind == "run" else log.shut
        self._has_waited = False
        threading.Thread(target=self._renew, name="checkpointdb-counter", daemon=True).start()

    @interrupts.whole
    def take(self, contents: Sequence[bytes]) -> list[int]:
        """Return the number of each row, in their order, and hold it.

        Args:
            contents: the keys of the rows, without a number.
        """
        with self._lock:
            if not self._has_waited:
                self._wait_for_unknown()
            if len(self._starts) > MOST_STARTS:
                self._starts.clear()
            taken, self._deaths = self._log.take_occurrences(
                self._counter, contents, self._starts, self._deaths
            )
        return taken

    @interrupts.whole
    def give_back(self, content: bytes, n: int) -> None:
        """Free the number of a row that had no outcome: the next equal row gets it."""
        with self._lock:
            self._log.give_back_occurrence(self._counter, content, n)
            self._starts[content] = min(n, self._starts.get(content, n))

    def end(self) -> None:
        """End the counting of a run; that of direct calls ends with the process, or its store."""
        if self._kind == "run":
            self._ended.set()
            self._log.end_counter(self._counter)

    def _wait_for_unknown(self) -> None:
        """Wait until it is known which of other containers' counters live: they renew a lease."""
        unknown = self._log.unknown_counters(self._counter)
        while unknown and interrupts.state.deferred is None:
            time.sleep(POLL_EVERY)
            now = self._log.unknown_counters(self._counter)
            unknown = {id: expires for id, expires in unknown.items() if now.get(id) == expires}
        self._has_waited = True

    def _renew(self) -> None:
        while not self._ended.wait(LEASE_SECONDS / 3) and not self._log.closed:
            with suppress(StoreError):  # busy or full: two more come before the lease ends
                self._log.renew_counter(self._counter)


def of_calls(log: Log) -> Occurrences:
    """Return what numbers the direct calls on an open store, begun now if none has begun."""
    with log.lock:
        if log.calls is None:
            log.calls = Occurrences(log, "calls")
        numbers: Occurrences = log.calls
    return numbers


class Counted:
    """Number equal rows of a run that only replays: the n-th one is the n-th that was saved."""

    def __init__(self) -> None:
        self._lock, self._counts = threading.Lock(), Counts()

    def take(self, contents: Sequence[bytes]) -> list[int]:
        """Return the number of each row, in their order."""
        with self._lock:
            return self._counts.count(contents)

    def give_back(self, content: bytes, n: int) -> None:
        """Do nothing: a row that is not saved ends the run."""

    def end(self) -> None:
        """Do nothing: nothing was written down."""


class Counts:
    """Count keys in bounded memory: those counted last in a dict, all others in a private file.

    To change a tree on disk for each key costs a page read and a page written: 60 µs a key beyond
    800,000 of them. So they go there in sorted bulk, and only what may be there is looked up.
    """

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}  # how often each was counted, in all
        self._on_disk = Filter()
        self._connection = apsw.Connection("")
        self._connection.pragma("cache_size", -CACHE_KIB)
        self._connection.pragma("journal_mode", "off")
        self._connection.pragma("synchronous", "off")
        self._connection.execute(
            "create table seen (key blob primary key, n integer) without rowid"
        )

    def count(self, keys: Sequence[bytes]) -> list[int]:
        """Return how often each key was counted before, equal ones among them too; count them."""
        recent, numbers = self._recent, []
        recent |= self._spilled(self._on_disk.may_hold(keys) - recent.keys())
        for key in keys:
            n = recent.get(key, 0)
            recent[key] = n + 1
            numbers.append(n)
        if len(recent) >= MOST_RECENT:
            self._spill()
        return numbers

    def _spilled(self, keys: set[bytes]) -> dict[bytes, int]:
        if not keys:
            return {}
        on_disk = "select key, n from carray(?) as wanted cross join seen on key = wanted.value"
        return dict(rows(self._connection, on_disk, (apsw.carray(tuple(keys)),)))

    def _spill(self) -> None:
        with self._connection:
            self._connection.executemany(
                "insert or replace into seen values (?, ?)", sorted(self._recent.items())
            )
        self._on_disk.add(self._recent)
        self._recent.clear()
