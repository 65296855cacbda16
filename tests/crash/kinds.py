"""The kinds of lives: what is run in each, and how any of them is gone on with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import msgspec

import checkpointdb as ckpt
from checkpointdb.adopt import adopt

from .history import ABSENT, row_fact
from .lives import HEALED, KINDS, LOOPS, Life, small_limits


def creation(life: Life) -> None:
    """A store is created and opened again."""
    with life.store():
        pass
    with life.store():
        pass


def one_run(life: Life) -> None:
    """A run, and the same again."""
    with life.store() as store:
        life.run(store, range(life.options.rows))
    with life.store() as store:
        life.run(store, range(life.options.rows + 2))


def two_steps(life: Life) -> None:
    """Two steps in turn, on one handle."""
    with life.store() as store:
        for n in range(3):
            life.run(store, range(life.options.rows // 2 + n), name="label")
            life.run(store, range(life.options.rows // 2 + n), name="other", version="b")


def failures(life: Life) -> None:
    """Rows fail, are recorded, and are tried again with success."""
    rows = range(life.options.rows)
    if life.options.loop == "batches":  # which fail as a whole
        life.options = msgspec.structs.replace(life.options, loop="sequential")
    with life.store() as store:
        life.run(store, rows)
        life.called.append(HEALED)
        life.run(store, rows)


def upkeep(life: Life) -> None:
    """Rows fail and succeed; what that left is dropped, and the store is copied."""
    failures(life)
    with life.store() as store:
        copy, there = life.path + ".copy", len(list(store.records()))
        store.compact()
        assert len(list(store.records())) == there
        store.backup(copy, force=True)
        life.run(store, range(life.options.rows + 2))
    with ckpt.Store(copy, create=False) as store:
        assert store.verify() == []
        assert len(list(store.records())) == there
    os.unlink(copy)


def calls(life: Life) -> None:
    """Direct calls, flushed now and then."""
    if life.options.loop in ("batches", "tasks"):  # whose steps are not called so
        life.options = msgspec.structs.replace(life.options, loop="sequential")
    with life.store() as store:
        step = life.step(store)
        for row in range(life.options.rows):
            step(row)
            fact = row_fact("label", 1, row)
            if life.options.policy == "every(rows=1)" and life.options.durability == "power":
                life.tell(life._outcomes([fact]))
            if row % 4 == 3:
                life.flush(step)
                life.tell(life._outcomes(life.called))
    life.tell(life._outcomes(life.called))


def forget(life: Life) -> None:
    """Rows are deleted and computed again."""
    rows = range(life.options.rows)
    with life.store() as store:
        life.run(store, rows)
        life.run(store, rows, name="other")
        store.forget("label", where="input > 3")
        life.tell({row_fact("label", 1, row): ABSENT for row in rows if row > 3})
        life.run(store, rows)
        store.forget("other")
        life.tell({row_fact("other", 1, row): ABSENT for row in rows})


def adoption(life: Life) -> None:
    """Results are adopted under another version, and code is accepted."""
    rows = range(life.options.rows)
    with life.store() as store:
        life.run(store, rows)
        adopt(store, "label", 1, 2)
        store.flush()
        life.tell({f.replace("label/1/", "label/2/"): life.outcome(f) for f in life.called})
        step = life.step(store)
        step.accept()
        life.tell({"accepted label": True})
        life.run(store, range(life.options.rows, life.options.rows + 3), version=2)


def ledger(life: Life) -> None:
    """Calls are noted before they are made."""
    with life.store() as store:
        life.run(store, range(life.options.rows), ledger=True)


def two_handles(life: Life) -> None:
    """Two handles of one process write in turn; then in two threads at the same time."""
    with life.store() as first, life.store() as second:
        half = life.options.rows // 2 + 1
        life.run(first, range(half))
        life.run(second, range(half + 2), name="other")
        life.run(first, range(half + 3))
        _at_once(
            life,
            lambda: life.run(first, range(life.options.rows), name="third"),
            lambda: life.run(second, range(life.options.rows), name="fourth"),
        )


def shared(life: Life) -> None:
    """Two handles run over the same rows at the same time, and each is computed once."""
    with life.store() as first, life.store() as second:
        rows = range(life.options.rows)
        _at_once(
            life,
            lambda: life.run(first, rows, shared=True),
            lambda: life.run(second, rows, shared=True),
        )


def stopped(life: Life) -> None:
    """A shared run is closed early; another handle goes on with its rows at once."""
    rows = range(life.options.rows + 20)
    with life.store() as first:
        step = life.step(first)
        with step.run(rows, shared=True, **LOOPS[life.options.loop]) as run:
            for _ in zip(range(5), run, strict=False):  # by then it has claimed rows ahead
                pass
        with life.store() as second:
            life.run(second, rows, shared=True)


def workers(life: Life) -> None:
    """One of several processes that run over the same rows."""
    with life.store() as store:
        life.run(store, range(life.options.rows), shared=True)
        life.run(store, range(life.options.rows + 2), shared=True)


def _at_once(life: Life, *functions: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def guarded(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:  # raised in the thread that waits
            errors.append(error)
            life.heal()  # or the other waits for claims that cannot be given up

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def stubborn(life: Life) -> None:
    """Live in spite of errors of the store: when one comes, end its cause and begin again."""
    for _ in range(3):
        try:
            life.live()
            break
        except ckpt.CheckpointError:
            life.heal()
    else:
        life.live()


def resume(life: Life) -> None:
    """Whatever was run before, run it to its end."""
    life.called.append(HEALED)
    with life.store() as store:
        for name, version in STEPS_OF.get(life.options.kind, [("label", 1)]):
            rows = range(life.options.rows + (30 if life.options.kind == "stopped" else 3))
            life.run(store, rows, name, version, shared=life.options.kind in SHARED)


def resume_small(life: Life) -> None:
    """Do so with the limits that `live` has."""
    with small_limits(life.options):
        resume(life)


KINDS |= {
    "creation": creation,
    "one run": one_run,
    "two steps": two_steps,
    "failures": failures,
    "upkeep": upkeep,
    "calls": calls,
    "forget": forget,
    "adoption": adoption,
    "ledger": ledger,
    "two handles": two_handles,
    "shared": shared,
    "stopped": stopped,
    "workers": workers,
}
SHARED = ("shared", "stopped", "workers")
ALONE = [kind for kind in KINDS if kind != "workers"]  # of one process
STEPS_OF = {
    "two steps": [("label", 1), ("other", "b")],
    "forget": [("label", 1), ("other", 1)],
    "adoption": [("label", 1), ("label", 2)],
    "two handles": [("label", 1), ("other", 1), ("third", 1), ("fourth", 1)],
}
