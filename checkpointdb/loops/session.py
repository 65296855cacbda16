"""A run from its beginning to its end, whatever loop it has: signals, progress, how it ended."""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from ..engine.begin import Running, begin, end
from ..engine.job import Job
from ..engine.source import count_of
from ..errors import StoreError
from ..events import PILOT_ENDED, Report
from .progress import Progress
from .signals import Signals, always

log = logging.getLogger("checkpointdb.run")

# Runs whose loop has begun and not ended. Only their users keep them alive.
_unfinished: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """Begin a run when a loop over it begins, and end it however the loop ends.

    Args:
        job: what is asked.
        rows: the source of rows.
        in_task: the loop is a task of the user's event loop. SIGINT is passed on to asyncio then,
            which cancels the task that iterates; SIGTERM does the same as elsewhere.
    """

    def __init__(self, job: Job, rows: Any, in_task: bool = False) -> None:
        self._job, self._rows, self._in_task = job, rows, in_task
        self.step = f"step {job.spec.name!r} version {job.spec.version!r}"
        self._running: Running | None = None
        self._pairs = False
        self._ended: tuple[Report, int] | None = None  # what is left of it: no store is kept open
        self._loop: Callable[[], Any] = _no_loop

    def driven_by(self, iterator: Any) -> None:
        """Say which generator has the loop; it is not kept alive, so that it ends if forgotten."""
        self._loop = weakref.ref(iterator)

    def give_pairs(self) -> None:
        """Have the loop give out rows with their results."""
        self._pairs = True

    def report(self) -> Report:
        """Return the counts so far."""
        if self._ended is not None:
            return self._ended[0]
        return Report() if self._running is None else self._running.report()

    def paused(self) -> float:
        """Return for how many seconds all calls still wait."""
        pause = None if self._running is None else self._running.pause
        return 0.0 if pause is None else pause.left

    @property
    def stale(self) -> int:
        """How many saved results were computed by other code, as of the beginning."""
        if self._ended is not None:
            return self._ended[1]
        return 0 if self._running is None else self._running.stale_before()

    def end_at_exit(self) -> None:
        """Await what is in flight and end the run, if its loop was left unfinished."""
        loop = self._loop()
        if loop is None or self._running is None or self._running.is_forked:
            return
        try:
            loop.close()
        except ValueError:  # a thread is in it: what returned is saved as the store is closed
            log.warning("%s: the process ends while another thread runs it", self.step)
        except Exception:  # the others must end all the same
            log.exception("checkpointdb: a run could not be ended at exit")

    def close(self) -> None:
        """End the run, if it has begun and nobody has ended it."""
        if self._running is not None:
            end(self._running, "closed")
            self._let_go()

    def _let_go(self) -> None:
        """Keep only the counts of a run that has ended, not its store."""
        running = self._running
        if running is not None and running.ended:
            self._ended = running.report(), running.stale_before()
            self._running = None
            del self._job

    @contextmanager
    def running(self) -> Iterator[tuple[Running, Signals]]:
        """Begin the run for the block, and end it as the block ends."""
        self._running = running = begin(self._job, self._rows)
        source, results, passes = running.source, running.results, running.passes
        if self._pairs:
            results.give_pairs()
        if self._in_task:
            signals = Signals(always, running.commit, interrupt=False)
        else:
            signals = Signals(
                lambda: not source.reading and bool(getattr(self._loop(), "gi_running", False)),
                running.commit,
            )
        signals.install()
        _unfinished.add(self)
        try:
            with self._progress():
                yield running, signals
            source.raise_error()
        except GeneratorExit:
            end(running, "closed")
            raise
        except BaseException as error:
            end(running, _how(error))
            if not running.is_forked:
                self._explain(error)
            raise
        else:
            end(running, PILOT_ENDED if passes.is_over else "finished")
        finally:
            _unfinished.discard(self)
            signals.restore()
            self._let_go()

    def _progress(self) -> AbstractContextManager[Any]:
        """Show the run's progress, if it was asked for."""
        if not self._job.options.progress:
            return nullcontext()
        return Progress(self._job.spec.name, self.report, self.total(), paused=self.paused)

    def total(self) -> int | None:
        """Return how many rows there are, if they know."""
        return count_of(self._rows)

    def _explain(self, error: BaseException) -> None:
        """Add to the user's own exception how much is saved, where, and how to go on."""
        if self._job.replay is not None:
            return
        with suppress(StoreError):
            report, total, given_out = self.report(), self.total(), ""
            if total is not None:
                done = report.hits + report.computed
                given_out = f"; this run got to {done:,} of {total:,} rows"
            error.add_note(
                f"checkpointdb: {self._job.saved():,} results of step {self._job.spec.name!r} are "
                f"saved in {self._job.store.path}{given_out}; run the same again to go on"
            )


def _how(error: BaseException) -> str:
    """Say in a few words how a run ended by `error`."""
    name = type(error).__name__
    if isinstance(error, KeyboardInterrupt | SystemExit) or name == "CancelledError":
        return "interrupted"
    return f"failed: {name}"


@atexit.register  # before the stores are closed: what registers later runs first
def _end_unfinished() -> None:
    for session in list(_unfinished):
        session.end_at_exit()


def _no_loop() -> None:
    return None
