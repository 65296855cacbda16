"""Take from this process what only Linux has, and fork and hard links too: a poor man's macOS.

Imported first. `python -m without_linux ARGUMENTS` runs pytest so; its tests are real, the system
only lacks these parts, as a system that lacks them does.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import multiprocessing
import os
import sys
import sysconfig
import tempfile
import time
import urllib.request  # noqa: F401 - on a real macOS it imports what only that has

GONE = {
    os: (
        *("fork", "forkpty", "register_at_fork", "link", "sched_getaffinity"),
        *("O_TMPFILE", "O_DIRECTORY", "memfd_create", "pidfd_open", "posix_fallocate"),
    ),
    time: ("CLOCK_BOOTTIME",),
}


def _without_proc(call):
    def called(path, *args, **kwargs):
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return call(path, *args, **kwargs)

    return called


def take_away() -> None:
    """Do it, for good."""
    tempfile._O_TMPFILE_WORKS = False  # Python asks for these once
    sysconfig.get_config_vars()
    multiprocessing.set_start_method("spawn", force=True)
    for module, names in GONE.items():
        for name in names:
            with contextlib.suppress(AttributeError):
                delattr(module, name)
    for name in ("stat", "lstat", "listdir", "readlink", "open", "scandir"):
        setattr(os, name, _without_proc(getattr(os, name)))
    builtins.open = io.open = _without_proc(io.open)
    sys.platform = "darwin"


take_away()

if __name__ == "__main__":
    import pytest

    sys.exit(pytest.main(["-p", "no:cacheprovider", "-n", "0", *sys.argv[1:]]))
