"""The formats of a store file, and how each is made from the one before. Knows SQL only.

A released format never changes: a store of format n must look like what the first n migrations
make, and the newest format is the number of migrations. The columns are explained in
`docs/file-format.md`; a change here is a change there.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import apsw

APPLICATION_ID = 0x434B5054  # "CKPT"
BEFORE_FORMAT_1 = 0x636B7074  # "ckpt": stores of versions that were never released

TABLES_OF_FORMAT_1 = """
create table steps (
  id          integer primary key,
  name        text not null,
  version     not null,
  key_recipe  text not null,
  created_at  real not null,
  results     integer not null default 0,
  failures    integer not null default 0,
  records     integer not null default 0,
  seconds     real not null default 0,
  cost        real not null default 0,
  usage       text not null default '{}',
  on_change   text,
  unique (name, version)
);
create table step_code (
  id           integer primary key,
  step         integer not null references steps (id),
  fingerprint  text not null,
  captured     text,
  first_used   real not null,
  accepted_at  real,
  unique (step, fingerprint)
);
create table runs (
  id              integer primary key autoincrement,
  step            integer not null references steps (id),
  code            integer references step_code (id),
  store           text not null,
  uid             text not null unique,
  merged_to       integer,
  started_at      real not null,
  updated_at      real not null,
  ended           text,
  host            text not null,
  boot            text not null,
  pid_namespace   integer not null,
  pid             integer not null,
  pid_ticks       integer not null,
  policy          text not null,
  loss_window     text not null,
  durability      text not null,
  total           integer,
  meta            text,
  rows            integer not null default 0,
  hits            integer not null default 0,
  computed        integer not null default 0,
  failed          integer not null default 0,
  commits         integer not null default 0,
  seconds         real not null default 0,
  commit_seconds  real not null default 0,
  cost            real not null default 0,
  usage           text not null default '{}'
);
create table records (
  id          integer primary key autoincrement,
  key         blob not null,
  identity    blob not null,
  step        integer not null references steps (id),
  run         integer not null references runs (id),
  position    integer not null,
  occurrence  integer not null,
  attempts    integer not null,
  seconds     real not null,
  cost        real,
  usage       text,
  saved_at    real not null,
  checksum    integer not null,
  error       text,
  result,
  input,
  input_form  integer not null,
  row_digest  blob,
  origin_id   integer
);
create table sent_calls (
  key         blob primary key,
  step        integer not null references steps (id),
  run         integer not null references runs (id),
  position    integer not null,
  sent_at     real not null,
  input,
  input_form  integer not null
) without rowid;
create table system_claims (
  key      blob primary key,
  worker   text not null,
  expires  real not null
) without rowid;
create table system_counters (
  id       integer primary key autoincrement,
  kind     text not null,
  shared   integer not null,
  worker   text not null,
  expires  real not null,
  ended    integer,
  deaths   integer not null default 0
);
create table system_occurrences (
  content  blob not null,
  n        integer not null,
  counter  integer not null references system_counters (id),
  primary key (content, n, counter)
) without rowid;
create table system_forgotten (
  key         blob not null,
  event       blob not null,
  generation  integer not null,
  primary key (key, event)
) without rowid;
create table system_key_index (
  key  blob primary key,
  id   integer not null
) without rowid;
create table system_sources (
  store    text primary key,
  read_to  integer not null,
  mark     blob not null
) without rowid;
create table system_state (
  name   text primary key,
  value  not null
) without rowid;
create table system_superseded (
  id  integer primary key
);
create view results as
  select records.id, cast(lower(hex(key)) as text) as key, steps.name as step,
         cast(steps.version as text) as version, records.run, position, occurrence,
         cast(case typeof(input) when 'blob'
           then json_object('bytes', length(input), 'MessagePack', hex(substr(input, 1, 24)))
           else input end as text) as input,
         cast(case typeof(result) when 'blob'
           then json_object('bytes', length(result), 'MessagePack', hex(substr(result, 1, 24)))
           else result end as text) as result,
         attempts, cast(round(records.seconds, 3) as double) as seconds, records.cost,
         records.usage, cast(datetime(saved_at, 'unixepoch') as text) as saved_at
    from records join steps on steps.id = records.step
                 left join system_superseded on system_superseded.id = records.id
   where error is null and system_superseded.id is null;
create view failures as
  select records.id, cast(lower(hex(key)) as text) as key, steps.name as step,
         cast(steps.version as text) as version, records.run, position, occurrence,
         cast(case typeof(input) when 'blob'
           then json_object('bytes', length(input), 'MessagePack', hex(substr(input, 1, 24)))
           else input end as text) as input,
         cast(iif(json_valid(error), error ->> 'type', null) as text) as error_type,
         cast(iif(json_valid(error), error ->> 'message', null) as text) as message,
         cast(iif(json_valid(error), error ->> 'traceback', null) as text) as traceback,
         cast(case typeof(result) when 'blob'
           then json_object('bytes', length(result), 'MessagePack', hex(substr(result, 1, 24)))
           else result end as text) as result,
         attempts, cast(round(records.seconds, 3) as double) as seconds, records.cost,
         records.usage, cast(datetime(saved_at, 'unixepoch') as text) as saved_at
    from records join steps on steps.id = records.step
                 left join system_superseded on system_superseded.id = records.id
   where error is not null and system_superseded.id is null;
insert into system_state values
  ('generation', 0), ('indexed_to', 0), ('flushes', 0), ('repeated', 0);
"""


def m001_format_1(connection: apsw.Connection) -> None:
    """Create the tables of format 1, and give the store its id."""
    connection.execute(TABLES_OF_FORMAT_1)
    connection.execute(
        "insert into system_state values ('store_id', ?), ('created_at', ?)",
        (os.urandom(16).hex(), time.time()),
    )


# One function a format, in order; the n-th brings a store of format n-1 to format n.
MIGRATIONS: list[Callable[[apsw.Connection], None]] = [m001_format_1]


def newest() -> int:
    """Return the number of the newest format."""
    return len(MIGRATIONS)


def migrate(connection: apsw.Connection) -> None:
    """Bring a store, or an empty file, to the newest format, in one transaction.

    Promise: a kill in the middle leaves the old format, whole. Processes that come at the same time
    wait for each other, and one of them does it.
    """
    connection.execute("begin immediate")
    try:
        for n, step in enumerate(MIGRATIONS, 1):
            if connection.pragma("user_version") < n:
                step(connection)
                connection.pragma("user_version", n)
        connection.pragma("application_id", APPLICATION_ID)
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:  # pragma: no branch - SQLite took it back: a full disk
            connection.execute("rollback")
        raise


# Kind, name, table and SQL of everything in a schema.
Schema = frozenset[tuple[str, str, str, str | None]]


def schema_of(connection: apsw.Connection) -> Schema:
    """Return what is in the file's schema."""
    sql = "select type, name, tbl_name, sql from sqlite_schema"
    return frozenset(connection.execute(sql).fetchall())  # type: ignore[arg-type]


@functools.cache
def _schema_made_by(migrations: tuple[Callable[[apsw.Connection], None], ...]) -> Schema:
    connection = apsw.Connection(":memory:")
    for step in migrations:
        step(connection)
    return schema_of(connection)


def wrong_in_schema(connection: apsw.Connection) -> str | None:
    """Name the first thing that is not as the migrations up to the file's format make it.

    Tables and views of others count for nothing, for they are never read; but an index or a trigger
    on a table of ours is run by every insert, whoever put it there.
    """
    connection.execute("begin")  # both as of one moment: another process may be migrating
    try:
        expected = _schema_made_by(tuple(MIGRATIONS[: connection.pragma("user_version")]))
        present = schema_of(connection)
    finally:
        connection.execute("rollback")
    ours = {name for _, name, _, _ in expected}
    about_ours = {it for it in present if it[1] in ours or it[2] in ours}
    wrong = sorted((expected - about_ours) | (about_ours - expected), key=str)
    return f"the {wrong[0][0]} `{wrong[0][1]}`" if wrong else None
