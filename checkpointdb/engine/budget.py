"""A step's budget over all its runs, earlier ones and concurrent ones. Knows no calls."""

from __future__ import annotations

import threading

from ..errors import BudgetExceeded
from ..file.log import Log
from .tally import Tally


class Budget:
    """Say when the dollars are spent.

    Its lock is held while the log is asked what others have spent since the last time.

    Args:
        log: of the store.
        tally: of the run; its own cost is known before it is committed.
        name: of the step.
        step: its id.
        run: id of the run.
        dollars: the budget.
    """

    def __init__(
        self, log: Log, tally: Tally, name: str, step: int, run: int, dollars: float
    ) -> None:
        self._log, self._tally = log, tally
        self._name, self._step, self._run, self._dollars = name, step, run, dollars
        self._lock = threading.Lock()
        self._others, self._seen_to = log.spent_before(step)

    def check(self) -> None:
        """Raise `BudgetExceeded` if the budget is spent."""
        with self._lock:
            more, self._seen_to = self._log.spent(self._step, self._run, self._seen_to)
            self._others += more
            spent = self._others + self._tally.report().cost
        if spent >= self._dollars:
            raise BudgetExceeded(
                f"step {self._name!r} has spent ${spent:.6g} of its budget of "
                f"${self._dollars:.6g}: raise max_cost= to go on",
                spent,
                self._dollars,
            )
