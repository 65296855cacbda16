"""Take each guard out of a copy of the product and see a test fail: `python -m tests.crash.guards`.

The page docs/guards.md is written from what was seen. A test holds this list against the source, so
that a guard that was rewritten is seen again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PAGE = os.path.join(ROOT, "docs", "guards.md")
COPIED = ("checkpointdb", "tests", "docs", "benchmarks", "examples")


class Guard(NamedTuple):
    """What is guarded, the line that does it, what stands there without it, and a test."""

    what: str
    file: str
    line: str
    without: str
    test: str


GUARDS = [
    Guard(
        "A result is what its checksum was made of.",
        "file/records.py",
        "    if type(checksum) is not int:\n        return False\n",
        "    return True\n",
        "test_store.py::test_no_flipped_bit_ever_gives_wrong_bytes",
    ),
    Guard(
        "A saved row is compared by its identity, not by its key alone.",
        "engine/saved.py",
        "            elif found.identity != slot.identity:\n",
        "            elif False:\n",
        "test_collisions.py::test_a_saved_row_is_not_answered_for_another",
    ),
    Guard(
        "Two rows in flight are compared by their identity, too.",
        "engine/in_flight.py",
        "                    elif first.identity == slot.identity:\n",
        "                    elif True:\n",
        "test_collisions.py::test_rows_of_one_run_that_collide_do_not_share_a_call",
    ),
    Guard(
        "A record that the index names must have the key that was asked for.",
        "file/find.py",
        "        if key != wanted:\n",
        "        if False:\n",
        "test_bad_day.py::test_a_record_whose_key_is_not_the_one_looked_for_is_told",
    ),
    Guard(
        "Beside a damaged index nothing is said to be missing, and paid for again.",
        "file/key_index.py",
        "        if self._damage is not None and None in found:\n",
        "        if False:\n",
        "test_key_index.py::test_beside_a_damaged_index_what_is_found_counts_and_nothing_is_called_missing",
    ),
    Guard(
        "A source that changes the object it gave before is an error.",
        "engine/intake.py",
        "        if is_same_object and last is not None and last.identity != slot.identity:\n",
        "        if False:\n",
        "test_runner.py::test_a_source_that_changes_the_row_it_gave_is_never_answered_wrongly",
    ),
    Guard(
        "A row of a list that the loop changed is read again before it is paid for.",
        "engine/intake.py",
        "                self._unread(places[n - first :])\n                return False\n",
        "                pass\n",
        "test_runner.py::test_a_loop_that_changes_the_rows_to_come_is_answered_for_what_they_are_then",
    ),
    Guard(
        "Two rows with one key= in one run are an error where that is asked for.",
        "engine/intake.py",
        "        if self._is_strict and (another := self.changed.other_row(key, row)):\n",
        "        if False and (another := None):\n",
        "test_changed_input.py::test_two_rows_of_one_key_in_one_run_are_an_error",
    ),
    Guard(
        "No call is begun once a result could not be stored.",
        "engine/outcomes.py",
        "        if self.unstorable is not None:\n            raise self.unstorable\n",
        "        pass\n",
        "test_unstorable.py::test_no_call_is_begun_while_the_loop_waits_for_rows",
    ),
    Guard(
        "No call is begun once the budget is spent.",
        "engine/budget.py",
        "        if spent >= self._dollars:\n",
        "        if False:\n",
        "test_budget.py::test_a_budget_stops_the_run_once_it_is_spent",
    ),
    Guard(
        "The same code bound to other values does not get the first one's answers.",
        "engine/bindings.py",
        "    if not told:\n        return\n",
        "    return\n",
        "test_stale.py::test_one_code_bound_to_other_values_is_refused",
    ),
    Guard(
        "A file that was deleted or replaced is written to no more.",
        "file/log_file.py",
        "        if files.identity(self._path) != self._main:\n",
        "        if False:\n",
        "test_store.py::test_a_store_deleted_or_replaced_while_open_keeps_what_is_pending",
    ),
    Guard(
        "Nothing is written to a log that was replaced.",
        "file/log_file.py",
        "        if log not in (self._log, None):\n",
        "        if False:\n",
        "test_left_behind.py::test_a_log_replaced_under_an_open_store_is_noticed_before_more_is_written",
    ),
    Guard(
        "A log that was deleted is noticed before more is paid.",
        "file/log_file.py",
        "        if not self.check_replaced():\n",
        "        if False:\n",
        "test_left_behind.py::test_a_log_deleted_under_an_open_store_is_noticed_before_more_is_paid",
    ),
    Guard(
        "A log is called damaged only if it is while nobody writes to it.",
        "file/probe.py",
        '        if left_behind(path) and (mark(path), mark(path + "-wal")) == before:\n',
        "        if True:\n",
        "test_left_behind.py::test_a_log_that_somebody_writes_to_while_it_is_looked_at_is_not_damaged",
    ),
    Guard(
        "Whoever reads without locks drops none of this process.",
        "file/connection.py",
        'open_uri(path, "mode=ro", vfs or unlocked().name)\n',
        'open_uri(path, "mode=ro", vfs or "unix-none")\n',
        "test_left_behind.py::test_whoever_reads_without_locks_leaves_those_of_this_process_alone",
    ),
    Guard(
        "A forked child does not use its parent's connections.",
        "file/processes.py",
        "        if self.is_forked:\n            raise",
        "        if False:\n            raise",
        "test_store.py::test_a_forked_child_cannot_use_the_store_and_does_not_harm_it",
    ),
    Guard(
        "A schema that is not ours is refused: a trigger or an index of somebody else would run.",
        "file/probe.py",
        "    wrong = migrations.wrong_in_schema(connection)\n",
        "    wrong = None\n",
        "test_connection.py::test_what_is_not_our_store_is_refused_and_not_one_byte_of_it_changes",
    ),
    Guard(
        "A store is its owner's alone.",
        "file/temporary.py",
        "os.O_RDWR, 0o600)",
        "os.O_RDWR, 0o644)",
        "test_connection.py::test_a_new_store_is_private_and_what_the_format_says",
    ),
    Guard(
        "A timer that is stopped just as it wakes ends.",
        "engine/committer.py",
        "            if self._stopped:\n                return\n",
        "            pass\n",
        "test_committer.py::test_a_timer_that_is_stopped_just_as_it_wakes_ends",
    ),
    Guard(
        "Ctrl-C waits while the result of an async call is kept.",
        "loops/signals.py",
        "        if interrupts.is_whole(frame) or interrupts.in_step(frame) is False:\n",
        "        if False:\n",
        "test_interrupts.py::test_ctrl_c_waits_until_the_result_of_a_call_is_kept",
    ),
    Guard(
        "No signal comes between a direct call's return and its keeping.",
        "interrupts.py",
        "    return _guarded(fn, _calls)\n",
        "    return fn\n",
        "test_interrupts.py::test_ctrl_c_waits_until_the_result_of_a_call_is_kept[calls]",
    ),
    Guard(
        "What `redact=` names is not stored.",
        "values/keys.py",
        "        return value if self._redactor is None else self._redactor.value(value)\n",
        "        return value\n",
        "test_redact.py::test_no_byte_of_it_is_in_the_file_or_in_a_log",
    ),
    Guard(
        "A secret that a step captures is neither compared nor stored.",
        "engine/plain.py",
        "        if not is_secret(name):\n",
        "        if True:\n",
        "test_captured.py::test_a_secret_is_neither_compared_nor_stored",
    ),
]  # fmt: skip


def is_red(tree: str, guard: Guard) -> bool:
    """Tell whether the guard's test fails in a copy of the product without it."""
    path = os.path.join(tree, "checkpointdb", guard.file)
    with open(path, encoding="utf-8") as file:
        source = file.read()
    assert source.count(guard.line) == 1, f"{guard.file}: not one line like {guard.line!r}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(source.replace(guard.line, guard.without))
    try:
        command = [
            sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider",
            "-m", "not soak", os.path.join("tests", guard.test),
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": tree}  # for the processes that the tests begin
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300
        )
    finally:
        with open(path, "w", encoding="utf-8") as file:
            file.write(source)
    failed = re.search(r"^FAILED tests/(\S+)", done.stdout, re.M)
    print("red  " if failed else "GREEN", guard.what, failed and failed[1], flush=True)
    return failed is not None


def page() -> str:
    """Return docs/guards.md."""
    lines = [
        "# Guards",
        "",
        "Each of these was taken out of a copy of the product, and its test was seen to fail: "
        "`python -m tests.crash.guards`, which writes this page. The faults that the "
        "[crash laboratory](crash-lab.md) plants are guards that are taken out, too.",
        "",
        "| guard | where | seen red |",
        "|---|---|---|",
        *(f"| {it.what} | `{it.file}` | `{it.test}` |" for it in GUARDS),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """See each guard's test fail, then write the page; with words, only guards that have them."""
    chosen = [it for it in GUARDS if all(word in str(it) for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as tree:
        for name in COPIED:
            shutil.copytree(
                os.path.join(ROOT, name), os.path.join(tree, name),
                ignore=shutil.ignore_patterns("__pycache__", ".scratch"),
            )  # fmt: skip
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(os.path.join(ROOT, name), tree)
        green = [guard.what for guard in chosen if not is_red(tree, guard)]
    if green:
        sys.exit(f"no test fails without: {green}")
    if chosen == GUARDS:
        with open(PAGE, "w", encoding="utf-8") as file:
            file.write(page())


if __name__ == "__main__":
    main()
