"""Make one segment of many of a writer, so that a pull has fewer to ask for. Knows SQL.

The bigger one is put first, and says by its name which it supersedes; then those are deleted. A
kill at any request leaves both, or some: a reader passes over what is in a bigger one, and one that
finds a segment gone lists again. Only neighbours of one writer are brought together, and the new
one stands in the place of the first: whatever comes after one of them still comes after it.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import apsw

from ..file import pragmas
from ..file.sqlite_errors import mapped
from .bucket import Bucket
from .names import Name, in_order
from .segment import MOST_BYTES, as_store, columns_of, in_memory, lay

AT_ONCE = 32  # segments of about one size that become one
WORTH_IT = 4  # of those that fill one
MOST = 2 * MOST_BYTES  # of the bigger one: it is made in memory
_TABLES = ("steps", "step_code", "runs", "records", "system_forgotten", "system_superseded")


def compact(bucket: Bucket, names: Iterable[Name], all: bool = False) -> int:
    """Bring segments together where there are many; return how many objects are gone.

    Args:
        bucket: where they are.
        names: those that may be brought together, of one listing.
        all: whether to bring together as many of each writer as fit one, however few.
    """
    names = list(names)
    chosen = in_order(names)
    # a kill came between a put and what is deleted for it
    gone = _delete(bucket, [name for name in names if name not in chosen])
    for group in _groups(chosen, all):
        if _joined(bucket, group):
            gone += _delete(bucket, group)
    return gone


def _delete(bucket: Bucket, names: Sequence[Name]) -> int:
    bucket.delete(names)
    return len(names)


def _groups(chosen: Sequence[Name], all: bool) -> list[Sequence[Name]]:
    """Return neighbours of one writer, and of about one size, that fit one segment."""
    by: dict[tuple[str, int], list[Name]] = defaultdict(list)
    for name in chosen:
        by[name.writer, 0 if all else _level(name)].append(name)
    groups: list[Sequence[Name]] = []
    for same in by.values():
        begin = size = 0
        for n, name in enumerate(same):
            is_full = size + name.size > MOST or (not all and n - begin == AT_ONCE)
            if n > begin and (is_full or name.first != same[n - 1].last + 1):
                if n - begin >= WORTH_IT or all:
                    groups.append(same[begin:n])
                begin, size = n, 0
            size += name.size
        if all or len(same) - begin == AT_ONCE:
            groups.append(same[begin:])
    return [group for group in groups if len(group) > 1]


def _level(name: Name) -> int:
    """Return how often segments were brought together until there was this one."""
    level, many = 0, name.last - name.first + 1
    while many >= AT_ONCE:
        level, many = level + 1, many // AT_ONCE
    return level


def _joined(bucket: Bucket, group: Sequence[Name]) -> bool:
    """Put one segment with all that is in these; False if somebody else was faster."""
    with mapped(bucket.url), contextlib.closing(apsw.Connection(":memory:")) as whole:
        lay(whole, pragmas.PAGE_SIZE)
        for name in group:
            data = bucket.get(name)
            if data is None:
                return False
            _add(whole, data)
        made = as_store(whole)
    bucket.put(Name.of(group[0].writer, group[0].first, group[-1].last, made), made)
    return True


def _add(whole: apsw.Connection, data: bytes) -> None:
    """Add a segment to those before it of its log; what it deletes of those goes."""
    whole.execute("attach ':memory:' as part")
    whole.deserialize("part", in_memory(data))
    whole.execute(
        """
        begin;
        delete from main.records where key in (
          select key from part.system_forgotten
           where (key, event) not in (select key, event from main.system_forgotten)
        );
        delete from main.system_superseded where id not in (select id from main.records);
        """
    )
    for table in _TABLES:
        columns = columns_of(whole, table)
        whole.execute(
            f"insert or replace into main.{table} ({columns}) select {columns} from part.{table}"
        )
    whole.execute(
        """
        insert or replace into main.system_state select name, value from part.system_state
         where name in ('store_id', 'created_at', 'generation');
        commit;
        detach part;
        """
    )
