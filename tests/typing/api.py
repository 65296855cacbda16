"""Types of the public API as users write them; type-checked by mypy and pyright, never run."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypedDict, assert_type

import checkpointdb as ckpt


class Row(TypedDict):
    """A row."""

    id: int
    text: str


@dataclasses.dataclass
class Label:
    """A result."""

    text: str


@ckpt.step("rows.ckpt", version=1)
def label(row: Row) -> Label:
    """One row in, one result out."""
    return Label(row["text"])


@ckpt.step(
    pathlib.Path("rows.ckpt"),
    version="2024-05",
    name="embed",
    key=("id",),
    save=ckpt.every(rows=100) | ckpt.adaptive(),
    durability="process",
    duplicates="separate",
    meta={"model": "m"},
)
async def embed(row: Row, model: str = "small") -> list[float]:
    """An async step of two arguments."""
    return [float(len(row["text"] + model))]


@ckpt.step(ckpt.Store("rows.ckpt"), version=1, key=lambda row: row["id"], save=ckpt.on_exit())
def batch(rows: list[Row]) -> list[Label]:
    """A batch step on an open store."""
    return [Label(row["text"]) for row in rows]


ROWS: list[Row] = [{"id": 1, "text": "a"}]

assert_type(label(ROWS[0]), Label)
assert_type(label(row=ROWS[0]), Label)
assert_type(label.run(ROWS), ckpt.Run[Label])
assert_type(next(label.run(ROWS)), Label)
assert_type(iter(label.run(ROWS)), Iterator[Label])
for result in label.run(ROWS):
    assert_type(result, Label)
with label.run(ROWS) as run:
    assert_type(run, ckpt.Run[Label])
    assert_type(run.report.rows, int)
    assert_type(run.report.cost, float)
assert_type(embed.run(ROWS), ckpt.Run[list[float]])
assert_type(label.store, ckpt.Store)
assert_type(label.path, str)
assert_type(len(label.run(ROWS)), int)
assert_type(label.run(ROWS).report, ckpt.Report)
assert_type(label.get(ROWS[0]), Label | ckpt.Miss)
if (found_label := label.get(ROWS[0])) is not ckpt.MISS:
    assert_type(found_label, Label)
assert_type(embed.get(ckpt.args(ROWS[0], model="large"), nth=1), list[float] | ckpt.Miss)
assert_type(label.many(ROWS, concurrency=4), list[Label])
assert_type(embed.many(ROWS, nth=[0, 1]), list[list[float]])
label.put(ROWS[0], Label("a"), cost=0.1, nth=0, seconds=1, replace=True)
label.put(ROWS[0])  # type: ignore[call-arg]  # pyright: ignore
assert_type(label.run(ROWS).items(), ckpt.Run[tuple[Any, Label]])
label.run(ROWS, given={"temperature": 0.9}, using={"client": object()})
label.plan(ROWS, given={"temperature": 0.9})
assert_type(next(label.results(ROWS)), Label | ckpt.Miss)


class Frame:
    """Of any library: what goes in comes out."""


assert_type(label.map(Frame(), columns=["text"], prefix="new_", concurrency=2), Frame)
assert_type(embed.map(Frame(), columns="text", given={"model": "large"}), Frame)
label.map(Frame(), concurency=3)  # type: ignore[call-arg]  # pyright: ignore
ckpt.step("rows.ckpt", version=1, using=("client",))
ckpt.step("rows.ckpt", version=1, using={"client": 1})  # type: ignore[call-overload]  # pyright: ignore


def work(row: Row) -> Label:
    """A plain function, for `ckpt.run`."""
    return Label(row["text"])


async def awork(row: Row) -> Label:
    """The same for async code."""
    return Label(row["text"])


of_run: ckpt.RunOptions = {"concurrency": 4, "on_error": "record"}
of_step: ckpt.StepOptions = {"name": "work", "save": ckpt.every(rows=1)}
assert_type(ckpt.run(work, ROWS, store="rows.ckpt", version=1), ckpt.Run[Label])
assert_type(ckpt.run(awork, ROWS, store="rows.ckpt", version=1), ckpt.Run[Label])
assert_type(ckpt.arun(awork, ROWS, store="rows.ckpt", version=1), ckpt.Run[Label])
of_both: ckpt.AllOptions = {"name": "work", "concurrency": 4, "on_error": "record"}
assert_type(ckpt.run(work, ROWS, store="rows.ckpt", version=1, **of_step), ckpt.Run[Label])
assert_type(ckpt.run(work, ROWS, store="rows.ckpt", version=1, **of_both), ckpt.Run[Label])
assert_type(ckpt.run(len, ROWS, store=label.store, version="a", ordered=False), ckpt.Run[int])
ckpt.step("rows.ckpt", version=1, **of_step)(work).run(ROWS, **of_run)
ckpt.run(work, ROWS, store="rows.ckpt", version=1, concurency=3)  # type: ignore[call-overload]  # pyright: ignore
ckpt.run(work, ROWS, store="rows.ckpt", version=1, concurrency="3")  # type: ignore[call-overload]  # pyright: ignore
ckpt.run(work, ROWS, store="rows.ckpt")  # type: ignore[call-overload]  # pyright: ignore
ckpt.arun(work, ROWS, store="rows.ckpt", version=1)  # type: ignore[arg-type]  # pyright: ignore
ckpt.arun(awork, ROWS, store="rows.ckpt", version=1, save=3)  # type: ignore[call-overload]  # pyright: ignore
label.run(ROWS, concurency=3)  # type: ignore[call-overload]  # pyright: ignore
label.run(ROWS, save=ckpt.on_exit())  # type: ignore[call-overload]  # pyright: ignore
ckpt.step("rows.ckpt", version=1, concurrency=3)  # type: ignore[call-overload]  # pyright: ignore

label(5)  # type: ignore[arg-type]  # pyright: ignore
label(ROWS[0], 1)  # type: ignore[call-arg]  # pyright: ignore
label.run(5)  # type: ignore[call-overload]  # pyright: ignore
ckpt.step("rows.ckpt")(len)  # type: ignore[call-overload]  # pyright: ignore
ckpt.every(5)  # type: ignore[call-arg]


# what a run gives out, by the two options that decide it

assert_type(batch.run(ROWS, batch_size=10), ckpt.Run[Label])
assert_type(batch.run(ROWS, batch_size=10, on_error="record"), ckpt.Run[Label | ckpt.Failed])
assert_type(batch.run(ROWS, batch_size=10, concurrency=2, executor=None), ckpt.Run[Label])
assert_type(label.run(ROWS, on_error="record"), ckpt.Run[Label | ckpt.Failed])
assert_type(label.run(ROWS, on_error="raise"), ckpt.Run[Label])
assert_type(label.run(ROWS, concurrency=8, ordered=False), ckpt.Run[Label])
assert_type(embed.run(ROWS, on_error="record"), ckpt.Run[list[float] | ckpt.Failed])
assert_type(embed.run(ROWS, given={"model": "large"}), ckpt.Run[list[float]])
assert_type(embed.run(ROWS, using={"client": 1}, on_error="record").report, ckpt.Report)
for outcome in label.run(ROWS, on_error="record", concurrency=4):
    if isinstance(outcome, ckpt.Failed):
        assert_type(outcome.message, str)
    else:
        assert_type(outcome, Label)
for row, outcome in label.run(ROWS, on_error="record").items():
    assert_type(row, Any)
    assert_type(outcome, Label | ckpt.Failed)


async def abatch(rows: list[Row]) -> list[Label]:
    """An async batch step."""
    return [Label(row["text"]) for row in rows]


batches = ckpt.step("rows.ckpt", version=1)(abatch)
assert_type(batches.run(ROWS, batch_size=2), ckpt.Run[Label])
assert_type(batches.arun(ROWS, batch_size=2, on_error="record"), ckpt.Run[Label | ckpt.Failed])
assert_type(embed.arun(ROWS, on_error="record"), ckpt.Run[list[float] | ckpt.Failed])
assert_type(ckpt.run(abatch, ROWS, store="rows.ckpt", version=1, batch_size=2), ckpt.Run[Label])
assert_type(
    ckpt.run(work, ROWS, store="rows.ckpt", version=1, on_error="record"),
    ckpt.Run[Label | ckpt.Failed],
)
assert_type(
    ckpt.arun(awork, ROWS, store="rows.ckpt", version=1, on_error="record", key="id"),
    ckpt.Run[Label | ckpt.Failed],
)
batch.run(ROWS, batch_size="2")  # type: ignore[call-overload]  # pyright: ignore
label.run(ROWS, on_error="recrod")  # type: ignore[call-overload]  # pyright: ignore
assert_type(embed.replace(store="other.ckpt").many(ROWS), list[list[float]])


async def asynchronous() -> None:
    """The same for async code."""
    assert_type(await embed(ROWS[0]), list[float])
    assert_type(await embed(ROWS[0], model="large"), list[float])
    assert_type(await embed.amany(ROWS), list[list[float]])
    await label.amany(ROWS)  # type: ignore[misc]  # pyright: ignore
    assert_type(embed.arun(ROWS).items(), ckpt.Run[tuple[Any, list[float]]])
    async for result in embed.arun(ROWS):
        assert_type(result, list[float])
    assert_type(aiter(embed.arun(ROWS)), AsyncIterator[list[float]])


asyncio.run(asynchronous())


class AtMidnight:
    """A user's own policy."""

    def due(self, pending: ckpt.Pending) -> bool:
        """Tell whether to commit."""
        return pending.rows > 5


policy: ckpt.SavePolicy = AtMidnight()
policies: list[ckpt.SavePolicy] = [
    ckpt.every(seconds=1.5),
    ckpt.by_size(10),
    ckpt.on_exit(),
    ckpt.adaptive(0.02) | AtMidnight(),
    AtMidnight() | ckpt.every(rows=1),
]
broken: ckpt.SavePolicy = object()  # type: ignore[assignment]

with ckpt.Store("rows.ckpt", durability="power", create=False) as store:
    for record in store.records(step="label", status="failed"):
        assert_type(record, ckpt.Record)
        assert_type(record.key, str)
        assert_type(record.version, int | str)
        assert_type(record.error, dict[str, Any] | None)
    assert_type(store.verify(), list[ckpt.Problem])
    assert_type(next(store.rows("label")), dict[str, Any])
    assert_type(store.compact(keep=2), int)
    store.backup(pathlib.Path("copy.ckpt"), force=True)
    assert_type(ckpt.salvage("rows.ckpt", "new.ckpt"), ckpt.Salvaged)
    if found := store.get(ckpt.key_of("label", 1, ROWS[0])):
        assert_type(found, ckpt.Record)
ckpt.Store("rows.ckpt", durability="disk")  # type: ignore[arg-type]

assert_type(ckpt.key_of("label", 1, ROWS[0]), str)
ckpt.run(len, ROWS, store="rows.ckpt", version=1)

try:
    pass
except ckpt.EncodeError as error:
    assert_type(error.where, str)
except ckpt.StoreError as error:
    assert_type(error.path, str | None)
except ckpt.DecodeError as error:
    assert_type(error.key, str | None)
