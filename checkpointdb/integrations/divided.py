"""Rows divided into those that others have computed and those that are left. Knows no store."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from ..decorator import Step
from ..engine.arguments import args
from ..engine.job import Spec
from ..loops.direct import MISS
from ..tabular import Tabular


class Divided(Tabular):
    """A step that takes what is shipped to one place, and computes the rest.

    Args:
        step: of whatever store, which plays no part here.
    """

    def __init__(self, step: Step[Any, Any]) -> None:
        self.name, self._settings, self._step = step.name, step._settings, step

    @property
    def _spec(self) -> Spec:
        return self._step._spec

    @property
    def _batch_spec(self) -> Spec:
        return self._step._batch_spec

    def run(self, rows: Any, **options: Any) -> contextlib.closing[Generator[Any]]:
        """Return the results of rows, in order, as a context manager; options as of `Step.run`."""
        return contextlib.closing(self._results(list(rows), options))

    def _results(self, rows: list[Any], options: dict[str, Any]) -> Generator[Any]:
        given = options.get("given")
        found = self._found([args(row, **given) for row in rows] if given else rows)
        misses = [row for row, result in zip(rows, found, strict=True) if result is MISS]
        if not misses:
            yield from found
            return
        with self._computing(misses, options) as run:
            for result in found:
                yield next(run) if result is MISS else result
                self.ship_if_due()

    def _found(self, rows: list[Any]) -> list[Any]:
        """Return the result of each row that is shipped, or `MISS`."""
        raise NotImplementedError

    def _computing(
        self, rows: list[Any], options: dict[str, Any]
    ) -> contextlib.AbstractContextManager[Any]:
        """Return the run over what is left."""
        raise NotImplementedError

    def ship_if_due(self) -> None:
        """Ship what was computed, if the policy says so and nobody else sees to it."""
