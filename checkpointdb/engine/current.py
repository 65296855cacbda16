"""The key of the call that is being made, for a step that asks. Knows nothing else."""

from __future__ import annotations

from contextvars import ContextVar

calling: ContextVar[bytes | None] = ContextVar("checkpointdb_calling", default=None)


def current_key() -> str:
    """Return the key of the row that this step is called for, as 32 hex digits.

    Pass it to the provider as idempotency key, where it has one: a row that is called again after a
    crash has the same key. A batch has the key of its first row.

    Raises:
        RuntimeError: no step is being called by a run here.
    """
    key = calling.get()
    if key is None:
        raise RuntimeError("current_key() is for use inside a step while a run calls it")
    return key.hex()
