"""Store files that somebody made to do harm: by hand, and by mutation. A maker gets a whole store."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct

import apsw
import msgspec
from stores import identity, key

import checkpointdb as ckpt
from checkpointdb.file.records import Entry, checksum

ROWS = [{"n": n, "text": f"row {n}"} for n in range(6)]
BLOB = {"n": (1, 2), "list": [0.5] * 70}
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31m\u202egnp.exe\x9b31m\r\b\n\x00\u2066\u200e\ud83d"
TEXT = ESCAPES.replace("\x00", "").replace("\ud83d", "")
MAKERS = {}
DEEP = 100_000


def maker(make):
    MAKERS[make.__name__] = make
    return make


def label(row):
    if row["n"] == 4:
        raise ValueError("no four")
    return BLOB if row["n"] == 5 else {"label": row["text"]}


def whole(path):
    """Make the store that is then spoilt: results, a failure, a call without an answer, meta."""
    with ckpt.Store(path) as store:
        step = ckpt.step(store, version=1, name="label", meta={"by": "me"})(label)
        list(step.run(ROWS, on_error="record", ledger=True))
        log = store.log
        log.claim("elsewhere 0-0 7 7 7 ab", [key(99)])
        log.begin_counter("run")
    with opened(path) as db:
        db.execute(
            "insert into sent_calls select key, 1, 1, 0, 1.0, input, 0 from records where id = 1"
        )
        db.execute("insert or ignore into system_key_index select key, id from records")
        db.execute("update system_state set value = 6 where name = 'indexed_to'")


@contextlib.contextmanager
def opened(path):
    """Open a store as an attacker does: nothing is checked."""
    db = apsw.Connection(path)
    try:
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        db.pragma("writable_schema", True)
        db.pragma("ignore_check_constraints", True)
        yield db
    finally:
        db.close()


def sql(name, *statements):
    """Make a file by SQL."""

    def make(path):
        with opened(path) as db:
            for statement in statements:
                with contextlib.suppress(apsw.MismatchError):  # an id stays a number
                    db.execute(statement)

    MAKERS[name] = make


def redefine(name, of, text):
    """Give something in the schema another definition."""
    quoted = text.replace("'", "''")
    version = "pragma schema_version = 99"
    sql(name, f"update sqlite_schema set sql = '{quoted}' where name = '{of}'", version)


def bytes_at(name, offset, data):
    """Make a file by writing bytes into it."""

    def make(path):
        with open(path, "r+b") as file:
            file.seek(*((offset, 0) if offset >= 0 else (offset, 2)))
            file.write(data)

    MAKERS[name] = make


# --- what is in the schema

INFINITE = "with recursive c(x) as (select 1 union all select x + 1 from c) select x"
sql("a view in place of a table", "alter table records rename to r2",
    "create view records as select * from r2")  # fmt: skip
sql("an endless view in place of a table", "alter table steps rename to s2",
    f"create view steps as {INFINITE} as id from c")  # fmt: skip
redefine("an endless view of ours", "results", f"create view results as {INFINITE} as id from c")
sql("a trigger on records",
    "create trigger t before insert on records begin select raise(ignore); end")  # fmt: skip
sql("a trigger on runs", "create trigger t after insert on runs begin delete from records; end")
sql("an index that takes 400 MB a row",
    "create index evil on records (hex(zeroblob(1000 + id)))",
    "update sqlite_schema set sql = 'create index evil on records (hex(zeroblob(99999999 + id)))'"
    " where name = 'evil'")  # fmt: skip
sql("a partial index", "create index evil on records (id) where length(hex(zeroblob(9999))) > id")
sql("an index on a table of the engine", "create index evil on system_state (value)")
redefine("a check that takes memory", "runs",
         "create table runs (id integer primary key, x check (length(zeroblob(999999999)) > 0))")  # fmt: skip
redefine("a default that takes memory", "sent_calls",
         "create table sent_calls (key blob primary key, x default (zeroblob(999999999)))")  # fmt: skip


@maker
def a_generated_column_that_takes_memory(path):
    with opened(path) as db:
        text = db.execute("select sql from sqlite_schema where name = 'records'").get
        text = text.replace("lower(hex(key))", "hex(zeroblob(400000000))")
        db.execute("update sqlite_schema set sql = ? where name = 'records'", (text,))


sql("a virtual table in place of a table", "drop table system_claims",
    "create virtual table system_claims using fts5 (key, worker, expires)")  # fmt: skip
redefine(
    "a virtual table of no module", "system_claims", "create virtual table system_claims using x"
)
redefine("no SQL at all", "records", "not SQL")
redefine("SQL that is not closed", "records", "create table records (")
redefine("another table's SQL", "records", "create table steps (id)")
sql("a schema without a table", "drop view results", "drop view failures", "drop table records")
sql("a table without its columns", "drop view results", "drop view failures", "drop table runs",
    "create table runs (id integer primary key)")  # fmt: skip
sql("a collation nobody has", "create table more (x collate nocase)", "create index i on more (x)",
    "update sqlite_schema set sql = 'create table more (x collate nobody)' where name = 'more'")  # fmt: skip
sql("statistics that lie", "analyze",
    "update sqlite_stat1 set stat = '99999999999999999999 -1 x sz=-9'")  # fmt: skip
sql("two tables on one page",
    "update sqlite_schema set rootpage = (select rootpage from sqlite_schema where name = 'steps')"
    " where name = 'records'")  # fmt: skip
for page in (0, 1, -1, 2**31, 2**62, "'x'", "null", 3.5):
    sql(f"a root page {page}", f"update sqlite_schema set rootpage = {page} where name = 'records'")
sql("an index on the page of a table",
    "update sqlite_schema set rootpage = (select rootpage from sqlite_schema where name = 'records')"
    " where name = 'system_key_index'")  # fmt: skip


@maker
def two_thousand_tables(path):
    with opened(path) as db, db:
        for n in range(2_000):
            db.execute(f"create table t{n} (x)")


@maker
def a_definition_of_megabytes(path):
    with opened(path) as db:
        db.execute(f"create table more (x default '{'y' * 900_000}')")


@maker
def text_in_utf_16(path):
    with opened(path) as db:
        made = [text for (text,) in db.execute(
            "select sql from sqlite_schema where sql is not null and name not like 'sqlite_%'"
        )]  # fmt: skip
    os.unlink(path)
    with opened(path) as db:
        db.pragma("encoding", "UTF-16")
        for text in made:
            db.execute(text)
        db.pragma("application_id", 0x434B5054)
        db.pragma("user_version", 1)
        db.execute("insert into system_state values ('generation', 0), ('indexed_to', 0),"
                   " ('flushes', 0), ('repeated', 0), ('store_id', 'x'), ('created_at', 1)")  # fmt: skip
        db.execute("insert into steps values (1, 'lä', 1, 'null', 1.0, 0, 0, 0, 0, 0, '{}', null)")


# --- what is in the tables

COLUMNS = {
    "steps": "id name version key_recipe created_at results failures records seconds cost usage"
    " on_change",
    "step_code": "step fingerprint captured first_used accepted_at",
    "runs": "id step code store started_at updated_at ended host boot pid_namespace pid pid_ticks"
    " policy loss_window durability meta rows hits computed failed commits seconds commit_seconds"
    " cost usage",
    "records": "id key identity step run position occurrence attempts seconds cost usage saved_at"
    " checksum error result input input_form row_digest",
    "sent_calls": "key step run position sent_at input input_form",
    "system_claims": "key worker expires",
    "system_counters": "kind shared worker expires ended deaths",
    "system_key_index": "key id",
    "system_state": "name value",
    "system_superseded": "id",
    "sqlite_sequence": "name seq",
}
WRONG = ["x'ff00fe'", "'\x1b[31m'", "1e999", "-1e999", "-1", "9223372036854775807", "''", "0",
         "-9223372036854775808", "cast(x'ff80' as text)", "'1'", "0.5", "zeroblob(100000)"]  # fmt: skip


def wrong_value(table, column, value):
    if table == "system_superseded":
        return "insert or ignore into system_superseded select id from records"
    at = "" if table in ("system_state", "sqlite_sequence") else "limit 1"
    return (
        f"update or ignore {table} set {column} = {value} where rowid in"
        f" (select rowid from {table} {at})"
        if table in ("steps", "step_code", "runs", "records", "system_counters", "sqlite_sequence")
        else f"update or ignore {table} set {column} = {value}"
    )


def _wrong_types():
    values = iter(WRONG * 99)
    for table, names in COLUMNS.items():
        for column in names.split():
            for value in (next(values), next(values), next(values)):
                sql(f"{table}.{column} = {value}"[:60], wrong_value(table, column, value))


_wrong_types()
sql("no state", "delete from system_state")
for name in ("generation", "indexed_to", "repeated", "store_id", "flushes"):
    for value in ("-5", "9223372036854775807", "'x'", "null", "1e999"):
        sql(f"the state's {name} = {value}",
            f"update or ignore system_state set value = {value} where name = '{name}'")  # fmt: skip
sql("records of no step", "delete from steps")
sql("records of no run", "delete from runs")
sql("a call of no run", "update sent_calls set run = 77")
sql("a run of no step", "update runs set step = 77")
sql("ids that end", "update records set id = 9223372036854775807 where id = 6")
sql("ids below zero", "update records set id = -id")
sql("an index into nothing", "update system_key_index set id = id + 1000000")
sql("an index to one record", "update system_key_index set id = 1")
sql("all is superseded", "insert into system_superseded select id from records")
sql("times past all calendars", "update records set saved_at = 1e300",
    "update runs set started_at = -1e300, updated_at = 1e300", "update sent_calls set sent_at = 1e18",
    "update steps set created_at = 1e300", "update step_code set first_used = 1e300")  # fmt: skip
sql("numbers past all", "update steps set results = 9223372036854775807, cost = 1e308,"
    " seconds = 1e308", "update runs set rows = 9223372036854775807, hits = 9223372036854775807,"
    " seconds = 1e-320, cost = 1e308, commit_seconds = 9e999")  # fmt: skip
sql("a name of megabytes", "update steps set name = hex(zeroblob(300000))")


@maker
def escapes_in_every_text(path):
    with opened(path) as db:
        for table, columns in (
            ("steps", "name version on_change"),
            ("step_code", "fingerprint captured"),
            ("runs", "store ended host boot policy loss_window durability"),
            ("system_claims", "worker"),
        ):
            for column in columns.split():
                db.execute(f"update {table} set {column} = ?", (TEXT,))
        db.execute("update runs set meta = json_quote(?)", (TEXT,))
        put(
            db,
            error=msgspec.json.encode(
                dict.fromkeys(("type", "message", "traceback"), TEXT)
            ).decode(),
        )
        put(db, result=msgspec.json.encode({TEXT: TEXT}).decode())


def put(db, result=None, error=None, input='{"n":0}', row_digest=None):
    """Add a record whose checksum holds: whoever may write the file can compute one."""
    n = db.execute("select max(id) from records").get + 1
    entry = Entry(key(n), identity(n), n, 1, 0.1, None, error, result, input, row_digest=row_digest)
    db.execute(
        """
        insert into records (key, identity, step, run, position, occurrence, attempts, seconds,
                             saved_at, checksum, error, result, input, input_form, row_digest)
        values (?, ?, 1, 1, ?, 0, 1, 0.1, 1.0, ?, ?, ?, ?, 0, ?)
        """,
        (key(n), identity(n), n, checksum(entry), error, result, input, row_digest),
    )
    return key(n)


def stored(name, value):
    """Make a file with a value where results, inputs and calls are; with an error too, if text."""

    def make(path):
        with opened(path) as db:
            put(db, result=value)
            put(db, result="1", input=value)
            put(db, error='{"type":"E","message":"m"}', input=value)
            db.execute("update sent_calls set input = ?", (value,))
            if isinstance(value, str):
                put(db, error=value)
                db.execute("update runs set meta = ?", (value,))
                db.execute("update steps set key_recipe = ?", (value,))
                db.execute("update step_code set captured = ?", (value,))

    MAKERS[name] = make


for text in (
    *("", "nul", "{", "[1", "NaN", "-Infinity", "1e999", '"\\ud83d"', '"\\u0000"', "[1]]", "{}{}"),
    *("[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP),
    *("9" * 100_000, "-" + "9" * 5_000, "1." + "9" * 100_000, '{"a":1,"a":2}', "[]", "7", '"x"'),
    *('{"type":{},"message":[1],"traceback":7}', '{"type":null}', '{"function":7}', '["a",7]'),
    *('{"key":null,"depends":7}', '{"key":{"key":{"key":1}},"depends":[]}', '{"a":{"b":7}}'),
    *('{"its code":{"":7}}', '{"its code":null}', '{"x":{"":["d",7]}}'),
):
    stored(f"JSON {text[:24]!r} of {len(text)}", text)

for data in (
    b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x05", b"\x91" * 1_000_000, b"\x81\xa1a" * 300_000,
    b"\xa2\xff\xfe", b"\x01\x01", b"\xc0", b"\x81\x01\x02", b"\x81\xc0\xc0", b"\xdc\xff\xff" + b"\xc0" * 9,
    b"\xc7\x05\x01" + b"\xdd\xff\xff\xff\xff", b"\xc7\x00\x0e", b"\xd4\x7f\x00", b"\xd4\xff\x00",
    b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12,
):  # fmt: skip
    stored(f"MessagePack {data[:8].hex()} of {len(data)}", data)


def ext(code, payload):
    data = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
    return b"\xc9" + struct.pack(">IB", len(data), code) + data


def nested(code, depth):
    data = b"\xc0"
    for _ in range(depth):
        data = ext(code, b"\x91" + data)
    return data


PAYLOADS = [
    None,
    [],
    {},
    "x",
    7,
    -1,
    2**63,
    b"\xff" * 9,
    [None] * 3,
    ["", "", ""],
    [[1]],
    [1, 2, 3],
]
for code in range(1, 38):
    for number, payload in enumerate(PAYLOADS):
        if (code + number) % 4 == 0:
            stored(f"extension {code} of {payload!r}"[:50], ext(code, payload))
for name, data in {
    "an integer of megabytes": ext(5, b"\x7f" * 3_000_000),
    "an integer of 8 kB": ext(5, b"\x7f" * 8_000),
    "a decimal that is long": ext(6, "1e999999999"),
    "a decimal that is longer": ext(6, "-1E+999999999999999999"),
    "a fraction by zero": ext(20, [1, 0]),
    "an array of 2**60 numbers": ext(18, ["<f8", [2**60], b""]),
    "an array of 0 by 2**62": ext(18, ["<f8", [0, 2**62, 2**62], b""]),
    "an array below zero": ext(18, ["<f8", [-1], b"12345678"]),
    "an array of no type": ext(18, ["O", [1], b"12345678"]),
    "an array of a type of 2 GB": ext(18, ["|V2147483647", [1], b""]),
    "an array of 99 dimensions": ext(18, ["<f8", [1] * 99, b"12345678"]),
    "an array of fields": ext(18, [[["a", "O"]], [1], b"12345678"]),
    "an array of objects of 2**60": ext(30, [[2**60], []]),
    "floats cut short": ext(16, b"123"),
    "doubles cut short": ext(17, b"123"),
    "a range of 2**63": ext(24, [0, 2**63 - 1, 1]),
    "a range of step 0": ext(24, [0, 1, 0]),
    "a deque of 2**62": ext(23, [2**62, []]),
    "a memoryview of no format": ext(22, ["evil", [1], b"1"]),
    "a memoryview of 2**60": ext(22, ["B", [2**60], b""]),
    "a time of no zone": ext(7, ["2024-01-01T00:00:00+00:00", 0, "../../etc/passwd"]),
    "a time in a zone of megabytes": ext(7, ["2024-01-01T00:00:00+00:00", 0, "A/" * 500_000]),
    "a time of a zone below": ext(7, ["2024-01-01T00:00:00", 0, ["pytz", -(10**9)]]),
    "days past all": ext(10, [2**62, 0, 0]),
    "a class of the system": ext(14, ["os.system", ["true"]]),
    "a class of builtins": ext(14, ["eval", ["1"]]),
    "a class with attributes": ext(14, ["Path", {"a": 1}, {"own": {"__class__": "x"}}]),
    "an enum of nobody": ext(13, ["Nobody", 1]),
    "a dict of lists": ext(1, [[[1], 2]]),
    "a dict of no pairs": ext(1, [[1, 2, 3]]),
    "sets in sets": nested(3, 500),
    "tuples in tuples": nested(2, 500),
    "tuples 20,000 deep": nested(2, 20_000),
    "an address": ext(25, ["eval", "1"]),
    "a default factory": ext(27, ["defaultdict", {}, "eval"]),
    "a complex of texts": ext(19, ["a", "b"]),
    "a numpy scalar": ext(29, ["O", b"12345678"]),
    "a period of 2**62": ext(31, ["Period", 2**62, "D"]),
    "a timestamp of 2**62": ext(31, ["Timestamp", 2**62, "s", None]),
    "a time stamp of no unit": ext(31, ["Timestamp", 1, "century", None]),
    "an interval of nothing": ext(31, ["Interval", None, None, "x"]),
}.items():
    stored(name, data)


# --- what is in the bytes

bytes_at("no page size", 16, b"\0\0")
bytes_at("a page size of 3", 16, b"\0\3")
bytes_at("a page size of 64 KiB", 16, b"\0\1")
bytes_at("a page size of 512", 16, b"\2\0")
bytes_at("a format of the future", 18, b"\x09\x09")
bytes_at("a reading format of the future", 19, b"\x09")
bytes_at("a rollback journal's header", 18, b"\1\1")
bytes_at("all of a page reserved", 20, b"\xff")
bytes_at("other fractions", 21, b"\1\1\1")
bytes_at("4 billion pages", 28, b"\xff\xff\xff\xff")
bytes_at("no pages", 28, b"\0\0\0\0")
bytes_at("a free list into nowhere", 32, b"\xff\xff\xff\xff\xff\xff\xff\xff")
bytes_at("a free list of the first page", 32, b"\0\0\0\1\0\0\0\x63")
bytes_at("a free list of a table", 32, b"\0\0\0\3\0\0\0\x09")
bytes_at("a schema format of 99", 44, b"\0\0\0\x63")
bytes_at("a vacuum of its own", 52, b"\0\0\0\x99")
bytes_at("a text encoding of 99", 56, b"\0\0\0\x63")
bytes_at("a text encoding of UTF-16", 56, b"\0\0\0\2")
bytes_at("no format", 60, b"\0\0\0\0")
bytes_at("a format of 2 billion", 60, b"\x7f\xff\xff\xff")
bytes_at("a format below zero", 60, b"\xff\xff\xff\xff")
bytes_at("an application of nobody", 68, b"\0\0\0\0")
bytes_at("a first page of nothing", 100, b"\0" * 8092)
bytes_at("a first page that is its own child", 100, b"\5\0\0\0\1\1\0\0\0\0\0\1\x1f\xf0")
bytes_at("a magic of another kind", 0, b"SQLite format 4\0")
bytes_at("zip", 0, b"PK\3\4" + b"\0" * 96)


def _root(path, table):
    with opened(path) as db:
        return db.execute("select rootpage from sqlite_schema where name = ?", (table,)).get


def page_of(name, table, data, at=0):
    """Make a file by writing bytes to the root page of a table."""

    def make(path):
        page = _root(path, table)
        with open(path, "r+b") as file:
            file.seek((page - 1) * 8192 + at)
            file.write(data(page) if callable(data) else data)

    MAKERS[name] = make


for table in ("records", "steps", "runs", "system_key_index", "system_state"):
    kind = b"\2" if table in ("system_key_index", "system_state") else b"\5"
    page_of(f"{table}: a page that is its own child", table,
            lambda page, kind=kind: kind + struct.pack(">HHHBI", 0, 1, 8000, 0, page) + b"\x1f\x40")  # fmt: skip
    page_of(f"{table}: cells outside of the page", table, b"\xff\xff" * 8, 8)
    page_of(f"{table}: 65,535 cells", table, b"\xff\xff", 3)
    page_of(f"{table}: a cell of 2**63 bytes", table, b"\xff" * 9, 8192 - 60)
    page_of(f"{table}: zeros", table, b"\0" * 8192)
    page_of(f"{table}: ones", table, b"\xff" * 8192)


@maker
def an_overflow_chain_without_an_end(path):
    with opened(path) as db:
        put(db, result=b"\xc6" + struct.pack(">I", 100_000) + b"z" * 100_000)
        last = db.pragma("page_count")
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    with open(path, "r+b") as file:
        for page in range(max(2, last - 11), last + 1):
            file.seek((page - 1) * 8192)
            file.write(struct.pack(">I", page))


@maker
def ten_gigabytes_of_holes(path):
    os.truncate(path, 10 << 30)
    with open(path, "r+b") as file:
        file.seek(28)
        file.write(struct.pack(">I", (10 << 30) // 8192))


def cut(name, size):
    MAKERS[name] = lambda path: os.truncate(
        path, size if size >= 0 else os.path.getsize(path) + size
    )


for size in (0, 1, 99, 100, 511, 512, 4096, 8191, 8192, 16384, -1, -8192, -20000):
    cut(f"cut to {size}", size)


def beside(name, ending, make):
    """Put something next to a store that is whole."""
    MAKERS[name] = lambda path: make(path + ending)


def _write(data):
    def make(path):
        with open(path, "wb") as file:
            file.write(data)

    return make


WAL = struct.pack(">IIIIIIII", 0x377F0682, 3007000, 8192, 0, 1, 2, 3, 4)
for ending in ("-wal", "-shm", "-journal"):
    beside(f"a {ending} of garbage", ending, _write(random.Random(7).randbytes(70_000)))
    beside(f"a {ending} that is empty", ending, _write(b""))
    beside(f"a {ending} that is a directory", ending, os.mkdir)
    beside(f"a {ending} that is a pipe", ending, os.mkfifo)
    beside(f"a {ending} that is a link to nothing", ending, lambda path: os.symlink("none", path))
    beside(f"a {ending} that is a link to itself", ending, lambda path: os.symlink(path, path))
    beside(f"a {ending} that is a device", ending, lambda path: os.symlink("/dev/zero", path))
beside("a log of frames of nothing", "-wal", _write(WAL + b"\0" * 90_000))
beside(
    "a log of 100 MB of holes",
    "-wal",
    lambda path: (_write(WAL)(path), os.truncate(path, 100 << 20)),
)
beside("a log of pages of 3 bytes", "-wal", _write(WAL[:8] + b"\0\0\0\3" + WAL[12:] + b"x" * 9000))
JOURNAL = bytes.fromhex("d9d505f920a163d7")
beside("a journal that names another file", "-journal",
       _write(JOURNAL + struct.pack(">IIIII", 1, 7, 1, 512, 8192) + b"\0" * 484 + b"/etc/passwd"
              + struct.pack(">II", 11, sum(b"/etc/passwd")) + JOURNAL))  # fmt: skip
beside("a journal of 4 billion pages", "-journal",
       _write(JOURNAL + struct.pack(">IIIII", 0xFFFFFFFF, 7, 0xFFFFFFFF, 512, 8192) + b"\0" * 9000))  # fmt: skip


# --- what is no file of rows at all


def instead(name, make):
    """Have something else under the store's name."""

    def made(path):
        os.unlink(path)
        make(path)

    MAKERS[name] = made


def _socket(path):
    with socket.socket(socket.AF_UNIX) as it:
        it.bind(path)


instead("a directory", os.mkdir)
instead("a pipe", os.mkfifo)
instead("a socket", _socket)
instead("a link to itself", lambda path: os.symlink(path, path))
instead("a link to nothing in a folder of nothing", lambda path: os.symlink("no/such", path))
for device in ("null", "zero", "full", "random", "tty"):
    instead(
        f"a link to /dev/{device}", lambda path, device=device: os.symlink(f"/dev/{device}", path)
    )
instead("text", _write(b"id,text\n" * 1000))
instead(
    "an SQLite file of another", lambda path: apsw.Connection(path).execute("create table t(x)")
)


# --- by mutation


def mutate(path, chance):
    """Change some bytes of a store, or of its log, where they do most harm."""
    with open(path, "r+b") as file:
        data = bytearray(file.read())
        for _ in range(chance.choice([1, 1, 2, 4, 16])):
            page = chance.randrange(len(data) // 8192)
            at = page * 8192 + chance.choice(
                [chance.randrange(8192), chance.randrange(100), chance.randrange(12, 60),
                 8192 - chance.randrange(1, 400)]
            )  # fmt: skip
            kind = chance.randrange(5)
            if kind == 0:
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
            elif kind == 2:
                data[at : at + 4] = struct.pack(
                    ">I", chance.choice([0, 1, 2**31, 2**32 - 1, page + 1])
                )
            elif kind == 3:
                other = chance.randrange(len(data) - 64)
                data[at : at + 32] = data[other : other + 32]
            else:
                data[at : at + 9] = b"\xff" * 9
        file.seek(0)
        file.write(data)
    if chance.random() < 0.05:
        os.truncate(path, chance.randrange(len(data)))
