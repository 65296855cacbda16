"""What a user of each neighbour writes for calls that wait, many of them at once.

Each function takes the rows and a call, passes the call over the rows with up to `IN_FLIGHT` at a
time, keeps the results in the current folder and returns them. Run again, it returns what was kept
and calls for the rest. Each tool saves as it does by itself; stores that only hold keys and values
save each result when it is there, which is what a user who pays for it writes.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .data import encode, fast_key, hand_key

IN_FLIGHT = 64

Row = dict[str, Any]
Rows = list[Row]
Call = Callable[[Row], Any]
AsyncCall = Callable[[Row], Awaitable[Any]]


async def gathered(rows: Rows, call: AsyncCall) -> list[Any]:
    """Return the results of all rows, in order: tasks that share an iterator."""
    results: list[Any] = [None] * len(rows)
    source = iter(enumerate(rows))

    async def work() -> None:
        for at, row in source:
            results[at] = await call(row)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return results


def by_hand(rows: Rows, call: AsyncCall, get: Call, put: Callable[[Row, Any], None]) -> list[Any]:
    """Look each row up, call for it if it is missing, put its result."""

    async def once(row: Row) -> Any:
        found = get(row)
        if found is None:
            found = await call(row)
            put(row, found)
        return found

    return asyncio.run(gathered(rows, once))


def nothing_kept(rows: Rows, call: AsyncCall) -> list[Any]:
    return asyncio.run(gathered(rows, call))


def checkpointdb(rows: Rows, call: AsyncCall, every: int = 0) -> list[Any]:
    import checkpointdb as ckpt

    save = ckpt.every(rows=every) if every else ckpt.adaptive()
    label = ckpt.step("rows.ckpt", version=1, save=save)(_named(call))

    async def all_rows() -> list[Any]:
        return [result async for result in label.arun(rows, concurrency=IN_FLIGHT)]

    results = asyncio.run(all_rows())
    label.store.close()
    return results


def _named(call: AsyncCall) -> AsyncCall:
    async def label(row: Row) -> Any:
        return await call(row)

    return label


def jsonl(rows: Rows, call: AsyncCall) -> list[Any]:
    from .adapters.jsonl_fsync import read

    done = read()
    with open("results.jsonl", "a") as file:

        def put(row: Row, result: Any) -> None:
            file.write(json.dumps({"key": hand_key(row), "result": result}) + "\n")
            file.flush()

        return by_hand(rows, call, lambda row: done.get(hand_key(row)), put)


def sqlite3(rows: Rows, call: AsyncCall) -> list[Any]:
    import sqlite3

    db = sqlite3.connect("results.sqlite")
    db.execute("create table if not exists results (key primary key, result)")

    def get(row: Row) -> Any:
        found = db.execute("select result from results where key = ?", (hand_key(row),)).fetchone()
        return found and json.loads(found[0])

    def put(row: Row, result: Any) -> None:
        with db:
            db.execute("insert into results values (?, ?)", (hand_key(row), json.dumps(result)))

    return by_hand(rows, call, get, put)


def sqlitedict(rows: Rows, call: AsyncCall) -> list[Any]:
    from sqlitedict import SqliteDict

    with SqliteDict("results.sqlite", autocommit=True) as kept:

        def put(row: Row, result: Any) -> None:
            kept[hand_key(row)] = result

        return by_hand(rows, call, lambda row: kept.get(hand_key(row)), put)


def lmdb(rows: Rows, call: AsyncCall) -> list[Any]:
    import lmdb

    env = lmdb.open("results.lmdb", map_size=1 << 30)

    def get(row: Row) -> Any:
        with env.begin() as transaction:
            found = transaction.get(fast_key(row))
        return found and json.loads(found)

    def put(row: Row, result: Any) -> None:
        with env.begin(write=True) as transaction:
            transaction.put(fast_key(row), encode(result))

    results = by_hand(rows, call, get, put)
    env.close()
    return results


def rocksdict(rows: Rows, call: AsyncCall) -> list[Any]:
    import rocksdict

    db = rocksdict.Rdict("results.rocks", rocksdict.Options(raw_mode=True))

    def get(row: Row) -> Any:
        found = db.get(fast_key(row))
        return found and json.loads(found)

    def put(row: Row, result: Any) -> None:
        db[fast_key(row)] = encode(result)

    results = by_hand(rows, call, get, put)
    db.close()
    return results


def duckdb(rows: Rows, call: AsyncCall) -> list[Any]:
    import duckdb

    db = duckdb.connect("results.duckdb")
    db.execute("create table if not exists results (key varchar primary key, result varchar)")

    def get(row: Row) -> Any:
        found = db.execute("select result from results where key = ?", (hand_key(row),)).fetchone()
        return found and json.loads(found[0])

    def put(row: Row, result: Any) -> None:
        db.execute("insert into results values (?, ?)", (hand_key(row), json.dumps(result)))

    results = by_hand(rows, call, get, put)
    db.close()
    return results


def async_batch_llm(rows: Rows, call: AsyncCall) -> list[Any]:
    import async_batch_llm as abl

    async def invoke(prompt: str, **_: Any) -> Any:
        return abl.CallOutcome(await call(json.loads(prompt)))

    async def all_rows() -> list[Any]:
        identity = abl.ArtifactIdentity(provider="bench", model="label")
        store = abl.SqliteArtifactStore("runs.sqlite", identity=identity)
        batch = await abl.process_prompts(
            abl.CallableStrategy(invoke, identity=identity),
            [(str(row["id"]), json.dumps(row)) for row in rows],
            concurrency=IN_FLIGHT, preserve_order=True,
            artifact_store=store, resume=abl.ResumePolicy.REUSE_SUCCESSES,
        )  # fmt: skip
        await store.close()
        return [result.output for result in batch.results]

    return asyncio.run(all_rows())


def cachier(rows: Rows, call: AsyncCall) -> list[Any]:
    import cachier

    cached = cachier.cachier(
        hash_func=lambda args, kwds: hand_key([args, kwds]), cache_dir="cache", separate_files=True
    )(_named(call))
    return asyncio.run(gathered(rows, cached))


def dbos(rows: Rows, call: AsyncCall) -> list[Any]:
    from dbos import DBOS, SetWorkflowID

    DBOS(
        config={
            "name": "bench",
            "system_database_url": "sqlite:///dbos.sqlite",
            "log_level": "ERROR",
            "application_version": "1",
        }
    )
    durable = DBOS.step(name="label")(call)

    @DBOS.workflow(name="all")
    async def every_row() -> list[Any]:
        results = []
        for at in range(0, len(rows), IN_FLIGHT):  # steps must begin in the same order each time
            results += await asyncio.gather(*map(durable, rows[at : at + IN_FLIGHT]))
        return results

    async def all_rows() -> list[Any]:
        with SetWorkflowID("rows"):
            return await every_row()

    DBOS.launch()
    results = asyncio.run(all_rows())
    DBOS.destroy()
    return results


def datasets_map(rows: Rows, call: AsyncCall) -> list[Any]:
    import datasets

    from .adapters.datasets_map import prepare

    datasets.config.MAX_NUM_RUNNING_ASYNC_MAP_FUNCTIONS_IN_PARALLEL = IN_FLIGHT

    async def label(row: Row) -> Any:
        return {"result": await call(row)}

    return list(prepare(rows).map(label, new_fingerprint="rows")["result"])


# --- of calls that are not async


def batchledger(rows: Rows, call: Call) -> list[Any]:
    import batchledger

    with batchledger.Ledger("ledger.sqlite", namespace="label", version="1") as ledger:
        return list(ledger.map(call, rows))


def joblib(rows: Rows, call: Call) -> list[Any]:
    import joblib

    cached = joblib.Memory("cache", verbose=0).cache(call)
    pool = joblib.Parallel(n_jobs=IN_FLIGHT, prefer="threads")
    return pool(joblib.delayed(cached)(row) for row in rows)


def diskcache(rows: Rows, call: Call) -> list[Any]:
    import diskcache

    with diskcache.Cache("cache") as cache, ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(cache.memoize()(call), rows))


# How each is called on the page, what it needs, and whether its calls are async.
USERS: dict[str, tuple[Callable[[Rows, Any], list[Any]], str, bool]] = {
    "nothing kept: `asyncio.gather`": (nothing_kept, "json", True),
    "checkpointdb, `adaptive()`": (checkpointdb, "checkpointdb", True),
    "checkpointdb, `every(rows=1)`": (
        functools.partial(checkpointdb, every=1), "checkpointdb", True),
    "async-batch-llm, SQLite": (async_batch_llm, "async_batch_llm", True),
    "batchledger (one call at a time)": (batchledger, "batchledger", False),
    "joblib.Memory, 64 threads": (joblib, "joblib", False),
    "diskcache `memoize`, 64 threads": (diskcache, "diskcache", False),
    "cachier, files": (cachier, "cachier", True),
    "DBOS on SQLite, 64 steps at a time": (dbos, "dbos", True),
    "HF datasets, `map` of an async function": (datasets_map, "datasets", True),
    "JSON lines, a flush a row": (jsonl, "json", True),
    "`sqlite3`, a commit a row": (sqlite3, "sqlite3", True),
    "sqlitedict, `autocommit`": (sqlitedict, "sqlitedict", True),
    "LMDB, a transaction a row": (lmdb, "lmdb", True),
    "rocksdict, a put a row": (rocksdict, "rocksdict", True),
    "duckdb, an insert a row": (duckdb, "duckdb", True),
}  # fmt: skip
