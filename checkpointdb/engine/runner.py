"""A run without its loop: compute, keep, commit, end. Knows rows, policy and store.

How a row gets its slot is in `intake.py`; the loops are in `loops/`, each a few lines over
`Runner`.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import msgspec

from ..errors import BudgetExceeded, DecodeError, EncodeError, StoreError
from ..events import CameLate, Committed, Report, RowFailed, RunEnded, RunStarted, emit
from ..file.records import Code, Entry, SentCall
from ..policy import SavePolicy, loss_window
from ..store import Store
from ..values.keys import recipe_in_words
from .committer import Committer
from .current import calling
from .fingerprint import changed
from .intake import Lookup, Spec
from .ledger import Ledger
from .options import Options
from .rows import Failed, Slot, Twin, failure, to_error_text
from .sharing import Sharing


class Runner:
    """One pass of a step over rows, as the drivers see it."""

    def __init__(
        self, store: Store, spec: Spec, save: SavePolicy, meta: Any, options: Options
    ) -> None:
        self.spec, self.store, self.options = spec, store, options
        self._save, self._meta = save, meta
        self._log = store.log
        self._committer = Committer(store.log, save, self.counts, self._committed)
        self._lock = self._committer.lock
        self.lookup = Lookup(store.log, spec, options, self._lock, self._count_failures)
        # bound once: they are called for each row
        self._fn, self._encode, self._decode = spec.fn, spec.codec.encode, spec.codec.decode
        self._judges = options.cost is not None or options.valid is not None
        self._careful = options.max_cost is not None or options.ledger
        self._rows = self._hits = self._failed = 0
        self._cost = self._spent_before = 0.0
        self._seen_to = 0  # id of the last record whose cost is in `_spent_before`
        self._started = self._ended = 0.0
        self._step = self._id = 0
        self._ledger = Ledger(self._send) if options.ledger else None
        self.loop: Callable[[], Any] = _no_loop  # the driver's generator; weak, so it can end

    # --- begin and end

    @property
    def active(self) -> bool:
        """Whether the run has begun and not ended."""
        return bool(self._id) and not self._ended

    @property
    def busy(self) -> bool:
        """Whether the run's own code, or the step, is on the stack of the thread that iterates."""
        return not self.lookup.reading and bool(getattr(self.loop(), "gi_running", False))

    def start(self) -> None:
        """Register the step and the run; warn if the code changed and the version did not."""
        spec = self.spec
        known = self._log.register_step(spec.name, spec.version, spec.key_recipe)
        step, code = known.id, spec.fingerprint and Code(spec.fingerprint, None)
        if known.key_recipe != spec.key_recipe or changed(known.fingerprint, spec.fingerprint):
            self._warn_of_change(known.key_recipe)
            self._log.update_recipe(step, spec.key_recipe)
        if self.options.max_cost is not None:
            self._spent_before, self._seen_to = self._log.spent_before(step)
        meta = None if self._meta is None else msgspec.json.encode(self._meta).decode()
        window = loss_window(self._save)
        self._id = self._log.begin_run(step, repr(self._save), window, meta, code or None)
        self._started = perf_counter()
        self._step, self.lookup.run = step, self._id
        if self.options.shared:
            self.lookup.sharing = Sharing(self._log)
        worker = self.lookup.sharing.worker if self.lookup.sharing else None
        self._committer.open(step, self._id, self._ledger is not None, worker)
        self._log.attach(self)
        self._emit(
            RunStarted(spec.name, spec.version, self.store.path, self._id, repr(self._save), window)
        )

    def finish(self, ended: str) -> None:
        """Commit what is pending and record how the run ended. Can be repeated."""
        if not self.active or self.store.closed:
            return
        self._committer.close()
        self._ended = perf_counter()
        if self.lookup.sharing is not None:
            self.lookup.sharing.end()
        self._log.detach(self)
        self._log.end_run(self._id, self.counts(), ended)
        self._emit(RunEnded(self.spec.name, self.store.path, self._id, ended, self.report()))

    @property
    def pending(self) -> Mapping[bytes, Entry]:
        """What returned and is not committed, by key."""
        return self._committer.pending

    def close(self) -> None:
        """End a run that nobody goes on with."""
        self.finish("closed")

    def commit(self) -> None:
        """Commit what is pending."""
        self._committer.commit()

    def _committed(self, rows: int, late: list[Entry], seconds: float) -> None:
        for entry in late:
            self._emit(CameLate(self.spec.name, entry.position, entry.key.hex()))
        self._emit(Committed(self.spec.name, rows, seconds))

    def _send(self, calls: list[Any]) -> None:
        self._log.send(self._step, self._id, calls)

    def _emit(self, event: Any) -> None:
        emit(event, self.options.on_event)

    # --- compute

    def compute(self, slot: Slot) -> None:
        """Call the step for one row and keep what it returns."""
        if self._careful:
            self.begin_call([slot])
        token = calling.set(slot.key)
        start = perf_counter()
        try:
            value = self._fn(slot.row)
        except BaseException as error:  # noqa: BLE001 - `fail` raises it again, or records it
            self.fail([slot], error, start)
            return
        finally:
            calling.reset(token)
        self.keep(slot, value, start)

    def compute_unit(self, slots: list[Slot]) -> None:
        """Call the step for the rows of one call: a batch, or a single row."""
        if self.options.batch_size is None:
            self.compute(slots[0])
        else:
            self.compute_batch(slots)

    def compute_batch(self, slots: list[Slot]) -> None:
        """Call a batch step for several rows and keep what it returns."""
        start = self.begin_call(slots)
        token = calling.set(slots[0].key)
        try:
            values = self.spec.fn([slot.row for slot in slots])
        except BaseException as error:  # noqa: BLE001 - `fail` raises it again, or records it
            self.fail(slots, error, start)
            return
        finally:
            calling.reset(token)
        self.keep_batch(slots, values, start)

    async def acompute(self, slots: list[Slot]) -> None:
        """Call an async step, for one row or a batch of rows, and keep what it returns."""
        batch = self.options.batch_size is not None
        start = self.begin_call(slots)
        token = calling.set(slots[0].key)
        try:
            values = await self.spec.fn([s.row for s in slots] if batch else slots[0].row)
        except BaseException as error:  # noqa: BLE001 - `fail` raises it again, or records it
            self.fail(slots, error, start)
            return
        finally:
            calling.reset(token)
        if batch:
            self.keep_batch(slots, values, start)
        else:
            self.keep(slots[0], values, start)

    def begin_call(self, slots: list[Slot]) -> float:
        """Return the time, the calls noted in the ledger; raise if the budget is spent."""
        try:
            if self.options.max_cost is not None:
                self._check_budget(self.options.max_cost)
            if self._ledger is not None:
                self._ledger.send(
                    SentCall(slot.key, slot.position, slot.input, slot.input_form) for slot in slots
                )
        except BaseException as error:
            self.lookup.give_up(slots, error)
            raise
        return perf_counter()

    def _check_budget(self, budget: float) -> None:
        """Raise if the step's budget is spent, by this run, runs before it, or runs beside it."""
        with self._lock:
            others, self._seen_to = self._log.spent(self._step, self._id, self._seen_to)
            self._spent_before += others
            spent = self._spent_before + self._cost
        if spent >= budget:
            raise BudgetExceeded(
                f"step {self.spec.name!r} has spent ${spent:.6g} of its budget of ${budget:.6g}: "
                "raise max_cost= to go on",
                spent,
                budget,
            )

    def keep(self, slot: Slot, value: Any, start: float) -> None:
        """Make a returned result pending; commit if the policy says so.

        Args:
            slot: its row.
            value: what the step returned.
            start: `perf_counter()` when it was called.

        Raises:
            EncodeError: the result cannot be stored; it is attached.
            StoreError: the commit failed; the result stays pending.
        """
        now = perf_counter()
        if slot.spoilt:
            assert self.lookup.source_error is not None
            self.lookup.give_up([slot], self.lookup.source_error)
            return
        try:
            encoded = self._encode(value)
        except EncodeError as error:
            self.fail([slot], error, start, value)
            return
        slot.value, slot.data = value, encoded
        cost = problem = text = None
        if self._judges:
            cost, problem = self._judge(slot, value)
            if slot.failed is not None:
                text = to_error_text(slot.failed)
        stored_input = slot.input
        entry = Entry(
            slot.key, slot.identity, slot.position, slot.attempts + 1, now - start, cost, text,
            encoded, stored_input, slot.input_form, slot.row_digest, slot.occurrence, slot.replaces,
        )  # fmt: skip
        size = len(encoded) if stored_input is None else len(encoded) + len(stored_input)
        self._hold(slot, entry, size, cost or 0.0, now)
        if problem is not None:
            raise problem

    def _hold(self, slot: Slot, entry: Entry, size: int, cost: float, now: float) -> None:
        """Hand over to the committer; only then may anybody have the result."""
        try:
            self._committer.add(entry, size, cost, now)
        finally:
            self.lookup.in_flight.pop(slot.key, None)
            slot.settle()

    def _judge(self, slot: Slot, value: Any) -> tuple[float | None, Exception | None]:
        """Ask the user's `cost` and `valid`; what they raise waits until the result is kept."""
        cost = None
        try:
            if self.options.cost is not None:
                cost = _dollars(self.options.cost(value))
                with self._lock:
                    self._cost += cost
        except Exception as error:  # noqa: BLE001 - the result is paid for: keep it first
            return cost, error
        try:
            if self.options.valid is None or self.options.valid(value):
                return cost, None
        except Exception as error:  # noqa: BLE001 - not judged is not good: a failure, with its result
            slot.failed, slot.error = failure(slot, error), error
            self._count_failures([slot], error, recorded=False)
            return cost, error
        refused = ValueError(f"valid= refused the result of row {slot.position}: {value!r:.200}")
        recorded = self.options.on_error == "record"
        slot.failed = Failed(slot.row, "invalid", str(refused), "", slot.attempts + 1)
        if not recorded:
            slot.error = refused
        self._count_failures([slot], refused, recorded)
        return cost, None if recorded else refused

    def keep_batch(self, slots: list[Slot], values: Any, start: float) -> None:
        """Make the results of a batch pending; those that can be stored are, before any raises.

        Raises:
            ValueError: not a list, or not as many results as rows; what was returned is attached.
        """
        elapsed = perf_counter() - start
        problem: Exception | None = self._misfit(slots, values)
        if problem is not None:
            self.lookup.give_up(slots, problem)
            raise problem
        for slot, value in zip(slots, values, strict=True):
            try:
                self.keep(slot, value, perf_counter() - elapsed / len(slots))
            except Exception as error:  # noqa: BLE001 - the others are paid for too: keep them first
                problem = problem or error
        if problem is not None:
            raise problem

    def _misfit(self, slots: list[Slot], values: Any) -> Exception | None:
        if not isinstance(values, list | tuple):
            returned = f"a {type(values).__name__}"
        elif len(values) != len(slots):
            returned = f"{len(values)} results"
        else:
            return None
        error = ValueError(
            f"step {self.spec.name!r} was given a list of {len(slots)} rows and returned "
            f"{returned}: with batch_size= it must return a list of {len(slots)} results; "
            "what it returned is attached to this error as .result"
        )
        error.result = values  # type: ignore[attr-defined]
        return error

    def fail(
        self, slots: list[Slot], error: BaseException, start: float, result: Any = None
    ) -> None:
        """Settle rows whose call failed: as records if the run goes on, else raise the error."""
        if (
            self.options.on_error != "record"
            or not isinstance(error, Exception)
            or isinstance(error, self.options.stop_on)
        ):
            self._count_failures(slots, error, recorded=False)
            self.lookup.give_up(slots, error)
            raise error
        self._count_failures(slots, error, recorded=True)
        now = perf_counter()
        for slot in slots:
            slot.failed = failure(slot, error)
            text = to_error_text(slot.failed, result)
            entry = Entry(
                slot.key, slot.identity, slot.position, slot.attempts + 1,
                (now - start) / len(slots), None, text, None, slot.input, slot.input_form,
                slot.row_digest, slot.occurrence, slot.replaces,
            )  # fmt: skip
            self._hold(slot, entry, len(text) + len(slot.input or ""), 0.0, now)

    def _count_failures(self, slots: list[Slot], error: BaseException, recorded: bool) -> None:
        with self._lock:
            self._failed += len(slots)
        for slot in slots:
            kind, attempts = type(error).__qualname__, slot.attempts + 1
            self._emit(
                RowFailed(self.spec.name, slot.position, kind, str(error), attempts, recorded)
            )

    # --- give out

    def when_settled(self, place: Slot | Twin, wake: Callable[[], object]) -> None:
        """Call `wake` once, when the row's outcome is there; at once if it is."""
        once = [wake]

        def wake_once() -> None:
            with contextlib.suppress(IndexError):
                once.pop()()

        slot = place.first if isinstance(place, Twin) else place
        with self._lock:
            slot.waiters += (wake_once,)
        if slot.settled:
            wake_once()

    def take(self, place: Slot | Twin) -> Any:
        """Return the outcome of a settled row: its result or its `Failed`, or raise its error."""
        slot = place.first if isinstance(place, Twin) else place
        if slot.error is not None:
            raise slot.error
        self._rows += 1
        if place.mine and slot.failed is None:
            value, slot.value = slot.value, None
            return value
        self._hits += not place.mine and not slot.skipped
        if slot.failed is not None:
            return slot.failed
        assert slot.data is not None
        try:
            return self._decode(slot.data)
        except DecodeError as error:
            error.key = slot.key.hex()
            error.add_note(f"key {error.key} in {self.store.path}")
            raise

    # --- tell

    def report(self) -> Report:
        """Return the counts so far."""
        return Report(**self.counts())  # type: ignore[arg-type]

    def counts(self) -> dict[str, float]:
        """Return the report as the columns of the `runs` table."""
        now = self._ended or perf_counter()
        return {
            "rows": self._rows,
            "hits": self._hits,
            "computed": self._committer.results,
            "failed": self._failed + self.lookup.skipped,
            "commits": self._committer.commits,
            "seconds": now - self._started if self._id else 0.0,
            "commit_seconds": self._committer.commit_seconds,
            "cost": self._cost,
        }

    def explain(self, error: BaseException, rows: Any) -> None:
        """Add to the user's own exception how much is saved, where, and how to go on."""
        with contextlib.suppress(StoreError):
            left = ""
            if hasattr(rows, "__len__"):
                done = self._hits + self._committer.results
                left = f", {max(len(rows) - done, 0):,} of {len(rows):,} rows are left"
            error.add_note(
                f"checkpointdb: {self._saved():,} results of step {self.spec.name!r} are saved "
                f"in {self.store.path}{left}; run the same again to go on from there"
            )

    def _saved(self) -> int:
        identity = (self.spec.name, self.spec.version)
        return next((s.results for s in self.store.steps() if (s.name, s.version) == identity), 0)

    def _warn_of_change(self, stored_recipe: str) -> None:
        name, version, saved = self.spec.name, self.spec.version, self._saved()
        if not saved:
            return
        if stored_recipe != self.spec.key_recipe:
            now = recipe_in_words(self.spec.key_recipe)
            what = f"its key= changed from {recipe_in_words(stored_recipe)} to {now}"
            effect = "will not be found for rows whose key differs. Restore key= to reuse them"
        else:
            what = "its code changed and its version did not"
            effect = f"are reused. To compute them again, give it another version than {version!r}"
        warnings.warn(
            f"step {name!r} in {self.store.path}: {what}; the {saved:,} results saved {effect}",
            stacklevel=5,
        )


def _dollars(cost: Any) -> float:
    if isinstance(cost, int | float) and 0 <= cost < math.inf:
        return float(cost)
    raise ValueError(f"cost= returned {cost!r}: it must be dollars, 0 or more; the result is saved")


def _no_loop() -> None:
    return None
