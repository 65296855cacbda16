"""A step passed over the data sets of Hugging Face. Their own caches play no part in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from .gathered import gathered
from .one_pass import Pass


def map_datasets(data: Any, name: str, one: Pass) -> Any:
    """Return the data set, or the dict of its parts, with columns added; a stream stays lazy."""
    if name == "Dataset":
        return _map_parts({"": data}, one)[""]
    if name == "DatasetDict":
        return type(data)(_map_parts(data, one))
    if name == "IterableDataset":
        return _map_stream(data, one)
    if name == "IterableDatasetDict":
        return type(data)({part: _map_stream(data[part], one) for part in data})
    raise TypeError(f"map takes a data set, not a {name} of datasets: for its values, use run")


def _map_parts(parts: Mapping[str, Any], one: Pass) -> dict[str, Any]:
    """Return the parts with columns added, which have the same types in all of them."""
    added = one.added({name for data in parts.values() for name in data.column_names})
    all_rows = [one.rows(added, _chosen(data, one)) for data in parts.values()]
    tables = gathered(added, all_rows)
    return {part: _joined(parts[part], table) for part, table in zip(parts, tables, strict=True)}


def _chosen(data: Any, one: Pass) -> Any:
    data = data.with_format(None)
    return data if one.columns is None else data.select_columns(one.chosen(data.column_names))


def _joined(data: Any, results: Any) -> Any:
    import datasets

    if not results.num_columns:
        return data
    extra, format = datasets.Dataset(results), data.format
    if len(data):
        parts = [data.with_format(None), extra]
        joined = datasets.concatenate_datasets(parts, axis=1, split=data.split)
    else:  # that would leave the columns of an empty one out
        features = datasets.Features({**data.features, **extra.features})
        nothing: dict[str, list[Any]] = {name: [] for name in features}
        joined = datasets.Dataset.from_dict(nothing, features=features, split=data.split)
    shown = [*format["columns"], *results.column_names]
    return joined.with_format(
        format["type"],
        columns=shown if len(shown) < len(joined.column_names) else None,
        output_all_columns=format["output_all_columns"],
        **format["format_kwargs"],
    )


def _map_stream(data: Any, one: Pass) -> Any:
    import datasets

    names = data.column_names
    if names is not None:
        one.chosen(names)
        one.added(names)  # or raise, now

    def generate() -> Iterator[dict[str, Any]]:
        added, waiting = one.added(names or ()), deque[dict[str, Any]]()

        def rows() -> Iterator[dict[str, Any]]:
            for row in data:
                waiting.append(row)
                yield {name: row[name] for name in one.chosen(row)}

        for columns in one.rows(added, rows()):
            row = waiting.popleft()
            added.take(row)
            yield row | dict.fromkeys(added.names()) | columns

    return datasets.IterableDataset.from_generator(generate)
