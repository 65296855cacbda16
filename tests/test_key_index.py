"""Which record of a key is the newest: the tail in memory, the index on disk, other processes."""

from __future__ import annotations

import itertools
import random

import apsw
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import ERROR, Log, entry, identity, key
from test_connection import run_script

from checkpointdb import Store, StoreCorruptError, StoreFullError
from checkpointdb.file import key_index
from checkpointdb.file.key_index import KeyIndex
from checkpointdb.file.records import Found


@pytest.fixture
def short_tail(monkeypatch):
    """Extend the index on disk every 10 records instead of 50,000."""
    monkeypatch.setattr(key_index, "TAIL", 10)


def indexed(store):
    return store.log._reader.execute("select count(*) from system_key_index").get


def tail(store):
    """Return how many keys are held in memory."""
    return len(store.log._finder.index._tail)


def state(store):
    return store.log._reader.execute("select value from system_state where name = 'indexed_to'").get


def test_the_index_on_disk_is_extended_when_the_tail_is_long(open_store, short_tail):
    """Not before; then the tail in memory is dropped and look-ups go on finding everything."""
    log = Log(open_store())
    log.add(*range(9))
    assert (indexed(log.store), state(log.store), tail(log.store)) == (
        0,
        0,
        9,
    )
    log.add(9)
    assert (indexed(log.store), state(log.store), tail(log.store)) == (
        10,
        10,
        0,
    )
    log.add(*range(10, 33))
    assert (indexed(log.store), state(log.store), tail(log.store)) == (
        33,
        33,
        0,
    )
    log.add(33)
    assert log.found(*range(35)) == [*(entry(n).result for n in range(34)), None]


def test_a_large_store_has_a_tail_in_proportion_and_leaves_a_short_one(open_store, short_tail):
    """Extending costs a row as much as in a small store; who opens it next reads little."""
    log = Log(open_store())
    log.add(*range(800))
    log.add(*range(800, 849))
    assert (state(log.store), tail(log.store)) == (800, 49)
    log.add(849)
    assert (state(log.store), tail(log.store)) == (850, 0)
    log.add(*range(850, 860))
    log.store.close()
    log = Log(open_store())
    assert state(log.store) == 850  # a tail as short as that is left
    assert log.found(859, 860) == [entry(859).result, None]
    log.add(860)
    log.store.close()
    log = Log(open_store())
    assert state(log.store) == 861
    assert log.found(*range(862)) == [*(entry(n).result for n in range(861)), None]
    assert (log.store.steps()[0].results, log.store.verify()) == (861, [])


def test_a_retried_key_points_at_its_newest_record_on_disk_and_in_the_tail(open_store, short_tail):
    """Within one extension, across extensions, and from index to tail."""
    log = Log(open_store())
    log.add(entry(0, error=ERROR), *range(1, 5))
    log.add(entry(0, result='"second"', attempts=2), *range(5, 9))  # extends: both records of 0
    assert log.found(0) == ['"second"']
    log.add(msgspec.structs.replace(entry(0, error=ERROR, attempts=3), replaces=6))  # stale, say
    assert log.store.log.find([key(0)])[0] == Found(11, identity(0), 3, ERROR, None, log.run)
    log.add(*range(9, 20))  # extends again
    assert log.store.log.find([key(0)])[0] == Found(11, identity(0), 3, ERROR, None, log.run)
    (info,) = log.store.steps()
    assert (info.results, info.failures, info.records) == (19, 1, 22)


def test_a_look_up_in_the_order_of_the_log_gives_the_newest_record(open_store, short_tail):
    """As rows come again in the order in which they were saved, some of them retried since."""
    for tail in (10, 1000):
        key_index.TAIL = tail
        log = Log(open_store(), f"step {tail}")
        first = 100 * tail
        rows = range(first, first + 20)
        log.add(*rows)
        log.add(*[entry(n, result=f'"new {n}"', attempts=2) for n in rows if n % 5 == 3])
        wanted = [f'"new {n}"' if n % 5 == 3 else entry(n).result for n in rows]
        for size in (1, 2, 4, 20):
            for again in range(2):
                found = []
                for i in range(0, len(rows), size):
                    found += log.found(*rows[i : i + size])
                assert found == wanted, (tail, size, again)


def test_the_tail_is_read_back_when_a_store_is_opened(open_store, short_tail):
    """What was committed and not indexed is found all the same."""
    log = Log(open_store())
    log.add(*range(15), entry(3, result='"new"', attempts=2))
    log.add(entry(4, result='"newer"', attempts=2))
    log.store.close()
    again = Log(open_store())
    assert again.found(3, 4, 14, 15) == ['"new"', '"newer"', entry(14).result, None]


def test_an_extension_by_another_handle_amid_a_look_up_is_no_damage(
    open_store, short_tail, monkeypatch
):
    """The index then goes further than the last record that the look-up knew of."""
    mine, other = Log(open_store()), Log(open_store())
    other.add(*range(11))
    forget = KeyIndex.forget_indexed

    def forget_late(index):
        if index is mine.store.log._finder.index:
            other.add(*range(11, 25))
        forget(index)

    monkeypatch.setattr(KeyIndex, "forget_indexed", forget_late)
    assert mine.found(3, 20, 30) == [entry(3).result, entry(20).result, None]
    assert mine.store.log._finder.index._damage is None


def test_two_handles_that_append_in_turn_see_each_others_records(open_store, short_tail):
    """Each look-up first catches up, however far and across extensions of either."""
    logs = [Log(open_store()), Log(open_store())]
    rng = random.Random(4)
    newest = {}
    for n in range(150):
        writer = logs[rng.randrange(2)]
        number = rng.choice([n, n, max(0, n - 7)])
        newest[number] = f'"{n}"'
        writer.add(entry(number, result=newest[number]))
        for log in rng.sample(logs, rng.randrange(3)):
            assert log.found(*newest) == list(newest.values())
    for log in logs:
        assert log.found(*newest) == list(newest.values())
        assert tail(log.store) <= 30


def test_a_handle_that_only_reads_keeps_a_short_tail(open_store, short_tail):
    """Its memory is bounded however much another process appends."""
    reader, writer = Log(open_store()), Log(open_store())
    for n in range(0, 500, 3):
        writer.add(n, n + 1, n + 2)
        assert reader.found(n, n + 2, n + 3) == [entry(n).result, entry(n + 2).result, None]
        assert len(reader.store.log._finder.index._tail) < key_index.tail_limit(500) + 10


OTHER = """
    import sys
    from checkpointdb import Store
    from checkpointdb.file import key_index
    from stores import Log
    key_index.TAIL = int(sys.argv[2])
    with Store(sys.argv[1]) as store:
        log = Log(store, "other")
        log.add(*range(1000, 1000 + int(sys.argv[3])))
        print(log.found(5))
"""


@pytest.mark.parametrize("tail", [10, 1000], ids=["extends the index", "appends only"])
@pytest.mark.parametrize("rows", [3, 30])
def test_what_another_process_appends_is_found(open_store, store_path, short_tail, tail, rows):
    """Read by id from where we were; and it finds ours."""
    log = Log(open_store())
    log.add(*range(6))
    assert run_script(OTHER, store_path, tail, rows).strip() == repr([entry(5).result])
    log.add(6)
    asked = [0, 6, 7, 1000, 999 + rows, 1000 + rows]
    assert log.found(*asked) == [
        entry(n).result if n in (0, 6, 1000, 999 + rows) else None for n in asked
    ]


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 2)), min_size=1, max_size=8
        ),
        max_size=12,
    ),
    st.integers(1, 20),
)
def test_the_counters_of_a_step_are_exact_at_every_moment(tmp_path_factory, commits, tail):
    """Results and failures count keys by their newest record, records count all; per step."""
    path = tmp_path_factory.mktemp("counters") / "rows.ckpt"
    before, key_index.TAIL = key_index.TAIL, tail
    try:
        with Store(path, durability="process") as store:
            logs = [Log(store, name) for name in "abc"]
            newest, records = {}, [0, 0, 0]
            for commit in commits:
                for step, group in itertools.groupby(commit, lambda e: e[2]):
                    entries, saved = [], {number for number, good in newest.items() if good}
                    for number, good, _ in group:
                        number += 100 * step
                        entries.append(entry(number, error=None if good else ERROR, cost=0.5))
                        if good or number not in saved:  # else a failure that came late
                            newest[number] = good
                            records[step] += 1
                    logs[step].add(*entries)
                counts = [
                    (info.results, info.failures, info.records, info.cost, info.seconds)
                    for info in store.steps()
                ]
                for step in range(3):
                    goods = [good for n, good in newest.items() if n // 100 == step]
                    wanted = sum(goods), len(goods) - sum(goods), records[step]
                    assert counts[step] == (*wanted, records[step] * 0.5, records[step] * 0.25)
            assert store.verify() == []
    finally:
        key_index.TAIL = before


def test_an_extension_that_fails_leaves_nothing_of_its_commit(open_store, short_tail):
    """Else the entries, still pending, would be stored twice."""
    log = Log(open_store())
    log.add(*range(9))
    log.store.log._writer.exec_trace = refuse_index
    with pytest.raises(StoreFullError):
        log.add(9)
    assert log.found(9) == [None]
    log.store.log._writer.exec_trace = None
    log.add(9)
    assert log.found(9) == [entry(9).result]
    assert (indexed(log.store), state(log.store)) == (10, 10)
    assert log.store.steps()[0].records == 10


def refuse_index(cursor, sql, bindings):
    if "insert" in sql and "key_index" in sql:
        raise apsw.FullError("database or disk is full")
    return True


def test_an_extension_cut_short_by_a_crash_is_made_again(open_store, short_tail, store_path):
    """It is a transaction of its own: after a kill the store has all of it or nothing."""
    code = """
        import os, signal, sys
        from checkpointdb import Store
        from checkpointdb.file import key_index
        from stores import Log
        key_index.TAIL = 10
        store = Store(sys.argv[1])
        log = Log(store)
        log.add(*range(9))
        def kill(cursor, sql, bindings):
            if "update system_state" in sql:
                os.kill(os.getpid(), signal.SIGKILL)
            return True
        store.log._writer.exec_trace = kill
        log.add(9)
    """
    run_script(code, store_path, check=False)
    log = Log(open_store())
    (n,) = {record.position for record in log.store.records()} - set(range(9)) or {None}
    assert n in (9, None)
    assert (indexed(log.store), state(log.store)) == (0, 0)
    assert log.found(*range(9)) == [entry(m).result for m in range(9)]
    log.add(10, 11)
    assert indexed(log.store) == state(log.store) > 10


def test_a_large_store_is_counted_in_the_time_of_its_tail(open_store, monkeypatch):
    """`steps()` reads counters and the tail, not the records that are indexed."""
    monkeypatch.setattr(key_index, "TAIL", 1000)
    log = Log(open_store(durability="process"))
    log.add(*range(5000))
    log.add(*range(5000, 5100))
    assert state(log.store) == 5000
    assert log.store.steps()[0].results == 5100
    looked = key_index.tally(log.store.log._reader, 5000, 5100)
    assert [row[3] for row in looked] == [100]


def test_a_filter_holds_what_was_added_and_tells_bits_of_one_byte_apart():
    """A number is its own hash: these three share a byte, and have a bit each."""
    bits = key_index.Filter()
    bits.add([5, 5 + (1 << 24)])
    wanted = [5, 5 + (1 << 24), 5 + (2 << 24), 6]
    assert bits.may_hold(wanted) == {5, 5 + (1 << 24)}


def test_a_filter_that_grew_holds_what_it_held(monkeypatch):
    """At first it takes a megabyte; what is added later has bits of the large one."""
    monkeypatch.setattr(key_index, "_FEW", 100)
    bits, early, late = key_index.Filter(), range(0, 1 << 27, 1 << 21), [3 + (1 << 22), 9]
    bits.add(early)
    assert len(bits._bytes) == 1 << 20
    bits.add(range(50))
    bits.add(late)
    assert len(bits._bytes) == 1 << 24
    assert bits.may_hold([*early, *late]) == {*early, *late}
    assert bits.may_hold(range(100, 200)) == set()


def test_a_success_is_known_to_be_the_newest_of_its_key_without_the_disk(open_store):
    """As far as the tail in memory says, and unless a success ever was not."""
    store = open_store()
    log = Log(store)
    log.add(1, 2)
    index = store.log._finder.index
    assert index.is_newest(key(1), 1) and index.is_newest(key(9), 7)
    log.add(entry(1, result="2"))
    assert not index.is_newest(key(1), 1) and index.is_newest(key(1), 3)
    index._repeated = 1
    assert not index.is_newest(key(2), 2)


def test_what_another_handle_indexed_is_found_beside_a_longer_tail(open_store, short_tail):
    """The last record that went into the index, too; the tail begins behind it."""
    mine, other = Log(open_store()), Log(open_store())
    other.add(*range(10))  # which extends
    mine.add(*range(10, 15))
    other.add(15)
    assert mine.found(*range(17)) == [*(entry(n).result for n in range(16)), None]
    assert (state(mine.store), tail(mine.store)) == (10, 6)


def test_a_success_that_came_again_is_found_by_who_did_not_extend_the_index(open_store, short_tail):
    """From then on the order of the log proves nothing, in this handle and the next one."""
    mine, other = Log(open_store()), Log(open_store())
    other.add(*range(9))
    other.add(entry(0, result='"again"'))  # extends
    other.add(*range(9, 21))
    for log in (mine, other, Log(open_store())):
        assert log.found(0) == ['"again"']
        assert log.found(*range(3)) == ['"again"', entry(1).result, entry(2).result]
        assert not log.store.log._finder.index.is_newest(key(0), 1)


def test_extending_the_index_adds_up_what_the_steps_used(open_store, short_tail):
    """Token counts, seconds and dollars, each once."""
    log = Log(open_store())
    log.add(*(entry(n, cost=0.5, usage=f'{{"tokens":{n}}}') for n in range(12)))
    (info,) = log.store.steps()
    assert (info.seconds, info.cost, info.usage) == (3.0, 6.0, {"tokens": 66})


@pytest.mark.damages_store
def test_beside_a_damaged_index_what_is_found_counts_and_nothing_is_called_missing(
    open_store, short_tail
):
    """A row that is not found may have been saved: it is not paid for again."""
    log = Log(open_store())
    log.add(*range(12))
    log.store.log._writer.execute("delete from system_key_index where id = 12")
    log.store.close()
    again = Log(open_store())
    assert again.found(3, 4) == [entry(3).result, entry(4).result]
    for wanted in (11, 99):
        with pytest.raises(StoreCorruptError, match="up to record 12, but does not: a requested"):
            again.found(3, wanted)


def test_an_empty_store_has_no_last_record_and_none_of_it_is_indexed(open_store):
    """An extension that has nothing to do notes nothing: the first record has id 1."""
    store = open_store()
    writer = store.log._writer
    assert key_index.last_id(writer) == 0
    key_index.extend(writer)
    assert key_index.indexed_to(writer) == 0
    Log(store).add(0)
    assert key_index.last_id(writer) == 1 and Log(open_store()).found(0) == [entry(0).result]


def kept_of_dropped(writer, value):
    """Put a value where a compaction keeps what was paid for the records that it dropped."""
    writer.execute("insert or replace into system_state values (?, ?)", (key_index.DROPPED, value))


@pytest.mark.damages_store
def test_what_a_compaction_dropped_is_what_it_wrote_or_an_error(open_store):
    """Nothing at first; seconds, dollars and tokens by step; never a guess."""
    store = open_store()
    writer = store.log._writer
    assert key_index.dropped(writer) == {}
    kept_of_dropped(writer, '{"1":[2.5,0.5,{"tokens":7}]}')
    assert key_index.dropped(writer) == {1: (2.5, 0.5, {"tokens": 7})}
    for damage in ('{"1":[2.5]}', "{", 7, b"\xff"):
        kept_of_dropped(writer, damage)
        with pytest.raises(apsw.CorruptError, match=r"^its state is not what was written$"):
            key_index.dropped(writer)


@pytest.mark.damages_store
@pytest.mark.parametrize("damage", ["delete from", "update"])
def test_a_state_that_is_no_number_is_an_error(open_store, damage):
    """Of 0 all records would be read again, and of anything else some would not be found."""
    store = open_store()
    writer = store.log._writer
    change = " set value = '1'" if damage == "update" else ""
    writer.execute(f"{damage} system_state{change} where name = 'indexed_to'")
    with pytest.raises(apsw.CorruptError, match=r"^its state is missing or not a number$"):
        key_index.indexed_to(writer)


def test_what_an_append_supersedes_is_told_whoever_wrote_it(open_store):
    """Records of others, which are read first, and our own of the same commit; never the newest."""
    store = open_store()
    Log(store).add(0)
    Log(store).add(entry(0, result="1"), 1)
    index = KeyIndex(store.log._reader)
    assert index.added([key(0), key(1), key(0)], 4, 6) == [1, 2, 3, 2, 4]
    assert (index.in_tail(key(0)), index.in_tail(key(1)), index.in_tail(key(2))) == (6, 5, None)
    assert index.added([key(2)], 7, 7) == []


def test_what_a_look_up_has_read_already_supersedes_nothing(open_store):
    """It may come between a commit and the note of it."""
    store = open_store()
    Log(store).add(0, 1)
    index = KeyIndex(store.log._reader)
    index.catch_up()
    assert index.added([key(0), key(1)], 1, 2) == []


def test_an_index_is_current_until_anybody_appends_or_deletes(open_store):
    """Both count."""
    store = open_store()
    Log(store).add(0, 1)
    index = KeyIndex(store.log._reader)
    index.catch_up()
    known = index.generation
    assert index.is_current(2, known)
    assert not index.is_current(3, known) and not index.is_current(2, known + 1)
    assert not index.is_current(3, known + 1)


@pytest.mark.damages_store
def test_a_store_that_has_lost_all_its_records_does_not_look_like_a_new_one(open_store):
    """Ids were given that are not there, and nobody forgot or compacted: nothing is paid again."""
    log = Log(open_store())
    log.add(0, 1)
    log.store.log._writer.execute("delete from records")
    log.store.close()
    again = Log(open_store())
    with pytest.raises(StoreCorruptError, match="records after 0 are gone, to 2: a requested row"):
        again.found(0)
