"""Time zones to what names them, and back: zoneinfo, pytz, dateutil and fixed offsets.

A zone is stored by its name and found again by the package that made it, never imported.
"""

from __future__ import annotations

import datetime as dt
import sys
import zoneinfo
from typing import Any

# None: a fixed offset or no zone, which ISO text holds. A text: the key of a zoneinfo zone.
Zone = None | str | list[Any]

_ZONE_FOLDERS = ("/zoneinfo/", "/zoneinfo-posix/")


def describe(zone: dt.tzinfo | None) -> Zone:
    """Return what names a zone; None where only its offset does."""
    if isinstance(zone, zoneinfo.ZoneInfo):
        return zone.key
    package = type(zone).__module__.partition(".")[0]
    if package == "pytz":
        return _describe_pytz(zone)
    return _describe_dateutil(zone) if package == "dateutil" else None


def restore(zone: list[Any]) -> Any:
    """Return the zone of a package that `describe` described.

    Raises:
        ValueError: the package is not installed, or has no such zone.
    """
    package, name = zone[:2]
    try:
        if package == "pytz":
            import pytz  # type: ignore[import-untyped,unused-ignore]

            return pytz.FixedOffset(name) if isinstance(name, int) else pytz.timezone(name)
        if package == "dateutil":
            import dateutil.tz  # type: ignore[import-untyped,unused-ignore]

            if name == "local":
                return dateutil.tz.tzlocal()
            if name == "UTC":
                return dateutil.tz.UTC
            if name is None:
                return dateutil.tz.tzoffset(*zone[2:])
            found = None if _is_path(name) else dateutil.tz.gettz(name)
            if found is not None:
                return found
    except ImportError as error:
        raise ValueError(f"a time in a zone of {package}, which is not installed") from error
    raise ValueError(f"no time zone {name!r} of {package}")


def is_exact(zone: dt.tzinfo | None) -> bool:
    """Tell whether a zone comes back as what it was, not as a fixed offset alone."""
    return zone is None or type(zone) is dt.timezone or describe(zone) is not None


def in_zone(value: Any, fold: int, zone: Zone) -> Any:
    """Return a time, read from ISO text, in its zone again.

    Raises:
        ValueError: here, the zone has another offset at that time than the time was saved with.
    """
    if zone is None:
        return value.replace(fold=fold)
    if isinstance(zone, str):
        return value.replace(fold=fold, tzinfo=zoneinfo.ZoneInfo(zone))
    found, offset = restore(zone), value.utcoffset()
    for tzinfo in _candidates(found, value):
        made = value.replace(fold=fold, tzinfo=tzinfo)
        if made.utcoffset() == offset:
            return made
    raise ValueError(f"the zone {zone[1]!r} of {zone[0]} has another offset at {value} here")


def _candidates(found: Any, value: Any) -> Any:
    """Yield the zone; for pytz, first the one of its instances that holds at that time."""
    if isinstance(value, dt.datetime) and hasattr(found, "localize"):
        yield value.astimezone(found).tzinfo
    yield found


def _describe_pytz(zone: Any) -> Zone:
    if getattr(zone, "zone", None) is not None:
        return ["pytz", zone.zone]
    minutes = getattr(zone, "_minutes", None)
    return None if minutes is None else ["pytz", minutes]


def _describe_dateutil(zone: Any) -> Zone:
    tz = sys.modules["dateutil.tz"]
    if isinstance(zone, tz.tzutc):
        return ["dateutil", "UTC"]
    if isinstance(zone, tz.tzlocal):
        return ["dateutil", "local"]
    if isinstance(zone, tz.tzoffset):
        return ["dateutil", None, zone.tzname(None), zone.utcoffset(None).total_seconds()]
    name = getattr(zone, "_filename", None)
    if not isinstance(name, str):
        return None
    for folder in _ZONE_FOLDERS:
        name = name.rpartition(folder)[2]
    return None if _is_path(name) else ["dateutil", name]


def _is_path(name: str) -> bool:
    """Tell whether a name would have dateutil read a file that is none of its zones."""
    return name.startswith("/") or ".." in name
