"""What a captured value holds, as leaves: a path, a digest, a short form. Knows no code.

Left out: things without stable content (clients, locks), and secrets, by their names (`API_KEY`,
`HF_TOKEN`, `password`), their types (`SecretStr`) or the look of their text (`sk-...`).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import itertools
import os
import re
import string
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from xxhash import xxh3_64_hexdigest

from ..errors import EncodeError
from ..values.canonical import canonical
from ..values.records import NAMESPACES, field_names, is_bag
from .code_reads import Path

# A digest, and a short form for people, or null; null for what has no stable content.
Leaf = tuple[str, str | None] | None

MOST_LEAVES = 10_000  # of one value; a larger one counts by its type and length
MOST_BYTES = 16 << 20  # of one text or array; a larger one counts by its type and length
MOST_TOLD = 100  # leaves kept one by one; of more, one digest
_SHORT = 60  # characters
_DEPTH = 16
_FRAMES = ("pandas", "polars")

ABSENT: Any = object()
NO_ITEM: Any = object()  # a container was asked for an item that it does not have

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = frozenset((
    "apikey", "authorization", "bearer", "credential", "credentials", "passphrase", "passwd",
    "password", "pwd", "secret", "secrets",
))  # fmt: skip
_SECRET_PAIRS = frozenset((first, "key") for first in ("api", "access", "private", "signing"))
# of a tokenizer, not of an account
_HARMLESS_TOKENS = frozenset((
    "bos", "cls", "end", "eos", "image", "mask", "max", "min", "new", "next", "num", "pad", "per",
    "prefix", "sep", "special", "start", "stop", "unk",
))  # fmt: skip
_SECRET_TEXT = re.compile(
    r"\b(sk|pk|rk)[-_](?=[\w-]*\d)[\w-]{16,}|\bgh[pousr]_\w{20,}|\bhf_\w{20,}|\bxox[abp]-|\bAKIA\w{12,}"
    r"|\bAIza[\w-]{20,}|-----BEGIN|\bBearer \S+|\beyJ[\w-]{10,}\.|://[^/\s:@]+:[^/\s@]+@"
)
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = tuple({os.path.dirname(path(os.__file__)) + os.sep for path in (str, os.path.realpath)})
_INSTALLED = re.compile(r"[\\/](site|dist)-packages[\\/]")


def is_own_file(path: str | None) -> bool:
    """Tell whether code in `path` is the user's: not Python's, not installed, not ours."""
    if path is None or path.startswith(("<frozen", _HERE)):
        return False
    return not _INSTALLED.search(path) and not path.startswith(_STDLIB)


def is_own_module(name: str | None) -> bool:
    """Tell whether a module is the user's; `__main__` is, in a notebook too."""
    if name in ("__main__", "__mp_main__"):
        return True
    module = sys.modules.get(name or "")
    if module is None:  # made by `exec`
        return name is not None and name not in sys.builtin_module_names
    path = getattr(module, "__file__", None)
    return is_own_file(path) if path else name not in sys.builtin_module_names


def is_own_class(kind: type) -> bool:
    """Tell whether a class is defined in a module of the user's."""
    return is_own_module(getattr(kind, "__module__", None))


def is_secret(name: Any) -> bool:
    """Tell whether a name says that its value is a secret."""
    if not isinstance(name, str):
        return False
    words = [word.lower() for word in _WORDS.findall(name)]
    if not _SECRET_WORDS.isdisjoint(words) or "auth" in words[-1:]:
        return True
    if not _SECRET_PAIRS.isdisjoint(itertools.pairwise(words)):
        return True
    return words[-1:] == ["token"] and _HARMLESS_TOKENS.isdisjoint(words)


def is_secret_value(value: Any) -> bool:
    """Tell whether a value is a secret by its type, or by the look of its text."""
    if type(value) in (str, bytes):
        text = value if type(value) is str else value.decode("latin-1")
        return len(text) < 10_000 and _SECRET_TEXT.search(text) is not None
    return any("Secret" in kind.__name__ for kind in type(value).__mro__)


class Touched(msgspec.Struct):
    """Ids of objects whose content the step's own code changes, and of members that it assigns."""

    objects: set[int] = msgspec.field(default_factory=set)
    members: set[tuple[int, Any]] = msgspec.field(default_factory=set)


class Content:
    """The leaves of one value, and the functions and classes among them.

    Args:
        value: anything.
        name: what it is called, for it may be a secret.
        touched: what is left out.
    """

    def __init__(self, value: Any, name: Any, touched: Touched | None = None) -> None:
        self._touched = touched or Touched()
        self.leaves: dict[Path, Leaf] = {}
        self.code: list[tuple[Path, Any]] = []
        self._inside: set[int] = set()
        if not is_secret(name):
            self._walk(value, ())

    def _walk(self, value: Any, path: Path) -> None:
        if len(self.leaves) > MOST_LEAVES or is_secret_value(value) or value is ABSENT:
            return
        if id(value) in self._touched.objects or value is os.environ:  # one variable, never all
            return
        value = _inside(value)
        if callable(value) and not isinstance(value, Mapping) and _is_code(value):
            self.code.append((path, value))
            name = getattr(value, "__qualname__", type(value).__qualname__)
            self.leaves[path] = _digest(["code", str(name)]), str(name)
            return
        children = _children(value)
        if children is None:
            self.leaves[path] = _leaf(value)
        elif id(value) in self._inside or len(path) >= _DEPTH:
            self.leaves[path] = None
        else:
            self._descend(value, children, path)

    def _descend(self, value: Any, children: Iterator[tuple[Any, Any]], path: Path) -> None:
        size = len(value) if hasattr(value, "__len__") else 0
        if size > MOST_LEAVES:
            self.leaves[path] = _digest([type(value).__name__, size]), f"{size:,} items"
            return
        self._inside.add(id(value))
        before = len(self.leaves)
        for element, child in children:
            if (id(value), element) in self._touched.members:
                continue
            if not is_secret(element[1]):
                self._walk(child, (*path, element))
        self._inside.discard(id(value))
        if len(self.leaves) == before:
            self.leaves[path] = _digest([type(value).__name__, "empty"]), "nothing"


def _inside(value: Any) -> Any:
    """Return what counts of a value that is neither plain nor a record; else the value itself."""
    kind = type(value)
    if kind is string.Template:
        return value.template
    if kind is contextvars.ContextVar:
        with contextlib.suppress(LookupError):  # it has no default
            return contextvars.Context().run(value.get)
    package = kind.__module__.partition(".")[0]
    if package == "polars" and kind.__name__ == "Series":
        return value.to_list()
    return value


def _is_code(value: Any) -> bool:
    """Tell whether a callable is a function or a class, or wraps one."""
    if inspect.isroutine(value) or isinstance(value, type | functools.partial):
        return True
    return hasattr(value, "__wrapped__")


def _leaf(value: Any) -> Leaf:
    if value is NO_ITEM:
        return _digest(["no item"]), "nothing"
    if isinstance(value, re.Pattern):
        return _digest([value.pattern, value.flags]), _short(value.pattern)
    size = len(value) if isinstance(value, str | bytes) else getattr(value, "nbytes", 0)
    if isinstance(size, int) and size > MOST_BYTES:
        return _digest([type(value).__name__, size]), f"{size:,} bytes"
    is_array = hasattr(type(value), "__array_interface__") and hasattr(value, "dtype")
    if is_array and not value.dtype.hasobject:
        return _digest([value.dtype.str, list(value.shape), value.tobytes()]), None
    try:
        digest = xxh3_64_hexdigest(canonical(value))
    except EncodeError:
        return None
    except Exception:  # noqa: BLE001 - the user's own __eq__, __iter__ ... : unknown
        return None
    return digest, _short(value)


def _digest(value: Any) -> str:
    return xxh3_64_hexdigest(canonical(value))


def _short(value: Any) -> str | None:
    if type(value) not in (str, int, float, bool, type(None)):
        return None
    if type(value) is int and value.bit_length() > _SHORT * 4:  # Python may refuse to write it
        return f"an int of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _children(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """Return what a container or a record holds, each with its element of the path."""
    if isinstance(value, dict | types.MappingProxyType):
        return ((("[", _item(name)), child) for name, child in list(value.items()))
    fields = fields_of(value)
    if fields is not None:
        return (((".", name), child) for name, child in fields.items())
    if isinstance(value, list | tuple):
        return ((("[", i), child) for i, child in enumerate(list(value)))
    if _is_frame(value):
        return ((("[", _item(name)), value[name]) for name in list(value.columns))
    return None


def _is_frame(value: Any) -> bool:
    """Tell whether a value is a data frame of pandas or polars: its columns count."""
    kind = type(value)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] in _FRAMES


def _item(name: Any) -> Any:
    return name if isinstance(name, str | int) else repr(_leaf(name))


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of an object that is a record of values; None if it is none."""
    kind = type(value)
    if isinstance(value, type | types.ModuleType) or inspect.isroutine(value):
        return None
    if hasattr(kind, "__checkpoint_key__"):  # it says itself what it is
        return None
    names: Iterable[str] | None = field_names(kind)
    if names is None or is_bag(kind):
        if not (isinstance(value, NAMESPACES) or _is_record(kind)):
            return None
        names = _attributes(value)
    static = {name: inspect.getattr_static(value, name, None) for name in names}
    return {
        name: getattr(value, name, None) if inspect.isdatadescriptor(found) else found
        for name, found in static.items()
    }


def _is_record(kind: type) -> bool:
    if kind.__module__ in ("builtins", "enum") or issubclass(kind, BaseException):
        return False
    if any(base.__module__ == "enum" for base in kind.__mro__):
        return False
    return is_own_class(kind) or hasattr(kind, "__attrs_attrs__")


def _attributes(value: Any) -> list[str]:
    slots = [
        name
        for kind in type(value).__mro__
        for name in _names_in(kind.__dict__.get("__slots__", ()))
        if name not in ("__dict__", "__weakref__") and hasattr(value, name)
    ]
    kind = type(value)
    cached = {
        name for name in getattr(value, "__dict__", ())
        if type(inspect.getattr_static(kind, name, None)).__name__ == "cached_property"
    }  # fmt: skip
    return [*slots, *(name for name in getattr(value, "__dict__", ()) if name not in cached)]


def _names_in(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def is_changeable(value: Any) -> bool:
    """Tell whether the content of a value can change while it stays the same object."""
    return isinstance(value, dict | list | set | bytearray) or fields_of(value) is not None


def snapshot(value: Any, depth: int = _DEPTH) -> Any:
    """Return a copy of the containers in a value, to compare it with later by `==`."""
    if depth == 0:
        return value
    if isinstance(value, dict):
        return {name: snapshot(child, depth - 1) for name, child in list(value.items())}
    fields = fields_of(value)
    if fields is not None:
        return {name: snapshot(child, depth - 1) for name, child in fields.items()}
    if isinstance(value, list | tuple):
        return [snapshot(child, depth - 1) for child in list(value)]
    return set(value) if isinstance(value, set) else value
