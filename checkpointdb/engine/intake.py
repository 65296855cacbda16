"""From rows to slots: identities, hits, equal rows, claims. Knows the store; calls no step."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

import msgspec

from ..errors import CheckpointError, EncodeError, KeyCollisionError
from ..file.log import UNCOMMITTED, Log
from ..file.records import Found
from ..values.codec import Codec
from ..values.keys import Keyer, Version
from .occurrences import Occurrences
from .options import Options
from .rows import Slot, Twin, failure, from_error_text
from .sharing import Sharing

READ_AHEAD = 256
# Looking up in batches is worth 3 to 10 µs a row, and 60 between calls of 10 ms. The read-ahead
# doubles while a batch is done within this many seconds and halves when it is not, for rows that
# come slowly must not wait for each other. Rows that are all there (a list) never do; but if they
# are looked up long before their call, what another process saves meanwhile is missed.
READ_AHEAD_SECONDS = 0.01
LOOK_AHEAD_SECONDS = 1.0
# A row claimed is a row that no other process computes: claim few ahead.
CLAIM_AHEAD = 64


class Spec(msgspec.Struct, frozen=True):
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


class Lookup:
    """Give each row of a run its slot.

    Args:
        log: where saved results are.
        spec: the step.
        options: of the run.
        lock: of the run.
        tell: called with rows that failed, the error, and whether the run goes on.
    """

    def __init__(
        self,
        log: Log,
        spec: Spec,
        options: Options,
        lock: threading.RLock,
        tell: Callable[[list[Slot], BaseException, bool], None],
    ) -> None:
        self._log, self._spec, self._options = log, spec, options
        self._lock, self._tell = lock, tell
        # bound once: they are called for each row
        self._identity, self._stored = spec.keyer.identify, spec.keyer.stored
        self._positions = itertools.count()
        self._seen = Occurrences() if spec.separate else None
        self._last: Slot | None = None
        self.run = 0  # its id, once it has begun
        self.in_flight: dict[bytes, Slot] = {}  # to be computed, or being computed
        self.sharing: Sharing | None = None
        self.skipped = 0  # failures of earlier runs, given out again
        self.source_error: Exception | None = None
        self.ahead = 0  # rows looked up, perhaps claimed, that no loop has seen yet
        self.reading = False  # inside the source of rows: nothing is at risk there

    def slots(self, rows: Iterable[Any]) -> Iterator[Slot | Twin]:
        """Yield a slot for each row, looked up in batches that grow while rows are done fast.

        If the source raises, the rows before it are yielded and `source_error` is set. A list may
        grow meanwhile.
        """
        source, size, read = iter(rows), 1, 0
        most = READ_AHEAD if self.sharing is None else CLAIM_AHEAD
        all_there = type(rows) in (list, tuple) and self.sharing is None and self._seen is None
        soon = LOOK_AHEAD_SECONDS if all_there else READ_AHEAD_SECONDS
        while self.source_error is None:
            began = perf_counter()
            chunk = self._read(source, size)
            if not chunk and type(rows) is list and len(rows) > read:
                source = itertools.islice(rows, read, None)  # an iterator that ended stays so
                continue
            if not chunk:
                return
            read += len(chunk)
            places = self._look_up(chunk)
            if all_there:
                given = yield from self._unchanged(rows, read - len(places), places)
                if given < len(places):
                    self._unread(places[given:])
                    read -= len(places) - given
                    self._positions, source, size = (
                        itertools.count(read), itertools.islice(rows, read, None), 1,
                    )  # fmt: skip
                    continue
            elif self.sharing is None:
                yield from places
            else:
                for self.ahead in reversed(range(len(places))):
                    yield places[-1 - self.ahead]
            fast = perf_counter() - began < soon
            size = min(size * 2, most) if fast else max(size // 2, 1)

    def _unchanged(
        self, rows: Any, first: int, places: list[Slot | Twin]
    ) -> Generator[Slot | Twin, None, int]:
        """Yield places up to a row that was changed after it was looked up; return how many.

        A loop may put a result into the rows after it. To see that costs a row 1 µs.
        """
        for n, place in enumerate(places):
            at = first + n
            if n and (at >= len(rows) or self._is_another(rows[at], place)):
                return n
            yield place
        return len(places)

    def _is_another(self, row: Any, place: Slot | Twin) -> bool:
        slot = place.first if isinstance(place, Twin) else place
        try:
            return self._identity(row)[0] != slot.content
        except EncodeError:
            return slot.content != b""

    def _unread(self, places: list[Slot | Twin]) -> None:
        """Forget rows that no loop has seen, to read them again."""
        self._last = None
        with self._lock:
            for place in places:
                if isinstance(place, Slot):
                    self.skipped -= place.skipped
                    if place.mine:
                        self.in_flight.pop(place.key, None)

    def _read(self, source: Iterator[Any], size: int) -> list[Slot]:
        """Read up to `size` rows, fewer if they come slowly, each identified as it comes."""
        slots: list[Slot] = []
        until = perf_counter() + READ_AHEAD_SECONDS
        self.reading = True
        try:
            for row in source:
                slots.append(self._admit(row))
                if len(slots) == size or perf_counter() > until:
                    break
        except Exception as error:  # noqa: BLE001 - raised after the rows before it are computed
            self.source_error = error
        finally:
            self.reading = False
        return [slot for slot in slots if not slot.spoilt] if self.source_error else slots

    def read_one(self, row: Any) -> Slot | Twin:
        """Give a row that an async source gave its slot."""
        return self._look_up([self._admit(row)])[0]

    def _admit(self, row: Any) -> Slot:
        """Identify a row of the source.

        Raises:
            ValueError: it is the object that the row before was, changed. That row is spoilt,
                unless it is done: the step sees, or has seen, another content than its key's.
        """
        slot, last = self._identify(row), self._last
        self._last = slot
        if last is not None and last.row is row and last.content != slot.content:
            last.spoilt = not last.settled
            self.source_error = ValueError(
                f"the source of rows gave row {last.position} and the next one as the same object, "
                "changed in between; rows are read ahead: give a new object each, such as dict(row)"
            )
            raise self.source_error
        return slot

    def rows(self, rows: Sequence[Any]) -> list[Slot | Twin]:
        """Give each row a slot: a hit, the twin of an equal row, or `mine`: to be computed."""
        return self._look_up([self._identify(row) for row in rows])

    def _look_up(self, slots: list[Slot]) -> list[Slot | Twin]:
        places: list[Slot | Twin] = list(slots)
        wanted, collided = [], []
        with self._lock:
            in_flight = self.in_flight
            for i, slot in enumerate(slots):
                if not slot.settled:
                    earlier = in_flight.setdefault(slot.key, slot)
                    if earlier is slot:
                        wanted.append(slot)
                    elif earlier.identity != slot.identity:
                        collided.append((i, slot, earlier))
                    else:
                        places[i] = Twin(earlier)
        if wanted:
            self._find(wanted)
        for i, slot, earlier in collided:
            if in_flight.get(slot.key) is earlier:
                met = f"row {earlier.position} of this run"
                self._refuse(slot, self._collision(slot, met, 0))
            else:  # the earlier one is done: a hit, or refused itself
                places[i] = self._look_up([slot])[0]
        return places

    def _identify(self, row: Any) -> Slot:
        try:
            key, identity, plain = self._identity(row)
        except EncodeError as error:
            slot = Slot(row, next(self._positions), b"", b"", False)
            self._refuse(slot, error)
            return slot
        slot = Slot(row, next(self._positions), key, identity, plain)
        if self._seen is not None:
            slot.occurrence = self._seen.count(key)
            slot.key = self._spec.keyer.nth(key, slot.occurrence)
        return slot

    def _refuse(self, slot: Slot, error: CheckpointError) -> None:
        """Settle a row that cannot be a row; it has no key, so there is nothing to record."""
        error.add_note(f"in row {slot.position} of step {self._spec.name!r}; it was not called")
        recorded = self._options.on_error == "record"
        if recorded:
            slot.failed = failure(slot, error)
        else:
            slot.error = error
        self._tell([slot], error, recorded)
        slot.settle()

    def _find(self, slots: list[Slot]) -> None:
        try:
            all_found = self._log.find([slot.key for slot in slots])
        except BaseException as error:
            self.give_up(slots, error)
            raise
        misses = self._settle_found(slots, all_found)
        if self.sharing is None or not misses:
            self._open_rows(misses)
            return
        mine = self.sharing.claim(misses)
        # another worker may have saved and released them between our look-up and our claim
        self._open_rows(self._follow(mine))

    def _follow(self, slots: list[Slot]) -> list[Slot]:
        found = self._log.find([slot.key for slot in slots])
        return self._settle_found(slots, found, following=True)

    def _settle_found(
        self, slots: list[Slot], all_found: list[Found | None], following: bool = False
    ) -> list[Slot]:
        """Settle the rows with a saved outcome; return the others.

        A saved failure is no outcome if failures are to be tried again; unless this very run has
        just tried, or, `following` another worker, that one has.
        """
        if not any(all_found):
            return slots
        misses, closed = [], []
        for slot, found in zip(slots, all_found, strict=True):
            if found is None:
                misses.append(slot)
            elif found.identity != slot.identity:
                self._leave(slot)
                met = f"record {found.id}" if found.id else "a row that is not yet committed"
                self._refuse(slot, self._collision(slot, met, found.id))
            elif found.error is None:
                slot.data = found.result
                closed.append(slot)
            elif self._is_to_be_retried(slot, found, following):
                slot.attempts, slot.replaces = found.attempts, found.id
                misses.append(slot)
            else:
                slot.failed = from_error_text(slot.row, found.attempts, found.error)
                slot.skipped = found.run not in (self.run, UNCOMMITTED)
                self.skipped += slot.skipped
                closed.append(slot)
        self._close(closed)
        return misses

    def _is_to_be_retried(self, slot: Slot, found: Found, following: bool) -> bool:
        if not self._options.retry_failed or found.run in (self.run, UNCOMMITTED):
            return False
        return not (following and found.attempts > slot.attempts)

    def _collision(self, slot: Slot, met: str, record: int) -> KeyCollisionError:
        return KeyCollisionError(
            f"row {slot.position} has the key {slot.key.hex()}, which {met} has too, of another "
            "content: that does not happen by chance, so somebody made the two rows to collide. "
            "The step was not called. Leave the row out, or tell it apart by one more field",
            slot.key.hex(),
            slot.position,
            record or None,
        )

    def _leave(self, slot: Slot) -> None:
        with self._lock:
            del self.in_flight[slot.key]

    def _close(self, slots: list[Slot]) -> None:
        if slots:
            with self._lock:
                for slot in slots:
                    del self.in_flight[slot.key]
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
                slot.input, slot.input_form, slot.row_digest = self._stored(slot.row, slot.plain)
            except EncodeError as error:
                self._leave(slot)
                self._refuse(slot, error)
            else:
                slot.mine = True

    def give_up(self, slots: list[Slot], error: BaseException) -> None:
        """Settle rows with an error that the run will raise."""
        with self._lock:
            for slot in slots:
                slot.error = error
                self.in_flight.pop(slot.key, None)
        for slot in slots:
            slot.settle()

    def raise_source_error(self) -> None:
        """Raise what the source of rows raised, once the rows before it are done."""
        if self.source_error is not None:
            raise self.source_error
