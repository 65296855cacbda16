"""A run without its loop: look up, compute, keep, commit, end. Knows rows, policy and store.

The loops are in `drivers.py`; each is a few lines over `Run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from .codec import Codec
from .errors import DecodeError, EncodeError, StoreError
from .fingerprint import changed
from .keeper import Keeper
from .keys import Keyer, Version
from .occurrences import Occurrences
from .policy import SavePolicy, loss_window
from .slots import Slot, Twin
from .store import Entry, Store

R = TypeVar("R", covariant=True)

READ_AHEAD = 1024
# The read-ahead doubles while a batch of rows is done within this many seconds and halves when it
# is not: looking up in batches is worth 3 to 10 µs a row, and a slow source or step is not held up.
READ_AHEAD_SECONDS = 0.01


class Report(msgspec.Struct, frozen=True):
    """What a run has done so far.

    Attributes:
        rows: results given out.
        hits: of these, those saved earlier or shared with an equal row.
        computed: calls of the step that returned.
        failed: calls of the step that failed.
        commits: transactions.
        seconds: run time.
        commit_seconds: of that, in commits.
        cost: dollars paid in this run.
    """

    rows: int
    hits: int
    computed: int
    failed: int
    commits: int
    seconds: float
    commit_seconds: float
    cost: float


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


class Run(Generic[R]):
    """One pass of a step over rows: an iterator over its results, sync or async.

    Promises: results come in input order; every result given out is pending or committed; however
    the run ends short of a kill (exhausted, closed, an exception, the first Ctrl-C, SIGTERM, exit
    of the process), all that returned is committed first. A crash costs at most the save policy's
    loss window plus the call in flight. Memory is bounded by the policy and a read-ahead of 1,024
    rows, which grows only while rows are done in microseconds.
    """

    def __init__(
        self,
        store: Store,
        spec: Spec,
        save: SavePolicy,
        meta: Any = None,
        drive: Callable[[Run[Any]], Iterator[Any]] | None = None,
        adrive: Callable[[Run[Any]], AsyncIterator[Any]] | None = None,
    ) -> None:
        self.spec, self.store = spec, store
        self._save, self._meta = save, meta
        self._drive, self._adrive = drive, adrive
        self._iterator: Iterator[Any] | None = None
        self._keeper = Keeper(store, save, self.counts, self._committed)
        self._lock = self._keeper.lock
        self._open: dict[bytes, Slot] = {}  # being computed, or pending
        self._positions = itertools.count()
        self._seen = Occurrences() if spec.separate else None
        self._identity, self._decode = spec.keyer.identify, spec.codec.decode
        self._rows = self._hits = self._failed = 0
        self._cost = 0.0
        self._started = self._ended = 0.0
        self._id = 0

    # --- for the user

    def __iter__(self) -> Iterator[R]:
        if self._iterator is None:
            if self._drive is None:
                raise TypeError("this run is asynchronous: iterate with `async for`")
            self._iterator = self._drive(self)
        return self._iterator

    def __next__(self) -> R:
        return next(iter(self))

    def __aiter__(self) -> AsyncIterator[R]:
        if self._adrive is None:
            raise TypeError("this run is synchronous: iterate with `for`, or use arun()")
        return self._adrive(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def report(self) -> Report:
        """Counts so far; final once the run has ended."""
        return Report(**self.counts())

    def close(self) -> None:
        """End the run: whatever returned is committed. Can be repeated."""
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()
        self.finish("closed")

    # --- for the drivers

    @property
    def busy(self) -> bool:
        """Whether the run's own code, or the step, is on the stack, not the user's loop body."""
        return bool(getattr(self._iterator, "gi_running", False))

    @property
    def active(self) -> bool:
        """Whether the run has begun and not ended."""
        return bool(self._id) and not self._ended

    def start(self) -> None:
        """Register the step and the run; warn if the code changed and the version did not."""
        if self._id:
            return
        spec = self.spec
        step, recipe, print_ = self.store.register_step(
            spec.name, spec.version, spec.key_recipe, spec.fingerprint
        )
        if recipe != spec.key_recipe or changed(print_, spec.fingerprint):
            self._warn_of_change(recipe)
            self.store.update_step(step, spec.key_recipe, spec.fingerprint)
        meta = None if self._meta is None else msgspec.json.encode(self._meta).decode()
        self._id = self.store.begin_run(step, repr(self._save), loss_window(self._save), meta)
        self._started = perf_counter()
        self._keeper.open(step, self._id)
        self.store.hold(self)

    def slots(self, rows: Iterable[Any]) -> Iterator[Slot | Twin]:
        """Yield a slot for each row, looked up in batches that grow while rows are done fast."""
        source, size, chunk = iter(rows), 1, [None]
        while chunk:
            began = perf_counter()
            chunk, error = _take(source, size)
            yield from self.lookup(chunk)
            if error is not None:
                raise error
            fast = perf_counter() - began < READ_AHEAD_SECONDS
            size = min(size * 2, READ_AHEAD) if fast else max(size // 2, 1)

    def lookup(self, rows: Sequence[Any]) -> list[Slot | Twin]:
        """Give each row a slot: a hit, the twin of an equal row, or `mine`: to be computed."""
        slots = [self._identify(row) for row in rows]
        places: list[Slot | Twin] = list(slots)
        wanted = []
        with self._lock:
            open_ = self._open
            for i, slot in enumerate(slots):
                if slot.error is None:
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
        error.add_note(f"in row {slot.position} of step {self.spec.name!r}; it was not called")
        slot.error = error
        slot.settle()

    def _find(self, slots: list[Slot]) -> None:
        try:
            all_found = self.store.find([slot.key for slot in slots])
        except BaseException as error:
            self.fail(slots, error)
            raise
        closed = []
        for slot, found in zip(slots, all_found, strict=True):
            if found is not None and found[1] is None:
                slot.data = found[2]
                closed.append(slot)
                continue
            try:
                slot.input = self.spec.keyer.stored(slot.row, slot.plain)
            except EncodeError as error:
                self._refuse(slot, error)
                closed.append(slot)
                continue
            slot.mine = True
            if found is not None:
                slot.attempts = found[0]
        if closed:
            with self._lock:
                for slot in closed:
                    del self._open[slot.key]
            for slot in closed:
                slot.settle()

    def compute(self, slot: Slot) -> None:
        """Call the step for one row and keep what it returns."""
        start = perf_counter()
        try:
            value = self.spec.fn(slot.row)
        except BaseException as error:
            self.fail([slot], error)
            raise
        self.keep(slot, value, start)

    def compute_batch(self, slots: list[Slot]) -> None:
        """Call a batch step for several rows and keep what it returns."""
        start = perf_counter()
        try:
            values = self.spec.fn([slot.row for slot in slots])
        except BaseException as error:
            self.fail(slots, error)
            raise
        self.keep_batch(slots, values, start)

    async def acompute(self, slots: list[Slot], batch: bool) -> None:
        """Call an async step, for one row or a batch of rows, and keep what it returns."""
        start = perf_counter()
        try:
            values = await self.spec.fn([s.row for s in slots] if batch else slots[0].row)
        except BaseException as error:
            self.fail(slots, error)
            raise
        if batch:
            self.keep_batch(slots, values, start)
        else:
            self.keep(slots[0], values, start)

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
            encoded = self.spec.codec.encode(value)
        except EncodeError as error:
            self.fail([slot], error)
            raise
        slot.value, slot.data = value, encoded
        stored_input = slot.input
        entry = (
            slot.key, slot.position, slot.attempts + 1, now - start, None, None, encoded,
            stored_input,
        )  # fmt: skip
        slot.settle()
        self._keeper.add(entry, len(encoded) + len(stored_input or ""), 0.0, now)

    def keep_batch(self, slots: list[Slot], values: Any, start: float) -> None:
        """Make the results of a batch pending; those that can be stored are, before any raises.

        Raises:
            ValueError: not a list, or not as many results as rows; what was returned is attached.
        """
        elapsed = perf_counter() - start
        problem: Exception | None = self._misfit(slots, values)
        if problem is not None:
            self.fail(slots, problem)
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

    def fail(self, slots: list[Slot], error: BaseException) -> None:
        """Settle rows whose call failed."""
        with self._lock:
            self._failed += len(slots)
            for slot in slots:
                slot.error = error
                self._open.pop(slot.key, None)
        for slot in slots:
            slot.settle()

    def when_settled(self, place: Twin, wake: Callable[[], object]) -> None:
        """Call `wake`, once or twice, when the outcome is there; at once if it is."""
        with self._lock:
            place.first.waiters += (wake,)
        if place.settled:
            wake()

    def take(self, place: Slot | Twin) -> Any:
        """Return the outcome of a settled row: its result, or raise its error."""
        slot = place.first if isinstance(place, Twin) else place
        if slot.error is not None:
            raise slot.error
        self._rows += 1
        if place.mine:
            value, slot.value = slot.value, None
            return value
        self._hits += 1
        assert slot.data is not None
        try:
            return self._decode(slot.data)
        except DecodeError as error:
            error.key = slot.key.hex()
            error.add_note(f"key {error.key} in {self.store.path}")
            raise

    def commit(self) -> None:
        """Commit what is pending."""
        self._keeper.commit()

    def _committed(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._open.pop(entry[0], None)

    def finish(self, ended: str) -> None:
        """Commit what is pending and record how the run ended. Can be repeated."""
        if not self.active or self.store.closed:
            return
        self._keeper.close()
        self._ended = perf_counter()
        self.store.release(self)
        self.store.end_run(self._id, self.counts(), ended)

    def counts(self) -> dict[str, float]:
        """Return the report as the columns of the `runs` table."""
        now = self._ended or perf_counter()
        return {
            "rows": self._rows,
            "hits": self._hits,
            "computed": self._keeper.added,
            "failed": self._failed,
            "commits": self._keeper.commits,
            "seconds": now - self._started if self._id else 0.0,
            "commit_seconds": self._keeper.commit_seconds,
            "cost": self._cost,
        }

    def explain(self, error: BaseException) -> None:
        """Add to the user's own exception how much is saved, where, and how to go on."""
        with contextlib.suppress(StoreError):
            error.add_note(
                f"checkpointdb: {self._saved():,} results of step {self.spec.name!r} are saved in "
                f"{self.store.path}; run the same again to go on from there"
            )

    def _saved(self) -> int:
        identity = (self.spec.name, self.spec.version)
        return next((s.results for s in self.store.steps() if (s.name, s.version) == identity), 0)

    def _warn_of_change(self, stored_recipe: str) -> None:
        name, version, saved = self.spec.name, self.spec.version, self._saved()
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


def _take(source: Iterator[Any], size: int) -> tuple[list[Any], BaseException | None]:
    """Take up to `size` rows, fewer if they come slowly.

    If the source fails, return the rows before it and the error.
    """
    rows: list[Any] = []
    until = perf_counter() + READ_AHEAD_SECONDS
    try:
        for row in source:
            rows.append(row)
            if len(rows) == size or perf_counter() > until:
                break
    except BaseException as error:  # noqa: BLE001 - raised by the caller, after the rows before it
        return rows, error
    return rows, None
