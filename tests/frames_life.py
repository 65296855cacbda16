"""A program that passes a paid step over a frame of one kind, in one way, and may be killed.

    python frames_life.py WAY STORE URL OUT

The step calls a server, whose log says what was paid for. The finished frame is written to OUT as
JSON lines; nothing is written by a program that is killed before.
"""

from __future__ import annotations

import http.client
import json
import sys
import urllib.parse

import checkpointdb as ckpt

ROWS = [{"prompt": n, "note": f"row {n}"} for n in range(60)]


def ask(url, prompt):
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port)
    connection.request("POST", where.path, json.dumps({"prompt": prompt}))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return {"label": answer["label"], "score": prompt / 2 if prompt % 3 else None}


def steps(store, url):
    @ckpt.step(store, version=1, save=ckpt.every(rows=1), ignore=("url",))
    def label(row):
        return ask(url, int(row["prompt"]))

    @ckpt.step(store, version=1, save=ckpt.every(rows=1), ignore=("url",))
    def score(prompt):
        return ask(url, int(prompt))["label"]

    @ckpt.step(store, version=1, save=ckpt.every(rows=1), ignore=("url",))
    def labels(batch):
        found = [ask(url, prompt) for prompt in batch["prompt"]]
        return {name: [each[name] for each in found] for name in ("label", "score")}

    return label, score, labels


def run(way, label, score, labels):
    package, _, how = way.partition(" ")
    return globals()[f"in_{package}"](how, label, score, labels)


def in_pandas(how, label, score, _):
    import pandas as pd

    frame = pd.DataFrame(ROWS, index=pd.Index([n % 7 for n in range(len(ROWS))], name="part"))
    if how == "apply":
        frame["label"] = frame.apply(label, axis=1).map(lambda result: result["label"])
    elif how == "Series.map":
        frame["label"] = frame["prompt"].map(score)
    else:
        frame = label.map(frame, concurrency=4 if how == "threads" else 1)
    rows = frame.reset_index().to_dict("records")
    return [{name: None if it != it else it for name, it in row.items()} for row in rows]


def in_polars(how, label, score, _):
    import polars as pl

    frame = pl.DataFrame(ROWS)
    if how == "map_elements":
        asked = pl.col("prompt").map_elements(score, return_dtype=pl.String)
        return frame.with_columns(label=asked).to_dicts()
    return label.map(frame).to_dicts()


def in_pyarrow(how, label, *_):
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    if how == "reader":
        return label.map(table.to_reader(max_chunksize=7)).read_all().to_pylist()
    return label.map(table).to_pylist()


def in_duckdb(_, label, *__):
    import duckdb
    import pyarrow as pa

    asked = pa.Table.from_pylist(ROWS)  # noqa: F841 - duckdb finds it by its name
    return label.map(duckdb.sql("select * from asked order by prompt")).read_all().to_pylist()


def in_datasets(how, label, score, labels):
    import datasets

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_list(ROWS)
    if how == "map":
        return data.map(label).to_list()
    if how == "map num_proc=2":
        return data.map(label, num_proc=2).to_list()
    if how == "map batched":
        return data.map(labels, batched=True, batch_size=4).to_list()
    if how == "iterable.map":
        return list(data.to_iterable_dataset().map(label))
    if how == "iterable":
        return list(label.map(data.to_iterable_dataset()))
    return label.map(data).to_list()


if __name__ == "__main__":
    way, store, url, out = sys.argv[1:]
    rows = run(way, *steps(store, url))
    with open(out, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
