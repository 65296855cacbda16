"""What is said of a row that is not saved, where nothing is to be called. Knows no store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ReplayMissError
from .job import Spec
from .rows import Slot


def replay_miss(
    spec: Spec, path: str, slot: Slot, why: Callable[[Any], Any] | None
) -> ReplayMissError:
    """Return the error of a row that is not saved.

    Args:
        spec: the step.
        path: of the store.
        slot: the row.
        why: says what makes it a miss; not asked if it is None.
    """
    found = None if why is None else why(slot.row)
    reason, differs = "", {}
    if slot.occurrence:
        reason = f": it is equal row number {slot.occurrence}, counted from 0, and fewer are saved"
    elif found is not None:
        reason, differs = f": {str(found).removeprefix('a miss: ')}", found.differs
    return ReplayMissError(
        f"step {spec.name!r} version {spec.version!r}: row {slot.position} ({slot.given!r:.200}) "
        f"has no saved result in {path}, and a replay calls nothing{reason}. To record it, run it "
        "once without replay=True, on a store that is not read-only",
        slot.given,
        slot.key.hex(),
        differs,
    )
