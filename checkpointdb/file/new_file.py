"""A file that gets its name once it is whole, and never through a link. Knows files; no format."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from .. import system


@contextlib.contextmanager
def new_file(path: str, force: bool = False) -> Iterator[str]:
    """Give the path of an empty file that is to become `path`: next to it, mode 0600.

    Promises: it is synced and gets its name when the block ends well, and is deleted otherwise;
    nothing is written through a link, nor over anything unless `force`, even if it came meanwhile.

    Raises:
        OSError: `path` is there, or is no file; the text says what to do. Or it cannot be written.
    """
    check_new(path, force)
    temporary = f"{path}.{os.urandom(4).hex()}.tmp"
    # O_EXCL follows no link either
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        yield temporary
        system.sync_file(temporary)
        take_name(temporary, path, force)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def take_name(temporary: str, path: str, force: bool) -> None:
    """Have a whole file take a name, on the disk too."""
    check_new(path, force)
    if force:
        os.replace(temporary, path)  # a link that came meanwhile is replaced, not followed
    else:
        system.give_name(temporary, path)
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
        raise OSError(errno.EEXIST, "no regular file; give the path of one", path)
    if not force:
        raise FileExistsError(errno.EEXIST, "it exists, and only --force replaces it", path)
