"""What a killed process left in the log, and whether it is whole. Knows its bytes, no table.

SQLite takes a log up to the first frame that does not fit, and says nothing of those after it: that
is right for a commit that was cut short, and wrong for a bit that rotted below whole commits. The
log is read through SQLite's VFS alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import apsw
import msgspec

from .unlocked import Unlocked, UnlockedFile

HEADER, FRAME_HEADER = 32, 24
_FIRST = struct.Struct(">IIIIIIII")  # magic, version, page, count, salt, checksum: two each
_FRAME = struct.Struct(">IIIIII")  # page, 0 or pages after a commit, salt, checksum: two each
_MAGIC = 0x377F0682  # | 1: the checksums are over big-endian words
MOST_SEEDS = 4


class Damage(msgspec.Struct, frozen=True):
    """A frame of the log that does not fit, with whole commits after it that nobody can read."""

    frame: int
    frames: int
    commits: int


class _Watched(Unlocked):
    """A VFS that notes how far SQLite reads a log when it takes stock of it."""

    last = 0
    log: Any = None
    main: Any = None

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - apsw's name
        file = _File(self, name, flags)
        if flags[0] & apsw.SQLITE_OPEN_WAL:
            self.log = file
        elif flags[0] & apsw.SQLITE_OPEN_MAIN_DB:  # pragma: no branch - SQLite asks for no other
            self.main = file
        return file


class _File(UnlockedFile):
    def __init__(self, vfs: _Watched, name: Any, flags: list[int]) -> None:
        self._vfs, self._is_log = vfs, bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__(vfs.base, name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - apsw's name
        # a page has a power of two of bytes; only with its header is it read to take stock
        if self._is_log and offset and amount & (amount - 1):
            self._vfs.last = max(self._vfs.last, (offset - HEADER) // amount + 1)
        return super().xRead(amount, offset)


def look(uri: str, base: str) -> tuple[tuple[int, int], Damage | None]:
    """Return a store's application id and format, read with its log, and what is wrong with that.

    Nothing is written, locked or created; nobody else may have the store open.
    """
    vfs = _Watched(base)
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(uri, flags=flags, vfs=vfs.name)
        try:
            connection.pragma("locking_mode", "exclusive")
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            found = connection.pragma("application_id"), connection.pragma("user_version")
            page = connection.pragma("page_size")
            damage = None if vfs.log is None else _damage(vfs.log, vfs.last, page)
            if damage is not None and _is_copied(vfs.log, vfs.main, page):
                damage = None
            return found, damage
        finally:
            connection.close()
            vfs.log = vfs.main = None
    finally:
        vfs.unregister()


def _damage(log: Any, last: int, page: int) -> Damage | None:
    """Return what lies behind the frame at which SQLite stopped, the `last` one that it read.

    Each checksum goes on from the one before it. That of a damaged frame is damaged itself, or is
    still what the next one goes on from.
    """
    size = page + FRAME_HEADER
    frames = (log.xFileSize() - HEADER) // size
    if frames <= max(last, 1):
        return None
    magic, *_, salt_1, salt_2, sum_1, sum_2 = _FIRST.unpack(log.xRead(HEADER, 0))
    words = f"{'>' if magic == _MAGIC | 1 else '<'}%dI"
    commits, before, computed = 0, (sum_1, sum_2), None
    for n in range(max(last - 1, 1), frames + 1):
        at = HEADER + (n - 1) * size
        _, is_commit, *salt, sum_1, sum_2 = _FRAME.unpack(log.xRead(FRAME_HEADER, at))
        if not last and n == 1:  # the header is damaged, perhaps its salt
            salt_1, salt_2 = _salt_of_frames(log, size, frames)
        if n == last:
            computed = _checksum(log.xRead(size, at), before, words)
        elif n > last and is_commit and salt == [salt_1, salt_2]:
            frame, after = log.xRead(size, at), (before, computed if n == last + 1 else None)
            commits += any(
                _checksum(frame, seed, words) == (sum_1, sum_2) for seed in after if seed
            )
        before = sum_1, sum_2
    return Damage(last, frames, commits) if commits else None


def _is_copied(log: Any, main: Any, page: int) -> bool:
    """Tell whether all commits of a log are in the main file: it was about to begin again."""
    size, end = main.xFileSize(), log.xFileSize()
    for number, places in images(log, page).items():
        place = next((place for place, is_whole in places if is_whole), places[-1][0])
        start = (number - 1) * page
        if place + page > end:  # of a commit that was cut short
            continue
        if start + page > size or log.xRead(page, place) != main.xRead(page, start):
            return False
    return True


def images(log: Any, page: int) -> dict[int, list[tuple[int, bool]]]:
    """Return where each page in a log lies, the newest first, and if it is whole and committed.

    Where a page's newest image is not, earlier ones are named too, back to the first that is. What
    comes after a damaged frame counts, though SQLite does not read it. So does what there is of a
    last frame that was cut.
    """
    size = page + FRAME_HEADER
    count = -(-(log.xFileSize() - HEADER - FRAME_HEADER) // size)
    found: dict[int, list[tuple[int, bool]]] = {}
    waiting: list[tuple[int, int, bool]] = []
    for number, is_commit, at, is_whole in _frames(log, size, count):
        waiting.append((number, at + FRAME_HEADER, is_whole))
        if is_commit and is_whole:
            for page_number, place, whole in waiting:
                before = [] if whole else found.get(page_number, [])
                found[page_number] = [(place, whole), *before]
            waiting = []
    for page_number, place, _ in waiting:  # by a commit that was cut short, or is damaged
        found[page_number] = [(place, False), *found.get(page_number, [])]
    return found


def _frames(log: Any, size: int, count: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yield for each frame of the present salt: page, if it ends a commit, place, if whole."""
    if count < 1:
        return
    header = log.xRead(HEADER, 0)
    magic, *_, salt_1, salt_2, sum_1, sum_2 = _FIRST.unpack(header)
    words = f"{'>' if magic == _MAGIC | 1 else '<'}%dI"
    is_magic = magic in (_MAGIC, _MAGIC | 1)  # zeros have a checksum of zeros
    if not is_magic or _sums(header[:24], (0, 0), words) != (sum_1, sum_2):
        salt_1, salt_2 = _salt_of_frames(log, size, count)
    seeds = {(sum_1, sum_2)}
    for at in range(HEADER, HEADER + count * size, size):
        frame = log.xRead(size, at).ljust(size, b"\0")
        number, is_commit, *salt, sum_1, sum_2 = _FRAME.unpack(frame[:FRAME_HEADER])
        sums = {_checksum(frame, seed, words) for seed in seeds}
        is_whole = (sum_1, sum_2) in sums and salt == [salt_1, salt_2]
        if is_whole or salt == [salt_1, salt_2]:
            yield number, is_commit, at, is_whole
        # each goes on from the one before: from what stands there, or from what it should have been
        seeds = {(sum_1, sum_2)} if is_whole else {(sum_1, sum_2), *sums}
        if len(seeds) > MOST_SEEDS:
            seeds = {(sum_1, sum_2)}


def _salt_of_frames(log: Any, size: int, count: int) -> tuple[int, int]:
    """Return the salt that most of the first frames have: the first may be damaged, too."""
    heads = (log.xRead(FRAME_HEADER, HEADER + n * size) for n in range(min(count, 3)))
    salts = [_FRAME.unpack(head)[2:4] for head in heads]
    return max(salts, key=salts.count)


def _checksum(frame: bytes, before: tuple[int, int], words: str) -> tuple[int, int]:
    """Return the checksum of a frame that follows one with the checksum `before`."""
    return _sums(frame[:8] + frame[FRAME_HEADER:], before, words)


def _sums(data: bytes, before: tuple[int, int], words: str) -> tuple[int, int]:
    a, b = before
    numbers = iter(struct.unpack(words % (len(data) // 4), data))
    for x, y in zip(numbers, numbers, strict=True):
        a = (a + x + b) & 0xFFFFFFFF
        b = (b + y + a) & 0xFFFFFFFF
    return a, b
