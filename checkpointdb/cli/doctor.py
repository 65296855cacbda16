"""`ckpt doctor`: what a bug tracker needs to know of a store, and nothing of what is in it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import stat
import warnings
from typing import Any

import apsw
import click

from .. import __version__
from ..errors import CheckpointError
from ..file.facts import facts
from ..file.mounts import file_system
from ..file.read import Reader
from .completion import files
from .display import safe_json

PACKAGES = ("apsw", "msgspec", "xxhash", "click", "rich")
FILE_SYSTEMS = (
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "apfs", "hfs"),
    *("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "gpfs", "vfat", "exfat", "ntfs3"),
)


@click.command("doctor", short_help="Describe a store for a bug report, without what is in it.")
@click.argument("store", shell_complete=files)
def doctor_command(store: str) -> None:
    """Print a report on STORE that can be given to strangers.

    It has versions, sizes, counts, settings and whether anything is damaged. It has no row, result,
    key, path, host, nor any name or text that somebody wrote. It reads all of the store and writes
    nothing.

    \b
    Examples:
      ckpt doctor reviews.ckpt > report.json
    """  # noqa: D301 - click wants a real \b before lines it must not join
    click.echo(safe_json({"versions": _versions(), "file": _file(store), "store": _store(store)}))


def _versions() -> dict[str, str]:
    found = {"checkpointdb": __version__, "Python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in PACKAGES}
    release = re.match(r"\d+\.\d+", platform.release())  # the rest may name its builder
    system = f"{platform.system()} {release[0] if release else ''} {platform.machine()}"
    return found | {"SQLite": apsw.sqlite_lib_version(), "system": system}


def _file(store: str) -> dict[str, Any]:
    """Describe the file from outside."""
    path = os.path.realpath(store)
    found: dict[str, Any] = {}
    for name, place in (("store", path), ("wal", path + "-wal"), ("shm", path + "-shm")):
        with contextlib.suppress(OSError):
            status = os.stat(place)
            found[name] = {
                "bytes": status.st_size,
                "mode": oct(stat.S_IMODE(status.st_mode)),
                "owned by who asks": status.st_uid == os.geteuid(),
            }
    with contextlib.suppress(OSError):
        found["directory"] = {"mode": oct(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode))}
    kind = file_system(path)
    known = next((name for name in FILE_SYSTEMS if name == kind), "")
    return found | {"file system": known or ("fuse" if kind.startswith("fuse") else "another")}


def _store(store: str) -> dict[str, Any]:
    """Describe what is inside; of an error only its kind, because its text has the path."""
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Reader(store) as reader:
                with reader.snapshot() as connection:
                    found |= facts(connection)
                found["problems"] = len(reader.verify())
        except CheckpointError as error:
            found["error"] = type(error).__name__
    return found
