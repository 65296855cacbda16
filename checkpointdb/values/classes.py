"""Which classes a result may come back as: those of an annotation, then of the function's globals.

A store has only the names of classes. A name is looked up here and nowhere else, so that nothing is
ever imported by a name from a file.
"""

from __future__ import annotations

import collections
import enum
import functools
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from .hooks import hook_of
from .leaves import LEAVES
from .packages import parts_of
from .records import NAMESPACES, field_names, is_model

_NAMESPACES = {kind.__name__: kind for kind in NAMESPACES}


class Scope:
    """The classes that a name may stand for, looked up from the innermost scope outwards.

    Args:
        annotation: classes in it, and in the fields of those, are known.
        outer: where other names are looked up.
        namespace: of the outermost: the function's globals.
    """

    def __init__(
        self,
        annotation: Any = Any,
        outer: Scope | None = None,
        namespace: Mapping[str, Any] | None = None,
    ) -> None:
        self._names, self._outer, self._namespace = _named(annotation), outer, namespace or {}

    def find(self, name: str) -> type | None:
        """Return the class of a name; None if there is none, or two of them."""
        if name in self._names:
            return self._names[name]
        if self._outer is not None:
            return self._outer.find(name)
        found = self._namespace.get(name, _NAMESPACES.get(name))
        return found if _is_rebuilt(found) and found.__name__ == name else None

    def within(self, kind: type) -> Scope:
        """Return the scope of the fields of a class."""
        return Scope(kind, self)


def _is_rebuilt(kind: Any) -> bool:
    """Tell whether instances of a class are built again, by the kind of class that it is."""
    if not isinstance(kind, type) or isinstance(kind, types.GenericAlias):
        return False
    return issubclass(kind, enum.Enum) or field_names(kind) is not None


def _named(annotation: Any) -> dict[str, type | None]:
    """Return the classes in an annotation by name; None for a name that two of them have."""
    if annotation is Any:
        return {}
    if isinstance(annotation, type):
        return _named_in_class(annotation)
    return _gathered(annotation)


@functools.lru_cache(maxsize=1024)
def _named_in_class(kind: type) -> dict[str, type | None]:
    return _gathered(kind)


def _gathered(annotation: Any) -> dict[str, type | None]:
    names: dict[str, type | None] = {}
    for kind in classes_in(annotation):
        if _is_rebuilt(kind):
            name = kind.__name__
            names[name] = kind if names.get(name, kind) is kind else None
    return names


def classes_in(annotation: Any) -> Iterator[type]:
    """Yield each class in an annotation and in the fields of the classes in it, once."""
    seen, todo = set[int](), [annotation]
    while todo:
        it = todo.pop()
        if id(it) in seen:
            continue
        seen.add(id(it))
        if isinstance(it, type) and not isinstance(it, types.GenericAlias):
            yield it
            todo += hints(it).values()
        todo += parts(it)


def parts(annotation: Any) -> tuple[Any, ...]:
    """Return what an annotation that is no class is made of."""
    if isinstance(annotation, list):  # the arguments of a Callable
        return ()
    inner = getattr(annotation, "__supertype__", None)  # a NewType
    if inner is None and type(annotation).__name__ == "TypeAliasType":
        inner = annotation.__value__
    if inner is None and isinstance(annotation, typing.TypeVar):
        return (annotation.__bound__, *annotation.__constraints__)
    if inner is not None:
        return (inner,)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return tuple(map(type, args))
    if origin is typing.Annotated:
        return args[:1]
    return args if origin is None else (origin, *args)


def hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a class's fields; those that cannot be resolved are left out."""
    if is_model(kind):
        return {name: info.annotation for name, info in kind.model_fields.items()}  # type: ignore[attr-defined]
    names = tuple(getattr(kind, "__annotations__", ())) if typing.is_typeddict(kind) else None
    if names is None and not (names := field_names(kind)):
        return {}
    try:
        found = typing.get_type_hints(kind)
    except Exception:  # noqa: BLE001 - one name that cannot be resolved must not hide the others
        found = _hints_one_by_one(kind)
    return {name: hint for name, hint in found.items() if name in names}


def _hints_one_by_one(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        namespace = vars(sys.modules.get(base.__module__, typing))
        for name, hint in inspect.get_annotations(base).items():
            found |= resolved(name, hint, namespace, dict(vars(base)))
    return found


def resolved(
    name: str, hint: Any, namespace: dict[str, Any], local: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return one annotation under its name, with texts in it resolved; nothing if it cannot be."""
    holder = types.SimpleNamespace(__annotations__={name: hint})
    try:
        return typing.get_type_hints(holder, namespace, local, include_extras=True)
    except Exception:  # noqa: BLE001 - a name that is not there: known to a type checker alone
        return {}


# --- what can never be stored


class Unstorable(typing.NamedTuple):
    """The first class in an annotation whose values cannot be stored, and where it stands."""

    where: str
    kind: type


_NEVER = (
    "Generator",
    "AsyncGenerator",
    "Coroutine",
    "Awaitable",
    "Callable",
    "AsyncIterator",
    "Iterator",
)
_LIKE_DICTS = {"sqlite3": ("Row",), "pandas": ("Series",)}
_FOREIGN = ("numpy", "pandas", "polars", "pyarrow", "torch", "PIL")  # others of theirs are refused
_CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque)


def first_unstorable(annotation: Any, where: str = "$", depth: int = 8) -> Unstorable | None:
    """Find a class in an annotation of which no value can be stored; None if all may be.

    Doubtful cases are let through: a union with a class that can be stored, a base class.
    """
    if depth == 0 or annotation is Any or annotation is None or isinstance(annotation, str):
        return None
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        found = [first_unstorable(it, where, depth - 1) for it in typing.get_args(annotation)]
        return None if None in found else found[0]
    if origin is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        return None if _has_serializer(metadata) else first_unstorable(inner, where, depth - 1)
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return _unstorable_class(annotation, where, depth)
    if origin is typing.Literal:
        return None
    inside = parts(annotation)
    if isinstance(origin, type):
        inside = (origin, *(inside[1:] if issubclass(origin, _CONTAINERS) else ()))
    return _first(inside, where, depth)


def _first(annotations: Any, where: str, depth: int) -> Unstorable | None:
    for it in annotations:
        if it is not Ellipsis and (found := first_unstorable(it, where, depth - 1)):
            return found
    return None


def _unstorable_class(kind: type, where: str, depth: int) -> Unstorable | None:
    if typing.is_typeddict(kind) or (field_names(kind) is not None and hook_of(kind) is None):
        if has_own_serializer(kind):
            return None
        for name, hint in _annotated_hints(kind).items():
            if found := first_unstorable(hint, f"{where}.{name}", depth - 1):
                return found
        return None
    return None if _may_be_stored(kind) else Unstorable(where, kind)


def _annotated_hints(kind: type) -> dict[str, Any]:
    if not is_model(kind):
        return hints(kind)
    return {
        name: info.annotation
        for name, info in kind.model_fields.items()  # type: ignore[attr-defined]
        if not _has_serializer(info.metadata)
    }


def _has_serializer(metadata: Any) -> bool:
    return any("Serializer" in type(it).__name__ for it in metadata)


def has_own_serializer(kind: type) -> bool:
    """Tell whether a model says itself how it is written, in whole or a field of it."""
    decorators = getattr(kind, "__pydantic_decorators__", None)
    return decorators is not None and bool(
        decorators.field_serializers or decorators.model_serializers
    )


def _may_be_stored(kind: type) -> bool:
    if hook_of(kind) is not None or kind in LEAVES or parts_of(kind) is not None:
        return True
    if kind.__name__ in _NEVER and kind.__module__ in ("collections.abc", "typing"):
        return False
    if is_secret(kind):
        return False
    if kind.__module__ in ("builtins", "collections", "array"):
        return not issubclass(kind, BaseException | type | types.FunctionType)
    if issubclass(kind, enum.Enum | Mapping) or hasattr(kind, "__get_pydantic_core_schema__"):
        return True
    if kind.__name__ in _LIKE_DICTS.get(root := kind.__module__.partition(".")[0], ()):
        return True
    if root in _FOREIGN:
        return False
    return inspect.isabstract(kind) or _is_base(kind) or kind.__module__ == "typing"


def _is_base(kind: type) -> bool:
    """Tell whether a class is meant to be derived from: a value may be of another class."""
    return getattr(kind, "_is_protocol", False) or bool(type.__subclasses__(kind))


def is_secret(kind: type) -> bool:
    """Tell whether values of a class hide themselves: pydantic's `SecretStr` and its like."""
    return any(
        base.__name__.startswith("Secret") and base.__module__.startswith("pydantic")
        for base in kind.__mro__
    )
