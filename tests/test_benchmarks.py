"""The benchmark suite runs, and what the docs show is what was recorded."""

from __future__ import annotations

import itertools
import os
import re
import subprocess

import pytest

from benchmarks import __main__ as main_of
from benchmarks import (
    bounds,
    choice,
    compare,
    data,
    docs,
    harness,
    in_flight,
    neighbours,
    peers,
    results,
    scale,
    since,
    targets,
    tradeoff,
    users,
)  # fmt: skip
from benchmarks.__main__ import QUESTIONS
from benchmarks.adapters import PEERS, load, said

RECORDED = sorted(os.listdir(results.FOLDER))


@pytest.mark.parametrize("page", docs.PAGES, ids=os.path.basename)
def test_a_page_shows_what_was_recorded(page):
    """Each table is made of the committed JSON."""
    with open(page, encoding="utf-8") as file:
        text = file.read()
    assert docs.MARKED.search(text)
    assert docs.filled(text) == text


@pytest.mark.parametrize("name", ["tradeoff", "peers", "scale"])
def test_each_plot_that_the_page_shows_is_there(name):
    with open(os.path.join(harness.ROOT, "docs", "plots", f"{name}.svg"), encoding="utf-8") as file:
        assert "<svg" in file.read()


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_results_say_what_they_were_measured_on(name):
    question, mode, _ = name.split(".")
    result = results.read(question, mode)
    assert (result["question"], result["mode"]) == (question, mode)
    assert result["cases"]
    assert len(result["load_average"]) == 2
    assert {"python", "cores", "file_system", "fsync_4k_ms", "versions"} <= set(result["machine"])


@pytest.mark.parametrize("name", RECORDED)
def test_no_recorded_result_names_a_path_of_the_machine(name):
    with open(os.path.join(results.FOLDER, name), encoding="utf-8") as file:
        assert not re.search(r'"/\w+/', file.read())


def test_every_target_of_the_tables_says_met_or_missed():
    for line in itertools.chain(*targets.tables()):
        assert len(line) == len(targets.HEADS)
        assert line[-1] == "met" or line[-1].startswith(("missed", "not measured"))


def test_a_target_names_cases_that_are_measured(monkeypatch):
    """A case that was renamed would be "not measured" for ever."""
    monkeypatch.setattr(peers, "is_there", lambda name: True)
    full = {name: {case.name for case in cases(False)} for name, cases in QUESTIONS.items()}
    quick = {name: {case.name for case in cases(True)} for name, cases in QUESTIONS.items()}
    for bound in (*bounds.restated("100,000"), *bounds.others("100,000")):
        assert {bound.case, bound.over} - {None} <= full[bound.question], bound.what
    for bound in (*bounds.restated("50,000"), *bounds.others("50,000")):
        if bound.question not in ("huge", "tradeoff"):
            assert {bound.case, bound.over} - {None} <= quick[bound.question], bound.what


def test_each_recorded_miss_says_why():
    for line in targets.misses():
        assert not line.endswith("times the target."), f"{line}: write why= in bounds.py"


def test_what_is_missed_says_by_how_much_and_why(monkeypatch):
    """All targets, against results that are ten times worse than the target."""

    def missed(_result, bound, _which):
        return bound.bound / 10 if bound.at_least else bound.bound * 10

    monkeypatch.setattr(targets, "_value", missed)
    said = targets.misses()
    assert len(said) == sum(map(len, targets.tables()))
    for line in said:
        assert "missed, 10.00 times the target" in line


def test_a_process_imports_the_code_of_an_older_commit(tmp_path):
    """What `since` compares with: the code of then, not this one."""
    if subprocess.run(["git", "-C", harness.ROOT, "cat-file", "-e", since.COMMIT]).returncode:
        pytest.skip("a clone without that commit")
    folder = harness.checkout(since.COMMIT)
    assert "checkpointdb" in os.listdir(folder)
    figures = harness.child("child:where", str(tmp_path), at=since.COMMIT)
    assert figures["checkpointdb"].startswith(folder)
    now = harness.child("child:where", str(tmp_path))
    assert not now["checkpointdb"].startswith(folder)


@pytest.mark.slow
def test_a_kill_loses_what_the_policy_says(tmp_path):
    """every(rows=10): nine rows that had returned are computed again, as measured by killing."""
    parameters = {"durability": "process", "size": 300, "seconds": 0.0, "rows": 40}
    figures = tradeoff.measure(str(tmp_path), save="every(rows=10)", **parameters)
    assert figures["rows_lost"] == 9
    assert figures["commits"] == 4


@pytest.mark.slow
def test_a_kill_among_many_calls_loses_what_the_policy_says(tmp_path):
    """every(rows=1) loses no more than a commit under way, as measured by killing and resuming.

    All that return during a commit go with the next one, so commits are fewer than rows.
    """
    figures = in_flight.measure(str(tmp_path), "every(rows=1)", 16, "this disk", kills=1)
    assert figures["rows_lost"] <= 16  # noted as returned, and killed before it was committed
    bursts = int(in_flight.SECONDS / in_flight.CALL_SECONDS)
    assert bursts <= figures["commits"] <= 16 * bursts


def test_what_hangs_or_fails_is_told_and_stops_no_other():
    """The suite goes on; the results say what became of the case."""

    def passed(folder, adapter, limit):
        return harness.child("peers:passed", folder, limit=limit, adapter=adapter, rows=5)

    asked = {
        "hangs": ("bare_loop", 0.01),
        "fails": ("no_such_peer", 60),
        "works": ("bare_loop", 60),
    }
    cases = [
        harness.Case(name, passed, {"adapter": adapter, "limit": limit}, repeats=2)
        for name, (adapter, limit) in asked.items()
    ]
    figures = {name: case["figures"] for name, case in harness.measure(cases).items()}
    assert figures["hangs"] == {"failed": "hung: killed after 0.01 s"}
    assert figures["fails"]["failed"].startswith("ModuleNotFoundError")
    assert figures["works"]["calls"]["runs"] == 2


def test_a_module_is_hidden_as_if_it_were_not_installed():
    assert peers.import_ms("json") > 0
    with pytest.raises(subprocess.CalledProcessError):
        peers.import_ms("json", without="json")


@pytest.mark.parametrize(("cost", "word"), [(1.0, "cheaper"), (2.05, "as cheap"), (3.0, "dearer")])
def test_the_frontier_compares_adaptive_with_the_cheapest_n_that_loses_no_more(
    cost, word, monkeypatch
):
    """Of the fixed N, 1000 is cheaper still but loses more than adaptive."""
    every = [("every(rows=1)", 9.0, 0), ("every(rows=50)", 2.0, 49), ("every(rows=1000)", 0.1, 999)]
    cases = {
        save: {
            "parameters": {"save": save, "seconds": 0.001, "size": 300, "durability": "power"},
            "figures": {
                "overhead_pct": {"low": cost - 0.1, "median": cost, "high": cost + 0.1},
                "rows_lost": {"low": lost, "median": lost, "high": lost},
            },
        }
        for save, cost, lost in [*every, ("adaptive()", cost, 60)]
    }
    monkeypatch.setattr(choice, "best", lambda question: {"cases": cases})
    line = choice.frontier_table().splitlines()[-1]
    assert "`every(rows=50)`" in line
    assert line.split(" | ")[-1].startswith(word)


def test_a_store_is_measured_beside_bare_sqlite(tmp_path):
    ours = harness.child("scale:first", str(tmp_path), rows=100)
    again = harness.child("scale:resume", str(tmp_path), rows=100, order="shuffled")
    bare = harness.child("scale:bare_append", str(tmp_path), rows=100)
    assert {"us", "cpu_us", "memory_mb"} <= ours.keys() & again.keys() & bare.keys()


@pytest.mark.parametrize("name", PEERS)
def test_an_adapter_finds_what_it_kept(name, tmp_path, monkeypatch):
    """Of those whose package is there; slow starters are left to the suite itself."""
    if name in (*peers.SLOW_TO_START, "bare_loop"):
        pytest.skip("slow to import")
    for module in said(name)["IMPORTS"].split(", "):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    calls = []

    def label(row):
        calls.append(row)
        return data.answer(row)

    for _ in range(2):
        load(name).run(data.rows(30), label)
    assert len(calls) == 30


@pytest.mark.parametrize("name", PEERS)
def test_an_adapter_says_how_it_saves_without_its_package(name):
    asked = said(name)
    assert asked["SAVES"] in ("never", "1 row", "1,000 rows")
    assert asked["HOW"]
    assert asked["ROWS"] >= 500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("nothing kept: `asyncio.gather`", 256),
        ("checkpointdb, `every(rows=1)`", 64),
        ("async-batch-llm, SQLite", 128),
        ("batchledger (one call at a time)", 1),
    ],
)
def test_a_neighbour_pays_for_what_was_in_flight_and_finds_every_result(name, most):
    """Killed in the middle and run again: calls are counted by the log, results compared."""
    pytest.importorskip(users.USERS[name][1])
    figures = neighbours.measure_kills("", name, rows=256, kills=1)
    assert figures["wrong"] == 0
    assert figures["paid_twice"] <= most
    if name.startswith("nothing"):
        assert figures["paid_twice"] >= 128


def test_shuffled_rows_are_the_same_rows():
    assert sorted(row["id"] for row in data.shuffled(1000)) == list(range(1000))


def test_only_a_change_beyond_the_spread_is_told():
    def result(low, median, high):
        figure = {"low": low, "median": median, "high": high}
        return {"recorded_at": "then", "cases": {"case": {"figures": {"us": figure}}}}

    before = result(9, 10, 11)
    assert "0 figures changed" in compare.compare("scale", before, result(10, 12, 14))
    assert "WORSE: case: us 10 -> 14 (+40%)" in compare.compare("scale", before, result(13, 14, 15))
    assert "better" in compare.compare("scale", before, result(5, 6, 7))


def test_cases_have_names_of_their_own():
    for quick in (True, False):
        for cases in (tradeoff.cases(quick), scale.cases(quick), scale.huge(quick)):
            assert len({case.name for case in cases}) == len(cases)


def test_a_setting_that_is_tried_is_in_force(tmp_path):
    """Pages are as large as was asked; else the page would compare the store with itself."""
    asked = {"kind": "1 MB text", "rows": 2, "each": 1, "page": 32768}
    figures = harness.child("large:with_settings", str(tmp_path), **asked)
    with open(tmp_path / "bench.ckpt", "rb") as file:
        assert int.from_bytes(file.read(18)[16:], "big") == 32768
    assert figures["mb_per_second"] > 0


def test_what_zstd_saves_is_measured_on_real_texts(tmp_path):
    pytest.importorskip("zstandard")
    kind = "modules of Python's standard library"
    figures = harness.child("zstd:compressed", str(tmp_path), kind=kind, most=20)
    assert figures["rows"] == 20
    assert figures["bytes"] > 500
    assert 0.1 < figures["ratio_3"] < 0.6


def test_what_the_targets_ask_is_measured_by_one_option(monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--targets"])
    asked = main_of.chosen(main_of.arguments())
    assert {bound.question for bound in bounds.restated("100,000")} == set(asked)


@pytest.mark.slow
@pytest.mark.parametrize("what", since.ROWS)
def test_the_same_is_measured_of_then_and_of_now(what, tmp_path):
    """Else a line of the table would compare different things."""
    if what == "direct hits":
        pytest.importorskip("diskcache")
    if subprocess.run(["git", "-C", harness.ROOT, "cat-file", "-e", since.COMMIT]).returncode:
        pytest.skip("a clone without that commit")
    found = []
    for at in (since.COMMIT, ""):
        (folder := tmp_path / f"at{at}").mkdir()
        found.append(set(since.measure(str(folder), what, rows=300, at=at)))
    assert found[0] == found[1]
    shown = {figure for (work, _), figure in since.SHOWN.items() if work == what}
    assert shown <= found[0]
