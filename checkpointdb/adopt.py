"""Keep saved results under another version of their step. Knows keys and records; no code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from .errors import EncodeError, StoreError
from .file.read import Reader
from .file.records import Entry, StepInfo
from .store import Store
from .values.keys import Keyer, Version, recipe_of


def adopt(
    store: Store, step: str, old: Version, new: Version, *, dry_run: bool = False
) -> tuple[int, int]:
    """Copy the saved results of a step's version `old` to its version `new`, in one transaction.

    Use it after a change of code that does not change results. The old ones stay. Failures are not
    copied, nor rows that version `new` has results for.

    Returns:
        How many were copied (or would be, under `dry_run`), and how many `new` had already.

    Raises:
        StoreError: no such step and version, or its keys cannot be made again; nothing was changed.
    """
    if old == new:
        raise ValueError(f"from and to are both version {old!r}")
    with Reader(store.path) as reader:
        info = _step(reader, step, old)
        copied = sum(map(len, _fresh(store, reader, info, new)))  # or raise, nothing changed
        if dry_run:
            return copied, info.results - copied
        target = store.log.register_step(step, new, info.key_recipe).id
        run = store.log.begin_run(target, "adopt", "nothing", None)
        try:
            copied = store.log.append_all(target, run, _fresh(store, reader, info, new))
        except BaseException as error:
            store.log.end_run(run, {"rows": 0}, f"failed: {type(error).__name__}")
            raise
        store.log.end_run(run, {"rows": copied, "hits": copied}, f"adopted from version {old!r}")
    return copied, info.results - copied


def _step(reader: Reader, name: str, version: Version) -> StepInfo:
    steps = reader.steps()
    for info in steps:
        if (info.name, info.version) == (name, version):
            return info
    known = ", ".join(f"{info.name!r} version {info.version!r}" for info in steps) or "none"
    raise StoreError(
        f"{reader.path}: no step {name!r} version {version!r}; there are: {known}", reader.path
    )


def _fresh(store: Store, reader: Reader, info: StepInfo, new: Version) -> Iterator[list[Entry]]:
    """Yield entries with their new keys, those left out that the new version has already."""
    try:
        recipe = recipe_of(info.key_recipe)
    except ValueError as error:
        raise StoreError(f"{store.path}: step {info.name!r}: {error}", store.path) from None
    before, after = Keyer(info.name, info.version, recipe), Keyer(info.name, new, recipe)
    for entries in reader.entries(info.id):
        keys = [_rekey(entry, before, after, store.path) for entry in entries]
        there = store.log.find(keys)
        yield [
            # its cost is counted where it was paid
            msgspec.structs.replace(entry, key=key, cost=None, replaces=found.id if found else 0)
            for key, entry, found in zip(keys, entries, there, strict=True)
            if found is None or found.error is not None
        ]


def _rekey(entry: Entry, before: Keyer, after: Keyer, path: str) -> bytes:
    """Return the entry's key under the new version, the same n-th of equal rows as it was."""
    if entry.input is not None:
        with contextlib.suppress(EncodeError):
            key, identity = before.of_stored(entry.input, entry.input_form)
            if (before.nth(key, entry.occurrence), identity) == (entry.key, entry.identity):
                new, _ = after.of_stored(entry.input, entry.input_form)
                return after.nth(new, entry.occurrence)
    raise StoreError(
        f"{path}: the key of the row at position {entry.position} (key {entry.key.hex()}) cannot "
        "be made from what is stored of it; nothing was changed. Adopt needs rows that are stored "
        "whole",
        path,
    )
