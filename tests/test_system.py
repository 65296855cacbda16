"""What differs between systems: it stands in one module, and all else works where it is not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import apsw
import msgspec
import pytest
from stores import Log

from checkpointdb import Store, system
from checkpointdb.file import leases, processes

HERE = os.path.dirname(__file__)
PACKAGE = os.path.join(os.path.dirname(HERE), "checkpointdb")
# Of Linux, or of it and macOS; what Python itself asks for is its own business.
ONE_PLACE = {
    *("register_at_fork", "fork", "link", "uname", "clock_gettime", "sched_getaffinity"),
    *("O_TMPFILE", "O_DIRECTORY", "F_FULLFSYNC", "SIGHUP", "SIGALRM", "pthread_sigmask"),
    *("CLOCK_BOOTTIME", "platform", "getnode", "pidfd_open"),
}


def test_one_module_knows_what_differs_between_systems():
    """No other one names a call, a flag or a file that some system lacks."""
    found = set()
    for folder, _, names in os.walk(PACKAGE):
        for name in names:
            if not name.endswith(".py") or os.path.join(folder, name) == system.__file__:
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                tree = ast.parse(file.read())
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and node.attr in ONE_PLACE:
                    if ast.unparse(node.value) in ("os", "sys", "time", "signal", "fcntl", "uuid"):
                        found.add((name, node.attr))
                elif isinstance(node, ast.Constant) and str(node.value).startswith(
                    ("/proc/", "/sys")
                ):
                    found.add((name, node.value))
    assert not found


def without_linux(*arguments):
    """Run tests in a process from which Linux's own parts, fork and hard links are taken."""
    done = subprocess.run(
        [sys.executable, "without_linux.py", *arguments],
        cwd=HERE, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-1_000:]
    return done.stdout


CORE = (
    *("test_store.py", "test_runner.py", "test_step.py", "test_connection.py", "test_shared.py"),
    *("test_failures.py", "test_crash.py", "test_concurrency.py", "test_keys.py", "test_policy.py"),
    *("test_cli_run.py", "test_direct.py"),
)


@pytest.mark.slow
def test_the_core_works_where_linuxs_own_parts_are_not():
    """Commits, threads, a full disk, a file that was replaced, a claim; all of it under `soak`."""
    chosen = (
        "full_disk or all_or_nothing or lease_of_another or keeps_what_is_pending"
        " or is_synced_before or threads_share"
    )
    assert "passed" in without_linux("test_store.py", "test_shared.py", "-k", chosen)


@pytest.mark.soak
@pytest.mark.parametrize("name", CORE)
def test_all_of_the_core_works_there(name):
    """Every test of it that does not itself need what is gone."""
    assert "passed" in without_linux(name)


class Syncs(apsw.VFS):
    """The system's VFS, which notes how a file is synced."""

    def __init__(self):
        self.name, self.flags = f"syncs-{id(self)}", []
        super().__init__(self.name, "unix")

    def xOpen(self, name, flags):
        return SyncedFile(self.flags, name, flags)


class SyncedFile(apsw.VFSFile):
    def __init__(self, noted, name, flags):
        self.noted = noted
        super().__init__("unix", name, flags)

    def xSync(self, flags):
        self.noted.append(flags & 0xF)
        super().xSync(flags)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_each_sync_is_one_that_macos_takes_to_the_disk_itself(store_path, durability):
    """Creation, commit, flush, wal_checkpoint: SQLite asks for F_FULLFSYNC at each, not fsync."""
    vfs = Syncs()
    with Store(store_path, durability=durability, vfs=vfs.name) as store:
        created = len(vfs.flags)
        log = Log(store)
        log.add(1)  # the header of a new log is synced whatever the durability
        began = len(vfs.flags)
        log.add(2)
        committed = len(vfs.flags)
        store.flush()
        flushed = len(vfs.flags)
    assert created
    assert (committed > began) == (durability == "power")
    assert flushed > created and len(vfs.flags) > flushed
    assert set(vfs.flags) == {apsw.SQLITE_SYNC_FULL}


def test_where_nobody_tells_when_a_process_began_a_claim_is_a_lease(monkeypatch):
    """Another process may have got its number: the claim would hold for ever."""
    here = msgspec.structs.replace(processes.this_process(), ticks=0)
    monkeypatch.setattr(processes, "_process", lambda pid: here)
    other = msgspec.structs.replace(here, pid=os.getppid())
    gone = msgspec.structs.replace(here, pid=2**22 + 1)
    assert processes.alive(other) is True and processes.alive(gone) is False
    soon, before = leases.now() + 5, leases.now() - 1
    for process, expires, is_void in (
        (here, soon, False), (here, before, False),
        (other, soon, False), (other, before, True),
        (gone, soon, True),
    ):  # fmt: skip
        assert leases.is_void(leases.new_worker(process), expires) == is_void
