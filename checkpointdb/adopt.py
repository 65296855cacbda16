"""Keep saved results under another version, name or `depends=`. Knows keys and records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from .engine.captured import DEPENDS
from .engine.stale import roots_of
from .errors import EncodeError, StoreError
from .file.read import Reader
from .file.records import Code, Entry, SavedCode, StepInfo
from .store import Store
from .values.keys import Keyer, Version, depends_of, recipe_of, with_depends


def adopt(
    store: Store,
    step: str,
    old: Version,
    new: Version,
    *,
    name: str | None = None,
    depends: Depends | None = None,
    dry_run: bool = False,
) -> tuple[int, int]:
    """Copy the saved results of a step's version `old` to its version `new`, in one transaction.

    Use it after a change of the code, of the step's name or of the names in `depends=` that does
    not change results. The old results stay. Failures are not copied, nor rows that the target
    already has results for. If `depends=` had several values, the results of the newest run's value
    are copied.

    Args:
        store: an open store.
        step: name of the step.
        old: its version that has the results.
        new: the version that gets them; may be `old` if `name` or `depends` differ.
        name: the step that gets them, if its name differs.
        depends: names and digest of the target's `depends=`; unless given, they stay as they are.
        dry_run: only count.

    Returns:
        How many were copied (or would be, under `dry_run`), and how many the target had already.

    Raises:
        StoreError: no such step and version, or its keys cannot be made again; nothing was changed.
    """
    name = step if name is None else name
    with Reader(store.path) as reader:
        info = _step(reader, step, old)
        before = keyed_with(reader, info)
        after = before if depends is None else depends
        if (step, old, before) == (name, new, after):
            raise ValueError(f"from and to are both version {old!r}")
        copying = _Copying(store, reader, info, (before, after), name, new)
        copied = sum(map(len, copying.fresh()))  # or raise, nothing changed
        if dry_run:
            return copied, copying.there
        recipe = with_depends(info.key_recipe, after.names)
        target = store.log.register_step(name, new, recipe).id
        store.log.update_recipe(target, recipe)
        run = store.log.begin_run(target, "adopt", "nothing", None, after.code)
        try:
            copied = store.log.append_all(target, run, copying.fresh())
        except BaseException as error:
            store.log.end_run(run, {"rows": 0}, f"failed: {type(error).__name__}")
            raise
        source = f"version {old!r}" if name == step else f"{step!r} version {old!r}"
        store.log.end_run(run, {"rows": copied, "hits": copied}, f"adopted from {source}")
    return copied, copying.there


class Depends(msgspec.Struct, frozen=True):
    """What `depends=` adds to keys: its names, and the digest of its values; None for nothing."""

    names: tuple[str, ...] = ()
    digest: bytes | None = None

    @property
    def code(self) -> Code | None:
        """What a run of adopted results has as its code: it says which keys they have."""
        if self.digest is None:
            return None
        roots = {DEPENDS: {"": (self.digest.hex(), None)}}
        return Code(f"adopted:{self.digest.hex()}", msgspec.json.encode(roots).decode())


def keyed_with(reader: Reader, info: StepInfo) -> Depends:
    """Return what the newest run's `depends=` was."""
    codes = reader.codes(info.id)
    runs = [run for run in reader.runs(info.name) if run.version == info.version]
    known = {code.fingerprint: _digest_of(code) for code in codes}
    newest = next((run.fingerprint for run in reversed(runs) if run.fingerprint), None)
    return Depends(depends_of(info.key_recipe), known.get(newest or ""))


def _digest_of(code: SavedCode) -> bytes | None:
    leaf = roots_of(code).get(DEPENDS, {}).get("")
    return None if leaf is None else bytes.fromhex(leaf[0])


def _step(reader: Reader, name: str, version: Version) -> StepInfo:
    steps = reader.steps()
    for info in steps:
        if (info.name, info.version) == (name, version):
            return info
    known = ", ".join(f"{info.name!r} version {info.version!r}" for info in steps) or "none"
    raise StoreError(
        f"{reader.path}: no step {name!r} version {version!r}; there are: {known}", reader.path
    )


class _Copying:
    """Entries of a step with their new keys, without those that the target already has."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        info: StepInfo,
        depends: tuple[Depends, Depends],
        name: str,
        new: Version,
    ) -> None:
        try:
            recipe = recipe_of(info.key_recipe)
        except ValueError as error:
            raise StoreError(f"{store.path}: step {info.name!r}: {error}", store.path) from None
        self._store, self._reader, self._info = store, reader, info
        self._before = Keyer(info.name, info.version, recipe, depends=depends[0].digest)
        self._after = Keyer(name, new, recipe, depends=depends[1].digest)
        digests = {code.fingerprint: _digest_of(code) for code in reader.codes(info.id)}
        self._runs = {
            run.id
            for run in reader.runs(info.name)
            if digests.get(run.fingerprint or "") == depends[0].digest
        }
        self.there = 0

    def fresh(self) -> Iterator[list[Entry]]:
        """Yield what is to be copied."""
        self.there = 0
        for page in self._reader.entries(self._info.id):
            entries = [entry for run, entry in page if run in self._runs]
            keys = [_rekey(it, self._before, self._after, self._store.path) for it in entries]
            there = self._store.log.find(keys)
            fresh = [
                # what it cost is counted where it was paid
                replace(it, key=key, cost=None, usage=None, replaces=found.id if found else 0)
                for key, it, found in zip(keys, entries, there, strict=True)
                if found is None or found.error is not None
            ]
            self.there += len(entries) - len(fresh)
            yield fresh


def _rekey(entry: Entry, before: Keyer, after: Keyer, path: str) -> bytes:
    """Return the entry's key under the new version, with the same number among equal rows."""
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
