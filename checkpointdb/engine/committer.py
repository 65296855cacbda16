"""Results between the step's return and the commit. Knows policy, time and store; not rows."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from time import perf_counter

from ..errors import StoreError
from ..file.log import Log
from ..file.records import Entry
from ..policy import POLL_SECONDS, Pending, SavePolicy, next_look

# A run's row in the store is brought up to date with a commit, at most this often, in seconds.
COUNTS_EVERY = 1.0
_ROW_BYTES = 64  # key, checksum, times and SQLite's header, beside input and result


class Committer:
    """Hold a run's results until its save policy says to commit them.

    Promises: what was added is committed before `close` returns, or raised and still held; the
    policy's `seconds` is kept by a timer thread; a commit that failed in that thread is raised by
    the next `add`, `commit` or `close`, with nothing lost.
    """

    def __init__(
        self,
        log: Log,
        policy: SavePolicy,
        counts: Callable[[], dict[str, float]],
        committed: Callable[[int, list[Entry], float], None],
    ) -> None:
        self.lock = threading.RLock()
        self.results = self.commits = 0
        self.commit_seconds = 0.0
        self._log, self._policy = log, policy
        self._counts, self._committed = counts, committed
        self._step = self._run = 0
        self._ledger = False
        self._worker: str | None = None
        self.pending: dict[bytes, Entry] = {}
        self._due = policy.due
        self._waiting = Pending()
        self._entries: list[Entry] = []
        self._oldest = self._last_commit = self._last_counts = perf_counter()
        self._error: BaseException | None = None
        self._timer: _Timer | None = None

    def open(self, step: int, run: int, ledger: bool = False, worker: str | None = None) -> None:
        """Say under which step and run entries are to be written, and start the timer."""
        self._step, self._run, self._ledger, self._worker = step, run, ledger, worker
        self._last_commit = perf_counter()
        wait = next_look(self._policy, 0.0)
        if wait < math.inf:
            self._timer = _Timer(self, wait)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, size: int, cost: float, now: float) -> None:
        """Take over one returned result, and commit if the policy says so.

        Args:
            entry: what `Log.append` takes.
            size: bytes of its values.
            cost: dollars paid for it.
            now: `perf_counter()` when it returned.
        """
        with self.lock:
            entries, pending = self._entries, self._waiting
            if not entries:
                self._oldest = now
            entries.append(entry)
            self.pending[entry.key] = entry
            if entry.error is None:
                self.results += 1
            pending.rows += 1
            pending.bytes += size + _ROW_BYTES
            if cost:
                pending.cost += cost
            pending.seconds = now - self._oldest
            pending.elapsed = now - self._last_commit
            if self._error is not None or self._due(pending):
                self.commit()

    def commit(self) -> None:
        """Commit all that is held. If it raises, all is still held."""
        with self.lock:
            error, self._error = self._error, None
            if self._entries:
                self._commit()
            if error is not None and not isinstance(error, StoreError):
                raise error  # the policy's own, met by the timer; a commit's was just tried again

    def _commit(self) -> None:
        entries, start, counts = self._entries, perf_counter(), None
        if start - self._last_counts >= COUNTS_EVERY:
            counts, self._last_counts = self._counts(), start
        late = self._log.append(
            self._step, self._run, entries, counts, answered=self._ledger, worker=self._worker
        )
        self._entries, self.pending = [], {}
        now = perf_counter()
        self._note(now, start)
        self._committed(len(entries), late, now - start)

    def _note(self, now: float, start: float) -> None:
        self.commits += 1
        self.commit_seconds += now - start
        average = self._waiting.commit_seconds or now - start
        self._waiting = Pending(commit_seconds=0.7 * average + 0.3 * (now - start))
        self._last_commit = now

    def tick(self) -> float:
        """Commit if the policy is due by the clock; return in how many seconds to ask again."""
        with self.lock:
            try:
                now, pending = perf_counter(), self._waiting
                if self._entries:
                    pending.seconds, pending.elapsed = now - self._oldest, now - self._last_commit
                    if self._due(pending):
                        self.commit()
                age = now - self._oldest if self._entries else 0.0
                return max(next_look(self._policy, age), 0.001)
            except Exception as error:  # noqa: BLE001 - raised again in the user's thread
                self._error = error
                return POLL_SECONDS

    def close(self) -> None:
        """Commit all that is held, stop the timer. If it raises, all is still held."""
        self.commit()
        if self._timer is not None:
            self._timer.stop()


class _Timer(threading.Thread):
    """Ask the committer again when a row that came right after the last look could be due.

    So adding a row need not wake it.
    """

    def __init__(self, committer: Committer, wait: float) -> None:
        super().__init__(name="checkpointdb-timer", daemon=True)
        self._wait = wait
        self._committer = committer
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        wait = self._wait
        while not self._stopped.wait(wait):
            wait = self._committer.tick()

    def stop(self) -> None:
        """Stop; does not wait, for the timer may be waiting for the lock that the caller holds."""
        self._stopped.set()
