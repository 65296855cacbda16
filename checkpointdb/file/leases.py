"""Which worker computes which row, among processes on one store. Knows SQL and clocks; not rows.

A claim is a lease on the clock that runs while the machine is up, whatever happens to the wall
clock, and also through suspension; one of an earlier boot, or of a process that is gone, is void.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import apsw

from .processes import alive
from .sql import rows

LEASE_SECONDS = 15.0


def boot_id() -> str:
    """Return what tells this boot of the machine from any other."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except FileNotFoundError:
        return "unknown"


def new_worker(host: str) -> str:
    """Return a name for a worker of this process: boot, host, pid, time, nonce."""
    return f"{boot_id()} {host} {os.getpid()} {time.time():.3f} {os.urandom(4).hex()}"


def now() -> float:
    """Return the clock of leases, in seconds."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def take(writer: apsw.Connection, worker: str, keys: Sequence[bytes]) -> set[bytes]:
    """Claim the keys that nobody alive holds; return those. The caller's transaction."""
    wanted = apsw.carray(tuple(keys))
    holders = """
        select worker, max(expires) from claims
         where key in (select value from carray(?)) group by worker
        """
    for other, expires in rows(writer, holders, (wanted,)):
        if other != worker and is_void(other, expires):
            release(writer, other)
    writer.execute(
        "insert or ignore into claims select value, ?, ? from carray(?)",
        (worker, now() + LEASE_SECONDS, wanted),
    )
    ours = "select key from claims where worker = ? and key in (select value from carray(?))"
    return {key for (key,) in rows(writer, ours, (worker, wanted))}


def is_void(worker: str, expires: float) -> bool:
    """Tell whether a claim holds no more."""
    boot, host, pid, since, _ = worker.split(" ")
    if boot != boot_id() or expires < now():
        return True
    return alive(host, int(pid), float(since)) is False


def renew(writer: apsw.Connection, worker: str) -> None:
    """Extend a worker's leases."""
    writer.execute(
        "update claims set expires = ? where worker = ?", (now() + LEASE_SECONDS, worker)
    )


def release(writer: apsw.Connection, worker: str) -> None:
    """Give up all that a worker holds."""
    writer.execute("delete from claims where worker = ?", (worker,))
