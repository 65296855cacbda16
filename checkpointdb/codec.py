"""Results and inputs to what is stored, and back. Knows nothing of steps, SQL or files.

JSON text for values made of plain JSON types (nearly all), so that any SQLite tool reads a store;
the canonical MessagePack of `canonical.py` for the rest. SQLite's storage class tells which.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from .canonical import canonical, is_plain, uncanonical
from .errors import DecodeError, EncodeError

MAX_BYTES = 64 << 20

_PLAIN_TYPES = (str, int, float, bool, types.NoneType, dict, list, None, Any)
_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_json = msgspec.json.Encoder().encode
_unjson = msgspec.json.Decoder().decode


def to_json(value: Any) -> str | None:
    """Return `value` as JSON text if that decodes to an equal value of equal types, else None."""
    if not is_plain(value):
        return None
    try:
        return _json(value).decode()
    except UnicodeEncodeError:
        return None


def encode(value: Any) -> str | bytes:
    """Encode `value` as JSON text if it is plain, else as tagged MessagePack.

    Raises:
        EncodeError: see `canonical`; also when the encoding is larger than 64 MiB.
    """
    return _sized(to_json(value) or canonical(value))


def encode_with_canonical(value: Any) -> tuple[bytes, str | bytes]:
    """Return the canonical bytes of `value` and its stored form, looking it over only once."""
    if is_plain(value):
        try:
            return _pack(value), _sized(_json(value).decode())
        except (OverflowError, UnicodeEncodeError):
            pass
    content = canonical(value)
    return content, _sized(to_json(value) or content)


def decode(data: str | bytes) -> Any:
    """Decode what `encode` wrote. Objects of user classes come back as a dict of their fields."""
    if isinstance(data, str):
        return _unjson(data)
    return uncanonical(data)[0]


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
        self._model = _is_pydantic(annotation)
        if self._typed and not self._model:
            self._from_json = _typed_decoder(annotation)

    def encode(self, value: Any) -> str | bytes:
        """Encode one result.

        Raises:
            EncodeError: nothing decodes to an equal value; `.result` is the value.
        """
        if not self._typed:
            text = to_json(value)
            if text is not None and len(text) < MAX_BYTES:
                return text
        try:
            wanted = canonical(value)
            for data in self._candidates(value, wanted):
                if self._gives_back(data, wanted):
                    return _sized(data)
        except EncodeError as error:
            error.result = value
            raise
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
                return self._decode_json(data)
            return self._convert(*uncanonical(data))
        except (ValueError, TypeError, msgspec.MsgspecError) as error:
            raise DecodeError(
                f"a saved result does not fit {_type_name(self.annotation)} ({error}): restore the "
                "annotation, or raise the step's version to compute the row again"
            ) from error

    def _candidates(self, value: Any, tagged: bytes) -> Iterable[str | bytes]:
        try:
            yield value.model_dump_json() if self._model else _json(value).decode()
        except (TypeError, ValueError, AttributeError, RecursionError):
            pass
        yield tagged

    def _gives_back(self, data: str | bytes, wanted: bytes) -> bool:
        try:
            return canonical(self.decode(data)) == wanted
        except (DecodeError, EncodeError, msgspec.DecodeError):
            return False

    def _decode_json(self, text: str) -> Any:
        if self._model:
            return self.annotation.model_validate_json(text)
        return self._from_json(text)

    def _convert(self, value: Any, has_objects: bool) -> Any:
        try:
            if self._model:
                return self.annotation.model_validate(value)
            return msgspec.convert(value, self.annotation)
        except (ValueError, TypeError, msgspec.MsgspecError):
            if has_objects:
                raise
            return value  # a result that never was of the annotated type, as checked on saving


def _typed_decoder(annotation: Any) -> Callable[[str], Any]:
    try:
        return msgspec.json.Decoder(annotation).decode
    except TypeError:  # a type msgspec does not know: the tagged form may still hold the value
        return functools.partial(_refuse, annotation)


def _refuse(annotation: Any, text: str) -> Any:
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


def _is_pydantic(annotation: Any) -> bool:
    return isinstance(annotation, type) and hasattr(annotation, "model_validate_json")


def _name(value: Any) -> str:
    return type(value).__qualname__


def _type_name(annotation: Any) -> str:
    if annotation is Any:
        return "not annotated"
    return getattr(annotation, "__qualname__", None) or str(annotation)


def _sized(data: str | bytes) -> str | bytes:
    if len(data) > MAX_BYTES:
        raise EncodeError(
            f"a value of {len(data):,} bytes is over the limit of {MAX_BYTES:,}: "
            "store large data in a file and return its path"
        )
    return data
