"""Token counts of records, and their sums in `steps`. Knows SQL; knows nothing of providers.

A record has them as a JSON object of whole numbers. The sums of a step move with its other
counters, so that a store of any size tells them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apsw
import msgspec

from ..events import added as added
from .sql import rows

Usage = dict[str, int]
MOST = 2**53 - 1  # of one count: every JSON reader can hold it
NOTHING = "{}"
_decode = msgspec.json.Decoder(Usage, strict=True).decode
_encode = msgspec.json.Encoder().encode


def as_json(usage: Mapping[str, int]) -> str:
    """Return counts as they are stored."""
    return _encode(dict(usage)).decode()


def decoded_usage(text: Any) -> Usage:
    """Return stored counts, {} for none.

    Raises:
        apsw.CorruptError: they are not what was written.
    """
    try:
        return {} if text is None else _decode(text)
    except (msgspec.DecodeError, TypeError) as error:
        raise apsw.CorruptError(f"token counts are not what was written: {error}") from None


def negative(usage: Mapping[str, int]) -> Usage:
    """Return counts to take away."""
    return {name: -count for name, count in usage.items()}


def sums(
    connection: apsw.Connection, which: str, values: Sequence[Any] = (), table: str = "records"
) -> dict[int, Usage]:
    """Return by step the sums of the records for which the condition `which` holds.

    A record whose counts have rotted adds none: `verify` names it.
    """
    found: dict[int, Usage] = {}
    sql = f"""
    select step, counted.key, cast(total(counted.value) as integer)
      from (select step, usage from {table} where usage is not null and {which}) as chosen,
           json_each(iif(json_valid(usage), usage, '{NOTHING}')) as counted
     where counted.type = 'integer' and typeof(counted.key) = 'text'
     group by step, counted.key
    """
    for step, name, count in rows(connection, sql, values):
        found.setdefault(step, {})[name] = count
    return found


def change(writer: apsw.Connection, by: Iterable[tuple[int, Mapping[str, int]]]) -> None:
    """Add counts to the sums of steps; the caller's transaction."""
    for step, usage in by:
        before = writer.execute("select usage from steps where id = ?", (step,)).get
        now = as_json(added(decoded_usage(before), usage))
        writer.execute("update steps set usage = ? where id = ?", (now, step))


def is_sound(text: Any) -> bool:
    """Tell whether stored counts are counts, or none."""
    try:
        decoded_usage(text)
    except apsw.CorruptError:
        return False
    return True


def is_equal(one: Any, other: str) -> bool:
    """Tell whether a step's stored sums are these, in whatever order."""
    return one is not None and is_sound(one) and decoded_usage(one) == decoded_usage(other)
