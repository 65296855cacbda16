"""What must be true of a store after a fault: safety first, then, faults over, liveness.

Each checker takes what is there and raises `Broken`; none knows which fault came before.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import apsw

import checkpointdb as ckpt
from checkpointdb.file import leases
from checkpointdb.file.read import Reader

from . import kinds, lives
from .history import FAILED, History, State, read_state


class Broken(Exception):
    """A promise was broken; the text says which and how."""


def explained(state: State, history: History, n: int) -> int:
    """Safety: the store is as some commit left it, and no older than what was acknowledged.

    Args:
        state: what is in the store.
        history: of the life that the power cut ended.
        n: the operation before which it came.

    Returns:
        How many commits are there.
    """
    found = history.find(state, n)
    if found is None:
        raise Broken("the store is not as any commit left it")
    if found < history.acknowledged(n):
        lost = ", ".join(history.lost(state, n)[:5])
        raise Broken(
            f"{history.acknowledged(n)} commits were acknowledged, {found} are there: lost {lost}"
        )
    return found


def sound(store: ckpt.Store, path: str) -> State:
    """Safety: SQLite, our own check and plain SQL agree about an open store; return its state."""
    try:
        state = read_state(path)
    except (apsw.Error, AssertionError) as error:
        raise Broken(f"SQLite finds it damaged: {error!r}") from error
    if wrong := store.verify():
        raise Broken(f"verify: {wrong}")
    newest = {
        lives.row_fact(it.step, it.version, it.input): it.error is None for it in store.records()
    }
    plain = {fact: outcome != FAILED for fact, outcome in state.facts.items() if "/" in fact}
    if newest != plain:
        raise Broken("what the store shows differs from what plain SQL finds")
    return state


def readable(path: str) -> None:
    """Safety: whoever only looks, before anybody has written, finds a whole store.

    A log may be said to be damaged: commits that were never synced, and that a power cut has left
    in part, look as rotten ones do. Whether one was acknowledged, the history knows.
    """
    with Reader(path) as reader:
        if wrong := [it for it in reader.verify() if not it.what.startswith(f"{path}-wal")]:
            raise Broken(f"a reader finds: {wrong}")


def resumes(life: lives.Life, state: State) -> None:
    """Liveness: the same runs go to their end, and compute nothing that was there."""
    life.called.clear()
    kinds.resume(life)
    saved = {fact for fact, outcome in state.facts.items() if "/" in fact and outcome != FAILED}
    if again := saved.intersection(life.called):
        raise Broken(f"saved rows were computed again: {sorted(again)[:5]}")


def released(path: str, files: bool = True) -> None:
    """Liveness: nobody holds a lock, a claim, a thread or a file of a store that was closed.

    Args:
        path: of the store.
        files: whether its log must be gone; a disk that fails may keep it.
    """
    for ending in ("-wal", "-shm") if files else ():
        if os.path.exists(path + ending):
            raise Broken(f"{ending} is left beside a closed store")
    with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        try:
            connection.execute("begin exclusive; rollback")
        except apsw.BusyError:
            raise Broken("a lock is held on a closed store") from None
        # that of a worker which died may stay: on a row that another has saved, or nobody came for
        claims: list[tuple[str, float]] = connection.execute(
            "select distinct worker, expires from system_claims"
        ).fetchall()
        if holding := [it for it, expires in claims if not leases.is_void(it, expires)]:
            raise Broken(f"claims are left: {holding}")
    deadline = time.monotonic() + 60  # a timer's thread ends soon after its run, not at once
    while left := [it.name for it in threading.enumerate() if it.name.startswith("checkpointdb")]:
        if time.monotonic() > deadline:
            raise Broken(f"threads are left: {left}")
        time.sleep(0.0005)


def unlocked(path: str) -> None:
    """Liveness: an open store at rest keeps nobody else from writing."""
    with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        try:
            connection.execute("begin immediate; rollback")
        except apsw.BusyError:
            raise Broken("a transaction was left open") from None


@contextlib.contextmanager
def broken_by(*errors: type[BaseException]) -> Iterator[None]:
    """Take an error that must not come for a broken promise."""
    try:
        yield
    except Broken:
        raise
    except errors as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
