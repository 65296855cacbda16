"""What makes two rows equal, and what is kept of a row. Knows values; knows nothing of the store.

key = xxh3_128(step name, step version, canonical row): short, fast, and made to collide at will by
whoever wants to (XXH3 is no cryptographic hash). So each record also has its row's identity, an
unkeyed BLAKE2b digest of the same canonical row, and a hit is compared with it.
"""

from __future__ import annotations

from _blake2 import blake2b  # what hashlib.blake2b is; hashlib itself takes 2 ms to import
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec
from xxhash import xxh3_128_digest

from ..errors import DecodeError, EncodeError
from .canonical import Arguments, canonical, canonical_call, canonical_of
from .codec import decode, encode, encode_plain
from .plain import is_plain
from .redact import Redactor

KeyRecipe = None | str | tuple[str, ...] | Callable[[Any], Any]
Version = int | str
Kept = Literal["row", "key", "none"]

# What the stored input of a record is; codes are part of the file format.
ROW, ARGUMENTS, KEY = 0, 1, 2

# 0xc1 is the one byte that no MessagePack document contains, so a counted key is never a plain one.
_NTH = b"\xc1%d"
_pack = msgspec.msgpack.Encoder(order="deterministic").encode


def key_of(name: str, version: Version, row: Any, depends: Mapping[str, Any] | None = None) -> str:
    """Return the key of `row` under the step `name` at `version`, 32 hex digits.

    It is the same in every process, on every platform and Python version; dict order does not
    matter, types do.

    Raises:
        EncodeError: the row has no stable content; `.where` is the place.
    """
    prefix = _prefix(name, version, depends_digest(depends))
    return xxh3_128_digest(prefix + canonical(row)).hex()


def digest(content: bytes) -> bytes:
    """Return the 16-byte digest of canonical bytes.

    It has no secret, so that stores can be merged: whoever knows a row can test whether it is
    there.
    """
    return blake2b(content, digest_size=16).digest()


def depends_digest(depends: Mapping[str, Any] | None) -> bytes | None:
    """Return the digest of what `depends=` names, which is part of every key; None for nothing.

    Raises:
        EncodeError: a value has no stable content; `.where` is the place.
    """
    return digest(canonical(dict(depends))) if depends else None


def _prefix(name: str, version: Version, depends: bytes | None = None) -> bytes:
    return msgspec.msgpack.encode((name, version) if depends is None else (name, version, depends))


class Keyer:
    """Compute the keys and identities of one step's rows, and say what is kept of each.

    Args:
        name: the step's name.
        version: the step's version.
        recipe: None for the whole row; field names, or a callable on the row, to narrow identity.
        keep: what is stored of a row: `"row"`, `"key"` (what the recipe leaves of it), `"none"`.
            Arguments of a call that the recipe leaves out are never stored.
        depends: the digest of what `depends=` names, see `depends_digest`.
        bound: arguments that are the same for every row: those of a partial.
        row_name: the name of the argument that is the row, next to those.
        redactor: what is not stored of a row.
    """

    def __init__(
        self,
        name: str,
        version: Version,
        recipe: KeyRecipe = None,
        keep: Kept = "row",
        depends: bytes | None = None,
        bound: Mapping[str, Any] | None = None,
        row_name: str = "row",
        redactor: Redactor | None = None,
    ) -> None:
        self._recipe, self._keep = recipe, keep
        self.depends, self._bound, self._row_name = depends, dict(bound or {}), row_name
        self._redactor = redactor or None  # one without rules costs nothing
        self._prefix = _prefix(name, version, depends)
        self._narrow = _narrower(recipe)
        self._is_simple = not self._bound and self._redactor is None

    def under(self, name: str, version: Version) -> Keyer:
        """Return the keyer of another step or version with the same recipe."""
        return Keyer(
            name, version, self._recipe, self._keep, self.depends, self._bound, self._row_name,
            self._redactor,
        )  # fmt: skip

    @property
    def is_narrow(self) -> bool:
        """Whether a part of the row makes its identity."""
        return self._narrow is not None

    def narrowed(self, row: Any) -> Any:
        """Return what of the row, and of bound arguments, makes its identity."""
        content = row if self._narrow is None else self._narrow(row)
        return self._with_bound(content) if self._bound else content

    def _with_bound(self, content: Any) -> Arguments:
        own = content if isinstance(content, Arguments) else {self._row_name: content}
        return Arguments(self._bound | own)

    def identify(self, row: Any) -> tuple[bytes, bytes, int]:
        """Return the row's key, its identity, and what `is_plain` says of it.

        Raises:
            EncodeError: the row, or what `key=` makes of it, has no stable content.
        """
        content = row if self._narrow is None else self._narrow(row)
        if self._bound:
            content = self._with_bound(content)
        if plain := self._is_simple and is_plain(content):
            try:
                packed = _pack(content)
                identity = blake2b(packed, digest_size=16).digest()
                key = xxh3_128_digest(self._prefix + packed)
                return key, identity, plain if content is row else 0
            except (OverflowError, UnicodeEncodeError):
                pass
        return (*self._of(self._canonical(content)), 0)

    def _canonical(self, content: Any) -> bytes:
        try:
            return canonical(content)
        except EncodeError as error:
            if self._narrow is None:
                error.args = (f"{error}; or leave it out of the row's identity with key=",)
            raise

    def _of(self, content: bytes) -> tuple[bytes, bytes]:
        return xxh3_128_digest(self._prefix + content), digest(content)

    def of_stored(self, stored: str | bytes, form: int) -> tuple[bytes, bytes]:
        """Return the key and identity of a row from its stored form.

        Raises:
            EncodeError: a part that makes the identity was not stored.
        """
        if self._narrow is not None and form != KEY:
            value = decode(stored)
            return self.identify(Arguments(value) if form == ARGUMENTS else value)[:2]
        content = canonical_of(stored) if isinstance(stored, bytes) else canonical(decode(stored))
        return self._of(canonical_call(content) if form == ARGUMENTS else content)

    def stored(self, row: Any, plain: int) -> tuple[str | bytes | None, int, bytes | None]:
        """Return the stored form of a row (None if nothing is kept), which form it is, its digest.

        The digest is of the whole row, where its identity is of a part only; None if the rest
        cannot be encoded.

        Args:
            row: the row, not yet given to the step, which may change it.
            plain: what `identify` said.
        """
        if plain and self._keep == "row":
            return encode_plain(row, plain), ROW, None
        if self._bound and self._narrow is None:
            row = self._with_bound(row)
        if isinstance(row, Arguments):
            return (*self._stored_arguments(row), None)
        whole = None if self._narrow is None else _digest_or_none(row)
        if self._keep == "none":
            return None, ROW, whole
        if self._keep == "key" and self._narrow is not None:
            return encode(self._redacted(self._narrow(row))), KEY, whole
        try:
            return encode(self._redacted(row)), ROW, whole
        except EncodeError:
            if self._narrow is None:
                raise
            return None, ROW, None  # what a narrowed identity leaves out may be anything

    def _stored_arguments(self, row: Arguments) -> tuple[str | bytes | None, int]:
        if self._keep == "none":
            return None, ARGUMENTS
        if self._narrow is None:
            return encode(self._redacted(dict(row))), ARGUMENTS
        return encode(self._redacted(self._narrow(row))), KEY

    def _redacted(self, value: Any) -> Any:
        return value if self._redactor is None else self._redactor.value(value)

    def row_digest(self, row: Any) -> bytes | None:
        """Return the digest that `stored` gives for a whole row; None where it gives none."""
        if self._narrow is None or isinstance(row, Arguments):
            return None
        return _digest_or_none(row)

    def is_unchanged(
        self,
        row: Any,
        identity: bytes,
        plain: int,
        stored: str | bytes | None,
        whole: bytes | None = None,
    ) -> bool:
        """Tell whether a row is what it was when `identify` and `stored` said this of it.

        The stored form of a whole plain row tells such rows apart as identities do, at half the
        cost.
        """
        try:
            if plain and self._keep == "row":
                return is_plain(row) == plain and encode_plain(row, plain) == stored
            if self.identify(row)[1] != identity:
                return False
            return whole is None or self.row_digest(row) == whole
        except (EncodeError, OverflowError, UnicodeEncodeError):
            return False

    def nth(self, key: bytes, n: int) -> bytes:
        """Return the key of the n-th equal row (n counts from 0) under `duplicates="separate"`."""
        return key if n == 0 else xxh3_128_digest(key + _NTH % n)


def _digest_or_none(row: Any) -> bytes | None:
    try:
        return digest(canonical(row))
    except EncodeError:
        return None


def describe_recipe(recipe: KeyRecipe, depends: Iterable[str] = ()) -> str:
    """Return a key recipe as JSON: null for the row, a list of fields, or the callable's name.

    With names of `depends=` it is an object of both: `{"key": ..., "depends": [...]}`.
    """
    described: Any = None
    if callable(recipe):
        described = {"function": getattr(recipe, "__qualname__", type(recipe).__qualname__)}
    elif recipe is not None:
        described = sorted(_names(recipe))
    names = sorted(depends)
    return _to_json({"key": described, "depends": names} if names else described)


def depends_of(described: str) -> tuple[str, ...]:
    """Return the names of `depends=` in a described recipe."""
    return _both(described)[1]


def with_depends(described: str, names: Iterable[str]) -> str:
    """Return a described recipe with other names of `depends=`."""
    recipe, names = _both(described)[0], sorted(names)
    return _to_json({"key": recipe, "depends": names} if names else recipe)


def _both(described: str) -> tuple[Any, tuple[str, ...]]:
    recipe: Any = None
    names: Any = ()
    try:
        recipe = msgspec.json.decode(described)
    except (TypeError, ValueError, RecursionError) as error:
        raise DecodeError(f"the key recipe of a step cannot be read: {error}") from error
    if isinstance(recipe, dict) and "depends" in recipe:
        recipe, names = recipe.get("key"), recipe["depends"]
    is_function = isinstance(recipe, dict) and type(recipe.get("function")) is str
    if not _are_texts(names) or not (
        recipe is None or is_function or (recipe and _are_texts(recipe))
    ):
        raise DecodeError("the key recipe of a step is not one that checkpointdb writes")
    return recipe, tuple(names)


def _are_texts(names: Any) -> bool:
    return isinstance(names, list | tuple) and all(type(name) is str for name in names)


def recipe_of(described: str) -> tuple[str, ...] | None:
    """Return the key recipe that `describe_recipe` described, without the names of `depends=`.

    Raises:
        ValueError: it is a function, which a store does not hold.
    """
    recipe, _ = _both(described)
    if isinstance(recipe, dict):
        raise ValueError(  # noqa: TRY004 - it is what the store says, not what was passed
            f"rows are identified by the function {recipe['function']}, which the store does not "
            "hold: use the step itself"
        )
    return None if recipe is None else tuple(recipe)


def recipe_in_words(described: str) -> str:
    """Name a described recipe for people: `row`, the fields, or the callable."""
    recipe, names = _both(described)
    if recipe is None:
        words = "row"
    else:
        words = f"{recipe['function']}()" if isinstance(recipe, dict) else ", ".join(recipe)
    return f"{words}, with {', '.join(names)}" if names else words


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _names(recipe: Any) -> tuple[str, ...]:
    names = (recipe,) if isinstance(recipe, str) else recipe
    if not (isinstance(names, tuple | list) and names and all(type(n) is str for n in names)):
        raise TypeError(f"key= takes field names or a callable on the row, not {recipe!r}")
    return tuple(names)


def _narrower(recipe: KeyRecipe) -> Callable[[Any], Any] | None:
    if recipe is None or callable(recipe):
        return recipe
    names = _names(recipe)

    def fields(row: Any) -> dict[str, Any]:
        try:
            if isinstance(row, Mapping):
                return {name: row[name] for name in names}
            return {name: getattr(row, name) for name in names}
        except (KeyError, AttributeError) as error:
            missing = error.name if isinstance(error, AttributeError) else error.args[0]
            raise EncodeError(
                f"$.{missing}: key= names this field, but the row does not have it", f"$.{missing}"
            ) from None

    return fields
