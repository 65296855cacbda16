"""What makes two rows equal. Knows values; knows nothing of the store, of policies or of runs.

key = xxh3_128(step name, step version, canonical row), 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from xxhash import xxh3_128_digest

from ..errors import EncodeError
from .canonical import canonical, is_plain
from .codec import decode, encode, plain_text

KeyRecipe = None | str | tuple[str, ...] | Callable[[Any], Any]
Version = int | str

# 0xc1 is the one byte that no MessagePack document contains, so a counted key is never a plain one.
_NTH = b"\xc1%d"
_pack = msgspec.msgpack.Encoder(order="deterministic").encode


def key_of(name: str, version: Version, row: Any) -> bytes:
    """Return the 16-byte key of `row` under the step `name` at `version`.

    It is the same in every process, on every platform and Python version; dict order does not
    matter, types do.

    Raises:
        EncodeError: the row has no stable content; `.where` is the place.
    """
    return xxh3_128_digest(_prefix(name, version) + canonical(row))


def _prefix(name: str, version: Version) -> bytes:
    return msgspec.msgpack.encode((name, version))


class Keyer:
    """Compute the keys of one step's rows.

    Args:
        name: the step's name.
        version: the step's version.
        recipe: None for the whole row; field names, or a callable on the row, to narrow identity.
    """

    def __init__(self, name: str, version: Version, recipe: KeyRecipe = None) -> None:
        self._recipe = recipe
        self._prefix = _prefix(name, version)
        self._narrow = _narrower(recipe)

    def under(self, name: str, version: Version) -> Keyer:
        """Return the keyer of another step or version with the same recipe."""
        return Keyer(name, version, self._recipe)

    def narrowed(self, row: Any) -> Any:
        """Return what of the row makes its identity."""
        return row if self._narrow is None else self._narrow(row)

    def identify(self, row: Any) -> tuple[bytes, bool]:
        """Return the row's key, and whether the row is plain JSON.

        Raises:
            EncodeError: the row, or what `key=` makes of it, has no stable content.
        """
        content = row if self._narrow is None else self._narrow(row)
        if is_plain(content):
            try:
                return xxh3_128_digest(self._prefix + _pack(content)), content is row
            except (OverflowError, UnicodeEncodeError):
                pass
        return xxh3_128_digest(self._prefix + canonical(content)), False

    def of_stored(self, stored: str | bytes) -> bytes:
        """Return the key of a row from its stored form."""
        if self._narrow is None and isinstance(stored, bytes):
            return xxh3_128_digest(self._prefix + stored)  # it is the canonical encoding
        return self.identify(decode(stored))[0]

    def stored(self, row: Any, plain: bool) -> str | bytes | None:
        """Return the stored form of a row, None if it cannot be stored and need not be.

        Args:
            row: the row, not yet given to the step, which may change it.
            plain: what `identify` said.
        """
        if plain:
            return plain_text(row)
        try:
            return encode(row)
        except EncodeError:
            if self._narrow is None:
                raise
            return None  # what a narrowed identity leaves out may be anything

    def nth(self, key: bytes, n: int) -> bytes:
        """Return the key of the n-th equal row (n counts from 0) under `duplicates="separate"`."""
        return key if n == 0 else xxh3_128_digest(key + _NTH % n)


def describe_recipe(recipe: KeyRecipe) -> str:
    """Name a key recipe for the `steps` table: `row`, the fields, or the callable."""
    if recipe is None:
        return "row"
    if callable(recipe):
        return f"{getattr(recipe, '__qualname__', type(recipe).__qualname__)}()"
    return ", ".join(sorted(_names(recipe)))


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
                f"$.{missing}: the row has no such field, and key= names it", f"$.{missing}"
            ) from None

    return fields
