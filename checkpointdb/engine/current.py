"""The call that is being made, for a step that asks, and the calls that it is made in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

# The rows of the innermost call, and the same of the call whose step made it.
Calling = tuple[Any, "Calling | None"]
calling: ContextVar[Calling | None] = ContextVar("checkpointdb_calling", default=None)


def calling_now() -> Calling | None:
    """Return the innermost call that is being made.

    A Ctrl-C can come after a call has ended and before it leaves `calling`. So a call is over when
    its rows are settled, whatever `calling` says.
    """
    call = calling.get()
    while call is not None and all(slot.settled for slot in call[0]):
        call = call[1]
    return call


def leave(call: Calling) -> None:
    """Let the call be over, where it is the innermost: a coroutine may be closed elsewhere."""
    if calling.get() is call:
        calling.set(call[1])


def current_key() -> str:
    """Return the key of the row that this step is called for, as 32 hex digits.

    Pass it to the provider as idempotency key, where it has one: a row that is called again after a
    crash has the same key. A batch has the key of its first row.

    Raises:
        RuntimeError: no step is being called by a run here.
    """
    call = calling_now()
    if call is None:
        raise RuntimeError("current_key() is for use inside a step while a run calls it")
    key: bytes = call[0][0].key
    return key.hex()


def rows_being_called() -> list[Any]:
    """Return the rows of all calls that the caller is inside of, the innermost first."""
    rows, call = [], calling_now()
    while call is not None:
        rows += call[0]
        call = call[1]
    return rows
