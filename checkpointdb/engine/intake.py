"""From rows to slots: identities, hits, equal rows, claims. Knows the log; calls no step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any

from ..errors import EncodeError, StoreError
from ..file.log import Log
from .arguments import Args
from .in_flight import InFlight
from .job import Spec
from .occurrences import Counted, Occurrences
from .options import Options
from .rows import Place, Slot
from .saved import Saved, collision
from .sharing import Sharing
from .source import Source
from .tally import Tally
from .waiting import claimed_here, waiting

READ_AHEAD = 256
# Looking up in batches is worth 3 to 10 µs a row, and 60 between calls of 10 ms. The read-ahead
# doubles while a batch is done within this many seconds and halves when it is not, for rows that
# come slowly must not wait for each other. Rows that are all there (a list) never do; but if they
# are looked up long before their call, what another process saves meanwhile is missed.
READ_AHEAD_SECONDS = 0.01
LOOK_AHEAD_SECONDS = 1.0
# A row claimed is a row that no other process computes: claim few ahead.
CLAIM_AHEAD = 64


class Intake:
    """Give each row of a run its slot.

    Args:
        log: where saved results are.
        spec: the step.
        options: of the run.
        run: its id.
        source: of rows.
        in_flight: where a row to be computed enters.
        tally: told of rows that are refused.
        sharing: under `shared=True`.
        occurrences: under `duplicates="separate"`.
        stale_runs: runs whose results are to be computed again.
        replay: says why a row is a miss; given if nothing is to be called.
    """

    def __init__(
        self,
        log: Log,
        spec: Spec,
        options: Options,
        run: int,
        source: Source,
        in_flight: InFlight,
        tally: Tally,
        sharing: Sharing | None = None,
        occurrences: Occurrences | Counted | None = None,
        stale_runs: frozenset[int] = frozenset(),
        replay: Callable[[Any], Any] | None = None,
    ) -> None:
        self._log, self._spec, self._source, self._in_flight = log, spec, source, in_flight
        self._sharing, self._occurrences = sharing, occurrences
        self._saved = Saved(
            log, spec, options, run, in_flight, tally, source.is_calls, stale_runs, replay
        )
        self.changed, self._is_replayed = self._saved.changed, replay is not None
        self._is_strict = self.changed.is_strict
        self._is_alone = not source.is_calls  # rows enter in one thread, that of the loop
        # bound once: they are called for each row
        self._key, self._stored = spec.keyer.identify, spec.keyer.stored
        self._is_unchanged = spec.keyer.is_unchanged
        self._content, self._is_given = spec.binder.content, spec.binder.is_given
        self._positions = itertools.count()
        self._last: Slot | None = None
        self._last_row: Any = None
        self.expects_hit = False  # whether the last direct call was one
        self.ahead = 0  # rows looked up, perhaps claimed, that no loop has seen yet

    # --- rows of the source

    def slots(self) -> Iterator[Place]:
        """Yield a slot for each row, looked up in batches that grow while rows are done fast.

        If the source raises, the rows before it are yielded and the source has the error.
        """
        size, whole = 1, True
        most = READ_AHEAD if self._sharing is None else CLAIM_AHEAD
        is_checked = self._source.is_list and self._sharing is None
        soon = LOOK_AHEAD_SECONDS if is_checked else READ_AHEAD_SECONDS
        while True:
            began = perf_counter()
            places = self._look_up(self._read(size))
            if not places:
                return
            if is_checked:
                whole = yield from self._unchanged(places)
            elif self._sharing is not None:
                for self.ahead in reversed(range(len(places))):
                    if not self._sharing.still_holds():
                        self._claim_again(places[-1 - self.ahead :])
                    yield places[-1 - self.ahead]
            else:
                yield from places
            if not whole:
                size = most = 1  # a loop that changes one row will change more
            elif perf_counter() - began < soon:
                size = min(size * 2, most)
            else:
                size = max(size // 2, 1)

    def _read(self, size: int) -> list[Slot]:
        """Read up to `size` rows, fewer if they come slowly, each identified as it comes."""
        slots: list[Slot] = []
        if self._source.error is not None:
            return slots
        identify = self._identify if self._source.is_list else self._admit
        try:
            for row in self._source.read(size, READ_AHEAD_SECONDS):
                slots.append(identify(row))  # noqa: PERF401 - those before an error are kept
        except Exception as error:  # noqa: BLE001 - raised after the rows before it are computed
            self._source.error = error
            return [slot for slot in slots if slot.mutated is None]
        return slots

    def _unchanged(self, places: list[Place]) -> Generator[Place, None, bool]:
        """Yield places of a list, up to a row to be paid for that is not what was looked up.

        A loop may put a result into the rows to come. Those from there on are read again.
        """
        rows, first = self._source.rows, self._source.at - len(places)
        is_unchanged = self._is_unchanged
        for n, place in enumerate(places, first):
            if (
                n > first
                and isinstance(place, Slot)
                and place.must_compute
                and (
                    n >= len(rows)
                    or not is_unchanged(
                        self._content(rows[n]),
                        place.identity,
                        place.plain,
                        place.input,
                        place.row_digest,
                    )
                )
            ):
                self._unread(places[n - first :])
                return False
            yield place
        return True

    def _unread(self, places: list[Place]) -> None:
        """Forget rows that no loop has seen, to read them again."""
        self._source.at -= len(places)
        self._positions = itertools.count(self._source.at)
        self._in_flight.withdraw(places)
        for place in places:
            if isinstance(place, Slot):
                self.changed.forget(place.content or place.key)
                self.give_back(place)

    def admit(self, row: Any) -> Place:
        """Give the next row of an async source its slot."""
        return self._look_up([self._admit(row)])[0]

    def _admit(self, row: Any) -> Slot:
        """Identify a row of an iterator.

        Raises:
            ValueError: it is the same object as the row before, but changed. That row is not kept,
                unless it is done: the step sees, or saw, content that its key was not made of.
        """
        slot, last = self._identify(row), self._last
        is_same_object, self._last, self._last_row = row is self._last_row, slot, row
        if is_same_object and last is not None and last.identity != slot.identity:
            error = ValueError(
                f"the source of rows gave the same object for row {last.position} and the next "
                "one, and changed it in between. Rows are read ahead: give a new object for each, "
                "such as dict(row)"
            )
            last.mutated = None if last.settled else error
            raise error
        return slot

    def look_again(self, places: Sequence[Place]) -> list[Place]:
        """Look up again the rows that were put off and are now to be computed."""
        self._saved.puts_off = False
        slots = [it if isinstance(it, Slot) else self._identify(it.given) for it in places]
        for slot in slots:
            slot.is_put_off = False
        return self._look_up(slots)

    # --- any row

    def place_of(self, row: Any) -> Place:
        """Give one row its slot: a hit, a row equal to one in flight, or one to be computed."""
        return self._look_up([self._identify(row)])[0]

    def hit(self, row: Any) -> tuple[bytes, str | bytes] | None:
        """Return the key and the stored result of a row that has one, in one step without a slot.

        A hit of a direct call takes less than half of the time this way. None proves nothing: see
        `place_of`.
        """
        if self._occurrences is not None:
            return None
        if self._is_given or type(row) is Args:
            row = self._content(row)
        try:
            key, identity, _ = self._key(row)
        except EncodeError:
            return None
        data = self._saved.hit(key, identity)
        if data is None:
            return None
        next(self._positions)
        return key, data

    def places_of(self, rows: Sequence[Any], numbers: Sequence[int] | None = None) -> list[Place]:
        """Give some rows their slots, as `place_of` does.

        Args:
            rows: if one cannot be bound to the step's arguments, none of them enters.
            numbers: which of equal rows each is, if the caller says so.
        """
        slots = [self._identify(row) for row in rows]
        for slot, n in zip(slots, numbers or (), strict=numbers is not None):
            self._name(slot, n)
        return self._look_up(slots)

    def saved(self, row: Any, nth: int) -> Slot:
        """Return the slot of a row that nobody is to compute: settled if it has a result.

        Raises:
            CheckpointError: it cannot be a row, or its result must not be given out.
        """
        (slot,) = self.all_saved([row], [nth])
        return slot

    def all_saved(self, rows: Sequence[Any], numbers: Sequence[int]) -> list[Slot]:
        """Return the slots of rows, each with which of equal ones it is, as `saved` does."""
        slots = list(map(self._identify, rows))
        for slot, nth in zip(slots, numbers, strict=True):
            if not slot.settled:
                self._name(slot, nth)
        self._saved.settle([slot for slot in slots if not slot.settled])
        for slot in slots:
            if slot.error is not None:
                raise slot.error
        return slots

    def replace(self, slot: Slot) -> None:
        """Let another result take the place of the one that a slot of `saved` has."""
        (found,) = self._log.find([slot.key])
        assert found is not None
        slot.settled, slot.data = False, None
        slot.attempts, slot.replaces = found.attempts, found.id

    def _name(self, slot: Slot, n: int) -> None:
        """Say which of equal rows a row is."""
        slot.is_named, slot.occurrence = True, n
        slot.key = self._spec.keyer.nth(slot.key, n)

    def open(self, slot: Slot) -> None:
        """Make a row ours to keep a result for.

        Raises:
            EncodeError: it cannot be stored.
        """
        self._open([slot])
        if slot.error is not None:
            raise slot.error

    def _identify(self, row: Any) -> Slot:
        origin: tuple[Any, ...] = ()
        if self._is_given or type(row) is Args:
            row, origin = self._content(row), (row,)
        try:
            key, identity, plain = self._key(row)
        except EncodeError as error:
            slot = Slot(row, next(self._positions), b"", b"", 0, origin=origin)
            self._saved.refuse(slot, error)
            return slot
        slot = Slot(row, next(self._positions), key, identity, plain)
        if origin:
            slot.origin = origin
        if self._is_strict and (another := self.changed.other_row(key, row)):
            slot.key = slot.content = b""
            self._saved.refuse(slot, another)
            return slot
        return slot

    def _number(self, slots: Sequence[Slot]) -> None:
        """Tell equal rows apart, by which of them each is."""
        assert self._occurrences is not None
        unnumbered = [it for it in slots if not (it.settled or it.content or it.is_named)]
        numbers = self._occurrences.take([slot.key for slot in unnumbered])
        for slot, n in zip(unnumbered, numbers, strict=True):
            slot.content, slot.occurrence = slot.key, n
            slot.key = self._spec.keyer.nth(slot.content, slot.occurrence)

    def give_back(self, slot: Slot) -> None:
        """Let the next equal row have the number of one that led to no outcome."""
        if self._occurrences is not None and slot.content:
            self._occurrences.give_back(slot.content, slot.occurrence)

    def _look_up(self, slots: Sequence[Slot]) -> list[Place]:
        if self._occurrences is not None and slots:
            self._number(slots)
        looked_up = self._is_alone and not len(self._in_flight)
        if looked_up:  # no row can leave before ours enter: hits need not
            self._saved.settle([slot for slot in slots if not slot.settled])
        places, entered, collided = self._in_flight.enter(slots)
        if self.changed.is_watched:
            self.changed.among_equal(slots, places)
        if entered:
            try:
                self._settle_hits(entered, looked_up)
            except BaseException as error:
                self._in_flight.give_up([slot for slot in entered if not slot.settled], error)
                raise
        for i, slot, first in collided:
            if not first.settled:
                self._saved.refuse(slot, collision(slot, f"row {first.position} of this run"))
            else:  # a hit, or refused itself
                (places[i],) = self._look_up([slot])
        return places

    def _settle_hits(self, slots: list[Slot], looked_up: bool = False) -> None:
        if looked_up:
            misses = [slot for slot in slots if not slot.is_put_off]
        else:
            misses = self._saved.settle(slots)
        if self._is_replayed:
            self._saved.miss(misses)
            return
        if self._sharing is not None and misses:
            # another worker may have saved and released them between our look-up and our claim
            misses = self._saved.settle(self._sharing.claim(misses), following=True)
        self._open(misses)

    def _open(self, slots: list[Slot]) -> None:
        """Make rows ours to compute; those that cannot be stored are refused before the call."""
        for slot in slots:
            try:
                slot.input, slot.input_form, slot.row_digest = self._stored(slot.row, slot.plain)
            except EncodeError as error:
                self._saved.refuse(slot, error)
            else:
                slot.must_compute = True

    def withdraw(self, place: Place, error: BaseException) -> None:
        """Leave no trace of a direct call that raised, except what is saved of it.

        The next equal row gets its number, and no other process waits for it.
        """
        if not isinstance(place, Slot):
            return
        if not place.settled:  # it was left while another process computed it
            self._in_flight.give_up([place], error)
        if place.data is not None and place.failed is None:
            return  # it has its result, and what raised came after that
        with suppress(StoreError):
            self.give_back(place)
            if self._sharing is not None and place.must_compute:
                self._sharing.release([place])

    # --- rows of other workers

    def _claim_again(self, places: Sequence[Place]) -> None:
        """Look up again the rows whose claims were given up while nobody asked for them."""
        slots = [place for place in places if isinstance(place, Slot) and place.must_compute]
        for slot in slots:
            slot.must_compute = False
        self._settle_hits(slots)

    @property
    def is_following(self) -> bool:
        """Whether we wait for rows that other workers compute."""
        return self._sharing is not None and self._sharing.waiting

    @contextmanager
    def waiting_for_others(self, slots: Sequence[Slot] | None = None) -> Iterator[None]:
        """Say, for the block, that we wait for rows which other workers have claimed.

        Args:
            slots: those rows; all of the run's unless given.

        Raises:
            StepDeadlockError: those workers are of this process, and wait for us.
        """
        assert self._sharing is not None
        if slots is None:
            slots = self._sharing.all_followed
        here = claimed_here(self._log.holders([slot.key for slot in slots]))
        with waiting(here if len(here) == len(slots) else (), self._spec.name):
            yield

    def poll_claimed(self) -> list[Slot]:
        """Check the rows claimed by other workers; return those we must now compute ourselves."""
        if self._sharing is None or not (followed := self._sharing.followed()):
            return []
        return self.take_over(followed)

    def take_over(self, followed: list[Slot]) -> list[Slot]:
        """Settle rows that other workers have saved, and return those that are now ours."""
        assert self._sharing is not None
        ours = self._sharing.take_over(followed, self._saved.settle(followed, following=True))
        if ours:  # one may have been saved and released since we looked
            ours = self._saved.settle(ours, following=True)
        self._open(ours)
        return [slot for slot in ours if slot.must_compute]
