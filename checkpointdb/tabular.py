"""What a step does with data frames, tables and data sets. Knows no package of theirs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, Unpack

from .engine.callables import row_type
from .engine.failures import Failed
from .engine.job import Spec
from .engine.keywords import RunOptions
from .engine.options import StepSettings, run_options
from .frames.added import Added
from .frames.one_pass import Columns, Pass

F = TypeVar("F")


class Tabular:
    """The part of a `Step` that is about frames."""

    name: str
    _settings: StepSettings

    @property
    def _spec(self) -> Spec:
        raise NotImplementedError

    @property
    def _batch_spec(self) -> Spec:
        raise NotImplementedError

    def run(self, rows: Any, **options: Unpack[RunOptions]) -> Any:
        """Return an iterator over the results of all `rows`."""
        raise NotImplementedError

    def map(
        self,
        frame: F,
        *,
        columns: Columns = None,
        prefix: str = "",
        error_column: str = "error",
        **options: Unpack[RunOptions],
    ) -> F:
        """Return `frame` with the results of its rows as further columns.

        It takes a data frame or series of pandas or polars, a table or record batch of pyarrow,
        whatever else has a stream of Arrow batches (then a `pyarrow.RecordBatchReader` is
        returned), or a data set of Hugging Face, and returns the same kind: its rows, order, index,
        types and metadata as they were. A result that is a dict or a record gets a column for each
        key, with null in rows without that key; any other result is in a column with the step's
        name. An `IterableDataset` computes when it is iterated. The promises are those of `run`.

        Args:
            frame: its rows are dicts of its columns.
            columns: the names of those that are in a row; a single name, not in a list, for rows
                that are the values themselves.
            prefix: of the names of all added columns.
            error_column: under `on_error="record"`, the column that says why a row failed.
            **options: see `RunOptions`; `ordered=False` makes no sense here.

        Raises:
            TypeError: not such a frame, or wrong use; no call was made.
            ValueError: an added column has the name of an existing one. If the step's annotation
                tells, it is raised before the first call; otherwise what was computed is saved.
        """
        from .frames.mapped import mapped

        checked = run_options("map", options, self._settings, ("columns", "prefix", "error_column"))
        if checked.shard is not None:
            raise TypeError("shard= belongs to run(...): a frame's rows keep their places")
        if not checked.ordered:
            raise TypeError("map joins results to their rows in order: leave ordered= out")
        error = error_column if checked.on_error == "record" else None
        spec, takes = self._batch_spec, Any
        if checked.batch_size is None:
            spec, takes = self._spec, row_type(self._spec.inside, self._settings.using)

        def added(taken: Iterable[Any]) -> Added:
            return Added(self.name, spec.codec.annotation, taken, prefix, error, Failed)

        result: F = mapped(
            frame, Pass(lambda rows: self.run(rows, **options), added, columns, takes)
        )
        return result
