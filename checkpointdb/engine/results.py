"""What a settled row gives out: its result, its failure or its error. Knows no store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import DecodeError
from ..values.codec import Codec
from .failures import Failed
from .rows import Place, Slot, first_of
from .tally import Tally


class Results:
    """Give out results; each row, even an equal one, gets a value of its own.

    `take` returns the outcome of a settled row.
    """

    def __init__(self, codec: Codec, path: str, tally: Tally) -> None:
        self._decode, self._path, self._gave = codec.decode, path, tally.gave
        self._gave_new, self._gave_hit = tally.gave_new, tally.gave_hit
        self.take: Callable[[Place], Any] = self._take

    def give_pairs(self) -> None:
        """Have `take` return each row, as the user gave it, with its outcome."""
        self.take = lambda place: (place.given, self._take(place))

    def _take(self, place: Place) -> Any:
        """Return the outcome of a settled row: its result or its `Failed`, or raise its error."""
        slot = place if type(place) is Slot else first_of(place)
        if slot.error is not None:
            raise slot.error
        if slot.failed is not None:
            return self.take_failed(place)
        if place.must_compute:
            self._gave_new()
            value, slot.value = slot.value, None
            return value
        assert slot.data is not None
        return self.give(slot.key, slot.data)

    def give(self, key: bytes, data: str | bytes) -> Any:
        """Return the result of a hit."""
        self._gave_hit()
        try:
            return self._decode(data)
        except DecodeError as error:
            error.key = key.hex()
            error.add_note(f"key {error.key} in {self._path}")
            raise

    def take_failed(self, place: Place) -> Failed:
        """Return the `Failed` of a settled row, even where its error is to be raised."""
        slot = first_of(place)
        assert slot.failed is not None
        self._gave(not place.must_compute and not slot.skipped, slot.skipped and place is slot)
        return slot.failed
