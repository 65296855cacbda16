"""Results between the step's return and the commit. Knows policy, time and log; not rows."""

from __future__ import annotations

import math
import threading
from time import perf_counter

import msgspec

from ..errors import StoreError
from ..file.log import Log
from ..file.records import Entry
from ..policy import POLL_SECONDS, Pending, SavePolicy, next_look
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
        self._lock = threading.RLock()  # a listener that is told of a commit may ask for one
        self._log, self._policy, self._due, self._tally = log, policy, policy.due, tally
        self._step, self._run, self._ledger, self._worker = step, run, ledger, worker
        self.pending: dict[bytes, Entry] = {}  # the newest entry of each key, not committed yet
        self._entries: list[Entry] = []
        self._sizes = Pending()
        self._oldest = self._last_commit = self._last_counts = perf_counter()
        self._error: BaseException | None = None
        wait = next_look(policy, 0.0)
        self._timer = _Timer(self, wait) if wait < math.inf else None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, now: float) -> None:
        """Take over one outcome, and commit if the policy says so.

        Args:
            entry: what `Log.append` takes.
            now: `perf_counter()` when the call returned.
        """
        try:
            size = len(entry.result) + len(entry.input)  # type: ignore[arg-type]
        except TypeError:  # a failure, or no input is kept: rare
            size = sum(len(part or "") for part in (entry.result, entry.input, entry.error))
        with self._lock:
            sizes = self._sizes
            if not self._entries:
                self._oldest = now
            self._entries.append(entry)
            self.pending[entry.key] = entry
            sizes.rows += 1
            sizes.bytes += size + _ROW_BYTES
            if entry.cost:
                sizes.cost += entry.cost
            sizes.seconds = now - self._oldest
            sizes.elapsed = now - self._last_commit
            if self._error is not None or self._due(sizes):
                self.commit()

    def commit(self) -> None:
        """Commit all that is pending. If it raises, all is still pending."""
        with self._lock:
            error, self._error = self._error, None
            if self._entries:
                self._commit()
            if error is not None and not isinstance(error, StoreError):
                raise error  # the policy's own, met by the timer; a commit's was just tried again

    def _commit(self) -> None:
        entries, start, counts = self._entries, perf_counter(), None
        if start - self._last_counts >= COUNTS_EVERY:
            counts, self._last_counts = msgspec.structs.asdict(self._tally.report()), start
        late = self._log.append(
            self._step, self._run, entries, counts, answered=self._ledger, worker=self._worker
        )
        self._entries, self.pending = [], {}
        self._last_commit = now = perf_counter()
        took = now - start
        mean = self._sizes.mean_commit_seconds or took
        self._sizes = Pending(mean_commit_seconds=0.7 * mean + 0.3 * took)
        self._tally.committed(len(entries), late, took)

    def tick(self) -> float:
        """Commit if the policy is due by the clock; return in how many seconds to ask again."""
        with self._lock:
            try:
                now, sizes = perf_counter(), self._sizes
                if self._entries:
                    sizes.seconds, sizes.elapsed = now - self._oldest, now - self._last_commit
                    if self._due(sizes):
                        self.commit()
                age = now - self._oldest if self._entries else 0.0
                return max(next_look(self._policy, age), 0.001)
            except Exception as error:  # noqa: BLE001 - raised again in the user's thread
                self._error = error
                return POLL_SECONDS

    def close(self) -> None:
        """Commit all that is pending, stop the timer. If it raises, all is still pending."""
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
