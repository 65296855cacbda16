"""A step passed over tables of pyarrow, and over whatever else gives a stream of their batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..system import scratch
from .gathered import gathered
from .one_pass import Pass
from .packages import arrow
from .rows import TableRows, check_columns, rows_of_arrow


def map_arrow(frame: Any, name: str, one: Pass) -> Any:
    """Return a table or a batch with columns added; of any other stream, a reader of batches."""
    pa, _ = arrow("a table")
    if name == "Table":
        return _map_table(frame, one)
    if name == "RecordBatch":
        table = _map_table(pa.Table.from_batches([frame]), one)
        return _batch(pa, table.columns, table.schema)
    return _map_stream(pa, pa.RecordBatchReader.from_stream(frame), one)


def _map_table(table: Any, one: Pass) -> Any:
    chosen = table if one.columns is None else table.select(one.chosen(table.column_names))
    check_columns(chosen)
    added = one.added(table.column_names)
    (results,) = gathered(added, [one.rows(added, TableRows(chosen))])
    for field, column in zip(results.schema, results.columns, strict=True):
        table = table.append_column(field, column)
    return table


def _map_stream(pa: Any, reader: Any, one: Pass) -> Any:
    """Return a reader of the same batches with columns added.

    The types of the results are known when all are there. Until then the batches lie in a file.
    """
    names = one.chosen(reader.schema.names)
    added = one.added(reader.schema.names)
    with scratch() as path:
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, reader.schema) as writer:

            def batches() -> Iterator[Any]:
                for batch in reader:
                    writer.write_batch(batch)
                    chosen = batch if one.columns is None else batch.select(names)
                    check_columns(chosen)
                    yield chosen

            (results,) = gathered(added, [one.rows(added, rows_of_arrow(batches()))])
        kept = pa.ipc.open_stream(pa.memory_map(path))
    schema = kept.schema
    for field in results.schema:
        schema = schema.append(field)
    return pa.RecordBatchReader.from_batches(schema, _joined(pa, kept, results, schema))


def _joined(pa: Any, batches: Any, results: Any, schema: Any) -> Iterator[Any]:
    at = 0
    for batch in batches:
        part = results.slice(at, batch.num_rows)
        yield _batch(pa, [*batch.columns, *part.columns], schema)
        at += batch.num_rows


def _batch(pa: Any, columns: list[Any], schema: Any) -> Any:
    whole = [
        column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        for column in columns
    ]
    return pa.RecordBatch.from_arrays(whole, schema=schema)
