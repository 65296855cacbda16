"""Before paying: plan counts what a run would do; why says what makes a row a miss."""

from __future__ import annotations

import collections
import os
import random

import apsw
import pytest
from paid import Paid, label
from stores import files_beside

import checkpointdb as ckpt
from checkpointdb import EncodeError, Store
from checkpointdb.engine import occurrences
from checkpointdb.file import alike, read


@pytest.fixture
def paid(tmp_path):
    return Paid(str(tmp_path / "paid.log"))


def usd(result):
    return result["usd"]


# --- plan


def test_a_plan_counts_what_a_run_would_do(store_path, paid):
    """Hits, first calls, calls to be retried and duplicates, and what they will cost by what the
    store knows."""
    step = ckpt.step(store_path, version=1)(label)
    rows = paid.rows(20, {3: "boom", 8: "boom"})
    list(step.run(rows[:10], on_error="record", cost=usd))
    wanted = [*rows, rows[0], rows[3], rows[15], rows[15]]
    plan = step.plan(wanted)
    assert (plan.rows, plan.hits, plan.misses, plan.failed, plan.duplicates) == (24, 8, 10, 2, 4)
    assert plan.cost == pytest.approx(12 * 0.08 / 10)  # ten calls so far cost eight cents
    assert plan.seconds > 0
    assert "; 12 calls to make, 2 of them tried before, about $0.10" in str(plan)


def test_a_plan_is_what_the_run_then_does(store_path):
    """Over random rows, stores and repeats: the calls made are the misses and failures planned."""
    chance = random.Random(3)
    for round in range(15):
        calls = []

        def step(row):
            calls.append(row)
            if row % 7 == 0:
                raise ValueError
            return row

        separate = round % 3 == 0
        step = ckpt.step(
            store_path, version=round, name="s", duplicates="separate" if separate else "share"
        )(step)
        list(step.run([chance.randrange(60) for _ in range(50)], on_error="record"))
        rows = [chance.randrange(60) for _ in range(3000 if round == 5 else 80)]
        plan, before = step.plan(iter(rows)), len(calls)
        list(step.run(rows, on_error="record"))
        assert len(calls) - before == plan.misses + plan.failed, round
        assert plan.rows == len(rows) == plan.hits + plan.misses + plan.failed + plan.duplicates
        step.store.close()


def test_a_plan_calls_and_writes_nothing(store_path, paid):
    """No call, no file where there was none, no byte changed where there was one."""
    step = ckpt.step(store_path, version=1)(label)
    plan = step.plan(paid.rows(5))
    assert (plan.misses, plan.hits, plan.cost, plan.seconds) == (5, 0, None, None)
    assert not os.path.exists(store_path)
    list(step.run(paid.rows(3)))
    step.store.close()
    before = files_beside(store_path)
    assert step.plan(paid.rows(5)).hits == 3
    step.why(paid.rows(9)[8])
    assert files_beside(store_path) == before
    assert paid.calls == [0, 1, 2]


def test_a_plan_knows_no_cost_where_the_store_knows_none(store_path, paid):
    """Without costs saved the expected cost is None, not 0; time is known."""
    step = ckpt.step(store_path, version=1)(label)
    list(step.run(paid.rows(2)))
    plan = step.plan(paid.rows(4))
    assert plan.cost is None
    assert plan.seconds is not None


def test_a_plan_for_rows_that_are_all_there_costs_nothing(store_path, paid):
    """All hits: no calls, no dollars, no seconds."""
    step = ckpt.step(store_path, version=1)(label)
    list(step.run(paid.rows(4), cost=usd))
    plan = step.plan(paid.rows(4))
    assert (plan.hits, plan.cost, plan.seconds) == (4, 0, 0)


def test_a_plan_of_nothing(store_path, paid):
    """No rows is a plan of zeros; wrong rows are a TypeError."""
    step = ckpt.step(store_path, version=1)(label)
    assert step.plan([]).rows == 0
    list(step.run(paid.rows(1)))
    assert step.plan(paid.rows(1) * 3000).duplicates == 2999
    with pytest.raises(TypeError, match="iterable of rows"):
        step.plan("text")
    with pytest.raises(EncodeError):
        step.plan([object()])


def test_a_plan_made_beside_a_run_sees_what_is_committed(store_path, paid):
    """plan reads while the same process has the store open and writes."""
    step = ckpt.step(store_path, version=1, save=ckpt.every(rows=1))(label)
    run = step.run(paid.rows(6))
    for _ in range(3):
        next(run)
    assert step.plan(paid.rows(6)).hits >= 3
    assert len(list(run)) == 3


@pytest.fixture
def statements():
    """What is sent to SQLite, on all connections that are opened from now on."""
    sent = []

    def trace(connection):
        connection.exec_trace = lambda cursor, sql, bindings: sent.append(sql) or True

    apsw.connection_hooks.append(trace)
    yield sent
    apsw.connection_hooks.remove(trace)


@pytest.mark.parametrize("duplicates", ["share", "separate"])
def test_a_plan_asks_for_many_rows_at_once(store_path, statements, duplicates):
    """Not a statement a row, whether rows are hits or misses, on disk or in memory, alike or not:
    with as many statements a million rows take minutes."""
    step = ckpt.step(store_path, version=1, name="s", duplicates=duplicates)(str)
    list(step.run(range(60_000)))
    step.store.close()
    statements.clear()
    plan = step.plan([*range(50_000, 70_000), *range(5_000)])
    assert (plan.hits, plan.misses) == (15_000, 10_000)
    assert len(statements) < 25_000 / 50
    statements.clear()
    list(step.results(range(50_000, 70_000)))
    assert len(statements) < 20_000 / 50


def test_keys_are_counted_right_and_in_bounded_memory(monkeypatch):
    """Equal ones within a batch, ones that went to the disk, ones that came again since then."""
    monkeypatch.setattr(occurrences, "MOST_RECENT", 500)
    chance, counts, before = random.Random(5), occurrences.Counts(), collections.Counter()
    for _ in range(200):
        batch = [chance.randrange(20_000).to_bytes(16) for _ in range(chance.randrange(100))]
        for key, n in zip(batch, counts.count(batch), strict=True):
            assert n == before[key]
            before[key] += 1
        assert len(counts._recent) < 500
    assert len(before) > 5_000


# --- why


@pytest.fixture
def review(store_path):
    """A step over reviews with three of them saved."""

    @ckpt.step(store_path, version=1)
    def rate(row):
        return row["stars"]

    rows = [{"id": i, "stars": i, "text": f"review {i}"} for i in range(3)]
    list(rate.run(rows))
    return rate


def test_a_hit_says_where_it_is_saved(review):
    """Of a saved row: by which run and as which record."""
    why = review.why({"id": 1, "stars": 1, "text": "review 1"})
    assert why.status == "hit"
    assert str(why) == "a hit: saved by run 1 as record 2"
    assert why.record.result == 1


def test_a_new_row_names_the_fields_that_differ_from_the_nearest(review):
    """Of a row nearly as one that is saved: the fields, with both values."""
    why = review.why({"id": 1, "stars": 1, "text": "review 1 "})
    assert why.status == "miss"
    assert why.differs == {"text": ("review 1 ", "review 1")}
    assert why.record.input["id"] == 1
    assert "'review 1 ' (str), there 'review 1' (str)" in why.reason


def test_a_type_is_a_difference(review):
    """1 and "1" and True differ, and why says so by type."""
    assert review.why({"id": 1, "stars": "1", "text": "review 1"}).differs == {"stars": ("1", 1)}
    assert review.why({"id": 1, "stars": True, "text": "review 1"}).differs == {"stars": (True, 1)}


def test_fields_too_many_and_too_few_are_differences(review):
    """A field that only one of the two has is shown as absent in the other."""
    why = review.why({"id": 1, "stars": 1, "text": "review 1", "lang": "de"})
    assert repr(why.differs) == "{'lang': ('de', absent)}"
    why = review.why({"id": 1, "stars": 1})
    assert repr(why.differs) == "{'text': (absent, 'review 1')}"


@pytest.mark.parametrize("lang", ["en", ("en", "de")], ids=["json", "messagepack"])
def test_the_nearest_of_many_is_found_and_few_are_decoded(store_path, monkeypatch, lang):
    """An old row that differs in one field, among thousands: SQLite looks for its parts."""
    step = ckpt.step(store_path, version=1)(len)
    list(step.run({"id": i, "lang": lang, "text": f"review {i}"} for i in range(5_000)))
    seen, decoded = [], read.decoded
    monkeypatch.setattr(read, "decoded", lambda data: seen.append(data) or decoded(data))
    why = step.why({"id": 1234, "lang": lang, "text": "review ?"})
    assert why.record.id == 1235 and why.differs == {"text": ("review ?", "review 1234")}
    assert 0 < len(seen) <= 2 * alike.BEST


def test_why_looks_at_the_newest_rows_of_its_step_only(store_path, monkeypatch):
    """Of a large store it reads the end; where another step's rows follow, what is before them."""
    monkeypatch.setattr(alike, "NEWEST", 200)
    monkeypatch.setattr(alike, "_PAGE", 50)
    one, other = (ckpt.step(store_path, version=1, name=name)(len) for name in ("one", "other"))
    for step in one, other:
        list(step.run({"n": i, "text": f"row {i}"} for i in range(1_000)))
    assert one.why({"n": 900, "text": "row ?"}).record.id == 901
    assert one.why({"n": 700, "text": "row ?"}).record.id == 1_000
    monkeypatch.setattr(alike, "BYTES", 0)
    assert one.why({"n": 900, "text": "row ?"}).record.id == 1_000
    assert one.why({"n": 970, "text": "row ?"}).record.id == 971


def test_another_version_is_named_with_the_way_to_keep_its_results(store_path, review):
    """Of a row saved under another version: which, and the command that adopts it."""
    review.store.close()
    again = ckpt.step(store_path, version=2, name="rate")(review.__wrapped__)
    why = again.why({"id": 1, "stars": 1, "text": "review 1"})
    assert why.status == "miss"
    assert "version 2 differs: it is saved under version 1" in str(why)
    assert f"ckpt adopt {store_path} --step rate --from 1 --to 2" in str(why)
    assert why.record.result == 1


def test_another_name_is_named(store_path, review):
    """Of a row saved under another step's name: that name."""
    renamed = ckpt.step(store_path, version=1, name="rating")(review.__wrapped__)
    why = renamed.why({"id": 1, "stars": 1, "text": "review 1"})
    assert "saved under 'rate', not 'rating'; give name='rate'" in str(why)


def test_another_key_recipe_is_named(store_path, review):
    """Of a row whose step narrows identity otherwise than what is saved: both recipes."""
    narrow = ckpt.step(store_path, version=1, name="rate", key=("id",))(review.__wrapped__)
    why = narrow.why({"id": 1, "stars": 1, "text": "review 1"})
    assert "key= differs: saved rows are identified by row, this one by id" in str(why)


def test_only_what_makes_the_key_differs(store_path):
    """With key= fields left out are no difference."""

    @ckpt.step(store_path, version=1, key=("id", "prompt"))
    def answer(row):
        return row["prompt"]

    list(answer.run([{"id": 1, "prompt": "hi", "at": "today"}]))
    assert answer.why({"id": 1, "prompt": "hi", "at": "later"}).status == "hit"
    assert answer.why({"id": 1, "prompt": "ho", "at": "later"}).differs == {"prompt": ("ho", "hi")}


@pytest.mark.parametrize("key", ["id", lambda row: row["id"]], ids=["fields", "function"])
def test_saved_rows_that_could_not_be_stored_do_not_matter(store_path, key):
    """Rows saved without their input have nothing to compare with: why still answers."""

    @ckpt.step(store_path, version=1, name="answer", key=key)
    def answer(row):
        return row["id"]

    list(answer.run([{"id": 1, "file": object()}]))
    assert answer.why({"id": 1, "file": 3}).status == "hit"
    assert answer.why({"id": 2, "file": 3}).status == "miss"


def test_a_failed_row_says_how(store_path, paid):
    """Of a row that failed: when, with what, and that it will be tried again."""
    step = ckpt.step(store_path, version=1)(label)
    rows = paid.rows(2, {1: "boom"})
    list(step.run(rows, on_error="record"))
    why = step.why(rows[1])
    assert why.status == "failed"
    assert str(why) == (
        "failed in run 1, attempt 1, with ValueError: no luck with row 1; "
        "the next run tries it again"
    )


def test_no_store_and_an_empty_store(store_path):
    """Where nothing is saved that is the reason."""
    step = ckpt.step(store_path, version=1)(label)
    assert "there is no store at" in str(step.why({"n": 1}))
    Store(store_path).close()
    assert "nothing is saved for step 'label' version 1 yet" in str(step.why({"n": 1}))


def test_rows_that_are_no_dicts(store_path):
    """A plain value is compared as a whole; several arguments by their names."""

    @ckpt.step(store_path, version=1)
    def double(x, y=0):
        return x + y

    list(double.run([1, 2]))
    why = double.why(3)
    assert list(why.differs) == ["the row"]
    double(5, y=6)
    double.flush()
    assert double.why(5, y=6).status == "hit"
    assert double.why(5, y=7).status == "miss"
