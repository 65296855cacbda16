"""docs/promises.md says what the tests guard and the laboratory counted, and nothing else."""

from __future__ import annotations

import ast
import os

import pytest
from crash import guards, promises


def test_the_page_is_what_the_reports_say():
    """Mend it with `python -m tests.crash.promises`."""
    with open(promises.PAGE, encoding="utf-8") as page:
        assert page.read() == promises.render(promises.reports())


def test_there_is_a_report_without_a_broken_promise():
    """With seed, versions and counts, so that it can be run again."""
    assert promises.reports()
    for report in promises.reports():
        assert not report["violations"] and report["seed"] and report["versions"]["SQLite"]
        assert all(counts["violations"] == 0 for counts in report["experiments"].values())


@pytest.mark.parametrize("test", [test for _, tests in promises.PROMISES for test in tests])
def test_each_promise_has_a_test_that_exists(test):
    """Under the name that the page gives, and in the README's test command or the laboratory."""
    file, _, name = test.partition("::")
    with open(os.path.join(promises.ROOT, "tests", file), encoding="utf-8") as source:
        tree = ast.parse(source.read())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_of_guards_names_those_that_were_seen_red():
    """A guard that was rewritten must be seen again: `python -m tests.crash.guards`."""
    with open(guards.PAGE, encoding="utf-8") as file:
        assert file.read() == guards.page()
    for guard in guards.GUARDS:
        path = os.path.join(guards.ROOT, "checkpointdb", guard.file)
        with open(path, encoding="utf-8") as file:
            assert file.read().count(guard.line) == 1, guard
