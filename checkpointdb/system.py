"""What one operating system has and another lacks: no other module asks. Knows no store and no run.

Linux has all of it. macOS has no /proc and no file without a name, and a sync of its own. Windows
lacks fork, SIGHUP and the sync of a directory too, and SQLite's way to read a log that a kill left:
checkpointdb does not run there (WSL 2 is Linux).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

# What ends a program; and a program's own alarm, which must not raise inside of a commit either.
STOPS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
ALARMS = (signal.SIGALRM,) if hasattr(signal, "SIGALRM") else ()

MOUNTS, LOCKS = "/proc/self/mountinfo", "/proc/locks"
CONNECTIONS = ("/proc/net/tcp", "/proc/net/tcp6")

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
BUFFER_BYTES = 1 << 18  # of a file of rows: with 8 KiB a row of 700 bytes took 0.7 µs more to write
_OPEN_FILES = "/proc/self/fd"


# --- processes


def at_fork(
    after_in_child: Callable[[], object],
    before: Callable[[], object] = int,
    after_in_parent: Callable[[], object] = int,
) -> None:
    """Have these called around each fork of this process, where there is one."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=before, after_in_parent=after_in_parent, after_in_child=after_in_child
        )


def block_stops() -> Any:
    """Let no signal that ends a program come to this thread; return what `unblock` takes."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def unblock(before: Any) -> None:
    """Let signals come to this thread as before `block_stops`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def host() -> str:
    """Return the name of this machine or container."""
    return os.uname().nodename


def boot_id() -> str | None:
    """Return the id of this start of the machine, None where the system does not tell."""
    lines = table("/proc/sys/kernel/random/boot_id")
    return lines[0].strip() if lines else _boot_of_macos()


def _boot_of_macos() -> str | None:
    if sys.platform != "darwin":
        return None
    import ctypes

    room, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(
            b"kern.bootsessionuuid", room, ctypes.byref(size), None, ctypes.c_size_t(0)
        )
    except (AttributeError, OSError):
        return None
    return None if failed else room.value.decode()


def pid_namespace() -> int:
    """Return the id of the namespace of pids, 0 where the system does not tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def process_status(pid: int) -> list[bytes] | None:
    """Return the fields of /proc/pid/stat after the name, from `state` on; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # gone before, or between opening and reading
        return None


def answers(pid: int) -> bool:
    """Tell whether there is a process of this number, whichever it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def boot_clock() -> float:
    """Return the seconds since the boot, with those of suspension where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


# --- tables of the kernel


def table(path: str) -> list[str] | None:
    """Return the lines of one of the kernel's tables, None where there is none such."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.readlines()
    except OSError:
        return None


# --- files


def full_sync(descriptor: int) -> None:
    """Sync a file to the disk itself: on macOS, `fsync` leaves it in the disk's own memory."""
    os.fsync(descriptor)
    try:
        import fcntl
    except ImportError:
        return
    command = getattr(fcntl, "F_FULLFSYNC", None)
    if command is not None:
        with contextlib.suppress(OSError):  # a file system that cannot: it has had its fsync
            fcntl.fcntl(descriptor, command)


def sync_directory(directory: str) -> None:
    """Sync the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        full_sync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock a file for as long as it is open; tell whether that was done.

    It fails if somebody else has the lock, or if the system or file system has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def give_name(temporary: str, path: str) -> None:
    """Give a file a name that nothing has yet; it may keep its old one too.

    Raises:
        FileExistsError: something has it. Where there are no hard links, it may be replaced if it
            came at the same moment.
    """
    try:
        os.link(temporary, path)  # unlike a rename, never replaces what just appeared
        return
    except AttributeError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    os.rename(temporary, path)


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Give the path of a temporary file that is gone afterwards; whoever has it mapped keeps it.

    On Linux it has no name, so that no kill leaves it behind; the path is that of the open file.
    """
    import tempfile  # with it come shutil and its five ways to compress

    if os.path.isdir(_OPEN_FILES):
        with tempfile.TemporaryFile() as file:
            yield f"{_OPEN_FILES}/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as named:
            yield named.name


def nameless(directory: str) -> BinaryIO | None:
    """Open a file without a name, which a kill does not leave behind; None if impossible."""
    if not os.path.isdir(_OPEN_FILES):
        return None
    try:
        return open(os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b", BUFFER_BYTES)
    except (AttributeError, OSError):  # not Linux; or a file system that cannot
        return None


def name(file: BinaryIO, path: str) -> None:
    """Give a file that `nameless` opened its first name.

    Raises:
        FileExistsError: something has it.
    """
    # src_dir_fd counts for nothing with an absolute path, but without one Python does not
    # ask for symlinks to be followed, and this is one
    os.link(f"{_OPEN_FILES}/{file.fileno()}", path, src_dir_fd=file.fileno())
