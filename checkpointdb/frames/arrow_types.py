"""Which Arrow type holds some values, and loses nothing of them. Knows types; builds no arrays.

Arrow's own inference takes the type of the first value for that of all: it cuts a time of day
among dates, moves a time without a zone to UTC, and knows no integer past 63 bits.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .ticks import name_of

_SEQUENCES = {list, tuple, set, frozenset}


class ArrowTypes:
    """Find the type of values, and the type of two types.

    Args:
        pyarrow: the module.
    """

    def __init__(self, pyarrow: Any) -> None:
        self._pa, self._is = pyarrow, pyarrow.types
        self._simple: dict[type, Callable[[Sequence[Any]], Any]] = {
            bool: lambda _: pyarrow.bool_(),
            int: self._integer,
            float: lambda _: pyarrow.float64(),
            str: lambda _: pyarrow.string(),
            bytes: lambda _: pyarrow.binary(),
            decimal.Decimal: self._decimal,
            dt.datetime: self._moment,
            dt.date: lambda _: pyarrow.date32(),
            dt.time: self._time,
            dt.timedelta: lambda _: pyarrow.duration("us"),
            uuid.UUID: lambda values: pyarrow.array(values[:1]).type,
            dict: self._struct,
        }

    def of(self, values: Iterable[Any]) -> Any:
        """Return the type that holds these values; null for none.

        Raises:
            TypeError, ValueError: there is none.
        """
        present = [value for value in values if value is not None]
        kinds = set(map(type, present))
        if not kinds:
            return self._pa.null()
        if kinds == {int, float}:
            return self._pa.float64()
        if kinds <= _SEQUENCES:
            return self._list(present)
        if len(kinds) > 1 or not kinds <= self._simple.keys():
            raise TypeError("no type in common")
        return self._simple[kinds.pop()](present)

    def _integer(self, values: Sequence[int]) -> Any:
        fits = max(values) < 1 << 63
        return self._pa.int64() if fits else self._pa.uint64()

    def _decimal(self, values: Sequence[decimal.Decimal]) -> Any:
        parts = [value.as_tuple() for value in values]
        if not all(isinstance(part.exponent, int) for part in parts):
            raise ValueError("a decimal that is not a number")
        scale = max(0, *(-int(part.exponent) for part in parts))
        whole = max(len(part.digits) + int(part.exponent) for part in parts)
        return self._decimal_of(max(whole, 0), scale)

    def _decimal_of(self, whole: int, scale: int) -> Any:
        precision = max(whole + scale, 1)
        make = self._pa.decimal128 if precision <= 38 else self._pa.decimal256
        return make(precision, scale)

    def _moment(self, values: Sequence[dt.datetime]) -> Any:
        zones = {name_of(value.tzinfo) for value in values}
        if len(zones) > 1:
            raise TypeError("several time zones")
        return self._pa.timestamp("us", zones.pop())

    def _time(self, values: Sequence[dt.time]) -> Any:
        if any(value.tzinfo is not None for value in values):
            raise TypeError("a time of day with a zone")
        return self._pa.time64("us")

    def _list(self, values: Sequence[Any]) -> Any:
        children = [child for value in values for child in value]
        if children and all(type(child) is tuple and len(child) == 2 for child in children):
            keys, items = zip(*children, strict=True)
            if None not in keys:
                return self._pa.map_(self.of(keys), self.of(items))
        return self._pa.list_(self.of(children))

    def _struct(self, values: Sequence[dict[Any, Any]]) -> Any:
        names = dict.fromkeys(name for value in values for name in value)
        if not all(type(name) is str for name in names):
            raise TypeError("a key that is not text")
        if not names:  # Parquet has no struct without fields: another row may tell some
            return self._pa.null()
        return self._pa.struct(
            [(name, self.of(value.get(name) for value in values)) for name in names]
        )

    def wider(self, one: Any, other: Any) -> Any:
        """Return the type that holds what either holds.

        Raises:
            TypeError: there is none.
        """
        if one == other or self._is.is_null(other):
            return one
        if self._is.is_null(one):
            return other
        for test, join in (
            (self._is.is_map, self._wider_map),
            (self._is.is_list, self._wider_list),
            (self._is.is_struct, self._wider_struct),
            (self._is.is_decimal, self._wider_decimal),
            (self._is_number, self._wider_number),
        ):
            if test(one) and test(other):
                return join(one, other)
        raise TypeError("no type in common")

    def _wider_map(self, one: Any, other: Any) -> Any:
        return self._pa.map_(
            self.wider(one.key_type, other.key_type), self.wider(one.item_type, other.item_type)
        )

    def _wider_list(self, one: Any, other: Any) -> Any:
        return self._pa.list_(self.wider(one.value_type, other.value_type))

    def _wider_struct(self, one: Any, other: Any) -> Any:
        fields = {field.name: field.type for field in one}
        for field in other:
            known = fields.get(field.name, field.type)
            fields[field.name] = self.wider(known, field.type)
        return self._pa.struct(list(fields.items()))

    def _wider_decimal(self, one: Any, other: Any) -> Any:
        whole = max(one.precision - one.scale, other.precision - other.scale)
        return self._decimal_of(whole, max(one.scale, other.scale))

    def _is_number(self, kind: Any) -> bool:
        return bool(self._is.is_integer(kind) or self._is.is_floating(kind))

    def _wider_number(self, one: Any, other: Any) -> Any:
        kinds = {one, other}
        return self._pa.float64() if self._pa.float64() in kinds else self._pa.uint64()
