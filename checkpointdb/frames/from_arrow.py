"""Arrow's values to row values, exactly. Knows Arrow's types; knows nothing of files.

`to_pylist` needs pandas for nanoseconds, cuts those of a time of day, wraps 24:00 to midnight and
refuses the year 10000. Where it does none of that it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import ticks
from .packages import TableError

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class FromArrow:
    """Turn Arrow's batches into rows, and arrays into lists of values.

    A map is a list of pairs, as `to_pylist` has it: its keys need be neither text nor different.

    Args:
        pyarrow: the module.
        name: of the file, for errors.
    """

    def __init__(self, pyarrow: Any, name: str) -> None:
        self._pa, self._is, self._name = pyarrow, pyarrow.types, name

    def check(self, schema: Any) -> None:
        """Refuse what no dict can hold.

        Raises:
            TableError: two columns, or two fields of a struct, have one name.
        """
        self._check(list(schema), "")

    def _check(self, fields: list[Any], place: str) -> None:
        names = [field.name for field in fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TableError(
                f"{self._name}: {place or 'the file'} has two columns of one name, and a row has "
                f"one value a name: {', '.join(map(repr, twice))}: rename one of them"
            )
        for field in fields:
            inner = [field.type.field(n) for n in range(field.type.num_fields)]
            is_struct = self._is.is_struct(field.type)
            for group in [inner] if is_struct else [[one] for one in inner]:
                self._check(group, f"{place}{'.' * bool(place)}{field.name}")

    def rows(self, batch: Any, wide: Any = None) -> list[dict[str, Any]]:
        """Return the rows of a batch; `wide` is the same one with int96 read as seconds."""
        others = [None] * batch.num_columns if wide is None else wide.columns
        names = batch.schema.names
        columns = [self.values(*pair) for pair in zip(batch.columns, others, strict=True)]
        if not names:
            return [{} for _ in range(batch.num_rows)]
        return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]

    def values(self, array: Any, wide: Any = None) -> list[Any]:
        """Return the values of an array."""
        kind, test = array.type, self._is
        if isinstance(kind, self._pa.BaseExtensionType):
            if kind.extension_name == "arrow.uuid":
                return list(array.to_pylist())
            return self.values(array.storage, _of(wide, "storage"))
        if test.is_dictionary(kind):
            return self.values(array.dictionary_decode())
        if test.is_map(kind):
            return self._maps(array, wide)
        if test.is_struct(kind):
            return self._structs(array, wide)
        if test.is_nested(kind):
            return self._lists(array, wide)
        if test.is_temporal(kind) and not test.is_interval(kind):
            return self._times(array, wide)
        return list(array.to_pylist())

    def _structs(self, array: Any, wide: Any) -> list[Any]:
        names = [field.name for field in array.type]
        inner = array.flatten()
        others = [None] * len(inner) if wide is None else wide.flatten()
        columns = [self.values(*pair) for pair in zip(inner, others, strict=True)]
        made = zip(*columns, strict=True) if names else [()] * len(array)
        return [
            dict(zip(names, cells, strict=True)) if valid else None
            for cells, valid in zip(made, array.is_valid().to_pylist(), strict=True)
        ]

    def _lists(self, array: Any, wide: Any) -> list[Any]:
        lengths = self._pa.compute.list_value_length(array).to_pylist()
        values = iter(self.values(array.flatten(), None if wide is None else wide.flatten()))
        return [
            None if length is None else [next(values) for _ in range(length)] for length in lengths
        ]

    def _maps(self, array: Any, wide: Any) -> list[Any]:
        """Return lists of pairs. `keys` and `items` are of all that lies in the buffers."""
        offsets = array.offsets.to_pylist()
        first, last = offsets[0], offsets[-1]
        inner = [
            self.values(part[first:last], None if other is None else other[first:last])
            for part, other in (
                (array.keys, _of(wide, "keys")),
                (array.items, _of(wide, "items")),
            )
        ]
        pairs = list(zip(*inner, strict=True))
        return [
            pairs[start - first : end - first] if valid else None
            for start, end, valid in zip(
                offsets, offsets[1:], array.is_valid().to_pylist(), strict=False
            )
        ]

    def _times(self, array: Any, wide: Any) -> list[Any]:
        convert = self._converter(array.type)
        counts = array.cast(self._whole(array.type)).to_pylist()
        factor = factor_of(array.type, self._is)
        if wide is not None and wide.type != array.type:
            seconds = wide.cast(self._pa.int64()).to_pylist()
            counts = [
                None if coarse is None else _joined(coarse, fine)
                for coarse, fine in zip(seconds, counts, strict=True)
            ]
        return [None if count is None else convert(count * factor) for count in counts]

    def _converter(self, kind: Any) -> Callable[[int], Any]:
        if self._is.is_timestamp(kind):
            zone = ticks.zone_of(kind.tz, self._name)
            return lambda count: ticks.to_moment(count, zone)
        if self._is.is_date(kind):
            return lambda count: _day(count)
        return ticks.to_time if self._is.is_time(kind) else ticks.to_duration

    def _whole(self, kind: Any) -> Any:
        return self._pa.int32() if kind.bit_width == 32 else self._pa.int64()


def _of(array: Any, part: str) -> Any:
    return None if array is None else getattr(array, part)


def _day(count: int) -> Any:
    days, rest = divmod(count, ticks.DAY)
    return ticks.to_moment(count, None) if rest else ticks.to_date(days)


def factor_of(kind: Any, test: Any) -> int:
    """Return how many ticks one of a type's counts is."""
    if test.is_date(kind):
        return ticks.DAY if kind.bit_width == 32 else 10**6
    return ticks.SECOND // PER_SECOND[kind.unit]


def _joined(seconds: int, wrapped: int) -> int:
    """Return ticks from seconds that span all years and nanoseconds that wrapped around."""
    ticks_ = seconds * ticks.SECOND
    return ticks_ + (wrapped - ticks_) % (1 << 64)
