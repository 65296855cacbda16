"""A folder of segments, whole stores that nobody writes to: look-ups in them, and their number."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .. import system
from ..decorator import Step
from ..errors import EncodeError, StoreError
from ..file import probe
from ..file.temporary import half_made
from ..loops.direct import MISS
from ..store import Store
from .scratch import Scratch

FAN = 8  # segments of one process that become one
MOST_OPEN = 500  # a process may often have 1,024 files
LOOK_SHARE = 0.01  # of the time, at most, goes into looking for new ones


class Folder:
    """The segments of a folder, as the results of a step.

    Args:
        path: made if it is not there.
        step: whose results are looked up.
        is_restarted: in the middle of a job, in which others have shipped many segments meanwhile:
            the largest are looked into, which have what earlier jobs computed.

    Raises:
        StoreError: it cannot be made or read; there are too many segments; one is no store.
    """

    def __init__(self, path: str, step: Step[Any, Any], is_restarted: bool = False) -> None:
        self.path, self._step = os.path.realpath(path), step
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be made ({error.strerror})", path) from error
        self._steps: dict[str, Step[Any, Any]] = {}
        self._own: list[str] = []
        if len(_named(self.path)) > MOST_OPEN and not is_restarted:
            raise StoreError(
                f"{self.path}: more than {MOST_OPEN} segments, too many to look into each: nothing "
                "was computed. Call merge_segments(folder) before the job",
                self.path,
            )
        self.look()

    def target(self, path: str) -> str:
        """Return where the segment at `path` goes."""
        return os.path.join(self.path, os.path.basename(path))

    # --- look-ups

    def look(self) -> list[Step[Any, Any]]:
        """Open what is new, close what is gone; return what is new, the largest first."""
        start, self._changed = time.monotonic(), self._last_change()
        there = segments(self.path)
        for path in self._steps.keys() - set(there):
            self._steps.pop(path).store.close()
        new = {}
        unknown = [path for path in there if path not in self._steps]
        for path in unknown[: max(MOST_OPEN - len(self._steps), 0)]:
            with self._may_be_gone(path):
                new[path] = self._opened(path)
        self._steps |= new
        now = time.monotonic()
        self._next_look = now + (now - start) / LOOK_SHARE
        return list(new.values())

    def _look_into(self, path: str) -> None:
        with self._may_be_gone(path):
            self._steps[path] = self._opened(path)

    def _opened(self, path: str) -> Step[Any, Any]:
        return self._step.replace(store=Store(path, readonly=True))

    def results(self, rows: list[Any]) -> list[Any]:
        """Return the result of each row, or `MISS`.

        Raises:
            StoreError: the folder is away: its rows are not paid for again; or a store is damaged.
        """
        found: list[Any] = [MISS] * len(rows)
        self._find(rows, found, list(self._steps.values()))
        if MISS in found and self._last_change() != self._changed and self._is_worth_a_look():
            self._find(rows, found, self.look())
        return found

    def _is_worth_a_look(self) -> bool:
        """Tell whether looking takes little of the time; or what was open is gone, merged away."""
        is_gone = not self._steps.keys() <= set(_named(self.path))
        return is_gone or time.monotonic() >= self._next_look

    def _find(self, rows: list[Any], found: list[Any], steps: Sequence[Step[Any, Any]]) -> None:
        for step in steps:
            missing = [i for i, result in enumerate(found) if result is MISS]
            if not missing:
                return
            with self._may_be_gone(step.path):
                results = saved(step, [rows[i] for i in missing])
                for i, result in zip(missing, results, strict=True):
                    found[i] = result

    def _last_change(self) -> int:
        try:
            return os.stat(self.path).st_mtime_ns
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be read ({error.strerror}), so nobody knows which rows are "
                "saved there, and none is computed. Run again when it is back",
                self.path,
            ) from error

    @contextlib.contextmanager
    def _may_be_gone(self, path: str) -> Iterator[None]:
        """Pass over a segment that another process has merged into another one meanwhile."""
        try:
            yield
        except (OSError, StoreError):
            self._last_change()
            if os.path.exists(path):
                raise

    def close(self) -> None:
        """Close what is open."""
        for step in self._steps.values():
            step.store.close()
        self._steps.clear()

    # --- what is put there

    def take(self, path: str) -> None:
        """Copy a store into the folder and look into it too, unless nothing is in it."""
        with Store(path) as store:
            if any(step.records for step in store.steps()):
                put(store, target := self.target(path))
                self._own.append(target)
                self._look_into(target)

    def add_own(self, path: str, scratch: Scratch) -> None:
        """Look results up in a segment of this process too, and keep the number of these small."""
        self._own = [it for it in self._own if os.path.exists(it)]
        self._own.append(path)
        self._look_into(path)
        count = small_ones([size_of(it) for it in self._own])
        if count >= FAN:
            made = scratch.new()
            with contextlib.suppress(OSError, StoreError):  # they are all still there
                fold(self._own[-count:], into := self.target(made), made)
                self._own[-count:] = [into]
                self.look()


def segments(folder: str) -> list[str]:
    """Return the segments in a folder, the largest first."""
    return sorted(filter(os.path.isfile, _named(folder)), key=lambda path: (-size_of(path), path))


def _named(folder: str) -> list[str]:
    return glob.glob(os.path.join(glob.escape(folder), "*.ckpt"))


def size_of(path: str) -> int:
    """Return the bytes of a store with its log; 0 if it is gone."""
    return sum(probe.size(it) or 0 for it in (path, f"{path}-wal"))


def small_ones(sizes: Sequence[int]) -> int:
    """Return how many of the last are to become one: the largest is at most twice the others.

    So a record is written anew only when what it lies in grows by half. As many as may: a tiny one
    at the end keeps no others apart.
    """
    count, total, largest = 1, sizes[-1], sizes[-1]
    for n, size in enumerate(reversed(sizes[:-1]), 2):
        total, largest = total + size, max(largest, size)
        if largest <= 2 * (total - largest):
            count = n
    return count


def put(store: Store, target: str) -> None:
    """Copy a store to `target`, whole or not at all: SQLite opens files of this machine alone.

    Raises:
        OSError, StoreError: it cannot be copied.
    """
    copy = f"{store.path}.copy"
    store.backup(copy, force=True)
    with half_made(target, replace=True) as temporary, open(temporary, "wb") as there:
        with open(copy, "rb") as here:
            shutil.copyfileobj(here, there, 1 << 20)
        there.flush()
        system.full_sync(there.fileno())
    os.unlink(copy)


def fold(paths: Sequence[str], into: str, scratch: str) -> None:
    """Merge segments into one, then delete them. After a kill they are all still there.

    Another process may do the same meanwhile, or ship more under the name of one of them: what was
    not merged as it is stays.

    Args:
        paths: of the segments; where two differ, the earlier one counts.
        into: the new one.
        scratch: where it is made, on a local disk.
    """
    merged = {}
    with Store(scratch) as store:
        for path in paths:
            before = probe.mark(path)
            try:
                store.merge(path)
                merged[path] = before
            except (OSError, StoreError):
                if probe.mark(path) == before is not None:
                    raise
        if merged:
            put(store, into)
    os.unlink(scratch)
    for path, before in merged.items():
        _delete(path, before)


def _delete(path: str, merged: object) -> None:
    """Delete a segment, but not a newer one that its process has put in its place meanwhile.

    That one is a segment like any other under the name by which nobody replaces it.
    """
    aside = os.path.join(os.path.dirname(path), f"{os.urandom(8).hex()}.ckpt")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if probe.mark(aside) == merged:
            os.unlink(aside)


def merge_segments(folder: str) -> int:
    """Merge the small segments of a folder and return how many are left: before a job, say.

    Promise: records of large ones are not written anew each time; whatever is killed, nothing is
    lost; jobs may go on meanwhile.

    Args:
        folder: as it was given to the jobs.

    Raises:
        StoreError: one of them is not a store, or damaged; nothing was deleted.
    """
    folder = os.path.realpath(folder)
    paths = segments(folder)
    if paths and (count := small_ones([size_of(path) for path in paths])) > 1:
        with tempfile.TemporaryDirectory() as directory:
            name = f"{os.urandom(8).hex()}.ckpt"
            fold(paths[-count:], os.path.join(folder, name), os.path.join(directory, name))
    return len(segments(folder))


def saved(step: Step[Any, Any], rows: list[Any]) -> list[Any]:
    """Return the saved result of each row, or `MISS`: for a row that is none, too."""
    try:
        return list(step.results(rows))
    except EncodeError:  # of one of them, which the run will refuse
        return [_one(step, row) for row in rows]


def _one(step: Step[Any, Any], row: Any) -> Any:
    try:
        return step.get(row)
    except EncodeError:
        return MISS
