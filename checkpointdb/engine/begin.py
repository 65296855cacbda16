"""Begin a run and end it: the one place that knows all its parts. Has no loop."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from typing import Any

import msgspec

from .. import interrupts
from ..errors import EncodeError
from ..events import Report, RunEnded, RunStarted, emit
from ..file.records import Entry
from ..policy import loss_window
from .bindings import check_binding, check_depends
from .budget import Budget
from .calls import Calls
from .captured import Captured
from .committer import Committer
from .in_flight import InFlight
from .intake import Intake
from .job import Job, Spec
from .ledger import Ledger
from .occurrences import Counted, Occurrences, of_calls
from .on_change import check_recipe, code_of, settle
from .passes import Passes
from .pause import Pause
from .results import Results
from .rows import Slot
from .sharing import Sharing
from .source import Source, count_of
from .stale import Stale, find_stale
from .tally import Tally
from .waiting import workers
from .warn import warn


class Running:
    """A run that has begun: its parts, each complete and with its ids.

    The log sees it as a buffer: what is pending, and how to commit and close it.
    """

    def __init__(
        self, job: Job, step: int, run: int, rows: Any, captured: Captured, stale: Stale
    ) -> None:
        log, spec, options = job.store.log, job.spec, job.options
        self.job, self.options, self.id, self.ended = job, options, run, False
        self.is_given_back = False  # closed because it was idle
        self.step, self.captured, self.stale = step, captured, stale
        self._inside = spec.inside
        self.tally = tally = Tally(spec.name, options.on_event, spec.settings.redactor)
        self.in_flight = InFlight()
        self.source = Source(rows)
        budget = ledger = None
        if options.max_cost is not None:
            budget = Budget(log, tally, spec.name, step, run, options.max_cost)
        if options.ledger:
            ledger = Ledger(lambda calls: log.send(step, run, calls))
        self.sharing = Sharing(log) if options.shared else None
        if self.sharing is not None:
            workers[self.sharing.worker] = self
        self.occurrences: Occurrences | Counted | None = None
        if spec.separate:
            self.occurrences = _occurrences(job, rows)
        self.committer = Committer(
            log, job.save, tally, step, run,
            ledger=options.ledger,
            worker=self.sharing.worker if self.sharing is not None else None,
        )  # fmt: skip
        self.intake = Intake(
            log, spec, options, run, self.source, self.in_flight, tally, self.sharing,
            self.occurrences,
            stale.runs if spec.settings.on_change == "recompute" else frozenset(), job.replay,
        )  # fmt: skip
        self.passes = Passes(self.intake, options)
        observed = _observed(spec, options.on_event, job.store.path, run)
        self.pause: Pause | None = None
        if options.pause_on:
            self.pause = Pause(options.pause_on, options.stop_on, tally)
        self.calls = Calls(
            log, observed, options, self.committer, self.in_flight, tally, budget, ledger,
            self.sharing, self.pause,
            is_direct=rows is None,
        )  # fmt: skip
        self.results = Results(spec.codec, job.store.path, tally)

    @property
    def name(self) -> str:
        """The name of the step."""
        return self.job.spec.name

    @property
    def closed(self) -> bool:
        """Whether it can no longer go on: it was ended, or its store was closed."""
        return self.ended or self.job.store.closed

    @property
    def pending(self) -> Mapping[bytes, Entry]:
        """What returned and is not committed, by key."""
        return self.committer.pending

    def commit(self) -> None:
        """Commit what is pending."""
        self.committer.commit()

    def lend(self, slot: Slot) -> None:
        """Let a row go that was claimed ahead, unless its call has begun."""
        if self.sharing is not None:
            self.sharing.lend(slot)

    @property
    def is_forked(self) -> bool:
        """Whether this is a forked child and the run belongs to its parent."""
        return self.job.store.log.is_forked

    def check_process(self) -> None:
        """Raise in a forked child: the run's threads and its file stayed with the parent.

        Raises:
            StoreError: this process is a forked child.
        """
        self.job.store.log.check_process()

    def forked(self) -> None:
        """Make it safe to drop in a forked child."""
        for part in (self.committer, self.tally, self.in_flight, self.calls):
            part.forked()

    def close(self) -> None:
        """End a run that nobody will continue."""
        end(self, "closed")

    def give_back(self) -> bool:
        """Close the store if these direct calls are idle and alone on it; tell if it is closed."""
        store = self.job.store
        if len(self.in_flight) or not store.log.is_alone(self):
            return False
        self.is_given_back = True
        store.close()
        return store.closed

    def stale_before(self) -> int:
        """Return how many saved results were computed by other code when the run began."""
        return self.stale.results

    def stale_now(self) -> int:
        """Return how many saved results were computed by other code."""
        if not self.stale.results or self.job.spec.settings.on_change != "recompute":
            return self.stale.results
        return find_stale(self.job.store.log, self.step, self.captured).results

    def is_outdated(self, spec: Spec) -> bool:
        """Tell whether what the step captures has changed since the run began.

        Args:
            spec: the step as it is now; its function may have been defined again.
        """
        if spec.inside is self._inside and not self.captured.has_moved():
            return False
        now = spec.capture()
        if now.fingerprint != self.captured.fingerprint:
            return True
        self.captured, self._inside = now, spec.inside  # other objects of the same content
        return False

    def report(self) -> Report:
        """Return the counts so far."""
        return self.tally.report()

    def counts(self) -> tuple[Report, int]:
        """Return the counts so far, and how many rows are pending."""
        return self.tally.report(), len(self.committer.pending)


@interrupts.whole
def begin(job: Job, rows: Any = None) -> Running:
    """Register the step and the run, and build its parts; warn or refuse if the code changed.

    Args:
        job: what is asked.
        rows: the source of rows; none for a run of single calls.

    Raises:
        BindingError, StaleResultsError: before any call.
        EncodeError: the step is annotated to return what cannot be stored; before any call.
    """
    interrupts.watch()
    store, spec = job.store, job.spec
    _check_result_type(spec)
    captured = spec.capture()
    check_depends(spec.name, spec.keyer.depends, spec.settings.depends)
    check_binding(captured, store.path, spec.name, spec.version, spec.keyer.depends)
    known = store.log.register_step(
        spec.name, spec.version, spec.key_recipe, spec.settings.on_change
    )
    check_recipe(job, known)
    stale = settle(job, known, captured)
    policy, window = repr(job.save), loss_window(job.save)
    meta = None if job.meta is None else msgspec.json.encode(job.meta).decode()
    run = store.log.begin_run(known.id, policy, window, meta, code_of(captured), count_of(rows))
    if rows is not None and not job.options.shared:
        _warn_of_twin(job, known.id)
    running = Running(job, known.id, run, rows, captured, stale)
    store.log.attach(running)
    if (watch := getattr(job.options.on_event, "watch_run", None)) is not None:
        watch(spec.name, store.path, run, weakref.WeakMethod(running.counts))
    event = RunStarted(spec.name, spec.version, store.path, run, policy, window)
    emit(event, job.options.on_event)
    return running


@interrupts.whole
def end(running: Running, how: str) -> None:
    """Commit what is pending and record how the run ended. Can be repeated.

    Raises:
        StoreError: the commit failed; all that is pending stays so, and the run goes on.
    """
    if running.closed:
        return
    job, log = running.job, running.job.store.log
    try:
        running.committer.close()
    finally:
        if running.sharing is not None:  # whatever becomes of what is pending: nobody computes here
            running.sharing.end()
    running.ended = True
    running.calls.close()
    running.tally.end()
    log.detach(running)
    if running.occurrences is not None:
        running.occurrences.end()
    log.end_run(running.id, running.committer.counts(), how)
    window = running.committer.loss_window
    event = RunEnded(
        job.spec.name, job.store.path, running.id, how, running.report(), window,
        running.stale_now(), running.tally.failures(),
    )  # fmt: skip
    emit(event, job.options.on_event)
    running.intake.changed.warn_at_end()


def _occurrences(job: Job, rows: Any) -> Occurrences | Counted:
    if job.replay is not None:
        return Counted()
    log = job.store.log
    return of_calls(log) if rows is None else Occurrences(log, "run", job.options.shared)


def _observed(spec: Spec, listener: Any, store: str, run: int) -> Spec:
    """Have the listener's `around_call`, if it has one, around each call of the step."""
    around = getattr(listener, "around_call", None)
    if around is None:
        return spec
    fn = spec.fn

    def call(argument: Any) -> Any:
        with around(store, run):
            return fn(argument)

    async def acall(argument: Any) -> Any:
        with around(store, run):
            return await fn(argument)

    return msgspec.structs.replace(spec, fn=acall if spec.is_async else call)


def _check_result_type(spec: Spec) -> None:
    try:
        spec.codec.check()
    except EncodeError as error:
        raise EncodeError(f"step {spec.name!r}: {error}", error.where) from None


def _warn_of_twin(job: Job, step: int) -> None:
    """Warn of the same job started twice by mistake; workers of a pool are started on purpose."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing and multiprocessing.parent_process():
        return
    twin = job.store.log.run_elsewhere(step)
    if twin is not None:
        run, pid = twin
        cost = "rows that both come to are paid twice"
        if job.spec.separate:
            cost = "each of them pays for samples of its own"
        warn(
            f"step {job.spec.name!r} in {job.store.path}: process {pid} computes it now as well "
            f"(run {run}): {cost}. Stop one of them, or give shared=True to both"
        )
