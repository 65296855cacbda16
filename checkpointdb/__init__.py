"""An embedded checkpoint store for long, paid, row-by-row jobs.

    @ckpt.step("reviews.ckpt", version=1)
    def label(row: dict) -> dict: ...

    for result in label.run(rows): ...

Killed? Run the same script again: it goes on where it stopped.
"""

from .engine.current import current_key
from .engine.failures import Failed
from .errors import (
    BudgetExceeded,
    CheckpointError,
    DecodeError,
    EncodeError,
    KeyCollisionError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
)
from .file.records import Record
from .loops.run_iterator import Run
from .plan import Plan, Why
from .policy import Pending, SavePolicy, adaptive, by_size, every, on_exit
from .step import Step, arun, run, step
from .store import Store
from .values.keys import key_of

__version__ = "0.1.0"

__all__ = [
    "BudgetExceeded",
    "CheckpointError",
    "DecodeError",
    "EncodeError",
    "Failed",
    "KeyCollisionError",
    "Pending",
    "Plan",
    "Record",
    "Run",
    "SavePolicy",
    "Step",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreVersionError",
    "Why",
    "adaptive",
    "arun",
    "by_size",
    "current_key",
    "every",
    "key_of",
    "on_exit",
    "run",
    "step",
]
