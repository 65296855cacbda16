"""Values to bytes, never confusing two types. Knows nothing of steps, SQL or files.

The tagged encoding is MessagePack in which each type that MessagePack would blur (tuple into list,
Decimal into str, Enum into its value ...) is an extension with a code of its own. Its canonical
form sorts the keys of maps: equal values have equal bytes, values that differ in any type have
different bytes, and keys are hashes of it. Its ordered form leaves the keys as they come: it is
what is stored.
"""

from __future__ import annotations

import array
import collections
import contextlib
import enum
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from ..errors import EncodeError
from . import codes, zones
from .classes import Scope, is_secret
from .hooks import hook_of
from .leaves import LEAVES, big_int
from .packages import becomes, parts_of
from .plain import MAX_DEPTH, is_plain, pack_plain
from .records import default_private, fields_of, state_of
from .vectors import tag_vector

Pack = Callable[[Any], bytes]
_pack: Pack = msgspec.msgpack.Encoder(order="deterministic").encode


class Form(msgspec.Struct, frozen=True):
    """What a value is encoded for.

    Attributes:
        pack: sorts the keys of maps, or leaves them in order.
        stored: whether it is read again: an identity needs less.
        scope: of a result: the classes that it may come back as.
        lost: of a result: which classes it will not come back as, and what instead.
    """

    pack: Pack
    stored: bool = False
    scope: Scope | None = None
    lost: dict[type, str] = {}

    def within(self, kind: type) -> Form:
        """Return the form of the fields of a class."""
        if self.scope is None:
            return self
        return Form(self.pack, self.stored, self.scope.within(kind), self.lost)

    def knows(self, kind: type, instead: str) -> bool:
        """Tell whether instances of a class come back as such; note what they become if not."""
        if self.scope is None or self.scope.find(kind.__name__) is kind:
            return True
        self.loses(kind, instead)
        return False

    def loses(self, kind: type, instead: str) -> None:
        """Note that values of a class come back as something else."""
        if self.scope is not None:
            self.lost[kind] = instead


_IDENTITY, _ROW_STORED = Form(_pack), Form(pack_plain, stored=True)


def canonical(value: Any) -> bytes:
    """Encode `value` so that equal values, and only those, have equal bytes.

    Dict order does not matter; `1`, `1.0`, `True` and `"1"` all differ.

    Raises:
        EncodeError: `value` holds something without a stable content (a lambda, an open file, a
            lone surrogate), contains itself, or is nested deeper than 128 levels.
    """
    if is_plain(value):
        try:
            return _pack(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # an int past 64 bits, a lone surrogate: the slow path encodes it
    return _pack(_tag(value, "$", MAX_DEPTH, _IDENTITY))


def ordered(value: Any) -> bytes:
    """Encode `value` as `canonical` does, but as it is stored.

    The keys of each map are in the order they have, and what compares equal to a dict but is
    another class keeps its class.
    """
    return pack_plain(_tag(value, "$", MAX_DEPTH, _ROW_STORED))


def ordered_result(value: Any, scope: Scope, lost: dict[type, str]) -> bytes:
    """Encode a result as it is stored, so that `uncanonical` gives it back.

    Args:
        value: the result.
        scope: the classes that it may come back as; instances of others come back as dicts.
        lost: gets each such class, and what its values come back as.
    """
    return pack_plain(_tag(value, "$", MAX_DEPTH, Form(pack_plain, True, scope, lost)))


def canonical_of(data: bytes) -> bytes:
    """Return the canonical form of a value from its ordered form, without making the value.

    An instance of a user's class need not be there, and keeps the name of its class.
    """

    def revive(code: int, raw: memoryview) -> Any:
        if code in (codes.FLOAT32S, codes.FLOAT64S):
            return msgspec.msgpack.Ext(code, bytes(raw))
        value = msgspec.msgpack.decode(raw, ext_hook=revive)
        if code in (codes.SET, codes.FROZENSET):
            value = sorted(map(canonical_of, value))
        elif code == codes.MAP:
            value = sorted([canonical_of(name), canonical_of(child)] for name, child in value)
        elif code == codes.DICT_KIND:
            return value[1]
        elif code == codes.PURE_PATH and value[0] == "PurePosixPath":
            code, value = codes.PATH, value[1]
        elif code == codes.OBJECT:
            value = value[:2]
        return _ext(code, value, _IDENTITY)

    return _pack(msgspec.msgpack.decode(data, ext_hook=revive))


def canonical_call(arguments: bytes) -> bytes:
    """Return the canonical form of a call from that of its arguments as a dict."""
    return _pack(msgspec.msgpack.Ext(codes.CALL, arguments))


class Arguments(dict[str, Any]):
    """The bound arguments of a call with more than the row: never equal to a row that is a dict."""


def _ext(code: int, value: Any, form: Form) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, form.pack(value))


def _tag(value: Any, where: str, depth: int, form: Form) -> Any:
    """Rebuild `value` of types that MessagePack keeps apart; everything else becomes an Ext."""
    kind = type(value)
    if (tag := _TAGGERS.get(kind)) is not None:
        return tag(value, where, depth, form)
    if kind in LEAVES:
        return _tag_leaf(value, where, depth, form)
    if (hook := hook_of(kind)) is not None:
        payload = _tag(_asked(hook.to, value, where), where, _deeper(where, depth), form)
        return _ext(codes.REGISTERED, [hook.name, payload], form)
    if hasattr(kind, "__checkpoint_key__"):
        return _tag_keyed(value, where, depth, form)
    if isinstance(value, enum.Enum):
        return _tag_enum(value, where, depth, form)
    if isinstance(value, dict):
        return _tag_dict_kind(value, where, depth, form)
    return _tag_other(value, where, depth, form)


def _tag_other(value: Any, where: str, depth: int, form: Form) -> Any:
    kind: Any = type(value)
    if (parts := parts_of(kind)) is not None:
        if (instead := becomes(kind)) is not None:
            form.loses(kind, instead)
        code, payload = parts(value, where)
        return _ext(code, _tag(payload, where, depth, form), form)
    if (fields := fields_of(value)) is not None:
        return _tag_record(value, fields, where, depth, form)
    if (items := _items_of(value, where)) is not None:
        form.loses(kind, "a dict")
        return _tag_dict(items, where, depth, form)
    raise EncodeError(
        f"{where}: a value of type {_qualified(value)} cannot be stored or "
        f"compared by content{_advice(value)}",
        where,
    )


def _qualified(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _advice(value: Any) -> str:
    kind = type(value)
    if is_secret(kind):
        return (
            f", for it hides what it holds: leave it out, or say with ckpt.register({kind.__name__}"
            ", to=, back=) that it is to be stored as plain text"
        )
    for convert in ("tolist", "as_py", "to_dict", "to_dicts"):
        if hasattr(value, convert):
            return f": convert it with .{convert}()"
    if isinstance(value, str | int | float | bytes):
        return f": convert it to a plain {kind.__mro__[1].__name__}"
    if callable(value) or hasattr(value, "read"):
        return ": give what it is made from (a name, a path) instead"
    return f": use plain JSON types or a dataclass, or ckpt.register({kind.__name__}, to=, back=)"


def _asked(ask: Callable[[Any], Any], value: Any, where: str) -> Any:
    """Return what the user's code says of a value."""
    try:
        return ask(value)
    except Exception as error:
        raise EncodeError(
            f"{where}: {getattr(ask, '__qualname__', ask)} raised {type(error).__name__} for a "
            f"{type(value).__qualname__}: {error}",
            where,
        ) from error


def _tag_leaf(value: Any, where: str, depth: int, form: Form) -> Any:
    code, to, _ = LEAVES[type(value)]
    if code in (codes.DATETIME, codes.TIME) and not zones.is_exact(value.tzinfo):
        if value.utcoffset() is None:
            raise EncodeError(
                f"{where}: a time in a zone of type {_qualified(value.tzinfo)} shows neither "
                "offset nor name: use zoneinfo.ZoneInfo",
                where,
            )
        form.loses(type(value.tzinfo), "a datetime.timezone of the same offset")
    if isinstance(value, pathlib.PurePosixPath) and not form.stored:
        code, to = codes.PATH, str
    return _ext(code, _tag(to(value), where, depth, form), form)


def _tag_keyed(value: Any, where: str, depth: int, form: Form) -> Any:
    """Encode an object that knows its own identity, which is all that a store has of it."""
    if form.scope is not None:
        raise EncodeError(
            f"{where}: a {_qualified(value)} has a key of its own, but cannot be rebuilt from it: "
            "return plain values",
            where,
        )
    key = _asked(type(value).__checkpoint_key__, value, where)
    return _ext(
        codes.KEYED, [type(value).__name__, _tag(key, where, _deeper(where, depth), form)], form
    )


def _tag_enum(value: enum.Enum, where: str, depth: int, form: Form) -> Any:
    """Encode a member by its value; by its name where the value does not lead back to it."""
    kind, tagged = type(value), None
    is_known = form.knows(kind, "its value")
    with contextlib.suppress(EncodeError):
        tagged = [_tag(value.value, where, depth, form)]
    if not is_known and tagged is not None:
        return tagged[0]
    if tagged is not None and _is_found(value):
        return _ext(codes.ENUM, [kind.__name__, tagged[0]], form)
    return _ext(codes.ENUM_MEMBER, [kind.__name__, value.name], form)


def _is_found(member: enum.Enum) -> bool:
    try:
        return type(member)(member.value) is member and bool(member.value == member.value)
    except Exception:  # noqa: BLE001 - the class's own `_missing_` may raise anything
        return False


def _tag_record(value: Any, fields: dict[str, Any], where: str, depth: int, form: Form) -> Any:
    kind = type(value)
    if not form.knows(kind, "a dict"):
        return _tag_dict(fields, where, depth, form)
    inner = form.within(kind)
    parts = [kind.__name__, _tag_dict(fields, where, depth, inner)]
    if form.scope is not None and (state := state_of(value)):
        parts.append(_tag_state(value, state, where, depth, inner))
    return _ext(codes.OBJECT, parts, form)


def _tag_state(value: Any, state: dict[str, Any], where: str, depth: int, form: Form) -> Any:
    """Encode what an instance has besides its fields.

    A private attribute that cannot be stored (a lock) is left to the class, if it makes one itself.
    """
    for name, child in list(state.get("private", {}).items()):
        try:
            _tag(child, f"{where}.{name}", depth, form)
        except EncodeError:
            if type(default_private(value, name)) is not type(child):
                raise
            del state["private"][name]
    return _tag_dict(state, where, depth, form)


def _items_of(value: Any, where: str) -> dict[Any, Any] | None:
    """Return the items of what looks like a dict but is not one; None for anything else."""
    kind = type(value)
    if isinstance(value, Mapping):
        return {name: value[name] for name in value}
    if kind.__module__ == "sqlite3" and kind.__name__ == "Row":
        pairs = list(zip(value.keys(), value, strict=True))
    elif kind.__module__.startswith("pandas") and kind.__name__ == "Series":
        pairs = list(value.items())
    else:
        return None
    items = dict(pairs)
    if len(items) < len(pairs):
        raise EncodeError(f"{where}: two values of this row have the same name", where)
    return items


def _deeper(where: str, depth: int) -> int:
    if depth == 0:
        raise EncodeError(f"{where[:80]}: nested deeper than {MAX_DEPTH} levels", where)
    return depth - 1


def _tag_text(value: str, _where: str, _depth: int, form: Form) -> Any:
    if _is_utf8(value):
        return value
    return _ext(codes.SURROGATES, value.encode("utf-8", "surrogatepass"), form)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tag_int(value: int, _where: str, _depth: int, form: Form) -> Any:
    if -(1 << 63) <= value < 1 << 64:
        return value
    return _ext(codes.BIGINT, big_int(value), form)


def _tag_list(value: Iterable[Any], where: str, depth: int, form: Form) -> list[Any]:
    depth = _deeper(where, depth)
    return [_tag(child, f"{where}[{i}]", depth, form) for i, child in enumerate(value)]


def _tag_set(value: Iterable[Any], where: str, depth: int, form: Form) -> list[bytes]:
    depth = _deeper(where, depth)
    return sorted(form.pack(_tag(child, f"{where}{{…}}", depth, form)) for child in value)


def _tag_deque(value: collections.deque[Any], where: str, depth: int, form: Form) -> Any:
    return _ext(codes.DEQUE, [value.maxlen, _tag_list(value, where, depth, form)], form)


def _tag_dict(value: dict[Any, Any], where: str, depth: int, form: Form) -> Any:
    depth, pack = _deeper(where, depth), form.pack
    if all(type(name) is str and _is_utf8(name) for name in value):
        return {
            name: _tag(child, where + _step_into(name), depth, form)
            for name, child in value.items()
        }
    pairs = [
        (
            pack(_tag(name, f"{where}.keys()", depth, form)),
            pack(_tag(child, f"{where}[{name!r}]", depth, form)),
        )
        for name, child in value.items()
    ]
    return _ext(codes.MAP, pairs if form.stored else sorted(pairs), form)


_FACTORIES = (bool, bytes, dict, float, frozenset, int, list, set, str, tuple)
FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in _FACTORIES}


def _tag_dict_kind(value: dict[Any, Any], where: str, depth: int, form: Form) -> Any:
    """Encode a dict of another class, which equals a dict: it has the same identity."""
    tagged, kind = _tag_dict(value, where, depth, form), type(value)
    if kind is Arguments:
        return _ext(codes.CALL, tagged, form)
    if not form.stored:
        return tagged
    if kind in (collections.OrderedDict, collections.Counter):
        return _ext(codes.DICT_KIND, [kind.__name__, tagged], form)
    if isinstance(value, collections.defaultdict) and kind is collections.defaultdict:
        factory = value.default_factory
        name = getattr(factory, "__name__", "")
        if factory is None or FACTORIES.get(name) is factory:
            return _ext(codes.DICT_KIND, ["defaultdict", tagged, name or None], form)
    form.loses(kind, "a dict")
    return tagged


def _step_into(name: str) -> str:
    return f".{name}" if name.isidentifier() else f"[{name!r}]"


_TAGGERS: dict[type, Callable[..., Any]] = {
    types.NoneType: lambda value, *_: value,
    bool: lambda value, *_: value,
    float: lambda value, *_: value if value == value else float("nan"),
    bytes: lambda value, *_: value,
    int: _tag_int,
    str: _tag_text,
    list: _tag_list,
    dict: _tag_dict,
    tuple: lambda value, *at: _ext(codes.TUPLE, _tag_list(value, *at), at[-1]),
    set: lambda value, *at: _ext(codes.SET, _tag_set(value, *at), at[-1]),
    frozenset: lambda value, *at: _ext(codes.FROZENSET, _tag_set(value, *at), at[-1]),
    collections.deque: _tag_deque,
    array.array: tag_vector,
}
