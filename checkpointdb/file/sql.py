"""Ask SQLite for rows. Knows nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw


def rows(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
    """Return all rows at once: an open cursor would keep the log from being checkpointed."""
    return connection.execute(sql, bindings).fetchall()
