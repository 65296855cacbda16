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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from ..errors import DecodeError, EncodeError
from .canonical import ordered, ordered_result
from .classes import Scope, classes_in, first_unstorable, hints
from .plain import WITH_VECTOR, is_plain, pack_plain
from .records import is_model, same
from .revive import uncanonical

MAX_BYTES = 64 << 20

_PLAIN_TYPES = (str, int, float, bool, types.NoneType, dict, list, None, Any)
# What hostile bytes, or a machine without the time zone that a value names, may raise.
_UNREADABLE = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    msgspec.MsgspecError,
)  # fmt: skip
_json = msgspec.json.Encoder().encode
_unjson = msgspec.json.Decoder().decode


def encode(value: Any) -> str | bytes:
    """Encode `value` as JSON text if it is plain, else as tagged MessagePack.

    Raises:
        EncodeError: see `canonical`; also when the encoding is larger than 64 MiB.
    """
    plain = is_plain(value)
    if plain:
        with contextlib.suppress(ValueError):  # the other form encodes it or names the place
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
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> DecodeError:
    return DecodeError(f"a saved value cannot be read: {type(error).__name__}: {error}")


class Codec:
    """Encode and decode the results of one step, typed by its return annotation.

    Promise: `decode(encode(value))` equals `value`, even in types; that was checked when encoding.
    Instances of a class that is neither in the annotation nor in `namespace` under its name come
    back as dicts, which `notices` says once.

    Args:
        annotation: the step's return type: a dataclass, msgspec.Struct, TypedDict, NamedTuple,
            tuple, pydantic model, or generics of those. `Any`: plain values, the builtin types
            that the tagged encoding knows, and classes of the namespace.
        namespace: the globals of the step's function.
        each: the codec of one result, where the step returns a list of them and a value may be
            either.

    Attributes:
        notices: what the user is to be told of results; whoever tells the user removes it.
    """

    def __init__(
        self,
        annotation: Any = Any,
        namespace: Mapping[str, Any] | None = None,
        each: Codec | None = None,
    ) -> None:
        self.annotation, self._each = annotation, each
        self.notices: list[str] = []
        self._noticed: set[type] = set()
        self._scope = Scope(annotation, namespace=namespace)
        self._typed = not _is_plain_type(annotation)
        self._model = _model_adapter(annotation) if self._typed else None
        if self._typed and self._model is None:
            self._from_json = _typed_decoder(annotation)

    def check(self) -> None:
        """Raise if the annotation says that no result can be stored.

        Raises:
            EncodeError: it says so; no call was made.
        """
        found = first_unstorable(self.annotation)
        if found is not None:
            kind = found.kind.__qualname__
            place = "" if found.where == "$" else f" in {found.where}"
            raise EncodeError(
                f"a result of type {_type_name(self.annotation)} cannot be stored, for it has "
                f"a {kind}{place}: return plain values or a dataclass, or say with "
                f"ckpt.register({kind}, to=, back=) how one is stored. No call was made",
                found.where,
            )

    def encode(self, value: Any) -> str | bytes:
        """Encode one result.

        Raises:
            EncodeError: nothing decodes to an equal value; `.result` is the value.
        """
        try:
            if not self._typed and (plain := is_plain(value)):  # nearly always: in one step
                try:
                    return encode_plain(value, plain)
                except ValueError:
                    pass  # an int of 4,300 digits; or a lone surrogate, which the other form names
            data = self._encode_checked(value)
        except Exception as error:  # noqa: BLE001 - hooks and properties are the user's code
            raise EncodeError(
                f"the result, a {_name(value)}, cannot be stored: {_in_words(error)}; "
                "the result is attached to this error as .result",
                getattr(error, "where", "$"),
                value,
            ) from (error.__cause__ if isinstance(error, EncodeError) else error)
        if data is not None:
            return data
        raise EncodeError(
            f"the result, a {_name(value)}, would come back as something else: annotate the step's "
            f"return type with its class (it is {_type_name(self.annotation)}), or return plain "
            "dicts and lists; the result is attached to this error as .result",
            result=value,
        )

    def _encode_checked(self, value: Any) -> str | bytes | None:
        """Return the first encoding that gives back an equal value, None if there is none."""
        lost: dict[type, str] = {}
        try:
            wanted = ordered_result(value, self._scope, lost)
        except EncodeError:
            if self._model is not None:  # types that only pydantic can write
                for data in self._as_json(value):
                    if self._is_same(data, value):
                        return data
            raise
        for data in self._as_json(value):
            if self._gives_back(data, wanted):
                self._note(lost)
                return data
        if self._gives_back(_sized(wanted), wanted):
            self._note(lost)
            return wanted
        return None

    def _note(self, lost: dict[type, str]) -> None:
        for kind, instead in lost.items():
            if kind not in self._noticed:
                self._noticed.add(kind)
                self.notices.append(
                    f"a {kind.__qualname__} in a result comes back as {instead} when it is read "
                    "from the store: name its class in the step's return annotation, or define or "
                    "import it at the top level of the step's module, to get it as it was"
                )

    def decode(self, data: str | bytes) -> Any:
        """Decode one result.

        Raises:
            DecodeError: the annotation has changed and the stored value no longer fits it.
        """
        if not self._typed and isinstance(data, str):  # nearly always, and in one step
            try:
                return _unjson(data)
            except _UNREADABLE as error:
                raise _unreadable(error) from error
        try:
            if isinstance(data, str):
                return self._model.validate_json(data) if self._model else self._from_json(data)
            return uncanonical(data, self._scope)[0]
        except Exception as error:  # validators are the user's code
            if self._each is not None:
                with contextlib.suppress(DecodeError):
                    return self._each.decode(data)
            raise DecodeError(
                f"a saved result does not fit {_type_name(self.annotation)} ({error}): restore the "
                "annotation, or raise the step's version to compute the row again"
            ) from error

    def _as_json(self, value: Any) -> Iterator[str]:
        if not self._typed:  # without a type, only what is plain comes back from JSON
            return
        with contextlib.suppress(Exception):  # what cannot be JSON is not
            if self._model is None:
                yield _text(_json(value))
                return
            for alias in (True, False):
                yield _text(
                    self._model.dump_json(value, by_alias=alias, round_trip=True, warnings=False)
                )

    def _gives_back(self, data: str | bytes, wanted: bytes) -> bool:
        try:
            return ordered_result(self.decode(data), self._scope, {}) == wanted
        except (DecodeError, EncodeError):
            return False

    def _is_same(self, data: str, value: Any) -> bool:
        try:
            return same(self.decode(data), value)
        except Exception:  # noqa: BLE001 - the user's own __eq__
            return False


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, EncodeError) else f"{type(error).__name__}: {error}"


def _model_adapter(annotation: Any) -> Any:
    """Return what of pydantic reads and writes an annotation with a model in it, else None."""
    if not any(map(is_model, classes_in(annotation))):
        return None
    try:
        return sys.modules["pydantic"].TypeAdapter(annotation)
    except Exception:  # noqa: BLE001 - a type unknown to pydantic: the tagged form holds the value
        return None


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
        if len(found := hints(annotation)) < len(annotation.__annotations__):
            return False  # one that cannot be resolved
        args = tuple(found.values())
    elif origin is typing.Literal:
        args = tuple(map(type, args))
    elif origin is None:
        return annotation in _PLAIN_TYPES
    elif origin not in (dict, list, typing.Union, types.UnionType):
        return False
    return all(map(_is_plain_type, args))


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
