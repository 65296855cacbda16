"""Do something in a thread beside this one. Knows neither bucket nor store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What is made beside this thread, and fetched later.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._made = make, Future[T]()
        thread = threading.Thread(target=self._run, name="checkpointdb-ahead", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process ends, and no thread begins any more
            self._run()

    def wait(self) -> None:
        """Return when it is made, or cannot be."""
        wait([self._made])

    def result(self) -> T:
        """Return it when it is made.

        Raises:
            BaseException: what making it raised.
        """
        return self._made.result()

    def _run(self) -> None:
        try:
            self._made.set_result(self._make())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is fetched
            self._made.set_exception(error)
