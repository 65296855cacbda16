"""What a step captures: its code, the functions it calls, the values it reads. Knows no store.

A value counts if the followed code reads it: through globals and their attributes, closures,
defaults, partial arguments and bound objects. Names that the followed code itself assigns
(counters, caches), values without stable content, and secrets are left out: see `plain.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from xxhash import xxh3_64_hexdigest

from ..values.keys import depends_digest
from ..values.redact import Redactor
from .code_reads import Path
from .follow import ITS_CODE, Walk
from .plain import MOST_TOLD, Content, Leaf, is_changeable, snapshot

DEPENDS = "depends"  # the root that holds the digest of `depends=`; it is in the key
_NAMES = re.compile(r"\w+")
_BINDING = ("closure ", "default ", "argument ", "self")

Roots = dict[str, dict[str, Leaf]]


class Captured(msgspec.Struct, frozen=True):
    """What a step captured at one moment.

    Attributes:
        roots: for each name, the leaves of its value by their paths; for code, one leaf.
        fingerprint: 16 hex digits over all of it; None if its code cannot be seen.
        watched: to tell later, cheaply, whether anything moved.
        code: the code object of the step's function.
        names: of what is watched, those whose value is found by its global name alone.
    """

    roots: Roots
    fingerprint: str | None
    watched: tuple[Watched, ...] = ()
    code: Any = None
    names: tuple[tuple[dict[str, Any], str, Any], ...] = ()

    @property
    def json(self) -> str:
        """The roots as the JSON of the `captured` column."""
        return msgspec.json.encode(self.roots, order="deterministic").decode()

    @property
    def binding(self) -> Roots:
        """What came with the function object: closures, defaults, arguments, bound objects."""
        return {name: root for name, root in self.roots.items() if name.startswith(_BINDING)}

    def has_moved(self) -> bool:
        """Tell whether a captured value was replaced since, or has other content."""
        for namespace, name, value in self.names:
            if namespace.get(name) is not value:
                return True
        return any(watched.has_moved() for watched in self.watched)


class Watched:
    """A value and where it was found: objects are compared by identity, containers by content."""

    __slots__ = ("_changeable", "_copy", "_find", "_value")

    def __init__(self, find: Callable[[], Any], value: Any) -> None:
        self._find, self._value = find, value
        self._changeable = is_changeable(value)
        self._copy = snapshot(value) if self._changeable else None

    def has_moved(self) -> bool:
        """Tell whether it is another object, or has other content."""
        now = self._find()
        if now is not self._value:
            return True
        return self._changeable and bool(snapshot(now) != self._copy)


def capture(
    fn: Any,
    ignore: tuple[str, ...] = (),
    depends: Mapping[str, Any] | None = None,
    bound: Mapping[str, Any] | None = None,
    redactor: Redactor | None = None,
) -> Captured:
    """Return what `fn` captures now.

    Args:
        fn: the step's function.
        ignore: names that do not count, as messages spell them.
        depends: values that are in the key already, by name; they do not count again.
        bound: arguments that are in the key, by name; nor do they.
        redactor: says what is not to be shown of values.
    """
    walk = Walk(fn)
    walk.all()
    roots = _without(_roots(walk, {**(depends or {}), **(bound or {})}), ignore)
    if redactor:
        roots = {name: _redacted(name, leaves, redactor) for name, leaves in roots.items()}
    if (digest := depends_digest(depends)) is not None:
        roots[DEPENDS] = {"": (digest.hex(), None)}
    if ITS_CODE not in roots:
        return Captured(roots, None)
    told = {
        name: {path: leaf and leaf[0] for path, leaf in leaves.items()}
        for name, leaves in roots.items()
    }
    whole = xxh3_64_hexdigest(msgspec.json.encode(told, order="deterministic"))
    names, watched = [], []
    for place in walk.places():
        if place.is_in is not None and not is_changeable(place.value):
            names.append((*place.is_in, place.value))
        else:
            watched.append(Watched(place.find, place.value))
    return Captured(roots, whole, tuple(watched), walk.top_code, tuple(names))


def _without(roots: Roots, ignore: tuple[str, ...]) -> Roots:
    """Leave out what `ignore` names: a name, or a name with a path, `CONFIG['started']`."""
    kept: Roots = {}
    for name, leaves in roots.items():
        bare = name.partition(" ")[2] or name
        if bare in ignore or name in ignore:
            continue
        kept[name] = {
            path: leaf
            for path, leaf in leaves.items()
            if not any((bare + path).startswith(it) for it in ignore if it.startswith(bare))
        }
    return kept


def _roots(walk: Walk, depends: Mapping[str, Any]) -> Roots:
    """Return code and values by name."""
    found: Roots = {label: {"": (digest, None)} for label, digest in walk.code.items()}
    for place in walk.places():
        if _is_explicit(place.name, place.value, depends):
            continue
        leaves = {
            place.path + path: leaf
            for path, leaf in Content(place.value, place.name, walk.touched).leaves.items()
            if not walk.is_assigned(place.root, place.path + path)
        }
        if leaves:
            found.setdefault(place.root, {}).update(_told(leaves, place.path))
    return found


def _redacted(name: str, leaves: dict[str, Leaf], redactor: Redactor) -> dict[str, Leaf]:
    """Return leaves whose short forms hide what is to be kept out; digests stay."""
    hidden = redactor.hides(name.rpartition(" ")[2])
    kept: dict[str, Leaf] = {}
    for path, leaf in leaves.items():
        named = hidden or any(map(redactor.hides, _NAMES.findall(path)))
        short = None if leaf is None or named else leaf[1]
        kept[path] = leaf and (leaf[0], None if short is None else redactor.text(short))
    return kept


def _told(leaves: dict[Path, Leaf], prefix: Path) -> dict[str, Leaf]:
    """Return leaves with their paths as text; one digest of them all if they are many."""
    if len(leaves) > MOST_TOLD:
        digests = {path_text(path): leaf and leaf[0] for path, leaf in leaves.items()}
        whole = xxh3_64_hexdigest(msgspec.json.encode(digests, order="deterministic"))
        return {path_text(prefix): (whole, f"{len(leaves):,} values")}
    return {path_text(path): leaf for path, leaf in leaves.items()}


def path_text(path: Path) -> str:
    """Return a path as one writes it: `['model'].name`."""
    return "".join(f".{name}" if kind == "." else f"[{name!r}]" for kind, name in path)


def _is_explicit(name: Any, value: Any, depends: Mapping[str, Any]) -> bool:
    """Tell whether a value is one of `depends=`, by its name or as the same object."""
    for called, explicit in depends.items():
        same = explicit is value and not isinstance(value, int | float | bool | None)
        if same and (not isinstance(value, str | bytes) or len(value) > MOST_TOLD // 10):
            return True
        alike = called.casefold() == str(name).casefold()
        if alike and Content(value, "").leaves == Content(explicit, "").leaves:
            return True
    return False
