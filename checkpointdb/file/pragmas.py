"""How a connection is set up: hardened, limited, tuned. Knows SQLite's settings, no table."""

from __future__ import annotations

import apsw

# Bulk inserts of 600-byte rows take half the time at 8 KiB that they take at SQLite's 4 KiB, and
# less than half with a log of 40 MB that they take with one of 8 (docs/benchmarks.md, the tricks).
PAGE_SIZE = 8192
WAL_PAGES = 5_000
WAL_BYTES = 64 << 20
READER_CACHE = 16 << 20  # a resume in another order takes 1 µs a row less than with SQLite's 2 MB
BUSY_MILLISECONDS = 30_000
# A row of ours holds at most an input, a result and an error; a statement, 1,024 rows.
ROW_BYTES = 200 << 20
LIMITS = {
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_LENGTH: ROW_BYTES,
    apsw.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 10_000,
    apsw.SQLITE_LIMIT_COLUMN: 200,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 500,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}


def harden(connection: apsw.Connection) -> None:
    """Make a connection safe with a file that somebody else may have written.

    Under SQLite's defaults a view with a trigger, named as our table, took an insert and kept
    nothing; no trigger and no view runs here, and none of ours is needed. The limits keep a file
    from having a row of one byte allocate hundreds of megabytes.
    """
    for option, value in (
        (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
        (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0),
        (apsw.SQLITE_DBCONFIG_DQS_DML, 0),
        (apsw.SQLITE_DBCONFIG_DQS_DDL, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
    ):
        connection.config(option, value)
    for limit, most in LIMITS.items():
        connection.limit(limit, most)
    connection.pragma("cell_size_check", True)
    connection.pragma("mmap_size", 0)


def tune_writer(connection: apsw.Connection, durability: str) -> None:
    """Set what a writing connection needs: WAL, the durability, a bounded log."""
    connection.pragma("journal_mode", "wal")
    connection.pragma("wal_autocheckpoint", WAL_PAGES)
    connection.pragma("journal_size_limit", WAL_BYTES)
    sync_fully(connection)
    # or a page that becomes another one keeps rows that are deleted later
    connection.pragma("secure_delete", "fast")
    set_durability(connection, durability)


def sync_fully(connection: apsw.Connection) -> None:
    """Have each sync, when there is one, reach the disk itself.

    On macOS `fsync` leaves what it was given in the disk's own memory, which a power cut empties;
    elsewhere this changes nothing.
    """
    connection.pragma("fullfsync", True)
    connection.pragma("checkpoint_fullfsync", True)


def tune_reader(connection: apsw.Connection) -> None:
    """Set what a connection that only reads needs."""
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    connection.pragma("query_only", True)
    connection.pragma("cache_size", -READER_CACHE // 1024)


def set_durability(connection: apsw.Connection, durability: str) -> None:
    """`power`: a commit is on the disk when it returns. `process`: it is in the kernel."""
    connection.pragma("synchronous", "full" if durability == "power" else "normal")
