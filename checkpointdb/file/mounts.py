"""Which kind of file system a path is on. Knows Linux's mount table; elsewhere it knows nothing."""

from __future__ import annotations

import os
import re

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


def network_file_system(path: str, table: str = "/proc/self/mountinfo") -> str | None:
    """Return the type of the network file system that `path` is on, None for a local one.

    SQLite's log needs memory shared by all who have the file open, and locks that hold: neither is
    to be had between hosts (sqlite.org/wal.html). A file system in user space is taken for remote.
    """
    kind = _kind(os.path.realpath(path), table)
    return kind if kind in _NETWORK or kind.startswith("fuse.") else None


def _kind(path: str, table: str) -> str:
    best, kind = "", ""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = _OCTAL.sub(lambda code: chr(int(code[1], 8)), mount.split(" ")[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split(" ")[0]
    return kind
