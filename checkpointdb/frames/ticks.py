"""Times as Arrow counts them, to Python's and back, exactly. Knows calendars; knows no Arrow.

A time that a class of `datetime` cannot hold (nanoseconds, a year past 9999) is ISO 8601 text. So a
row's value depends on the moment alone: not on the unit of its column, and not on whether pandas is
installed. Ticks are nanoseconds; days count from 1970.
"""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from typing import Any

from .packages import TableError

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
_ERA = 146_097  # days in 400 years, after which the calendar repeats
_EPOCH = dt.datetime(1970, 1, 1)
_UTC_EPOCH = _EPOCH.replace(tzinfo=dt.UTC)
_FIRST = dt.date(1970, 1, 1).toordinal()
_MICROSECOND = dt.timedelta(microseconds=1)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_MOMENT = re.compile(
    r"([+-]?\d{4,})-(\d\d)-(\d\d)"
    r"(?:T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([+-])(\d\d):(\d\d)(?::(\d\d))?)?)?"
)
_CLOCK = re.compile(r"(-?)(\d\d+):(\d\d):(\d\d)(?:\.(\d{1,9}))?")
_DURATION = re.compile(r"(-?)PT(\d+)(?:\.(\d{1,9}))?S")


def zone_of(name: str | None, where: str) -> dt.tzinfo | None:
    """Return a time zone by its name in Arrow: `Europe/Paris`, `+02:00`.

    Raises:
        TableError: this machine does not know it.
    """
    if name is None:
        return None
    if match := _OFFSET.fullmatch(name):
        offset = dt.timedelta(hours=int(match[2]), minutes=int(match[3]))
        return dt.timezone(-offset if match[1] == "-" else offset)
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise TableError(
            f"{where}: the time zone {name!r} is not known on this machine: pip install tzdata"
        ) from error


def name_of(zone: dt.tzinfo | None) -> str | None:
    """Return the name by which Arrow knows a time zone.

    Raises:
        ValueError: it has none.
    """
    if zone is None:
        return None
    if key := getattr(zone, "key", None) or getattr(zone, "zone", None):  # the latter is pytz's
        return str(key)
    if zone == dt.UTC:
        return "UTC"
    text = str(zone)
    if isinstance(zone, dt.timezone) and re.fullmatch(r"UTC[+-]\d\d:\d\d", text):
        return text[3:]
    raise ValueError(f"no name for {zone!r}")


def to_moment(ticks: int, zone: dt.tzinfo | None) -> dt.datetime | str:
    """Return ticks since 1970 as a datetime, or as text."""
    micros, nanos = divmod(ticks, 1000)
    try:
        if zone is None:
            moment = _EPOCH + dt.timedelta(microseconds=micros)
        else:
            moment = (_UTC_EPOCH + dt.timedelta(microseconds=micros)).astimezone(zone)
    except (OverflowError, ValueError):
        days, rest = divmod(ticks, DAY)
        return f"{_calendar(days)}T{_clock(rest)}{'' if zone is None else '+00:00'}"
    if not nanos:
        return moment
    text = moment.isoformat(timespec="microseconds")
    return f"{text[:26]}{nanos:03}{text[26:]}"


def to_date(days: int) -> dt.date | str:
    """Return days since 1970 as a date, or as text."""
    try:
        return dt.date.fromordinal(_FIRST + days)
    except (OverflowError, ValueError):
        return _calendar(days)


def to_time(ticks: int) -> dt.time | str:
    """Return ticks since midnight as a time, or as text."""
    micros, nanos = divmod(ticks, 1000)
    if nanos or not 0 <= ticks < DAY:
        return _clock(ticks)
    return (_EPOCH + dt.timedelta(microseconds=micros)).time()


def to_duration(ticks: int) -> dt.timedelta | str:
    """Return ticks as a timedelta, or as text such as `PT0.000000001S`."""
    micros, nanos = divmod(ticks, 1000)
    if not nanos:
        try:
            return dt.timedelta(microseconds=micros)
        except OverflowError:
            pass
    seconds, rest = divmod(abs(ticks), SECOND)
    return f"{'-' if ticks < 0 else ''}PT{seconds}{f'.{rest:09}' if rest else ''}S"


def _calendar(days: int) -> str:
    eras = days // _ERA - 1
    day = dt.date.fromordinal(_FIRST + days - eras * _ERA)
    year = day.year + 400 * eras
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04}-{day.month:02}-{day.day:02}"


def _clock(ticks: int) -> str:
    seconds, nanos = divmod(abs(ticks), SECOND)
    clock = "-" * (ticks < 0) + f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{clock}.{nanos:09}" if nanos else clock


def of_moment(value: Any) -> int:
    """Return the ticks of what `to_moment` or `to_date` made.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, dt.datetime):
        epoch = _EPOCH if value.tzinfo is None else _UTC_EPOCH
        return (value - epoch) // _MICROSECOND * 1000
    if isinstance(value, dt.date):
        return (value.toordinal() - _FIRST) * DAY
    match = _matched(_MOMENT, value)
    year, month, day, hours, minutes, seconds = (int(part or 0) for part in match.groups()[:6])
    eras = year // 400 - 1
    date = dt.date(year - 400 * eras, month, day)
    days = date.toordinal() - _FIRST + eras * _ERA
    ticks = days * DAY + (hours * 3600 + minutes * 60 + seconds) * SECOND + _fraction(match[7])
    offset = [int(part or 0) for part in match.group(9, 10, 11)]
    east = (offset[0] * 3600 + offset[1] * 60 + offset[2]) * SECOND
    return ticks + east if match[8] == "-" else ticks - east


def of_time(value: Any) -> int:
    """Return the ticks of what `to_time` made.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, dt.time):
        if value.tzinfo is not None:
            raise ValueError("a time of day with a zone")
        value = value.isoformat()
    match = _matched(_CLOCK, value)
    hours, minutes, seconds = (int(part) for part in match.group(2, 3, 4))
    ticks = (hours * 3600 + minutes * 60 + seconds) * SECOND + _fraction(match[5])
    return -ticks if match[1] else ticks


def of_duration(value: Any) -> int:
    """Return the ticks of what `to_duration` made.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, dt.timedelta):
        return value // _MICROSECOND * 1000
    match = _matched(_DURATION, value)
    ticks = int(match[2]) * SECOND + _fraction(match[3])
    return -ticks if match[1] else ticks


def _matched(pattern: re.Pattern[str], value: Any) -> re.Match[str]:
    match = pattern.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a time: {value!r}")
    return match


def _fraction(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))
