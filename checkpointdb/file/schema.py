"""The file format: tables, pragmas, migrations. Knows SQL; knows nothing of rows or policies.

The format is documented in `docs/file-format.md`; a change here is a change there.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from .sql import rows

APPLICATION_ID = 0x636B7074  # "ckpt"
FORMAT = 1
# Bulk inserts of 600-byte rows take half the time at 8 KiB that they take at SQLite's 4 KiB, and
# less than half with a log of 40 MB that they take with one of 8 (docs/benchmarks.md, the tricks).
PAGE_SIZE = 8192
WAL_PAGES = 5_000
WAL_BYTES = 64 << 20
READER_CACHE = 16 << 20  # a resume in another order takes 1 µs a row less than with SQLite's 2 MB
BUSY_MILLISECONDS = 30_000

TABLES = """
create table steps (
  id           integer primary key,
  name         text not null,
  version      not null,
  key_recipe   text not null,
  fingerprint  text,
  created_at   real not null,
  results      integer not null default 0,
  failures     integer not null default 0,
  records      integer not null default 0,
  seconds      real not null default 0,
  cost         real not null default 0,
  unique (name, version)
);
create table runs (
  id              integer primary key,
  step            integer not null references steps (id),
  started_at      real not null,
  updated_at      real not null,
  ended           text,
  host            text not null,
  pid             integer not null,
  policy          text not null,
  loss_window     text not null,
  durability      text not null,
  meta            text,
  rows            integer not null default 0,
  hits            integer not null default 0,
  computed        integer not null default 0,
  failed          integer not null default 0,
  commits         integer not null default 0,
  seconds         real not null default 0,
  commit_seconds  real not null default 0,
  cost            real not null default 0
);
create table records (
  id        integer primary key,
  key       blob not null,
  step      integer not null references steps (id),
  run       integer not null references runs (id),
  position  integer not null,
  attempts  integer not null,
  seconds   real not null,
  cost      real,
  saved_at  real not null,
  checksum  integer not null,
  error     text,
  result,
  input
);
create table key_index (
  key  blob primary key,
  id   integer not null
) without rowid;
create table calls (
  key       blob primary key,
  step      integer not null references steps (id),
  run       integer not null references runs (id),
  position  integer not null,
  sent_at   real not null,
  input
) without rowid;
create table claims (
  key      blob primary key,
  worker   text not null,
  expires  real not null
) without rowid;
create table state (
  name   text primary key,
  value  integer not null
) without rowid;
create view results as
  select max(records.id) as id, lower(hex(key)) as key, steps.name as step, steps.version,
         position, input, result, attempts, records.seconds, records.cost,
         datetime(saved_at, 'unixepoch') as saved_at, error
    from records join steps on steps.id = records.step
   group by records.key
  having error is null;
create view failures as
  select max(records.id) as id, lower(hex(key)) as key, steps.name as step, steps.version,
         position, input, error ->> 'type' as error_type, error ->> 'message' as message,
         attempts, records.seconds, records.cost,
         datetime(saved_at, 'unixepoch') as saved_at, error
    from records join steps on steps.id = records.step
   group by records.key
  having error is not null;
insert into state values ('indexed_to', 0), ('flushes', 0), ('repeated', 0);
"""


def m001_format_1(connection: apsw.Connection) -> None:
    """Lay the tables of format 1."""
    connection.execute(TABLES)


# One function a format, in order; the n-th brings a store of format n-1 to format n.
MIGRATIONS: list[Callable[[apsw.Connection], None]] = [m001_format_1]


def migrate(connection: apsw.Connection, present: int) -> None:
    """Bring a store from format `present` (0: an empty file) to `FORMAT`, in one transaction."""
    with connection:
        for step in MIGRATIONS[present:]:
            step(connection)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", FORMAT)


def harden(connection: apsw.Connection) -> None:
    """Make a connection safe with a file that somebody else may have written.

    Under SQLite's defaults a view with a trigger, named as our table, took an insert and kept
    nothing; no trigger and no view runs here, and none of ours is needed.
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
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
    connection.pragma("cell_size_check", True)
    connection.pragma("mmap_size", 0)


def tune_writer(connection: apsw.Connection, durability: str) -> None:
    """Set what a writing connection needs: WAL, the durability, a bounded log."""
    connection.pragma("journal_mode", "wal")
    connection.pragma("wal_autocheckpoint", WAL_PAGES)
    connection.pragma("journal_size_limit", WAL_BYTES)
    set_durability(connection, durability)


def tune_reader(connection: apsw.Connection) -> None:
    """Set what a connection needs that only reads."""
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    connection.pragma("query_only", True)
    connection.pragma("cache_size", -READER_CACHE // 1024)


def set_durability(connection: apsw.Connection, durability: str) -> None:
    """`power`: a commit is on the disk when it returns. `process`: it is in the kernel."""
    connection.pragma("synchronous", "full" if durability == "power" else "normal")


def expected_schema() -> dict[str, str]:
    """Return the SQL of every table and view of ours, by name."""
    connection = apsw.Connection(":memory:")
    connection.execute(TABLES)
    return schema_of(connection)


def schema_of(connection: apsw.Connection) -> dict[str, str]:
    """Return the SQL of every table and view in the file, by name."""
    sql = "select name, sql from sqlite_schema where type in ('table', 'view')"
    return dict(rows(connection, sql))
