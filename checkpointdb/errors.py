"""What can go wrong, as a caller sees it. Imports nothing.

    CheckpointError
    ├── StoreError               the file cannot be used              .path
    │   ├── StoreLockedError     another process holds it
    │   ├── StoreCorruptError    its bytes are not what was written
    │   ├── StoreVersionError    a newer checkpointdb, or too old an SQLite
    │   ├── StoreFullError       no space left; nothing pending is lost
    │   └── BucketError          a bucket that cannot be used      .passing
    ├── EncodeError              a value that cannot be stored        .where .result
    ├── DecodeError              a stored value that does not fit     .key
    ├── KeyCollisionError        two rows with one key        .key .position .record
    ├── StaleResultsError        other code computed what is saved    .results .changes
    ├── ReplayMissError          a row that is not saved, in a replay .row .key .differs
    ├── BindingError             one step's code, bound to other values
    ├── StepDeadlockError        a row that waits for itself          .key
    ├── StepStuckError           calls that run on after their time   .rows
    └── BudgetExceeded           max_cost= is spent                   .spent .budget

Misuse of the API is a builtin `TypeError` or `ValueError` at the call. `StaleResultsWarning` is a
`UserWarning`: a run gives out results that other code computed.
"""

from __future__ import annotations

from typing import Any


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


class CheckpointError(Exception):
    """The root of every error of checkpointdb's own."""


class StoreError(CheckpointError):
    """A store cannot be opened, read or written; `path` is its file."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class StoreLockedError(StoreError):
    """Another process kept the write lock for longer than we wait. Nothing pending is lost."""


class StoreCorruptError(StoreError):
    """The file's bytes are not those that were written. Nothing is ever deleted because of it."""


class StoreVersionError(StoreError):
    """The store, or the SQLite that would open it, has a version that is not safe to use."""


class StoreFullError(StoreError):
    """The disk is full. Pending rows stay in memory; the next commit tries them again."""


class BucketError(StoreError):
    """A bucket, or a folder in its place, cannot be used; `path` is its URL.

    `passing` is True if trying again later may help: the network or the service failed.
    """

    def __init__(self, message: str, path: str | None = None, passing: bool = False) -> None:
        super().__init__(message, path)
        self.passing = passing


class EncodeError(CheckpointError):
    """A row or a result cannot be stored.

    `where` is the place inside the value (`$.meta[3].file`). `result` is the step's result, which
    was paid for: catch the error and save it another way. If a row cannot be stored, it is
    `MISSING`.
    """

    def __init__(self, message: str, where: str = "$", result: Any = MISSING) -> None:
        super().__init__(message)
        self.where = where
        self.result = result


class DecodeError(CheckpointError):
    """A stored value does not decode to the type asked for; `key` is its record's, in hex."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class KeyCollisionError(CheckpointError):
    """Two different rows have one key. It does not happen by chance: somebody made them so.

    The row is refused before its call, and never gets the other row's answer. `key` is the key of
    both, in hex; `position` is the row's, from 0; `record` is the id of the other row's record,
    None if that is not committed yet.
    """

    def __init__(self, message: str, key: str, position: int, record: int | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.position = position
        self.record = record


class StaleResultsWarning(UserWarning):
    """A run gives out saved results that other code, or another row of the same key, computed.

    Every run warns until you settle it: raise the version, `ckpt adopt`, or `Step.accept`.
    """


class StaleResultsError(CheckpointError):
    """Saved results were computed by other code, and the run was told not to give them out.

    No call was made. `results` is how many there are; `changes` are the differences, in words.
    """

    def __init__(self, message: str, results: int = 0, changes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.results = results
        self.changes = changes


class ReplayMissError(CheckpointError):
    """A row has no saved result, and the step is only to replay what is saved. No call was made.

    `row` is the row, `key` its key in hex. `differs` has the fields in which the nearest saved row
    differs: name to (this row's value, the saved row's).
    """

    def __init__(
        self,
        message: str,
        row: Any = None,
        key: str | None = None,
        differs: dict[str, tuple[Any, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.row = row
        self.key = key
        self.differs = differs or {}


class BindingError(CheckpointError):
    """A closure or bound object has other values than an earlier one of the same code had.

    Both have one name, one version and one store, so each would get the other's answers. No call
    was made. Name what differs with `depends=`, or give the steps names of their own.
    """


class StepDeadlockError(CheckpointError):
    """A step that computes a row asks, itself or through other steps, for that row's result.

    It would wait for ever. `key` is the row's, in hex. Recursion over other rows is fine.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class StepStuckError(CheckpointError):
    """So many calls still run after their `timeout=` that no other call can be made.

    `rows` are their positions. What they return while the process lives is saved.
    """

    def __init__(self, message: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class BudgetExceeded(CheckpointError):
    """A step has spent its budget over all its runs; what was paid for is saved.

    `spent` and `budget` are dollars.
    """

    def __init__(self, message: str, spent: float, budget: float) -> None:
        super().__init__(message)
        self.spent = spent
        self.budget = budget
