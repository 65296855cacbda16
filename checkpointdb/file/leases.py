"""Which worker computes which row, among processes on one store. Knows SQL and clocks; not rows.

A claim holds while its process lives, and is void if that process is gone or of an earlier boot.
Where that cannot be told (another host, another container) a claim is a lease, on the clock that
runs while the machine is up, whatever happens to the wall clock, even through suspension.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import apsw
import msgspec

from .. import system
from .processes import Process, alive, this_process
from .sql import rows

LEASE_SECONDS = 15.0


def new_worker(process: Process | None = None) -> str:
    """Return a name for a worker of a process, this one unless given."""
    fields = msgspec.structs.astuple(process or this_process())
    return " ".join(map(str, (*fields, os.urandom(4).hex())))


def _process_of(worker: str) -> Process:
    try:
        host, boot, namespace, pid, ticks, _ = worker.split(" ")
        return Process(host, boot, int(namespace), int(pid), int(ticks))
    except (AttributeError, ValueError):
        raise apsw.CorruptError("a claim is of no worker") from None


def now() -> float:
    """Return the clock of leases, in seconds."""
    return system.boot_clock()


def take(writer: apsw.Connection, worker: str, keys: Sequence[bytes]) -> set[bytes]:
    """Claim the keys that nobody alive holds; return those. The caller's transaction."""
    wanted = apsw.carray(tuple(keys))
    holders = """
        select worker, max(expires) from system_claims
         where key in (select value from carray(?)) group by worker
        """
    for other, expires in rows(writer, holders, (wanted,)):
        if other != worker and is_void(other, expires):
            release(writer, other)
    writer.execute(
        "insert or ignore into system_claims select value, ?, ? from carray(?)",
        (worker, now() + LEASE_SECONDS, wanted),
    )
    ours = "select key from system_claims where worker = ? and key in (select value from carray(?))"
    return {key for (key,) in rows(writer, ours, (worker, wanted))}


def holders(reader: apsw.Connection, keys: Sequence[bytes]) -> dict[bytes, str]:
    """Return the worker that has claimed each key, of those that are claimed."""
    sql = "select key, worker from system_claims where key in (select value from carray(?))"
    return dict(rows(reader, sql, (apsw.carray(tuple(keys)),)))


def is_void(worker: str, expires: float) -> bool:
    """Tell whether a claim no longer holds.

    A lease may run out while its process lives: a step that keeps the GIL for half a minute keeps
    it from being renewed.
    """
    living = _living(worker)
    return expires < now() if living is None else not living


def is_unknown(worker: str) -> bool:
    """Tell whether it cannot be told from here if a worker's process lives."""
    return _living(worker) is None


def _living(worker: str) -> bool | None:
    process = _process_of(worker)
    if not process.ticks and process != this_process() and alive(process):
        return None  # where nobody tells when it was started, another one may have its number
    return alive(process)


def renew(writer: apsw.Connection, worker: str) -> None:
    """Extend a worker's leases."""
    writer.execute(
        "update system_claims set expires = ? where worker = ?", (now() + LEASE_SECONDS, worker)
    )


def release(writer: apsw.Connection, worker: str, keys: Sequence[bytes] | None = None) -> None:
    """Give up what a worker holds of some keys, or all that it holds."""
    if keys is None:
        writer.execute("delete from system_claims where worker = ?", (worker,))
    else:
        writer.execute(
            "delete from system_claims where worker = ? and key in (select value from carray(?))",
            (worker, apsw.carray(tuple(keys))),
        )
