"""Values of other people's packages to what is stored, and back: pandas, Pillow, pydantic's URLs.

No package is imported to encode: its values can only exist where it is. To decode, it is imported
by its own name, which stands here, never by a name from a file.
"""

from __future__ import annotations

import datetime as dt
import functools
import sys
import zoneinfo
from collections.abc import Callable
from typing import Any

from . import arrays, codes, zones

Parts = Callable[[Any, str], tuple[int, Any]]

_URLS = frozenset((
    "AnyUrl", "AnyHttpUrl", "HttpUrl", "AnyWebsocketUrl", "WebsocketUrl", "FileUrl", "FtpUrl",
    "PostgresDsn", "CockroachDsn", "AmqpDsn", "RedisDsn", "MongoDsn", "KafkaDsn", "NatsDsn",
    "MySQLDsn", "MariaDBDsn", "ClickHouseDsn", "SnowflakeDsn",
))  # fmt: skip
_CORE_URLS = frozenset(("Url", "MultiHostUrl"))


@functools.lru_cache(maxsize=1024)
def parts_of(kind: type) -> Parts | None:
    """Return what takes a value of a class to its extension code and payload; None if nothing."""
    package = kind.__module__.partition(".")[0]
    if package == "numpy" and "numpy" in sys.modules:
        return arrays.to_parts if arrays.code_of(kind) is not None else None
    if package == "pandas":
        return _PANDAS.get(kind.__name__)
    if package == "PIL" and _is_image(kind):
        return _image
    if package in ("pydantic", "pydantic_core") and kind.__name__ in _URLS | _CORE_URLS:
        return _url
    return None


def becomes(kind: type) -> str | None:
    """Say what a value of a class comes back as, if it is another class; None if its own."""
    if kind.__module__.partition(".")[0] == "PIL" and _is_image(kind):
        return None if kind is sys.modules["PIL.Image"].Image else "a PIL.Image.Image"
    return None


def _absent(package: str) -> ValueError:
    return ValueError(f"a value of {package}, which is not installed: install it to read it")


# --- pandas


def _timestamp(value: Any, _where: str) -> tuple[int, Any]:
    ticks, zone = int(value.asm8.view("i8")), value.tz
    if zone is not None and (named := zones.describe(zone)) is None:
        named = ["offset", value.utcoffset()]
    elif zone is not None:
        named = ["zoneinfo", named] if isinstance(named, str) else named
    else:
        named = None
    return codes.PANDAS, ["Timestamp", ticks, value.unit, named]


def _timedelta(value: Any, _where: str) -> tuple[int, Any]:
    return codes.PANDAS, ["Timedelta", int(value.asm8.view("i8")), value.unit]


def _period(value: Any, _where: str) -> tuple[int, Any]:
    return codes.PANDAS, ["Period", value.ordinal, value.freqstr]


def _interval(value: Any, _where: str) -> tuple[int, Any]:
    return codes.PANDAS, ["Interval", value.left, value.right, value.closed]


_PANDAS: dict[str, Parts] = {
    "Timestamp": _timestamp,
    "Timedelta": _timedelta,
    "Period": _period,
    "Interval": _interval,
    "NaTType": lambda _value, _where: (codes.PANDAS, ["NaT"]),
    "NAType": lambda _value, _where: (codes.PANDAS, ["NA"]),
}


def revive_pandas(payload: list[Any]) -> Any:
    """Return a value of pandas from its payload.

    Raises:
        ValueError: pandas is not installed, or has no such value.
    """
    try:
        import numpy
        import pandas  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise _absent("pandas") from error
    name, rest = payload[0], payload[1:]
    if name in ("NaT", "NA"):
        return getattr(pandas, name)
    if name == "Timestamp":
        ticks, unit, zone = rest
        return _in_zone(pandas.Timestamp(numpy.datetime64(ticks, unit)), zone)
    if name == "Timedelta":
        return pandas.Timedelta(numpy.timedelta64(*rest))
    if name == "Period":
        return pandas.Period(ordinal=rest[0], freq=rest[1])
    if name == "Interval":
        return pandas.Interval(*rest)
    raise ValueError(f"no value of pandas is called {name!r}")


def _in_zone(made: Any, zone: Any) -> Any:
    if zone is None:
        return made
    if zone[0] == "zoneinfo":
        found: Any = zoneinfo.ZoneInfo(zone[1])
    elif zone[0] == "offset":
        found = dt.timezone(zone[1]) if zone[1] else dt.UTC
    else:
        found = zones.restore(zone)
    return made.tz_localize("UTC").tz_convert(found)


# --- Pillow


def _is_image(kind: type) -> bool:
    module = sys.modules.get("PIL.Image")
    return module is not None and issubclass(kind, module.Image)


def _image(value: Any, _where: str) -> tuple[int, Any]:
    data = value.tobytes()  # first: it may have to read the file, which fills `info`
    palette = None
    if value.mode in ("P", "PA") and value.palette is not None:
        palette = [value.palette.mode, bytes(value.getpalette(value.palette.mode))]
    info = {
        name: str(child) if isinstance(child, str) else child for name, child in value.info.items()
    }
    return codes.IMAGE, [value.mode, list(value.size), palette, info, data]


def revive_image(payload: list[Any]) -> Any:
    """Return a `PIL.Image.Image`.

    Raises:
        ValueError: Pillow is not installed, or the bytes are of no such image.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise _absent("Pillow") from error
    mode, size, palette, info, data = payload
    if size[0] * size[1] > 8 * len(data):  # before Pillow makes room for it
        raise ValueError(f"an image of {size} does not have {len(data)} bytes")
    made = PIL.Image.frombytes(mode, tuple(size), data)
    if palette is not None:
        made.putpalette(palette[1], palette[0])
    made.info = info
    return made


# --- pydantic


def _url(value: Any, _where: str) -> tuple[int, Any]:
    return codes.URL, [type(value).__name__, str(value)]


def revive_url(payload: list[Any]) -> Any:
    """Return one of pydantic's URLs.

    Raises:
        ValueError: pydantic is not installed, or has no such URL.
    """
    name, text = payload
    if name not in _URLS | _CORE_URLS:
        raise ValueError(f"no URL of pydantic is called {name!r}")
    try:
        import pydantic
        import pydantic_core
    except ImportError as error:
        raise _absent("pydantic") from error
    return getattr(pydantic if name in _URLS else pydantic_core, name)(text)
