"""An embedded checkpoint store for long, paid, row-by-row jobs.

    @ckpt.step("reviews.ckpt", version=1)
    def label(row: dict) -> dict: ...

    for result in label.run(rows): ...

Killed? Run the same script again: it goes on where it stopped.
"""

from .cloud.pull import Pulled, pull
from .cloud.shipment import Pushed
from .decorator import Step, arun, run, step
from .engine.arguments import Args, args
from .engine.current import current_key
from .engine.failures import Failed
from .engine.keywords import AllOptions, RunOptions, StepOptions
from .errors import (
    BindingError,
    BucketError,
    BudgetExceeded,
    CheckpointError,
    DecodeError,
    EncodeError,
    KeyCollisionError,
    ReplayMissError,
    StaleResultsError,
    StaleResultsWarning,
    StepDeadlockError,
    StepStuckError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
)
from .events import CameLate, Committed, Event, Paused, Report, RowFailed, RunEnded, RunStarted
from .file.merge import Conflict, Merged
from .file.records import Call, Record, RunInfo, StepInfo
from .file.salvage import Salvaged, salvage
from .file.verify import Problem
from .loops.direct import MISS, Miss
from .loops.run_iterator import Run
from .plan import Plan, Why
from .policy import Pending, SavePolicy, adaptive, by_size, every, on_exit
from .store import Store
from .values.hooks import register
from .values.keys import key_of

__version__ = "0.1.0"

__all__ = [
    "MISS",
    "AllOptions",
    "Args",
    "BindingError",
    "BucketError",
    "BudgetExceeded",
    "Call",
    "CameLate",
    "CheckpointError",
    "Committed",
    "Conflict",
    "DecodeError",
    "EncodeError",
    "Event",
    "Failed",
    "KeyCollisionError",
    "Merged",
    "Miss",
    "Paused",
    "Pending",
    "Plan",
    "Problem",
    "Pulled",
    "Pushed",
    "Record",
    "ReplayMissError",
    "Report",
    "RowFailed",
    "Run",
    "RunEnded",
    "RunInfo",
    "RunOptions",
    "RunStarted",
    "Salvaged",
    "SavePolicy",
    "StaleResultsError",
    "StaleResultsWarning",
    "Step",
    "StepDeadlockError",
    "StepInfo",
    "StepOptions",
    "StepStuckError",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreVersionError",
    "Why",
    "adaptive",
    "args",
    "arun",
    "by_size",
    "current_key",
    "every",
    "key_of",
    "on_exit",
    "pull",
    "register",
    "run",
    "salvage",
    "step",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
