"""Calls that are about to be made, on disk before they are. Knows threads; not what a call is."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


class Ledger:
    """Write calls down in groups: those that come while a write is under way share the next one."""

    def __init__(self, write: Callable[[list[Any]], None]) -> None:
        self._write = write
        self._waiting: deque[tuple[list[Any], list[BaseException]]] = deque()
        self._lock = threading.Lock()

    def send(self, calls: Iterable[Any]) -> None:
        """Return once `calls` are written; raise if they could not be."""
        sent = list(calls), list[BaseException]()
        self._waiting.append(sent)
        with self._lock:
            group = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if group:
                try:
                    self._write([call for calls, _ in group for call in calls])
                except BaseException as error:  # noqa: BLE001 - raised to each who sent some
                    for _, errors in group:
                        errors.append(error)
        if sent[1]:
            raise sent[1][0]
