"""What a disk holds after a power cut. Knows bytes and names; nothing of SQLite."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

SECTOR = 512

Files = dict[str, bytes]
Piece = tuple["Inode", int, "bytes | None"]  # offset and data; None: the file ends there


class Inode:
    """A file under any name: what is on the disk for sure, and what was written since.

    `cached` is what the kernel shows of it to whoever reads.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.durable, self.cached = bytearray(data), bytearray(data)
        self.pending: list[tuple[int, Piece]] = []  # with the number of their operation


class Disk:
    """Replay a journal up to any point.

    What a file holds is on the disk once that file was synced, a name once its directory was.
    Anything else may be, or not, or in part.
    """

    def __init__(self, operations: list[list[Any]]) -> None:
        self.operations, self.at = operations, 0
        self._handles: dict[str, Inode] = {}
        self.names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._pending_names: list[dict[str, Inode | None]] = []
        self._failed: Inode | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether a sync has failed, and nothing was acknowledged, nor another file synced, since.

        Part of a log is on no disk then. Until SQLite has copied all of it into the main file, a
        power cut may tear that file, and what would mend it is lost: no store can help it.
        """
        return self._failed is not None

    def is_copying(self, name: str) -> bool:
        """Whether something was written to a file, and is not synced: a checkpoint is under way."""
        return name in self._durable_names and bool(self._durable_names[name].pending)

    def advance(self, to: int) -> None:
        """Go on to before operation `to`."""
        for n in range(self.at, to):
            kind, *values = self.operations[n]
            getattr(self, f"_{kind}")(n, *values)
        self.at = max(self.at, to)

    def _file(self, _n: int, name: str, data: bytes) -> None:
        self.names[name] = self._durable_names[name] = Inode(data)

    def _open(self, _n: int, handle: str, name: str) -> None:
        if name not in self.names:
            self._rename_to({name: Inode()})
        self._handles[handle] = self.names[name]

    def _write(self, n: int, handle: str, offset: int, data: bytes) -> None:
        inode = self._handles[handle]
        self._put(n, (inode, offset, data))

    def _truncate(self, n: int, handle: str, size: int) -> None:
        inode = self._handles[handle]
        self._put(n, (inode, size, None))

    def _put(self, n: int, piece: Piece) -> None:
        piece[0].pending.append((n, piece))
        _apply(piece[0].cached, piece)

    def _sync(self, _n: int, handle: str) -> None:
        inode = self._handles[handle]
        for _, piece in inode.pending:
            _apply(inode.durable, piece)
        inode.pending.clear()
        if inode is not self._failed:
            self._failed = None

    def _badsync(self, _n: int, handle: str) -> None:
        # the next sync has nothing to write; a page that was lost stays so until it is written anew
        self._failed = self._handles[handle]
        self._failed.pending.clear()

    def _link(self, _n: int, old: str, new: str) -> None:
        self._rename_to({new: self.names[old]})

    def _rename(self, _n: int, old: str, new: str) -> None:
        self._rename_to({new: self.names[old], old: None})

    def _unlink(self, _n: int, name: str) -> None:
        self._rename_to({name: None})

    def _rename_to(self, change: dict[str, Inode | None]) -> None:
        _rename(self.names, change)
        self._pending_names.append(change)

    def _dirsync(self, _n: int) -> None:
        for change in self._pending_names:
            _rename(self._durable_names, change)
        self._pending_names.clear()

    def _ack(self, _n: int, _facts: dict[str, Any]) -> None:
        self._failed = None

    def _note(self, _n: int, *_: Any) -> None:
        pass

    def now(self) -> Files:
        """Return the files as the kernel shows them, on the disk or not."""
        return {name: bytes(inode.cached) for name, inode in self.names.items()}

    # --- the cut

    def cut(self, mode: str, chance: random.Random) -> Files:
        """Return the files that a power cut now could leave.

        Args:
            mode: one of `MODES`, or `sectors`: the disk damages the rest of a sector that it is
                writing to, against which `psow=0` helps.
            chance: every choice is drawn from it.
        """
        renamed = {it for change in self._pending_names for it in change.values() if it is not None}
        inodes = {*self.names.values(), *self._durable_names.values(), *renamed}
        pending = [piece for _, piece in sorted(_all_pending(inodes), key=lambda it: it[0])]
        contents = {inode: bytearray(inode.durable) for inode in inodes}
        for inode, offset, data in MODES[mode](pending, chance):
            _apply(contents[inode], (inode, offset, data))
        if mode == "sectors":
            for piece in pending:
                _damage_around(contents[piece[0]], piece, chance)
        names = dict(self._durable_names)
        for change in self._names_kept(mode, chance):
            _rename(names, change)
        return {name: bytes(contents[inode]) for name, inode in names.items()}

    def _names_kept(self, mode: str, chance: random.Random) -> list[dict[str, Inode | None]]:
        pending = self._pending_names
        if mode in ("drop", "keep"):
            return pending if mode == "keep" else []
        if mode in ("prefix", "sectors"):
            return pending[: chance.randint(0, len(pending))]
        return [change for change in pending if chance.random() < 0.5]


def _all_pending(inodes: Iterable[Inode]) -> Iterable[tuple[int, Piece]]:
    for inode in inodes:
        yield from inode.pending


def _rename(names: dict[str, Inode], change: dict[str, Inode | None]) -> None:
    for name, inode in change.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _apply(content: bytearray, piece: Piece) -> None:
    _, offset, data = piece
    if data is None:
        del content[offset:]
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _drop(pending: list[Piece], chance: random.Random) -> list[Piece]:
    return []


def _keep(pending: list[Piece], chance: random.Random) -> list[Piece]:
    return pending


def _prefix(pending: list[Piece], chance: random.Random) -> list[Piece]:
    """The first so many, and a part of the next."""
    whole = chance.randint(0, len(pending))
    kept = pending[:whole]
    if whole < len(pending):
        inode, offset, data = pending[whole]
        if data:
            kept.append((inode, offset, data[: chance.randrange(len(data))]))
    return kept


def _subset(pending: list[Piece], chance: random.Random) -> list[Piece]:
    share = chance.random()
    return [piece for piece in pending if chance.random() < share]


def _torn(pending: list[Piece], chance: random.Random) -> list[Piece]:
    """Any sectors of each."""
    return _subset([part for piece in pending for part in _sectors(piece)], chance)


def _reorder(pending: list[Piece], chance: random.Random) -> list[Piece]:
    """The first so many in another order."""
    order = list(pending)
    chance.shuffle(order)
    return order[: chance.randint(0, len(order))]


def _garbage(pending: list[Piece], chance: random.Random) -> list[Piece]:
    """Some sectors of what was being written hold anything."""
    kept: list[Piece] = []
    for inode, offset, data in _torn(pending, chance):
        spoilt = data is not None and chance.random() < 0.3
        kept.append((inode, offset, chance.randbytes(len(data)) if spoilt and data else data))
    return kept


def _sectors(piece: Piece) -> list[Piece]:
    inode, offset, data = piece
    if data is None:
        return [piece]
    edges = [offset, *range(offset // SECTOR * SECTOR + SECTOR, offset + len(data), SECTOR)]
    ends = [*edges[1:], offset + len(data)]
    return [
        (inode, a, data[a - offset : b - offset]) for a, b in zip(edges, ends, strict=True) if b > a
    ]


def _damage_around(content: bytearray, piece: Piece, chance: random.Random) -> None:
    _, offset, data = piece
    if not data or chance.random() < 0.5:
        return
    end = offset + len(data)
    for a, b in (
        (offset // SECTOR * SECTOR, offset),
        (end, min(-(-end // SECTOR) * SECTOR, len(content))),
    ):
        if a < b <= len(content):
            content[a:b] = chance.randbytes(b - a)


MODES = {
    "drop": _drop,
    "keep": _keep,
    "prefix": _prefix,
    "subset": _subset,
    "torn": _torn,
    "reorder": _reorder,
    "garbage": _garbage,
    "sectors": _prefix,
}
SEVEN = tuple(MODES)[:7]
