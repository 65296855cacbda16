"""The runs of direct calls that are open: a process may have thousands of steps, but few files."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..engine.begin import Running

MOST_OPEN = 32  # a store takes four files, and a process may have 256

_lock = threading.Lock()  # for the table alone
_open: dict[Running, Callable[[], bool]] = {}


def opened(running: Running, is_ours: Callable[[], bool]) -> None:
    """Note a run of direct calls; close the oldest ones that are idle, if there are too many.

    What they have pending is committed; the next call opens the store again.

    Args:
        running: the run.
        is_ours: whether nobody but the step has the store.
    """
    with _lock:
        _open[running] = is_ours
        surplus = list(_open.items())[:-MOST_OPEN]
    for idle, may_close in surplus:
        if idle.closed or (may_close() and idle.give_back()):
            with _lock:
                _open.pop(idle, None)
