"""Which kind of file system a path is on. Knows the mount table, where the system has one."""

from __future__ import annotations

import os
import re

from .. import system

_NETWORK = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "drvfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
    ]
)

_OCTAL = re.compile(r"\\([0-7]{3})")  # how the table writes a space: \040


def network_file_system(path: str, table: str = system.MOUNTS) -> str | None:
    """Return the type of the network file system that `path` is on, None for a local one.

    SQLite's log needs memory shared by all who have the file open, and locks that hold: neither
    works between hosts (sqlite.org/wal.html). A file system in user space is taken for remote.
    """
    kind = file_system(path, table)
    return kind if kind in _NETWORK or kind.startswith("fuse.") else None


def file_system(path: str, table: str = system.MOUNTS) -> str:
    """Return the type of the file system that `path` is on, "" where nobody tells."""
    path, best, kind = os.path.realpath(path), "", ""
    for line in system.table(table) or ():
        mount, _, rest = line.partition(" - ")
        point = _OCTAL.sub(lambda code: chr(int(code[1], 8)), mount.split(" ")[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split(" ")[0]
    return kind
