"""Results and inputs to what is stored, and back. Knows nothing of steps, SQL or files.

JSON text for values made of plain JSON types (nearly all), so that any SQLite tool reads a store;
the ordered MessagePack of `canonical.py` for the rest, and for long vectors of floats, where it
takes half the time and half the room. SQLite's storage class tells which. Keys of dicts keep their
order in both.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..errors import DecodeError, EncodeError
from .canonical import WITH_VECTOR, canonical, is_plain, ordered, pack_plain, uncanonical

MAX_BYTES = 64 << 20

_PLAIN_TYPES = (str, int, float, bool, types.NoneType, dict, list, None, Any)
# What hostile bytes, or a machine without the time zone that a value names, may raise.
_UNREADABLE = (
    ArithmeticError, LookupError, RecursionError, TypeError, ValueError, msgspec.MsgspecError,
)  # fmt: skip
_json = msgspec.json.Encoder().encode
_unjson = msgspec.json.Decoder().decode


def to_json(value: Any) -> str | None:
    """Return `value` as JSON text if that decodes to an equal value of equal types, else None."""
    if not is_plain(value):
        return None
    try:
        return _text(_json(value))
    except UnicodeEncodeError:
        return None


def encode(value: Any) -> str | bytes:
    """Encode `value` as JSON text if it is plain, else as tagged MessagePack.

    Raises:
        EncodeError: see `canonical`; also when the encoding is larger than 64 MiB.
    """
    plain = is_plain(value)
    if plain:
        with contextlib.suppress(UnicodeEncodeError):  # the other form names the place
            return encode_plain(value, plain)
    return _sized(ordered(value))


def encode_plain(value: Any, plain: int) -> str | bytes:
    """Encode a value of which `is_plain` said `plain`.

    Raises:
        EncodeError: larger than 64 MiB. UnicodeEncodeError: a lone surrogate.
    """
    if plain == WITH_VECTOR:
        return _sized(pack_plain(value))
    data = _json(value)
    return data.decode() if len(data) <= MAX_BYTES else _text(data)


def decode(data: str | bytes) -> Any:
    """Decode what `encode` wrote. Objects of user classes come back as a dict of their fields."""
    try:
        return _unjson(data) if isinstance(data, str) else uncanonical(data)[0]
    except _UNREADABLE as error:
        raise DecodeError(
            f"a saved value cannot be read: {type(error).__name__}: {error}"
        ) from error


class Codec:
    """Encode and decode the results of one step, typed by its return annotation.

    Promise: `decode(encode(value))` equals `value`, in types too; it was checked when encoding.

    Args:
        annotation: the step's return type: a dataclass, msgspec.Struct, TypedDict, NamedTuple,
            tuple, pydantic model, or generics of those. `Any`: plain values and the builtin types
            that the tagged encoding knows.
    """

    def __init__(self, annotation: Any = Any) -> None:
        self.annotation = annotation
        self._typed = not _is_plain_type(annotation)
        self._model: Any = None
        if _holds_model(annotation):
            self._model = sys.modules["pydantic"].TypeAdapter(annotation)
        elif self._typed:
            self._from_json = _typed_decoder(annotation)

    def encode(self, value: Any) -> str | bytes:
        """Encode one result.

        Raises:
            EncodeError: nothing decodes to an equal value; `.result` is the value.
        """
        try:
            if not self._typed and (plain := is_plain(value)):  # nearly always: in one step
                try:
                    return encode_plain(value, plain)
                except UnicodeEncodeError:
                    pass  # the other form names the place
            wanted = canonical(value)
            for data in self._candidates(value):
                if self._gives_back(data, wanted):
                    return data
        except EncodeError as error:
            raise EncodeError(
                f"the result, a {_name(value)}, cannot be stored: {error}; "
                "the result is attached to this error as .result",
                error.where,
                value,
            ) from None
        raise EncodeError(
            f"the result, a {_name(value)}, would come back as something else: annotate the step's "
            f"return type with its class (it is {_type_name(self.annotation)}), or return plain "
            "dicts and lists; the result is attached to this error as .result",
            result=value,
        )

    def decode(self, data: str | bytes) -> Any:
        """Decode one result.

        Raises:
            DecodeError: the annotation has changed and the stored value no longer fits it.
        """
        if not self._typed:
            return decode(data)
        try:
            if isinstance(data, str):
                return self._model.validate_json(data) if self._model else self._from_json(data)
            return self._convert(*uncanonical(data))
        except Exception as error:  # validators are the user's code
            raise DecodeError(
                f"a saved result does not fit {_type_name(self.annotation)} ({error}): restore the "
                "annotation, or raise the step's version to compute the row again"
            ) from error

    def _candidates(self, value: Any) -> Iterable[str | bytes]:
        with contextlib.suppress(Exception):  # what cannot be JSON is not
            if self._model:
                for alias in (True, False):
                    yield _text(
                        self._model.dump_json(
                            value, by_alias=alias, round_trip=True, warnings=False
                        )
                    )
            elif self._typed:  # without a type, only what is plain comes back from JSON
                yield _text(_json(value))
        yield _sized(ordered(value))

    def _gives_back(self, data: str | bytes, wanted: bytes) -> bool:
        try:
            return canonical(self.decode(data)) == wanted
        except (DecodeError, EncodeError):
            return False

    def _convert(self, value: Any, has_objects: bool) -> Any:
        if not has_objects:
            return value  # exactly what was saved, whether or not it fits the annotation
        if self._model:
            return self._model.validate_python(value)
        return msgspec.convert(value, self.annotation)


def _typed_decoder(annotation: Any) -> Callable[[str], Any]:
    try:
        return msgspec.json.Decoder(annotation).decode
    except Exception:  # noqa: BLE001 - a type unknown to msgspec, or a name that is not defined
        return functools.partial(_refuse, annotation)  # the tagged form may still hold the value


def _refuse(annotation: Any, _text: str) -> Any:
    raise TypeError(f"{_type_name(annotation)} cannot be built from JSON")


def _is_plain_type(annotation: Any) -> bool:
    """Tell whether decoding without a type gives what decoding to `annotation` would."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if typing.is_typeddict(annotation):
        args = tuple(typing.get_type_hints(annotation).values())
    elif origin is typing.Literal:
        args = tuple(map(type, args))
    elif origin is None:
        return annotation in _PLAIN_TYPES
    elif origin not in (dict, list, typing.Union, types.UnionType):
        return False
    return all(map(_is_plain_type, args))


def _holds_model(annotation: Any) -> bool:
    """Tell whether `annotation` names a pydantic model, so that pydantic must decode it."""
    if isinstance(annotation, type) and hasattr(annotation, "model_validate_json"):
        return True
    return any(map(_holds_model, typing.get_args(annotation)))


def _name(value: Any) -> str:
    return type(value).__qualname__


def _type_name(annotation: Any) -> str:
    if annotation is Any:
        return "not annotated"
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _sized(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise EncodeError(
            f"a value of {len(data):,} bytes is over the limit of {MAX_BYTES:,}: "
            "store large data in a file and return its path"
        )
    return data


def _text(data: bytes) -> str:
    return _sized(data).decode()
