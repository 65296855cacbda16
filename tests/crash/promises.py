"""Write docs/promises.md out of the laboratory's reports: `python -m tests.crash.promises`.

The sentences and the tests that guard them stand here, the figures in `tests/crash/reports/`.
"""

from __future__ import annotations

import glob
import json
import os
import time
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
REPORTS, PAGE = os.path.join(HERE, "reports"), os.path.join(ROOT, "docs", "promises.md")

# What is promised, and the tests that fail when it is broken.
PROMISES: list[tuple[str, tuple[str, ...]]] = [
    (
        "A kill costs a process at most its loss window: N-1 returned rows under `every(rows=N)`, "
        "and the calls in flight.",
        ("test_crash.py::test_a_kill_costs_no_more_than_the_loss_window",),
    ),
    (
        "Under `every(seconds=T)` a returned row is committed within T and one commit, whatever "
        "the loop does meanwhile.",
        ("test_keeper.py::test_seconds_are_kept_while_a_call_blocks",),
    ),
    (
        'Under `durability="power"` a power cut takes nothing that was committed; under '
        '`"process"`, nothing that was flushed; the store is whole under both.',
        (
            "test_crash_lab.py::test_the_store_passes",
            "test_store.py::test_under_power_every_commit_is_synced_before_it_is_acknowledged",
            "test_store.py::test_under_process_a_commit_is_not_synced_and_a_flush_is",
            "test_system.py::test_each_sync_is_one_that_macos_takes_to_the_disk_itself",
        ),
    ),
    (
        "A commit is all or nothing, and so is the creation of a store.",
        (
            "test_store.py::test_a_commit_is_all_or_nothing",
            "test_connection.py::test_a_process_killed_while_creating_leaves_a_whole_store_or_none",
        ),
    ),
    (
        "An exception, the first Ctrl-C, SIGTERM and the end of a loop lose nothing that returned.",
        (
            "test_signals.py::test_a_signal_at_a_random_instant_loses_nothing",
            "test_signals.py::test_ctrl_c_at_every_line_loses_nothing",
            "test_interrupts.py::test_a_signal_to_calls_of_single_rows_loses_nothing",
            "test_failures.py::test_the_users_exception_ends_the_run_and_nothing_is_lost",
        ),
    ),
    (
        "Among live workers on one store, each row is computed once; a worker that dies costs at "
        "most what it had claimed.",
        (
            "test_shared.py::test_four_processes_compute_each_row_once",
            "test_shared.py::test_six_kills_cost_at_most_what_the_dead_had_claimed",
        ),
    ),
    (
        "A hit is the value that was saved, checked against its checksum: a flipped bit is an "
        "error, never a wrong answer.",
        (
            "test_store.py::test_no_flipped_bit_ever_gives_wrong_bytes",
            "test_codec.py::test_any_value_comes_back_equal",
        ),
    ),
    (
        "Two different rows never share an answer, even if somebody made their keys collide.",
        (
            "test_collisions.py::test_a_saved_row_is_not_answered_for_another",
            "test_canonical.py::test_two_values_have_equal_bytes_if_and_only_if_they_are_equal",
        ),
    ),
    ("A key never changes.", ("test_keys.py::test_a_key_never_changes",)),
    (
        "A full disk is an error, loses nothing, and the next commit goes on.",
        (
            "test_store.py::test_a_full_disk_is_an_error_and_loses_nothing",
            "test_store.py::test_a_disk_that_is_really_full_loses_nothing",
        ),
    ),
    (
        "After a sync that failed, nothing is acknowledged that is not on the disk.",
        (
            "test_left_behind.py"
            "::test_after_a_failed_sync_nothing_is_acknowledged_that_is_not_on_the_disk",
        ),
    ),
    ("Results come in the order of the input.",
     ("test_concurrency.py::test_results_come_in_input_order",)),
    ("Memory does not grow with the number of rows.",
     ("test_concurrency.py::test_memory_does_not_grow_with_the_rows",)),
    (
        "A file that somebody made to do harm is refused or read, in a second and in 256 MiB, and "
        "runs no code.",
        (
            "test_hostile.py::test_a_whole_store_is_handled",
            "test_hostile.py::test_some_of_the_files_made_by_hand",
            "test_hostile.py::test_some_mutated_files",
            "test_connection.py::test_a_connection_is_hardened",
        ),
    ),
    (
        "A new store, its log and its index are readable by their owner alone.",
        ("test_connection.py::test_a_new_store_is_private_and_what_the_format_says",),
    ),
    (
        "No file is written through a link, nor over another one unless you say so.",
        (
            "test_tables.py::test_nothing_is_written_through_a_link",
            "test_tables.py::test_a_file_that_is_there_stays_even_one_that_comes_meanwhile",
        ),
    ),
    ("What `redact=` names is in no byte of the file and in no log.",
     ("test_redact.py::test_no_byte_of_it_is_in_the_file_or_in_a_log",)),
    ("No row is ever in two live batches of a provider, whatever is killed, however many processes "
     "submit.",
     ("test_openai_batch.py::test_a_killed_driver_is_gone_on_with",
      "test_openai_batch.py::test_processes_that_submit_at_once_submit_a_row_once",
      "test_openai_batch.py::test_twenty_kills_at_random_instants")),
]  # fmt: skip

NOT_PROMISED = """
- **A disk that lies.** One that says that it has written what it has not, or that damages the rest of a sector while it writes to it (unless you tell SQLite: [crash-lab.md](crash-lab.md)), can lose commits or damage the file.
- **A network file system.** SQLite's locks and shared memory need one machine; you are warned.
- **A kill inside the loss window.** Rows that returned and are not committed are computed again: that is what the window says. So is a call that was in flight.
- **SIGKILL, a second Ctrl-C, `os._exit`, a crash of native code, no memory left.** They cost the loss window.
- **Exactly one call for each row.** The recorded result is exactly one; a call is made again if its worker died between call and commit.
- **Two names of one file.** A hard link, or a store that is renamed while it is open, has another log under each name. Where the system tells who has a file open (Linux), the second one is refused.
- **A power cut while the log is copied after a sync that failed.** What would mend the file is on no disk then.
- **A copy of the main file alone, made while a run is open.** It is a store without the rows that are in the log: use `ckpt backup`.
- **Another program that writes to the store,** or opens it with an SQLite before 3.51.3 while it is in use.
- **Encryption, and secrets against who can read the file.** See [SECURITY.md](../SECURITY.md).
"""  # noqa: E501


def render(reports: list[dict[str, Any]]) -> str:
    """Return the page."""
    lines = [
        "# What checkpointdb promises",
        "",
        "Each promise, and the tests in `tests/` that fail when it is broken. The "
        "[crash laboratory](crash-lab.md) looks for what they do not. This page is written by "
        "`python -m tests.crash.promises`.",
        "",
        "| promise | guarded by |",
        "|---|---|",
    ]
    for sentence, tests in PROMISES:
        lines.append(f"| {sentence} | {'<br>'.join(f'`{test}`' for test in tests)} |")
    lines += ["", "## What the laboratory counted", ""]
    for report in reports:
        lines += _counted(report)
    return "\n".join([*lines, "## What is not promised", "", NOT_PROMISED.strip(), ""])


def _counted(report: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {value[:12]}" for name, value in report["versions"].items())
    day = time.strftime("%d %B %Y", time.gmtime(report["at"]))
    totals = ", ".join(
        f"{count:,} {what}"
        for what, count in report.get("totals", {}).items()
        if count or what == "violations"
    )
    every = ""
    if kinds := report.get("everywhere"):
        every = f", each operation of {len(kinds)} kinds of lives fails in turn (`--everywhere`)"
    lines = [
        f"Seed {report['seed']}, {day}{every}: {totals or 'see below'}. {versions}.",
        "",
        "| experiment | counted | broken promises | seconds |",
        "|---|---|---:|---:|",
    ]
    for name, counts in report["experiments"].items():
        told = ", ".join(
            f"{count:,} {what}"
            for what, count in counts.items()
            if type(count) is int and count and what != "violations"
        )
        lines.append(f"| `{name}` | {told} | {counts['violations']:,} | {counts['seconds']:,.0f} |")
    return [*lines, ""]


def reports() -> list[dict[str, Any]]:
    """Return the reports that are kept, by name."""
    found = []
    for path in sorted(glob.glob(os.path.join(REPORTS, "*.json"))):
        with open(path, encoding="utf-8") as file:
            found.append(json.load(file))
    return found


if __name__ == "__main__":
    with open(PAGE, "w", encoding="utf-8") as page:
        page.write(render(reports()))
