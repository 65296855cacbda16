"""Which names a file may take: no link, and nothing that is there. Knows files; no format."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from .. import system


def take_name(temporary: str, path: str, force: bool) -> None:
    """Have a whole file take a name, on the disk too."""
    check_new(path, force)
    if force:
        os.replace(temporary, path)  # a link that came meanwhile is replaced, not followed
    else:
        system.give_name(temporary, path)
        with contextlib.suppress(FileNotFoundError):  # it was renamed, where there are no links
            os.unlink(temporary)
    system.sync_directory(os.path.dirname(path) or ".")


def check_new(path: str, force: bool = False) -> None:
    """Raise unless a file may be written under this name.

    Raises:
        OSError: a link, a directory, a device; or a file, unless `force`.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a directory; give the path of a file", path)
    if stat.S_ISLNK(mode):
        text = "a symbolic link, and nothing is written through one: give the path of a file"
        raise OSError(errno.ELOOP, text, path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "not a regular file; give the path of one", path)
    if not force:
        raise FileExistsError(errno.EEXIST, "it exists, and only --force replaces it", path)
