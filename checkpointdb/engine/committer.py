"""Results between the step's return and the commit. Knows policy, time and log; not rows."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from time import perf_counter, thread_time
from typing import Any

import msgspec

from .. import interrupts
from ..errors import StoreError
from ..file.log import Log
from ..file.records import Entry
from ..file.usage import as_json
from ..policy import (
    POLL_SECONDS,
    SOONEST,
    Exposed,
    Pending,
    SavePolicy,
    is_measured,
    loss_window,
    next_look,
)
from ..store import Store
from .tally import Tally

# A run's row in the store is brought up to date with a commit, at most this often, in seconds.
COUNTS_EVERY = 1.0
_ROW_BYTES = 64  # key, checksum, times and SQLite's header, beside input and result


class Committer:
    """Keep a run's results pending until its save policy says to commit them.

    Promises: what was added is committed before `close` returns, or raised and still pending; the
    policy's `seconds` is kept by a timer thread; a commit that failed in that thread is raised by
    the next `add`, `commit` or `close`, with nothing lost.

    Args:
        log: of the store.
        policy: says when.
        tally: of the run; a commit brings the run's counts in the store up to date.
        step: id of the step that entries are written under.
        run: id of the run.
        ledger: whether the calls were sent to the ledger first, and are answered by a commit.
        worker: under `shared=True`, whose claims a commit fulfils.
    """

    def __init__(
        self,
        log: Log,
        policy: SavePolicy,
        tally: Tally,
        step: int,
        run: int,
        *,
        ledger: bool = False,
        worker: str | None = None,
    ) -> None:
        self._committing = threading.RLock()  # a listener told of a commit may ask for one
        self._lock = threading.RLock()  # of what is pending; taken under the other or alone
        self._log, self._policy, self._due, self._tally = log, policy, policy.due, tally
        self._step, self._run, self._ledger, self._worker = step, run, ledger, worker
        self.pending: dict[bytes, Entry] = {}  # the newest entry of each key, not committed yet
        self._entries: list[Entry] = []  # a commit takes them from the front, once it is done
        self._sizes = Pending()
        self._oldest = self._last_commit = self._last_counts = perf_counter()
        self._commits = 0
        self._exposed: Exposed | None = None
        self._error: BaseException | None = None
        self._is_measured = is_measured(policy)
        self._closing = False
        wait = next_look(policy, self._sizes)
        self._timer = _Timer(self, wait) if wait < math.inf else None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: Sequence[Entry], now: float, in_flight: int = 0) -> None:
        """Take over the outcomes of one call, and commit if the policy says so."""
        commits = self.put(entries, now, in_flight)
        if commits is not None:
            self.commit_due(commits, len(entries))

    def put(self, entries: Sequence[Entry], now: float, in_flight: int = 0) -> int | None:
        """Take over the outcomes of one call; if the policy says to commit, return a number.

        `commit_due` takes that. The policy is asked once: a batch returns as a whole.

        Args:
            entries: what `Log.append` takes.
            now: `perf_counter()` when the call returned.
            in_flight: calls that have not returned, as `Pending` has them.
        """
        with self._lock:
            sizes, pending, is_first = self._sizes, self.pending, not self._entries
            if is_first:
                self._oldest = now
            self._entries += entries
            for entry in entries:
                pending[entry.key] = entry
                try:
                    size = len(entry.result) + len(entry.input)  # type: ignore[arg-type]
                except TypeError:  # a failure, or no input is kept: rare
                    size = sum(len(it or "") for it in (entry.result, entry.input, entry.error))
                sizes.bytes += size + _ROW_BYTES
                sizes.work += entry.seconds
                if entry.cost:
                    sizes.cost += entry.cost
            sizes.rows += len(entries)
            sizes.in_flight = in_flight
            sizes.seconds = now - self._oldest
            sizes.elapsed = now - self._last_commit
            is_due, commits = self._error is not None or self._due(sizes), self._commits
        if is_due:
            return commits
        if is_first and self._is_measured:
            assert self._timer is not None
            self._timer.wake()
        return None

    def answers_calls(self) -> None:
        """Have commits strike out of the ledger what they answer: calls of runs that are over."""
        self._ledger = True

    def commit_due(self, commits: int, waiting: int = 1) -> None:
        """Commit what `put` found due; `waiting` rows of it are not given out before that."""
        self._commit_unless_done(commits, waiting)

    @interrupts.whole
    def commit(self) -> None:
        """Commit all that is pending. If it raises, all is still pending."""
        with self._committing:
            self._commit_all()

    @interrupts.whole
    def _commit_unless_done(self, commits: int, waiting: int = 0) -> None:
        """Commit what was found due after so many commits, unless another thread did."""
        with self._committing:
            if commits == self._commits:
                self._commit_all(waiting)
            elif self._is_due():  # a batch may have been in the commit just made
                self._commit_all(min(waiting, 1))

    def _is_due(self, background: bool = False) -> bool:
        """Ask the policy as things stand now."""
        with self._lock:
            sizes = self._aged()
            sizes.background = background
            try:
                return bool(self._entries) and self._due(sizes)
            finally:
                sizes.background = False

    def _aged(self) -> Pending:
        """Bring what the policy sees up to date, and return it; under `_lock`."""
        now, sizes = perf_counter(), self._sizes
        sizes.seconds = now - self._oldest if self._entries else 0.0
        sizes.elapsed = now - self._last_commit
        return sizes

    def _commit_all(self, waiting: int = 0) -> None:
        """Commit what is pending; `waiting` rows of it are not given out before that is done."""
        error, self._error = self._error, None
        if self._entries:
            self._commit(waiting)
        if error is not None and not isinstance(error, StoreError):
            raise error  # the policy's own, met by the timer; a commit's was just tried again

    def _commit(self, waiting: int) -> None:
        """Append to the log, while other threads may add; under `_committing`."""
        start, worked, counts = perf_counter(), thread_time(), None
        with self._lock:
            entries, taken = self._entries[:], msgspec.structs.replace(self._sizes)
        if start - self._last_counts >= COUNTS_EVERY and not self._closing:
            counts, self._last_counts = self.counts(), start
        appended = self._log.append(
            self._step, self._run, entries, counts, answered=self._ledger, worker=self._worker
        )
        with self._lock:
            now = perf_counter()
            self._expose(len(self._entries) - waiting, now - self._oldest)
            self._leave(entries, start)
            self._sizes = _rest(self._sizes, taken, now - start, thread_time() - worked)
            self._last_commit, self._commits = now, self._commits + 1
        self._tally.committed(len(entries), appended, now - start)
        if not self._closing:
            self._log.check_file()  # what was committed is safe, but no more must be paid for

    def _leave(self, entries: list[Entry], start: float) -> None:
        """Take what is committed out of what is pending; under `_lock`."""
        if len(self._entries) == len(entries):
            self._entries, self.pending = [], {}
            return
        del self._entries[: len(entries)]
        self._oldest = start  # those left returned since
        for entry in entries:
            if self.pending.get(entry.key) is entry:
                del self.pending[entry.key]

    def _expose(self, rows: int, seconds: float) -> None:
        most = self._exposed or Exposed(0, 0.0)
        self._exposed = Exposed(max(rows, most.rows), max(seconds, most.seconds))

    def counts(self) -> dict[str, Any]:
        """Return the columns of `runs` that change as the run goes."""
        counts = msgspec.structs.asdict(self._tally.report())
        return counts | {"usage": as_json(counts["usage"]), "loss_window": self.loss_window}

    @property
    def loss_window(self) -> str:
        """What a crash costs at most, in words, as far as this run has measured it."""
        return loss_window(self._policy, self._exposed)

    def tick(self) -> float:
        """Commit while the policy is due by the clock; return in how many seconds to ask again."""
        try:
            while True:
                with self._lock:  # one age for both: a row must not come of age between them
                    commits = self._commits
                    if not self._is_due(background=True):
                        return max(next_look(self._policy, self._sizes), SOONEST)
                self._commit_unless_done(commits)
        except Exception as error:  # noqa: BLE001 - raised again in the user's thread
            self._error = error
            return POLL_SECONDS

    def forked(self) -> None:
        """In a forked child: whoever held a lock is not there to give it back."""
        self._committing, self._lock = threading.RLock(), threading.RLock()

    def commit_late(self) -> None:
        """Commit at once what came after `close`, even after the store was closed."""
        if not self._closing:
            return
        try:
            self.commit()
        except StoreError:
            if not self._log.closed or self._log.is_forked:
                raise
            with self._committing, Store(self._log.path, durability=self._log.durability) as store:
                self._log = store.log
                self._commit_all()

    def close(self) -> None:
        """Commit all that is pending, stop the timer. If it raises, all is still pending."""
        self._closing = True
        self.commit()
        if self._timer is not None:
            self._timer.stop()


class _Timer(threading.Thread):
    """Ask the committer again when a row that came right after the last look could be due.

    So adding a row need not wake it, unless its policy depends on how long commits take.
    """

    def __init__(self, committer: Committer, wait: float) -> None:
        super().__init__(name="checkpointdb-timer", daemon=True)
        self._wait = wait
        self._committer = committer
        self._woken, self._stopped = threading.Event(), False
        self.start()

    def run(self) -> None:
        wait = self._wait
        while True:
            self._woken.wait(wait)
            self._woken.clear()  # before looking: what comes from now on wakes it again
            if self._stopped:
                return
            wait = self._committer.tick()

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    def stop(self) -> None:
        """Stop; does not wait, for the timer may be waiting for a lock that the caller holds."""
        self._stopped = True
        self._woken.set()


def _rest(sizes: Pending, taken: Pending, seconds: float, processor: float) -> Pending:
    """Return what is pending after a commit of what was `taken`, and how long commits take now."""
    rest = Pending(
        mean_commit_seconds=_mean(taken.mean_commit_seconds, seconds),
        mean_processor_seconds=_mean(taken.mean_processor_seconds, processor),
        in_flight=sizes.in_flight,
    )
    if sizes.rows > taken.rows:
        for name in ("rows", "bytes", "cost", "work"):
            setattr(rest, name, getattr(sizes, name) - getattr(taken, name))
    return rest


def _mean(before: float, new: float) -> float:
    return 0.7 * (before or new) + 0.3 * new
