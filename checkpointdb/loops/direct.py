"""The session of a step's direct calls, and look-ups and results without a call.

A process may have thousands of steps, but few files: sessions that are idle are closed.
"""

from __future__ import annotations

import enum
import os
import threading
from collections.abc import Callable
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from .. import interrupts
from ..engine.begin import Running, begin
from ..engine.job import Job, Spec
from ..engine.paid import Paid
from ..errors import ReplayMissError, StoreError
from ..file.opened import Durability
from ..policy import SavePolicy
from ..store import Store

P = ParamSpec("P")
T = TypeVar("T")

StoreOrPath = Store | str | os.PathLike[str]
MOST_OPEN = 32  # a store takes four files, and a process may have 256


class Miss(enum.Enum):
    """What `Step.get` returns where there is no result: `MISS`, which is falsy."""

    MISS = "MISS"

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "MISS"

    __str__ = __repr__


MISS: Final = Miss.MISS


class Where:
    """Where a step's results are: a path, opened at its first use; or an open store of the user's.

    Its lock is held while the store is opened, and by `Direct` while its session is begun.
    """

    def __init__(
        self,
        store: StoreOrPath,
        durability: Durability,
        replay: bool = False,
        remote: str | None = None,
        ship: SavePolicy | None = None,
    ) -> None:
        self.given, self.lock = store, threading.RLock()
        self._durability, self._remote, self._ship = durability, remote, ship
        self._store: Store | None = None
        self.is_named = False  # whoever has the store finds it open
        if isinstance(store, Store):
            if remote is not None:
                raise TypeError("remote= belongs to the Store that is given here: Store(remote=…)")
            self._path, self.is_replayed = store.path, replay or store.readonly
            if store.readonly or not replay:
                self._store = store
        else:  # wherever the program goes, it stays the same file
            self._path, self.is_replayed = os.path.abspath(os.fspath(store)), replay

    @property
    def again(self) -> StoreOrPath:
        """What to give another step so that it saves to the same place."""
        return self.given if isinstance(self.given, Store) else self._path

    @property
    def path(self) -> str:
        """The path, with links resolved; the file need not exist yet."""
        return self.given.path if isinstance(self.given, Store) else os.path.realpath(self._path)

    def exists(self) -> bool:
        """Tell whether there is a store, or something in its place; or in a bucket."""
        return self._is_remote or os.path.lexists(self.path)

    @property
    def _is_remote(self) -> bool:
        return self._remote is not None and not self.is_replayed

    def bring(self) -> None:
        """Bring the file here from its bucket, for callers that look only at the file."""
        if self._is_remote and not os.path.lexists(self.path):
            self.opened()

    def opened(self) -> Store:
        """Return the store, opened now if it was not."""
        with self.lock:
            reopen = self._store is not None and self._store.closed
            if self._store is None or (reopen and self.given is not self._store):
                if self.is_replayed and not self.exists():
                    raise ReplayMissError(
                        f"there is no store at {self.path}, and a replay calls nothing: run once "
                        "without replay=True to record what it is to give out"
                    )
                self._store = Store(
                    self._path,
                    durability=self._durability,
                    readonly=self.is_replayed,
                    remote=self._remote if self._is_remote else None,
                    ship=self._ship if self._is_remote else None,
                )
            return self._store


class Direct:
    """The run of a step's direct calls; a new one after its store is closed or its code changes.

    Args:
        where: its results are.
        spec: returns the step as it is now.
        job: returns the job of a session on an open store.
    """

    def __init__(self, where: Where, spec: Callable[[], Spec], job: Callable[[Store], Job]) -> None:
        self._where, self._spec, self._job = where, spec, job
        self._run: Running | None = None
        self._putting = threading.RLock()  # of two threads that save one row, the second is told

    def running(self) -> Running:
        """Return the session, begun now if none is open, or the step has changed."""
        run, where = self._run, self._where
        if run is None or run.closed or run.is_outdated(self._spec()):
            store = where.opened()
            with where.lock:
                run = self._run
                if run is None or run.closed or run.is_outdated(self._spec()):
                    if run is not None and not run.closed:
                        run.commit()  # it stays open for calls that are in flight
                    run = self._run = begin(self._job(store))
                    if where.given is not store:
                        _note(run, lambda: not where.is_named)
        return run

    def do(self, fn: Callable[Concatenate[Running, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `fn` does with the session, begun again if it was closed as idle just now."""
        while True:
            running = self.running()
            try:
                return fn(running, *args, **kwargs)
            except StoreError:
                if not running.is_given_back:
                    raise

    def get(self, row: Any, nth: int) -> Any:
        """Return the result of a row, or `MISS`; a store that is not there is not created."""
        if not self._where.exists():
            return MISS
        return self.do(_get, row, nth)

    def get_all(self, rows: list[Any], numbers: list[int]) -> list[Any]:
        """Return the results of some rows, each or `MISS`, as `get` does."""
        return self.do(_get_all, rows, numbers) if self._where.exists() else [MISS] * len(rows)

    def put(
        self, row: Any, result: Any, nth: int, paid: Paid, seconds: float, replace: bool
    ) -> None:
        """Save a result that was computed elsewhere; see `Step.put`."""
        if self._where.is_replayed:
            raise StoreError(f"{self._where.path}: a replay saves nothing", self._where.path)
        with self._putting:
            self.do(_put, row, result, nth, paid, seconds, replace)


def _get(running: Running, row: Any, nth: int) -> Any:
    (result,) = _get_all(running, [row], [nth])
    return result


def _get_all(running: Running, rows: list[Any], numbers: list[int]) -> list[Any]:
    intake, results = running.intake, running.results
    slots = intake.all_saved(rows, numbers)
    return [results.take(slot) if slot.settled else MISS for slot in slots]


@interrupts.one_call
def _put(
    running: Running, row: Any, result: Any, nth: int, paid: Paid, seconds: float,
    replace: bool,
) -> None:  # fmt: skip
    intake, calls = running.intake, running.calls
    slot = intake.saved(row, nth)
    is_over_good = slot.settled
    if is_over_good and not replace:
        raise ValueError(
            f"step {running.name!r} has a saved result for this row (key {slot.key.hex()}): give "
            "replace=True to put another one in its place"
        )
    if is_over_good:
        intake.replace(slot)
    intake.open(slot)
    calls.put(slot, result, seconds, paid, is_over_good)


# --- open sessions

_lock = threading.Lock()  # for the table alone
_open: dict[Running, Callable[[], bool]] = {}


def _note(running: Running, is_ours: Callable[[], bool]) -> None:
    """Note a session; close the oldest ones that are idle, if there are too many.

    What they have pending is committed; the next call opens the store again.

    Args:
        running: the session.
        is_ours: whether nobody but the step has the store.
    """
    with _lock:
        _open[running] = is_ours
        surplus = list(_open.items())[:-MOST_OPEN]
    for idle, may_close in surplus:
        if idle.closed or (may_close() and idle.give_back()):
            with _lock:
                _open.pop(idle, None)
