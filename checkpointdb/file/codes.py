"""The codes of a step, and what each of them made. Knows SQL; knows nothing of code itself."""

from __future__ import annotations

import array
import time
from collections.abc import Sequence
from typing import Any

import apsw

from .records import Code, Made, SavedCode
from .sql import rows, typed


def codes(connection: apsw.Connection, step: int) -> list[SavedCode]:
    """Return the codes that a step was run with, in the order in which they were first used."""
    sql = """
    select id, fingerprint, captured, first_used, accepted_at
      from step_code where step = ? order by first_used, id
    """
    return [typed(SavedCode, *row) for row in rows(connection, sql, (step,))]


def newest_code(connection: apsw.Connection, step: int) -> int | None:
    """Return the id of the code that a step's newest run had; None if none is known."""
    sql = """
    select code from runs where step = ? and code is not null and policy <> 'adopt'
     order by id desc limit 1
    """
    id: int | None = connection.execute(sql, (step,)).get
    return id


def made_by(connection: apsw.Connection, step: int, codes: Sequence[int]) -> Made:
    """Return what these codes made that is still the newest of its row.

    It reads the log once: some seconds for ten million records, and nothing if there is no code.
    """
    if not codes:
        return Made(0, 0.0, 0.0, frozenset())
    wanted = apsw.carray(array.array("q", codes))
    sql = "select id from runs where step = ? and code in (select value from carray(?))"
    runs = [id for (id,) in rows(connection, sql, (step, wanted))]
    if not runs:
        return Made(0, 0.0, 0.0, frozenset())
    row: Any = connection.execute(
        """
        select count(*), total(seconds), total(cost) from records
         where step = ? and error is null and run in (select value from carray(?))
           and id not in (select id from system_superseded)
        """,
        (step, apsw.carray(array.array("q", runs))),
    ).fetchone()
    results, seconds, cost = row
    return Made(results, seconds, cost, frozenset(runs))


def code_id(writer: apsw.Connection, step: int, code: Code) -> int:
    """Return the id of a step's code, noted now if it is new."""
    writer.execute(
        """
        insert or ignore into step_code (step, fingerprint, captured, first_used)
        values (?, ?, ?, ?)
        """,
        (step, code.fingerprint, code.captured, time.time()),
    )
    sql = "select id from step_code where step = ? and fingerprint = ?"
    id: int = writer.execute(sql, (step, code.fingerprint)).get
    return id


def accept(writer: apsw.Connection, step: int, code: Code, undo: bool) -> None:
    """Note that a step's results so far are as good as those of `code`; or take that back."""
    id = code_id(writer, step, code)
    now = None if undo else time.time()
    writer.execute("update step_code set accepted_at = ? where id = ?", (now, id))
