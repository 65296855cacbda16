"""Which record of a key is the newest. Knows keys and record ids; knows nothing of what they hold.

A plain index on random keys costs several times the rest of an insert and grows with the store.
So the keys of the newest records (the tail) are held in memory, and the index on disk is extended
in sorted bulk when the tail is long enough. What another process appended is read by id.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable, Sequence

import apsw
import msgspec

from . import usage
from .sql import rows

TAIL = 50_000  # and, in a large store,
TAIL_SHARE = 16  # this part of what is indexed, at most
LONGEST = 10  # times `TAIL`: 60 MB of memory
DROPPED = "dropped"  # the row of `system_state`: JSON, {step: [seconds, cost, token counts]}
_DROPPED = msgspec.json.Decoder(dict[int, tuple[float, float, usage.Usage]])
KEY_SIZE = 16  # bytes
# A flipped bit may make a key another type, even null: as bytes it is only a key nobody asks for.
KEY_BYTES = "coalesce(cast(records.key as blob), x'')"
IDENTITY_BYTES = "coalesce(cast(identity as blob), x'')"


# The last record, the last id given, how far is indexed, and if the last one of those is there.
_SOUND = """
select (select max(id) from records),
       (select cast(seq as integer) from sqlite_sequence where name = 'records'),
       value,
       (select coalesce(indexed.id, 0) >= last.id
          from (select id, key from records where id <= value order by id desc limit 1) as last
               left join system_key_index as indexed on indexed.key = last.key)
  from system_state where name = 'indexed_to'
"""


class KeyIndex:
    """Look up record ids by key, over the index on disk and the tail in memory.

    Once it reads that keys are missing, what it finds still counts. But finding nothing is then an
    error, for the row would be paid for again.
    """

    def __init__(self, reader: apsw.Connection) -> None:
        self._reader = reader
        self._load()

    def _load(self) -> None:
        """Begin with what is on disk: at first, and after anybody deleted rows."""
        reader = self._reader
        self.generation = state(reader, "generation")
        self._tail: dict[bytes, int] = {}
        self._replaced: list[int] = []  # of the tail, by what was read since the last `added`
        self._indexed_to = self._seen = indexed_to(reader)
        self._repeated = state(reader, "repeated")
        # In a store that was new when it was opened, all that is on disk is in this filter: a new
        # row need not ask there, 1.4 µs less each.
        self._filter = Filter() if self._indexed_to == 0 else None
        self._damage = self._missing()

    def _missing(self) -> str | None:
        """Say which keys cannot be found, as far as that is seen at once."""
        ((last, given, indexed, is_there),) = rows(self._reader, _SOUND)
        if indexed > (given or 0) or is_there == 0:
            return f"the key index should go up to record {indexed}, but does not"
        if self.generation == 0 and last != given and (last or given):
            return f"records after {last or 0} are gone, to {given}"
        return None

    def ids(self, keys: Sequence[bytes]) -> list[int | None]:
        """Return the id of the newest record of each key, None where there is none."""
        self.catch_up()
        found: list[int | None] = list(map(self._tail.get, keys))
        if self._indexed_to and None in found:
            missing = {key for key, id in zip(keys, found, strict=True) if id is None}
            if self._filter is not None:
                missing = self._filter.may_hold(missing)
            if missing:
                on_disk = self._on_disk(tuple(missing))
                found = [id or on_disk.get(key) for key, id in zip(keys, found, strict=True)]
        if self._damage is not None and None in found:
            # deleted while we looked
            if state(self._reader, "generation") != self.generation:  # pragma: no cover - a race
                return self.ids(keys)
            raise apsw.CorruptError(
                f"{self._damage}: a requested row is not found, but may have been saved, so "
                "it is not paid for again"
            )
        return found

    def is_newest(self, key: bytes, id: int) -> bool:
        """Tell, without the index on disk, whether a success found in the log is the newest."""
        return not self._repeated and self._tail.get(key, id) == id

    def in_tail(self, key: bytes) -> int | None:
        """Return the id of the newest record of a key in the tail, None if it is not there."""
        return self._tail.get(key)

    def is_current(self, last: int | None, generation: int) -> bool:
        """Tell whether nobody has appended or deleted records that this index does not know of."""
        return last == self._seen and generation == self.generation

    def added(self, keys: Sequence[bytes], first: int, last: int) -> list[int]:
        """Take note of records just appended by this process, with ids `first` to `last`.

        Returns:
            ids of records after the indexed ones that are no longer the newest of their key.
        """
        self.catch_up(first - 1)
        tail, before, ids = self._tail, len(self._tail), range(first, last + 1)
        superseded, self._replaced = self._replaced, []
        if self._seen >= last:  # a look-up right after the commit has read them all
            return superseded
        if not tail.keys().isdisjoint(keys):
            superseded += [tail[key] for key in keys if key in tail]
        tail.update(zip(keys, ids, strict=True))
        self._seen = last
        if len(tail) - before != len(keys):
            superseded += [id for key, id in zip(keys, ids, strict=True) if tail[key] != id]
        return superseded

    def is_full_with(self, more: int) -> bool:
        """Tell whether `more` records make it time to extend the index on disk."""
        return self._seen - self._indexed_to + more >= tail_limit(self._indexed_to)

    @property
    def is_worth_extending(self) -> bool:
        """Tell whether the tail is longer than the next process to open the store should read."""
        return self._seen - self._indexed_to > TAIL

    def catch_up(self, last: int | None = None) -> None:
        """Read the keys that other processes have appended, all of them, or up to `last`."""
        if last is None:
            last, generation = self._reader.execute(
                "select (select max(id) from records), value from system_state"
                " where name = 'generation'"
            ).get
            if generation != self.generation:
                self._load()
        if last is None or last <= self._seen:
            return
        if last - self._indexed_to > TAIL:  # another process may have extended the index on disk
            self.forget_indexed()
            last = max(last, self._seen)  # which may have come after it was asked for
        sql = f"select {KEY_BYTES}, id from records where id > ? and id <= ? order by id"
        found = rows(self._reader, sql, (self._seen, last))
        if self.generation == 0 and len(found) != last - self._seen:
            self._damage = f"records between {self._seen} and {last} are gone"
        for key, id in found:
            if key in self._tail:
                self._replaced.append(self._tail[key])  # `added` tells, if they were our own
            self._tail[key] = self._seen = id
            if len(key) != KEY_SIZE:
                self._damage = f"record {id} has lost its key"

    def forget_indexed(self) -> None:
        """Drop from the tail what the index on disk now holds."""
        self._indexed_to = indexed_to(self._reader)
        self._repeated = state(self._reader, "repeated")
        if self._seen < self._indexed_to:  # keys that were never seen here are on disk now
            self._seen, self._filter = self._indexed_to, None
        indexed, tail = self._tail, {}
        if self._seen > self._indexed_to:
            tail = {key: id for key, id in self._tail.items() if id > self._indexed_to}
            indexed = {key: id for key, id in self._tail.items() if id <= self._indexed_to}
        if self._filter is not None:
            self._filter.add(indexed)
        self._tail, self._replaced = tail, []

    def _on_disk(self, keys: tuple[bytes, ...]) -> dict[bytes, int]:
        found = dict(
            rows(
                self._reader,
                """
                select wanted.value, system_key_index.id
                  from carray(?) as wanted
                       cross join system_key_index on system_key_index.key = wanted.value
                """,
                (apsw.carray(keys),),
            )
        )
        if None in found.values():  # not a row that is missing: it would be paid for again
            raise apsw.CorruptError("the key index has a key without a record")
        return found


_SMALL, _LARGE = 1 << 20, 1 << 24  # bytes of a filter, which is small
_FEW = 250_000  # up to so many keys


class Filter:
    """A set of keys that may seem to hold some others: one bit a key (a Bloom filter of one hash).

    At 250,000 keys, of 2^23 bits, it holds 3 % of all others too, and at 10 million, of 2^27, a
    tenth. A small one stays in the processor's cache.
    """

    def __init__(self) -> None:
        self._bytes, self._mask, self._count = mmap.mmap(-1, _SMALL), _SMALL - 1, 0

    def add(self, keys: Collection[bytes]) -> None:
        """Add keys."""
        self._count += len(keys)
        if self._count > _FEW and self._mask < _LARGE - 1:
            self._grow()
        table, mask = self._bytes, self._mask
        for place in map(hash, keys):  # which a dict has computed already
            table[place & mask] |= 1 << (place >> 24 & 7)

    def _grow(self) -> None:
        """Copy each bit to all places that the key that set it may have now."""
        small, self._bytes, self._mask = self._bytes, mmap.mmap(-1, _LARGE), _LARGE - 1
        for begin in range(0, _LARGE, _SMALL):
            self._bytes[begin : begin + _SMALL] = small[:]

    def may_hold(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return those of the keys that were added, and perhaps some that were not."""
        table, mask = self._bytes, self._mask
        return {
            key
            for key in keys
            if (bits := table[(place := hash(key)) & mask]) and bits >> (place >> 24 & 7) & 1
        }


def tail_limit(indexed: int) -> int:
    """Return how many records the tail may have before the index on disk is to be extended.

    Extending it writes nearly all of its pages again. With a constant tail of 50,000 that cost 7 µs
    a row at 5 million records, and kept growing; with a tail in proportion it costs 2 to 3 µs up to
    10 million.
    """
    return max(TAIL, min(indexed // TAIL_SHARE, LONGEST * TAIL))


def last_id(connection: apsw.Connection) -> int:
    """Return the id of the newest record, 0 in an empty store."""
    return connection.execute("select max(id) from records").get or 0


def indexed_to(connection: apsw.Connection) -> int:
    """Return the id up to which records are in the index on disk and in the steps' counters."""
    return state(connection, "indexed_to")


def state(connection: apsw.Connection, name: str) -> int:
    """Return a value of the `system_state` table."""
    value = connection.execute("select value from system_state where name = ?", (name,)).get
    if type(value) is not int:
        raise apsw.CorruptError("its state is missing or not a number")
    return value


def dropped(connection: apsw.Connection) -> dict[int, tuple[float, float, usage.Usage]]:
    """Return by step the seconds, cost and token counts of records that a compaction dropped."""
    value = connection.execute("select value from system_state where name = ?", (DROPPED,)).get
    try:
        return {} if value is None else _DROPPED.decode(value)
    except (msgspec.DecodeError, TypeError):
        raise apsw.CorruptError("its state is not what was written") from None


def extend(writer: apsw.Connection) -> None:
    """Move the tail into the index on disk and the steps' counters; the caller's transaction."""
    low, high = indexed_to(writer), last_id(writer)
    try:
        writer.execute(
            """
            insert into system_key_index
            select key, id from records where id > ? and id <= ? order by key
            """,
            (low, high),
        )
        changes = _tally_of_new(writer, low, high)
    except apsw.ConstraintError:  # a key came again: rare, and 2 µs a row dearer
        changes = tally(writer, low, high)
        _note_repeats(writer, low, high)
        _note_superseded(writer, low, high)
        writer.execute(
            """
            insert or replace into system_key_index
            select key, max(id) from records where id > ? and id <= ? group by key
            """,
            (low, high),
        )
    writer.executemany(
        """
        update steps set results = results + ?2, failures = failures + ?3, records = records + ?4,
               seconds = seconds + ?5, cost = cost + ?6
         where id = ?1
        """,
        changes,
    )
    usage.change(writer, usage.sums(writer, "id > ? and id <= ?", (low, high)).items())
    writer.execute("update system_state set value = ? where name = 'indexed_to'", (high,))


def _note_repeats(writer: apsw.Connection, low: int, high: int) -> None:
    """Note for good if a success is not the newest of its key: then order proves nothing."""
    writer.execute(
        """
        update system_state set value = 1
         where name = 'repeated' and exists (
           select 1
             from (select key, max(id), error is null as good, sum(error is null) as successes
                     from records where id > ?1 and id <= ?2 group by key) as newest
                  left join system_key_index as indexed
                         on indexed.key = newest.key and indexed.id <= ?1
                  left join records on records.id = indexed.id
            where successes > good or (records.id is not null and records.error is null)
         )
        """,
        (low, high),
    )


def _note_superseded(writer: apsw.Connection, low: int, high: int) -> None:
    """Note what a crash between a commit and its note, or two processes at once, left unnoted."""
    writer.execute(
        """
        insert or ignore into system_superseded
        select id
          from (select id, max(id) over (partition by key) as newest
                  from records where id > ?1 and id <= ?2)
         where id < newest
         union
        select indexed.id
          from (select distinct key from records where id > ?1 and id <= ?2) as new
               join system_key_index as indexed on indexed.key = new.key
         where indexed.id <= ?1
        """,
        (low, high),
    )


Change = tuple[int, int, int, int, float, float]


def _tally_of_new(connection: apsw.Connection, low: int, high: int) -> list[Change]:
    return rows(
        connection,
        """
        select step, sum(error is null), sum(error is not null), count(*), sum(seconds), total(cost)
          from records where id > ? and id <= ? group by step
        """,
        (low, high),
    )


def tally(connection: apsw.Connection, low: int, high: int) -> list[Change]:
    """Count what the records `low` < id <= `high` change, per step.

    Returns rows of (step, results, failures, records, seconds, cost); results and failures count
    keys by their newest record, so a failure that was retried with success takes one away.
    """
    return rows(
        connection,
        """
        with newest as materialized (
          select key, step, max(id) as id, error is null as good, count(*) as versions,
                 sum(seconds) as seconds, total(cost) as cost
            from records where id > ?1 and id <= ?2 group by key
        ), before as (
          select newest.key, records.error is null as good
            from newest join system_key_index as indexed on indexed.key = newest.key
                        join records on records.id = indexed.id
           where indexed.id <= ?1
        )
        select newest.step,
               sum(newest.good) - coalesce(sum(before.good), 0),
               sum(not newest.good) - coalesce(sum(not before.good), 0),
               sum(versions), sum(seconds), sum(cost)
          from newest left join before on before.key = newest.key
         group by newest.step
        """,
        (low, high),
    )
