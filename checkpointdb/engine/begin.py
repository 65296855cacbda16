"""Begin a run and end it: the one place that knows all its parts. Has no loop."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..events import Report, RunEnded, RunStarted, emit
from ..file.records import Code, Entry
from ..policy import loss_window
from ..values.keys import recipe_in_words
from .budget import Budget
from .calls import Calls
from .committer import Committer
from .fingerprint import changed
from .in_flight import InFlight
from .intake import Intake
from .job import Job
from .ledger import Ledger
from .results import Results
from .sharing import Sharing
from .source import Source
from .tally import Tally

# Frames that are not the user's: this package, and the context manager that a run is in.
_OURS = (str(Path(__file__).parent.parent) + os.sep, contextlib.__file__)


class Running:
    """A run that has begun: its parts, each complete and with its ids.

    To the log it is a buffer: what of it is pending, and how to commit and close it.
    """

    def __init__(self, job: Job, step: int, run: int, rows: Any) -> None:
        log, spec, options = job.store.log, job.spec, job.options
        self.job, self.options, self.id, self.ended = job, options, run, False
        self.tally = tally = Tally(spec.name, options.on_event)
        self.in_flight = InFlight()
        self.source = Source(rows)
        budget = ledger = None
        if options.max_cost is not None:
            budget = Budget(log, tally, spec.name, step, run, options.max_cost)
        if options.ledger:
            ledger = Ledger(lambda calls: log.send(step, run, calls))
        self.sharing = Sharing(log) if options.shared else None
        self.committer = Committer(
            log, job.save, tally, step, run,
            ledger=options.ledger,
            worker=self.sharing.worker if self.sharing is not None else None,
        )  # fmt: skip
        self.intake = Intake(
            log, spec, options, run, self.source, self.in_flight, tally, self.sharing
        )
        self.calls = Calls(
            spec, options, self.committer, self.in_flight, tally, budget, ledger,
            None if self.sharing is None else self.sharing.under_way,
        )  # fmt: skip
        self.results = Results(spec.codec, job.store.path, tally)

    @property
    def closed(self) -> bool:
        """Whether it can go on no more: it was ended, or its store was closed."""
        return self.ended or self.job.store.closed

    @property
    def pending(self) -> Mapping[bytes, Entry]:
        """What returned and is not committed, by key."""
        return self.committer.pending

    def commit(self) -> None:
        """Commit what is pending."""
        self.committer.commit()

    def close(self) -> None:
        """End a run that nobody goes on with."""
        end(self, "closed")

    def report(self) -> Report:
        """Return the counts so far."""
        return self.tally.report()


def begin(job: Job, rows: Any = None) -> Running:
    """Register the step and the run, and build its parts; warn if the step was changed.

    Args:
        job: what is asked.
        rows: the source of rows; none for a run of single calls.
    """
    store, spec = job.store, job.spec
    step = _register(job)
    policy, window = repr(job.save), loss_window(job.save)
    meta = None if job.meta is None else msgspec.json.encode(job.meta).decode()
    code = None if spec.fingerprint is None else Code(spec.fingerprint, None)
    run = store.log.begin_run(step, policy, window, meta, code)
    if rows is not None and not job.options.shared:
        _warn_of_twin(job, step)
    running = Running(job, step, run, () if rows is None else rows)
    store.log.attach(running)
    event = RunStarted(spec.name, spec.version, store.path, run, policy, window)
    emit(event, job.options.on_event)
    return running


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
    running.tally.end()
    log.detach(running)
    log.end_run(running.id, running.committer.counts(), how)
    window = running.committer.loss_window
    event = RunEnded(job.spec.name, job.store.path, running.id, how, running.report(), window)
    emit(event, job.options.on_event)


def saved(job: Job) -> int:
    """Return how many results of the job's step are saved."""
    identity = (job.spec.name, job.spec.version)
    steps = job.store.steps()
    return next((step.results for step in steps if (step.name, step.version) == identity), 0)


def _register(job: Job) -> int:
    """Return the step's id."""
    spec, log = job.spec, job.store.log
    known = log.register_step(spec.name, spec.version, spec.key_recipe)
    if known.key_recipe != spec.key_recipe or changed(known.fingerprint, spec.fingerprint):
        _warn_of_change(job, known.key_recipe)
        log.update_recipe(known.id, spec.key_recipe)
    return known.id


def _warn_of_twin(job: Job, step: int) -> None:
    """Warn of the same job started twice by mistake; workers of a pool are started on purpose."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing and multiprocessing.parent_process():
        return
    twin = job.store.log.run_elsewhere(step)
    if twin is not None:
        run, pid = twin
        warnings.warn(
            f"step {job.spec.name!r} in {job.store.path}: process {pid} computes it now, too (run "
            f"{run}): rows that both come to are paid twice. Stop one of them, or give shared=True "
            "to both",
            stacklevel=_users_frame(),
        )


def _warn_of_change(job: Job, stored_recipe: str) -> None:
    spec, results = job.spec, saved(job)
    if not results:
        return
    if stored_recipe != spec.key_recipe:
        now = recipe_in_words(spec.key_recipe)
        what = f"its key= changed from {recipe_in_words(stored_recipe)} to {now}"
        effect = "will not be found for rows whose key differs. Restore key= to reuse them"
    else:
        what = "its code changed and its version did not"
        effect = f"are reused. To compute them again, give it another version than {spec.version!r}"
    warnings.warn(
        f"step {spec.name!r} in {job.store.path}: {what}; the {results:,} results saved {effect}",
        stacklevel=_users_frame(),
    )


def _users_frame() -> int:
    """Return how far up the stack, seen from the caller, the first frame is that is not ours."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level
