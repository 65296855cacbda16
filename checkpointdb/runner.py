"""A run without its loop: look up, compute, keep, commit, end. Knows rows, policy and store.

The loops are in `drivers.py`; each is a few lines over `Runner`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import msgspec

from .codec import Codec
from .current import calling
from .errors import BudgetExceeded, DecodeError, EncodeError, StoreError
from .events import CameLate, Committed, Report, RowFailed, RunEnded, RunStarted, emit
from .fingerprint import changed
from .keeper import Keeper
from .keys import Keyer, Version
from .ledger import Ledger
from .occurrences import Occurrences
from .options import Options
from .policy import SavePolicy, loss_window
from .sharing import Sharing
from .slots import Failed, Slot, Twin, failure, from_error_text, to_error_text
from .store import Entry, Found, Store

READ_AHEAD = 1024
# The read-ahead doubles while a batch of rows is done within this many seconds and halves when it
# is not: looking up in batches is worth 3 to 10 µs a row, and a slow source or step is not held up.
READ_AHEAD_SECONDS = 0.01
# A row claimed is a row that no other process computes: claim few ahead.
CLAIM_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Spec:
    """A step as the runner needs it."""

    fn: Callable[..., Any]
    name: str
    version: Version
    keyer: Keyer
    key_recipe: str
    fingerprint: str | None
    codec: Codec
    is_async: bool
    separate: bool = False


class Runner:
    """One pass of a step over rows, as the drivers see it."""

    def __init__(
        self, store: Store, spec: Spec, save: SavePolicy, meta: Any, options: Options
    ) -> None:
        self.spec, self.store, self.options = spec, store, options
        self._save, self._meta = save, meta
        self._keeper = Keeper(store, save, self.counts, self._committed)
        self._lock = self._keeper.lock
        self._open: dict[bytes, Slot] = {}  # being computed
        self._positions = itertools.count()
        self._seen = Occurrences() if spec.separate else None
        # bound once: they are called for each row
        self._identity, self._stored, self._fn = spec.keyer.identify, spec.keyer.stored, spec.fn
        self._encode, self._decode = spec.codec.encode, spec.codec.decode
        self._judges = options.cost is not None or options.valid is not None
        self._careful = options.max_cost is not None or options.ledger
        self._rows = self._hits = self._failed = 0
        self._cost = self._spent_before = 0.0
        self._started = self._ended = 0.0
        self._step = self._id = 0
        self._ledger = Ledger(self._send) if options.ledger else None
        self.sharing: Sharing | None = None
        self.source_error: Exception | None = None
        self.ahead = 0  # rows looked up, perhaps claimed, that no loop has seen yet
        self.reading = False  # inside the source of rows: nothing is at risk there
        self.loop: Callable[[], Any] = _no_loop  # the driver's generator; weak, so it can end

    # --- begin and end

    @property
    def active(self) -> bool:
        """Whether the run has begun and not ended."""
        return bool(self._id) and not self._ended

    @property
    def busy(self) -> bool:
        """Whether the run's own code, or the step, is on the stack of the thread that iterates."""
        return not self.reading and bool(getattr(self.loop(), "gi_running", False))

    def start(self) -> None:
        """Register the step and the run; warn if the code changed and the version did not."""
        spec = self.spec
        step, recipe, print_ = self.store.register_step(
            spec.name, spec.version, spec.key_recipe, spec.fingerprint
        )
        if recipe != spec.key_recipe or changed(print_, spec.fingerprint):
            self._warn_of_change(recipe)
            self.store.update_step(step, spec.key_recipe, spec.fingerprint)
        elif print_ is None:
            self.store.update_step(step, spec.key_recipe, spec.fingerprint)
        if self.options.max_cost is not None:
            self._spent_before = self._saved()[1]
        meta = None if self._meta is None else msgspec.json.encode(self._meta).decode()
        window = loss_window(self._save)
        self._id = self.store.begin_run(step, repr(self._save), window, meta)
        self._started = perf_counter()
        self._step = step
        if self.options.shared:
            self.sharing = Sharing(self.store)
        worker = self.sharing.worker if self.sharing else None
        self._keeper.open(step, self._id, self._ledger is not None, worker)
        self.store.hold(self)
        self._emit(
            RunStarted(spec.name, spec.version, self.store.path, self._id, repr(self._save), window)
        )

    def finish(self, ended: str) -> None:
        """Commit what is pending and record how the run ended. Can be repeated."""
        if not self.active or self.store.closed:
            return
        self._keeper.close()
        self._ended = perf_counter()
        if self.sharing is not None:
            self.sharing.end()
        self.store.release(self)
        self.store.end_run(self._id, self.counts(), ended)
        self._emit(RunEnded(self.spec.name, self.store.path, self._id, ended, self.report()))

    @property
    def held(self) -> Mapping[bytes, Entry]:
        """What returned and is not committed, by key."""
        return self._keeper.held

    def close(self) -> None:
        """End a run that nobody goes on with."""
        self.finish("closed")

    def commit(self) -> None:
        """Commit what is pending."""
        self._keeper.commit()

    def _committed(self, rows: int, late: list[Entry], seconds: float) -> None:
        for entry in late:
            self._emit(CameLate(self.spec.name, entry[1], entry[0].hex()))
        self._emit(Committed(self.spec.name, rows, seconds))

    def _send(self, calls: list[Any]) -> None:
        self.store.send(self._step, self._id, calls)

    def raise_source_error(self) -> None:
        """Raise what the source of rows raised, once the rows before it are done."""
        if self.source_error is not None:
            raise self.source_error

    def _emit(self, event: Any) -> None:
        emit(event, self.options.on_event)

    # --- look up

    def slots(self, rows: Iterable[Any]) -> Iterator[Slot | Twin]:
        """Yield a slot for each row, looked up in batches that grow while rows are done fast.

        If the source raises, the rows before it are yielded and `source_error` is set.
        """
        source, size, chunk = iter(rows), 1, [None]
        most = READ_AHEAD if self.sharing is None else CLAIM_AHEAD
        while chunk and self.source_error is None:
            began = perf_counter()
            chunk = self._take_rows(source, size)
            places = self.lookup(chunk)
            for self.ahead in reversed(range(len(places))):
                yield places[-1 - self.ahead]
            fast = perf_counter() - began < READ_AHEAD_SECONDS
            size = min(size * 2, most) if fast else max(size // 2, 1)

    def _take_rows(self, source: Iterator[Any], size: int) -> list[Any]:
        rows: list[Any] = []
        until = perf_counter() + READ_AHEAD_SECONDS
        self.reading = True
        try:
            for row in source:
                rows.append(row)
                if len(rows) == size or perf_counter() > until:
                    break
        except Exception as error:  # noqa: BLE001 - raised after the rows before it are computed
            self.source_error = error
        finally:
            self.reading = False
        return rows

    def lookup(self, rows: Sequence[Any]) -> list[Slot | Twin]:
        """Give each row a slot: a hit, the twin of an equal row, or `mine`: to be computed."""
        slots = [self._identify(row) for row in rows]
        places: list[Slot | Twin] = list(slots)
        wanted = []
        with self._lock:
            open_ = self._open
            for i, slot in enumerate(slots):
                if not slot.settled:
                    earlier = open_.setdefault(slot.key, slot)
                    if earlier is slot:
                        wanted.append(slot)
                    else:
                        places[i] = Twin(earlier)
        if wanted:
            self._find(wanted)
        return places

    def _identify(self, row: Any) -> Slot:
        try:
            key, plain = self._identity(row)
        except EncodeError as error:
            slot = Slot(row, next(self._positions), b"", False)
            self._refuse(slot, error)
            return slot
        if self._seen is not None:
            key = self.spec.keyer.nth(key, self._seen.count(key))
        return Slot(row, next(self._positions), key, plain)

    def _refuse(self, slot: Slot, error: EncodeError) -> None:
        """Settle a row that cannot be a row; it has no key, so there is nothing to record."""
        error.add_note(f"in row {slot.position} of step {self.spec.name!r}; it was not called")
        recorded = self.options.on_error == "record"
        if recorded:
            slot.failed = failure(slot, error)
        else:
            slot.error = error
        self._count_failures([slot], error, recorded)
        slot.settle()

    def _find(self, slots: list[Slot]) -> None:
        try:
            all_found = self.store.find([slot.key for slot in slots])
        except BaseException as error:
            self._give_up(slots, error)
            raise
        misses = self._settle_found(slots, all_found)
        if self.sharing is None or not misses:
            self._open_rows(misses)
            return
        mine = self.sharing.claim(misses)
        # another worker may have saved and released them between our look-up and our claim
        self._open_rows(self._follow(mine))

    def _follow(self, slots: list[Slot]) -> list[Slot]:
        found = self.store.find([slot.key for slot in slots])
        return self._settle_found(slots, found, following=True)

    def _settle_found(
        self, slots: list[Slot], all_found: list[Found | None], following: bool = False
    ) -> list[Slot]:
        """Settle the rows with a saved outcome; return the others.

        A saved failure is no outcome if failures are to be tried again; unless, `following` another
        worker, it has just been tried again.
        """
        misses, closed = [], []
        for slot, found in zip(slots, all_found, strict=True):
            if found is None:
                misses.append(slot)
            elif found[1] is None:
                slot.data = found[2]
                closed.append(slot)
            elif self.options.retry_failed and not (following and found[0] > slot.attempts):
                slot.attempts = found[0]
                misses.append(slot)
            else:
                slot.failed = from_error_text(slot.row, found[0], found[1])
                self._failed += 1
                closed.append(slot)
        self._close(closed)
        return misses

    def _close(self, slots: list[Slot]) -> None:
        if slots:
            with self._lock:
                for slot in slots:
                    del self._open[slot.key]
            for slot in slots:
                slot.settle()

    @property
    def following(self) -> bool:
        """Whether rows are waited for that other workers compute."""
        return self.sharing is not None and self.sharing.waiting

    def look_abroad(self) -> list[Slot]:
        """See what became of rows that other workers compute; return those that fell to us."""
        if self.sharing is None:
            return []
        mine = self.sharing.look(self._follow)
        self._open_rows(mine)
        return [slot for slot in mine if slot.mine]

    def _open_rows(self, slots: list[Slot]) -> None:
        """Make rows ours to compute; those that cannot be stored are refused before the call."""
        for slot in slots:
            try:
                slot.input = self._stored(slot.row, slot.plain)
            except EncodeError as error:
                with self._lock:
                    del self._open[slot.key]
                self._refuse(slot, error)
            else:
                slot.mine = True

    # --- compute

    def compute(self, slot: Slot) -> None:
        """Call the step for one row and keep what it returns."""
        if self._careful:
            self.begin_call([slot])
        calling.set(slot.key)
        start = perf_counter()
        try:
            value = self._fn(slot.row)
        except BaseException as error:  # noqa: BLE001 - `fail` raises it again, or records it
            self.fail([slot], error, start)
            return
        finally:
            calling.set(None)
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
        calling.set(slots[0].key)
        try:
            values = self.spec.fn([slot.row for slot in slots])
        except BaseException as error:  # noqa: BLE001 - `fail` raises it again, or records it
            self.fail(slots, error, start)
            return
        finally:
            calling.set(None)
        self.keep_batch(slots, values, start)

    async def acompute(self, slots: list[Slot]) -> None:
        """Call an async step, for one row or a batch of rows, and keep what it returns."""
        batch = self.options.batch_size is not None
        start = self.begin_call(slots)
        calling.set(slots[0].key)
        try:
            values = await self.spec.fn([s.row for s in slots] if batch else slots[0].row)
        except BaseException as error:  # noqa: BLE001 - `fail` raises it again, or records it
            self.fail(slots, error, start)
            return
        finally:
            calling.set(None)
        if batch:
            self.keep_batch(slots, values, start)
        else:
            self.keep(slots[0], values, start)

    def begin_call(self, slots: list[Slot]) -> float:
        """Return the time, the calls noted in the ledger; raise if the budget is spent."""
        budget = self.options.max_cost
        if budget is not None and self._spent_before + self._cost >= budget:
            spent = self._spent_before + self._cost
            error = BudgetExceeded(
                f"step {self.spec.name!r} has spent ${spent:.6g} of its budget of ${budget:.6g}: "
                "raise max_cost= to go on",
                spent,
                budget,
            )
            self._give_up(slots, error)
            raise error
        if self._ledger is not None:
            try:
                self._ledger.send((slot.key, slot.position, slot.input) for slot in slots)
            except BaseException as error:
                self._give_up(slots, error)
                raise
        return perf_counter()

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
        entry = (
            slot.key, slot.position, slot.attempts + 1, now - start, cost, text, encoded,
            stored_input,
        )  # fmt: skip
        self._hold(slot, entry, len(encoded) + len(stored_input or ""), cost or 0.0, now)
        if problem is not None:
            raise problem

    def _hold(self, slot: Slot, entry: Entry, size: int, cost: float, now: float) -> None:
        """Hand over to the keeper; only then may anybody have the result."""
        try:
            self._keeper.add(entry, size, cost, now)
        finally:
            self._open.pop(slot.key, None)
            slot.settle()

    def _judge(self, slot: Slot, value: Any) -> tuple[float | None, Exception | None]:
        """Ask the user's `cost` and `valid`; what they raise waits until the result is kept."""
        cost = None
        try:
            if self.options.cost is not None:
                cost = _dollars(self.options.cost(value))
                with self._lock:
                    self._cost += cost
            if self.options.valid is None or self.options.valid(value):
                return cost, None
        except Exception as error:  # noqa: BLE001 - the result is paid for: keep it first
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
            self._give_up(slots, problem)
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
            self._give_up(slots, error)
            raise error
        self._count_failures(slots, error, recorded=True)
        now = perf_counter()
        for slot in slots:
            slot.failed = failure(slot, error)
            text = to_error_text(slot.failed, result)
            entry = (
                slot.key, slot.position, slot.attempts + 1, (now - start) / len(slots), None, text,
                None, slot.input,
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

    def _give_up(self, slots: list[Slot], error: BaseException) -> None:
        """Settle rows with an error that the run will raise."""
        with self._lock:
            for slot in slots:
                slot.error = error
                self._open.pop(slot.key, None)
        for slot in slots:
            slot.settle()

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
        self._hits += not place.mine
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
            "computed": self._keeper.results,
            "failed": self._failed,
            "commits": self._keeper.commits,
            "seconds": now - self._started if self._id else 0.0,
            "commit_seconds": self._keeper.commit_seconds,
            "cost": self._cost,
        }

    def explain(self, error: BaseException, rows: Any) -> None:
        """Add to the user's own exception how much is saved, where, and how to go on."""
        with contextlib.suppress(StoreError):
            left = ""
            if hasattr(rows, "__len__"):
                done = self._hits + self._keeper.results
                left = f", {max(len(rows) - done, 0):,} of {len(rows):,} rows are left"
            error.add_note(
                f"checkpointdb: {self._saved()[0]:,} results of step {self.spec.name!r} are saved "
                f"in {self.store.path}{left}; run the same again to go on from there"
            )

    def _saved(self) -> tuple[int, float]:
        identity = (self.spec.name, self.spec.version)
        for step in self.store.steps():
            if (step.name, step.version) == identity:
                return step.results, step.cost
        return 0, 0.0

    def _warn_of_change(self, stored_recipe: str) -> None:
        name, version, saved = self.spec.name, self.spec.version, self._saved()[0]
        if stored_recipe != self.spec.key_recipe:
            what = f"its key= changed from {stored_recipe} to {self.spec.key_recipe}"
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
