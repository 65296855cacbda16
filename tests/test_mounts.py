"""A store on a network file system is warned of, for SQLite can lose data there."""

from __future__ import annotations

import pytest

import checkpointdb.file.connection
from checkpointdb import Store
from checkpointdb.file.mounts import network_file_system

TABLE = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:40 / /mnt/team rw,relatime shared:1 - nfs4 server:/team rw
41 40 0:41 / /mnt/team/scratch rw - xfs /dev/vdb rw
42 22 0:42 / /mnt/my\040share rw - cifs //server/share rw
43 22 0:43 / /mnt/remote rw - fuse.sshfs me@host: rw
""".lstrip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/rows.ckpt", None),
        ("/mnt/team/rows.ckpt", "nfs4"),
        ("/mnt/teamwork/rows.ckpt", None),
        ("/mnt/team/scratch/rows.ckpt", None),
        ("/mnt/my share/rows.ckpt", "cifs"),
        ("/mnt/remote/a/rows.ckpt", "fuse.sshfs"),
    ],
)
def test_the_innermost_mount_decides(tmp_path, path, kind):
    """A path's file system is that of the longest mount point it is under."""
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert network_file_system(path, str(table)) == kind


def test_without_a_mount_table_nothing_is_said(tmp_path):
    """On a system without Linux's mount table a path counts as local."""
    assert network_file_system(str(tmp_path), str(tmp_path / "none")) is None


def test_a_store_there_is_warned_of(store_path, monkeypatch):
    """Opening a store on a network file system warns and names the remedy; it opens, too."""
    monkeypatch.setattr(checkpointdb.file.connection, "network_file_system", lambda path: "nfs4")
    with pytest.warns(UserWarning, match=r"nfs4.*local disk"), Store(store_path) as store:
        assert store.steps() == []
