"""What becomes of open stores when the process ends or forks. Knows neither SQL nor rows."""

from __future__ import annotations

import atexit
import logging
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from .. import interrupts, system

log = logging.getLogger("checkpointdb")


class Open(Protocol):
    """Something open that must be closed at exit."""

    def flush(self) -> None:
        """Save what is pending."""

    def finish(self) -> None:
        """End what runs next to it."""

    def close(self) -> None:
        """Save what is pending and close."""


_POOLS = ("multiprocessing", "multiprocess")  # the latter is that of pathos and `datasets`
# Strong references: what nobody names any more may still have results to save.
_open: dict[Any, Callable[[], list[Any]]] = {}


def opened(store: Open, forked: Callable[[], list[Any]]) -> None:
    """Close `store` when this process ends, unless `closed` comes first.

    Args:
        store: what was opened.
        forked: prepares it for a forked child, and returns the objects whose destructors must
            never run there.
    """
    _open[store] = forked
    for name in _POOLS:
        package = sys.modules.get(name)
        if package and package.parent_process():
            # its workers leave by os._exit: atexit does not run there
            package.util.Finalize(store, _close, args=(weakref.ref(store),), exitpriority=10)


def give_back(handle: object, store: Open) -> None:
    """Close `store` as soon as nobody has the handle to it: a process may make thousands."""
    weakref.finalize(handle, _close_unnamed, store).atexit = False


def _close_unnamed(store: Open) -> None:
    try:
        store.close()
    except Exception:  # nobody is there to have it; the exit of the process tries again
        log.exception("checkpointdb: a store that nobody uses any more could not be closed")


def closed(store: Open) -> None:
    """Forget a store that was closed."""
    _open.pop(store, None)


def _close(reference: weakref.ref[Any]) -> None:
    if (store := reference()) is not None:
        store.close()


def _close_all() -> None:
    for store in list(_open):
        try:
            store.close()
        except Exception:  # the other stores must be saved all the same
            log.exception("checkpointdb: results may be lost, a store could not be saved at exit")


def _save_all() -> None:
    """Save what is pending in every open store, before a signal ends the process."""
    for store in list(_open):
        try:
            store.flush()
        except Exception:  # the other stores must be saved all the same
            log.exception("checkpointdb: results may be lost, a store could not be saved")


def _finish_all() -> None:
    for store in list(_open):
        try:
            store.finish()
        except Exception:  # as above
            log.exception("checkpointdb: what runs next to a store could not be ended")


def _abandon_in_child() -> None:
    """Keep the parent's connections from ever being closed here: that would disturb its locks."""
    if not _open:
        return
    import ctypes

    for forked in list(_open.values()):
        for handle in forked():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
    _open.clear()


interrupts.savers.append(_save_all)
interrupts.last_acts.append(_finish_all)
atexit.register(_close_all)
system.at_fork(_abandon_in_child)
