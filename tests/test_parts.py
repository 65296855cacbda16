"""The parts of a run, each built alone; and that nobody reaches through one part into another."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import glob
import inspect
import os
import re
import sys
import threading
import time

import msgspec
import pytest

import checkpointdb
from checkpointdb import BudgetExceeded, EncodeError, Store, StoreError, every, on_exit
from checkpointdb.engine.arguments import Binder
from checkpointdb.engine.begin import Running, begin, end
from checkpointdb.engine.budget import Budget
from checkpointdb.engine.calls import Calls
from checkpointdb.engine.committer import Committer
from checkpointdb.engine.current import current_key
from checkpointdb.engine.failures import Failed, failure, from_error_text, to_error_text
from checkpointdb.engine.in_flight import InFlight
from checkpointdb.engine.intake import Intake
from checkpointdb.engine.job import Job, Spec
from checkpointdb.engine.options import Options
from checkpointdb.engine.results import Results
from checkpointdb.engine.rows import EqualRow, Slot
from checkpointdb.engine.sharing import Sharing
from checkpointdb.engine.source import END, Source
from checkpointdb.engine.tally import Tally
from checkpointdb.events import Committed, Report, RowFailed, RunEnded, RunStarted
from checkpointdb.file.records import Appended, Entry, RunInfo
from checkpointdb.loops.session import Session
from checkpointdb.policy import Pending
from checkpointdb.values.codec import Codec
from checkpointdb.values.keys import Keyer

PARTS = {
    "running", "intake", "calls", "results", "committer", "in_flight", "tally", "source",
    "sharing", "occurrences", "budget", "ledger", "session", "order", "passes",
}  # fmt: skip


def chain(node):
    """Return the names of `a.b.c`; a call or an index in between begins a new one."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else [""]


def reached_through(source):
    """Return each place where an attribute of an attribute of a part is read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [name.lstrip("_") for name in chain(node)]
        names = names[1:] if names[0] == "self" else names
        if len(names) > 2 and names[0] in PARTS:
            found.append(f"line {node.lineno}: {'.'.join(names)}")
    return sorted(found)


def test_a_reach_through_a_part_is_seen():
    """The rule below sees what it is about."""
    source = "running.intake.slots()\nself._running.calls.fn\nrunning.commit()\nself._tally.paid(1)"
    assert reached_through(source) == ["line 1: running.intake.slots", "line 2: running.calls.fn"]


@pytest.mark.parametrize("folder", ["engine", "loops"])
def test_only_the_one_that_begins_a_run_reaches_through_its_parts(folder):
    """No other module reads an attribute of an attribute of a part."""
    root = os.path.dirname(checkpointdb.__file__)
    for path in glob.glob(f"{root}/{folder}/*.py"):
        if not path.endswith("engine/begin.py"):
            with open(path) as file:
                assert reached_through(file.read()) == [], path


def test_the_rule_knows_every_part():
    """A part that `Running` gets is one that nobody may reach through."""
    with open(inspect.getfile(Running)) as file:
        (init,) = (
            node
            for node in ast.walk(ast.parse(file.read()))
            if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        )
    chains = [chain(node) for node in ast.walk(init)]
    names = {names[1] for names in chains if names[0] == "self" and len(names) == 2}
    values = {
        "job",
        "options",
        "id",
        "ended",
        "step",
        "captured",
        "stale",
        "_inside",
        "is_given_back",
        "pause",
    }
    assert names - values <= PARTS


def test_the_design_names_every_module_and_no_other():
    """In "I want to change… open…" each file exists; the floors name all of engine/ and loops/."""
    root = os.path.dirname(checkpointdb.__file__)
    with open(f"{root}/../docs/design.md") as file:
        text = file.read()
    table = [line for line in text.splitlines() if line.startswith("|") and ".py`" in line]
    assert len(table) >= 20
    for path in re.findall(r"`([\w/]+\.py)`", "\n".join(table)):
        assert any(os.path.exists(f"{place}/{path}") for place in (root, f"{root}/..")), path
    floors = text[text.index("## Floors") :]
    for folder in ("engine", "loops"):
        for path in glob.glob(f"{root}/{folder}/[!_]*.py"):
            assert re.search(rf"\b{os.path.basename(path)[:-3]}\b", floors), path


# --- what the parts are built with


def spec_of(fn=lambda row: row * 10, **more):
    keyer = Keyer("s", 1)
    fields = {"name": "s", "version": 1, "key_recipe": "null", "binder": Binder(fn)}
    return Spec(fn=fn, keyer=keyer, codec=Codec(), is_async=False, **(fields | more))


def slot_of(row, position=0):
    slot = Slot(row, position, *Keyer("s", 1).identify(row))
    slot.input, slot.must_compute = msgspec.json.encode(row).decode(), True
    return slot


def entry_of(row, **fields):
    key, identity, _ = Keyer("s", 1).identify(row)
    fields = {"cost": None, "error": None, "result": "1", "input": str(row)} | fields
    return Entry(key=key, identity=identity, position=row, attempts=1, seconds=0.0, **fields)


@pytest.fixture
def store(store_path):
    with Store(store_path) as store:
        yield store


@pytest.fixture
def ids(store):
    step = store.log.register_step("s", 1, "null").id
    return step, store.log.begin_run(step, "every(rows=1)", "no returned row", None)


# --- counts


def test_the_counts_stand_once(store, ids):
    """`Report` is the list of counts: the store's columns, a run's info and the tally have it."""
    counts = {name: n for n, name in enumerate(Report.__struct_fields__, 1)} | {"usage": {"in": 9}}
    store.log.end_run(ids[1], counts | {"usage": '{"in": 9}'}, "finished")
    assert msgspec.structs.asdict(store.runs()[0].report) == counts
    assert not set(RunInfo.__struct_fields__) & set(counts)
    assert set(msgspec.structs.asdict(Tally("s").report())) == set(counts)


def test_a_tally_counts_and_tells():
    """Each thing that happens is counted once, and told to the listener."""
    events = []
    tally = Tally("s", events.append)
    assert type(tally.report().cost) is float
    tally.gave(hit=True)
    tally.gave(hit=False)
    tally.gave(hit=False, failed_before=True)
    tally.computed()
    tally.paid(0.25)
    tally.failed([slot_of(1, 7)], ValueError("no"), recorded=True)
    tally.committed(3, Appended(5, 7), 0.5)
    tally.end()
    report = tally.report()
    assert report == tally.report()  # the clock has stopped
    assert (report.rows, report.hits, report.computed, report.failed) == (3, 1, 1, 2)
    assert (report.commits, report.commit_seconds, report.cost) == (1, 0.5, 0.25)
    assert events == [RowFailed("s", 7, "ValueError", "no", 1, True), Committed("s", 3, 0.5, 5, 7)]


def test_a_tally_loses_no_count_among_threads():
    """Counted from several threads at once, the sum is right."""
    tally = Tally("s")

    def count():
        for _ in range(20_000):
            tally.computed()

    threads = [threading.Thread(target=count) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert tally.report().computed == 80_000


# --- rows


def test_a_source_reads_a_list_to_the_end_that_it_has_then():
    """A list may grow and shrink while it is read; rows can be read again."""
    rows = [0, 1, 2]
    source = Source(rows)
    assert list(source.read(2, 1.0)) == [0, 1]
    rows += [3, 4]
    assert list(source.read(9, 1.0)) == [2, 3, 4]
    source.at -= 2
    del rows[3:]
    assert list(source.read(9, 1.0)) == []
    rows.append(5)
    assert list(source.read(9, 1.0)) == [5]


def test_a_source_says_when_the_users_iterator_is_running():
    """`reading` is true inside the iterator and nowhere else, also if it raises."""
    seen = []

    def rows():
        seen.append(source.reading)
        yield 1
        seen.append(source.reading)
        raise KeyError

    source = Source(rows())
    reading = source.read(5, 1.0)
    assert next(reading) == 1 and not source.reading
    with pytest.raises(KeyError):
        next(reading)
    assert seen == [True, True] and not source.reading


def test_a_source_reads_no_longer_than_it_may():
    """An iterator is read up to so many rows, or so many seconds, and goes on where it was."""
    source = Source(iter(range(9)))
    assert list(source.read(2, 1.0)) == [0, 1]
    assert list(source.read(9, 0.0)) == [2]
    assert list(source.read(99, 1.0)) == list(range(3, 9))


def test_an_async_source_gives_one_row_after_the_other():
    """The rows of an async iterable arrive one at a time, then `END`."""

    async def rows():
        yield 1
        yield 2

    async def read():
        source = Source(rows())
        assert source.is_async
        return [await source.arrival() for _ in range(3)]

    assert asyncio.run(read()) == [1, 2, END]


def test_rows_in_flight_share_one_slot_and_are_settled_once():
    """The second row of a key waits for the first; whoever waits is woken once."""
    in_flight, woken = InFlight(), []
    first, same, other = slot_of(1), slot_of(1), slot_of(2)
    places, entered, collided = in_flight.enter([first, same, other])
    assert not collided and entered == [first, other] and len(in_flight) == 2
    assert isinstance(places[1], EqualRow) and places[1].first is first
    in_flight.when_settled(places[1], lambda: woken.append("before"))
    in_flight.leave([first])
    in_flight.when_settled(first, lambda: woken.append("after"))
    assert woken == ["before", "after"] and places[1].settled and len(in_flight) == 1
    boom = ValueError()
    in_flight.give_up([other], boom)
    assert other.settled and other.error is boom and len(in_flight) == 0


def test_a_row_of_another_content_with_the_same_key_does_not_enter():
    """It is told apart, and settling it leaves the first where it is."""
    in_flight, first, other = InFlight(), slot_of(1), slot_of(2)
    other.key = first.key
    places, entered, collided = in_flight.enter([first, other])
    assert (places, entered, collided) == ([first, other], [first], [(1, other, first)])
    in_flight.give_up([other], ValueError())
    assert other.settled and not first.settled and len(in_flight) == 1


def test_a_row_withdrawn_may_enter_again():
    """A row that nobody has seen leaves without an outcome."""
    in_flight, slot, again = InFlight(), slot_of(1), slot_of(1)
    in_flight.enter([slot])
    in_flight.withdraw([slot])
    assert in_flight.enter([again]) == ([again], [again], []) and not slot.settled


def test_results_give_each_row_a_value_of_its_own():
    """A computed row gives what the step returned, a hit and an equal row a decoded copy."""
    tally = Tally("s")
    results = Results(Codec(), "rows.ckpt", tally)
    computed, value = slot_of(1), [1]
    computed.value, computed.data = value, "[1]"
    assert results.take(computed) is value and results.take(EqualRow(computed, None)) is not value
    hit = Slot(1, 1, b"k", b"i", True)
    hit.data = "[1]"
    assert results.take(hit) == [1] and results.take(EqualRow(hit, None)) is not results.take(hit)
    failed = Slot(2, 2, b"l", b"j", True)
    failed.failed, failed.skipped = Failed(2, "E", "", "", 1), True
    assert results.take(failed) is failed.failed is results.take(EqualRow(failed, None))
    broken = slot_of(3)
    broken.error = KeyError()
    with pytest.raises(KeyError):
        results.take(broken)
    report = tally.report()
    assert (report.rows, report.hits, report.failed) == (7, 4, 1)


def test_a_failure_survives_its_text():
    """What a record holds of a failure is what a later run gives out."""
    try:
        raise ValueError("lone \udc80")
    except ValueError as error:
        failed = failure({"n": 1}, 3, error)
    again = from_error_text({"n": 1}, 3, to_error_text(failed, result="an object"))
    assert (again.error_type, again.attempts, again.row) == ("ValueError", 3, {"n": 1})
    assert again.message == r"lone \udc80" and "raise ValueError" in again.traceback


# --- calls and commits


def test_a_committer_commits_by_its_policy(store, ids):
    """What was added is pending until the policy is due, then committed under the given ids."""
    tally = Tally("s")
    committer = Committer(store.log, every(rows=2), tally, *ids)
    entries = [entry_of(n) for n in range(3)]
    committer.add([entries[0]], 0.0)
    assert list(committer.pending) == [entries[0].key] and len(committer) == 1
    committer.add([entries[1]], 0.0)
    committer.add([entries[2]], 0.0)
    assert list(committer.pending) == [entries[2].key] and tally.report().commits == 1
    committer.close()
    assert [(r.step, r.run, r.position) for r in store.records()] == [
        ("s", ids[1], n) for n in range(3)
    ]


def test_a_committer_tells_its_policy_what_is_pending(store, ids):
    """Rows, bytes of input, result and error, and dollars."""
    seen = []

    class Watch:
        seconds = None

        def due(self, pending):
            seen.append(msgspec.structs.replace(pending))
            return False

    committer = Committer(store.log, Watch(), Tally("s"), *ids)
    committer.add([entry_of(0, cost=0.5, result="12345", input="123")], 0.0)
    text = '{"type":"E","message":"","traceback":""}'
    committer.add([entry_of(1, error=text, result=None, input="123")], 0.0)
    assert [(p.rows, p.bytes, p.cost) for p in seen] == [(1, 72, 0.5), (2, 139 + len(text), 0.5)]
    assert isinstance(seen[0], Pending)
    committer.close()


def test_others_add_while_a_commit_is_under_way(store, ids, monkeypatch):
    """A slow disk holds up nobody who adds; what was added meanwhile stays pending, and is seen."""
    committer = Committer(store.log, on_exit(), Tally("s"), *ids)
    append, entered, release = store.log.append, threading.Event(), threading.Event()

    def slow(*args, **options):
        entered.set()
        assert release.wait(10)
        return append(*args, **options)

    monkeypatch.setattr(store.log, "append", slow)
    entries = [entry_of(n) for n in range(3)]
    committer.add([entries[0]], 0.0)
    thread = threading.Thread(target=committer.commit)
    thread.start()
    assert entered.wait(10)
    committer.add([entries[1]], 0.0)
    assert list(committer.pending) == [entries[0].key, entries[1].key]
    release.set()
    thread.join(10)
    assert list(committer.pending) == [entries[1].key] and len(committer) == 1
    assert [r.position for r in store.records()] == [0]
    committer.add([entries[2]], 0.0)
    committer.close()
    assert [r.position for r in store.records()] == [0, 1, 2]


def test_a_commit_that_fails_keeps_what_was_added_meanwhile(store, ids, monkeypatch):
    """All is pending still, in order, and the next commit has it."""
    committer = Committer(store.log, on_exit(), Tally("s"), *ids)
    append, entries = store.log.append, [entry_of(n) for n in range(2)]

    def failing(*args, **options):
        committer.add([entries[1]], 0.0)
        raise StoreError("no", "path")

    committer.add([entries[0]], 0.0)
    monkeypatch.setattr(store.log, "append", failing)
    with pytest.raises(StoreError):
        committer.commit()
    assert list(committer.pending) == [entry.key for entry in entries]
    monkeypatch.setattr(store.log, "append", append)
    committer.close()
    assert [r.position for r in store.records()] == [0, 1]


def test_n_rows_are_n_rows_even_while_a_commit_is_under_way(store, ids, monkeypatch):
    """Under every(rows=2) who adds a second row waits for the commit that is under way."""
    committer = Committer(store.log, every(rows=2), Tally("s"), *ids)
    append, entered, release = store.log.append, threading.Event(), threading.Event()

    def slow(*args, **options):
        entered.set()
        assert release.wait(10)
        return append(*args, **options)

    monkeypatch.setattr(store.log, "append", slow)
    committer.add([entry_of(0)], 0.0)
    threads = [threading.Thread(target=committer.add, args=([entry_of(n)], 0.0)) for n in (1, 2)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive(), "a third row was acknowledged while two were not committed"
    release.set()
    for thread in threads:
        thread.join(10)
    assert len(committer) == 1, "one row is no reason to commit"
    committer.close()


class Slow:
    """A policy of the user's, due at an age, which takes longer to say so than is left."""

    seconds = 1000.0

    def due(self, pending):
        if pending.background:
            time.sleep(0.6)
        return pending.seconds >= self.seconds


def test_a_row_that_comes_of_age_while_the_timer_asks_is_not_left_for_another_round(store, ids):
    """The timer asks whether a policy is due and when to ask again, both of the same age."""
    with contextlib.closing(Committer(store.log, Slow(), Tally("s"), *ids)) as committer:
        committer.put([entry_of(0)], time.perf_counter() - 999.5)
        wait = committer.tick()
        assert wait <= 0.5 or not committer.pending


def test_rows_that_come_of_age_during_the_timers_commit_are_committed_next(store, ids, monkeypatch):
    """A commit may take longer than the policy's seconds: who came meanwhile waited long enough."""
    append = store.log.append

    def slow(*args, **options):
        monkeypatch.undo()
        committer.put([entry_of(1)], time.perf_counter())
        time.sleep(0.1)
        return append(*args, **options)

    with contextlib.closing(
        Committer(store.log, every(seconds=0.05), Tally("s"), *ids)
    ) as committer:
        committer._timer.stop()
        monkeypatch.setattr(store.log, "append", slow)
        committer.put([entry_of(0)], time.perf_counter() - 1)
        committer.tick()
        assert not committer.pending
        assert [r.position for r in store.records()] == [0, 1]


class Kept:
    """Takes the place of nothing: a committer, a tally and rows in flight, for calls alone."""

    def __init__(self, store, ids, spec=None, **options):
        self.tally, self.in_flight = Tally("s"), InFlight()
        self.committer = Committer(store.log, on_exit(), self.tally, *ids)
        self.calls = Calls(
            store.log, spec or spec_of(), Options(**options), self.committer, self.in_flight,
            self.tally,
        )  # fmt: skip

    def enter(self, *rows):
        slots = [slot_of(row, n) for n, row in enumerate(rows)]
        self.in_flight.enter(slots)
        return slots


def test_calls_keep_what_the_step_returns(store, ids):
    """A result is pending, its row settled and out of flight; inside, the step knows its key."""
    keys = []
    kept = Kept(store, ids, spec_of(lambda row: keys.append(current_key()) or row * 10))
    (slot,) = kept.enter(4)
    kept.calls.compute([slot])
    assert slot.settled and (slot.value, slot.data) == (40, "40") and len(kept.in_flight) == 0
    assert keys == [slot.key.hex()] and kept.committer.pending[slot.key].result == "40"
    assert kept.tally.report().computed == 1
    with pytest.raises(RuntimeError):
        current_key()
    kept.committer.close()


def test_calls_settle_a_row_whatever_the_step_does(store, ids):
    """The step's own exception passes through, or becomes a record; never a row without end."""

    def boom(row):
        raise KeyError(row)

    kept = Kept(store, ids, spec_of(boom))
    (slot,) = kept.enter(1)
    with pytest.raises(KeyError) as raised:
        kept.calls.compute([slot])
    assert slot.error is raised.value and slot.settled and not kept.committer.pending
    recording = Kept(store, ids, spec_of(boom), on_error="record")
    (slot,) = recording.enter(1)
    recording.calls.compute([slot])
    assert slot.failed.error_type == "KeyError" and slot.settled
    assert recording.committer.pending[slot.key].error is not None
    unsaved = Kept(store, ids, spec_of(lambda row: lambda: row))
    (slot,) = unsaved.enter(1)
    with pytest.raises(EncodeError):
        unsaved.calls.compute([slot])
    assert slot.settled and len(unsaved.in_flight) == 0
    for part in (kept, recording, unsaved):
        part.committer.close()


def test_a_row_that_its_source_changed_during_the_call_is_not_kept(store, ids):
    """The step saw another content than its key's: the result is given up."""
    kept = Kept(store, ids)
    (slot,) = kept.enter(4)
    slot.mutated = ValueError("changed")
    kept.calls.compute([slot])
    assert slot.error is slot.mutated and not kept.committer.pending
    kept.committer.close()


def test_a_call_in_a_batch_and_in_a_task(store, ids):
    """The same keeping for a batch and for an async step."""
    kept = Kept(store, ids, spec_of(lambda rows: [row + 1 for row in rows]), batch_size=3)
    slots = kept.enter(1, 2, 3)
    kept.calls.compute(slots)
    assert [slot.value for slot in slots] == [2, 3, 4]

    async def step(row):
        await asyncio.sleep(0)
        return row + 1

    tasks = Kept(store, ids, spec_of(step))
    (slot,) = tasks.enter(1)
    asyncio.run(tasks.calls.acompute([slot]))
    assert slot.value == 2
    kept.committer.close()
    tasks.committer.close()


def test_a_budget_counts_what_others_and_this_run_spent(store, ids):
    """Spent before, beside and here: at the limit it raises."""
    tally = Tally("s")
    store.log.append(*ids, [entry_of(0, cost=0.5)])
    beside = store.log.begin_run(ids[0], "", "", None)
    budget = Budget(store.log, tally, "s", ids[0], beside, 1.0)
    budget.check()
    tally.paid(0.25)
    budget.check()
    store.log.append(*ids, [entry_of(1, cost=0.25)])
    with pytest.raises(BudgetExceeded) as raised:
        budget.check()
    assert (raised.value.spent, raised.value.budget) == (1.0, 1.0)


# --- intake, sharing


def intake_of(store, ids, rows, sharing=None, **options):
    in_flight, tally, source = InFlight(), Tally("s"), Source(rows)
    spec, checked = spec_of(), Options(**options)
    intake = Intake(store.log, spec, checked, ids[1], source, in_flight, tally, sharing)
    return intake, in_flight, source


def test_intake_gives_hits_equal_rows_and_rows_to_compute(store, ids):
    """Each row has its slot in order; a saved row is settled, an unsaved one in flight."""
    store.log.append(*ids, [entry_of(7, result="70")])
    intake, in_flight, _ = intake_of(store, ids, [7, 8, 7, 8])
    hit, miss, again, equal = intake.slots()
    assert hit.settled and hit.data == "70" and not hit.must_compute and again.settled
    assert miss.must_compute and miss.input == "8" and len(in_flight) == 1
    assert isinstance(equal, EqualRow) or equal.key == miss.key


def test_intake_refuses_what_cannot_be_a_row(store, ids):
    """A row without stable content is settled with its error, before any call."""
    intake, in_flight, _ = intake_of(store, ids, [])
    refused = intake.place_of(print)
    assert refused.settled and isinstance(refused.error, EncodeError) and not refused.must_compute
    recorded = intake_of(store, ids, [], on_error="record")[0].place_of(print)
    assert recorded.failed.error_type == "EncodeError" and len(in_flight) == 0


def test_intake_ends_at_an_error_of_the_source(store, ids):
    """The rows before it come; the error is the source's to raise."""

    def rows():
        yield 1
        raise KeyError("source")

    intake, _, source = intake_of(store, ids, rows())
    assert [slot.row for slot in intake.slots()] == [1]
    with pytest.raises(KeyError):
        source.raise_error()


def test_sharing_follows_rows_of_others_and_takes_them_over(store, ids, monkeypatch):
    """A row claimed by a live worker is followed; given up by it, it is ours."""
    ours, theirs = Sharing(store.log), Sharing(store.log)
    assert [slot.row for slot in theirs.claim([slot_of(1)])] == [1]
    assert [slot.row for slot in ours.claim([slot_of(1), slot_of(2)])] == [2]
    assert ours.waiting
    (followed,) = ours.followed()
    assert ours.followed() == []  # not again within the time of a poll
    assert ours.take_over([followed], [followed]) == [] and ours.waiting
    theirs.end()
    assert ours.take_over([followed], [followed]) == [followed] and not ours.waiting
    ours.end()


# --- a run as a whole


def test_a_job_opens_nothing_and_a_run_is_whole_when_it_begins(store):
    """begin registers step and run; end commits and says how, once."""
    events = []
    job = Job(store, spec_of(), on_exit(), {"m": 1}, Options(on_event=events.append))
    assert store.steps() == store.runs() == []
    running = begin(job, [1, 2])
    assert (store.runs()[0].id, store.runs()[0].meta) == (running.id, {"m": 1})
    calls, results = running.calls, running.results
    for place in running.intake.slots():
        calls.compute([place])
        assert results.take(place) == place.row * 10
    assert len(running.pending) == 2 and not running.closed
    end(running, "finished")
    end(running, "failed: never")
    assert running.closed and store.runs()[0].ended == "finished"
    assert store.runs()[0].report == running.report()
    assert [type(event) for event in events] == [RunStarted, Committed, RunEnded]


@pytest.mark.parametrize(
    ("raised", "ended"),
    [
        (None, "finished"),
        (GeneratorExit, "closed"),
        (KeyboardInterrupt, "interrupted"),
        (asyncio.CancelledError, "interrupted"),
        (KeyError, "failed: KeyError"),
    ],
)
def test_a_session_ends_its_run_however_the_loop_ends(store, raised, ended):
    """One place says how a run ended, and tells the user's exception what is saved."""
    session = Session(Job(store, spec_of(), on_exit()), [1, 2, 3])
    assert session.report() == Report()
    session.close()
    try:
        with session.running() as (running, _signals):
            running.calls.compute([next(running.intake.slots())])
            if raised:
                raise raised
    except BaseException as error:
        notes = getattr(error, "__notes__", [""])
        assert ("1 results" in notes[0] and "1 of 3 rows" in notes[0]) == (
            raised is not GeneratorExit
        )
    assert store.runs()[0].ended == ended and store.runs()[0].report.computed == 1
