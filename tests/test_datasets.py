"""Data sets of Hugging Face: mapped by a step, and with their own `map`, in workers too."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
from frames_docs import run_docs

import checkpointdb as ckpt

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.loops
ROWS = [{"text": text, "n": n} for n, text in enumerate(["good", "bad", "ugly", "good", "odd"])]


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def calls():
    return []


@pytest.fixture
def label(store_path, calls):
    @ckpt.step(store_path, version=1)
    def label(row):
        calls.append(row["n"])
        return {"label": row["text"].upper(), "half": row["n"] / 2 if row["n"] else None}

    return label


def labels(data):
    return [(row["n"], row["label"], row["half"]) for row in data]


WANTED = [(n, row["text"].upper(), n / 2 if n else None) for n, row in enumerate(ROWS)]


def test_a_data_set_keeps_its_features_order_split_and_format(label, calls):
    """And what is known from one kind of pass is known to the others."""
    features = datasets.Features(
        text=datasets.Value("large_string"),
        n=datasets.Value("int8"),
        kind=datasets.ClassLabel(names=["a", "b"]),
    )
    rows = [row | {"kind": row["n"] % 2} for row in ROWS]
    data = datasets.Dataset.from_list(rows, features=features, split="train")
    out = label.map(data)
    assert type(out) is datasets.Dataset
    added = {"label": datasets.Value("string"), "half": datasets.Value("float64")}
    assert out.features == features | added
    assert out.split == "train"
    assert labels(out) == WANTED
    shuffled = data.shuffle(seed=3).select([4, 0, 2])
    assert labels(label.map(shuffled)) == [WANTED[row["n"]] for row in shuffled]
    shown = label.map(data.with_format("numpy", columns=["n"]))
    assert (shown.format["type"], shown.format["columns"]) == ("numpy", ["n", "label", "half"])
    assert len(label.map(data, columns=["text", "n"], prefix="x_")) == len(rows)
    assert calls == [0, 1, 2, 3, 4] * 2  # without `kind` it is another row


def test_the_parts_of_a_data_set_get_the_same_features(label):
    """Where the results of one part have more keys than those of another, it has nulls."""
    data = datasets.Dataset.from_list(ROWS)
    parts = datasets.DatasetDict(train=data, test=data.select([0]), empty=data.select([]))
    out = label.map(parts)
    assert type(out) is datasets.DatasetDict
    assert labels(out["train"]) == WANTED
    assert labels(out["test"]) == WANTED[:1]
    assert out["train"].features == out["test"].features == out["empty"].features


def test_a_streamed_data_set_stays_lazy(label, calls):
    """Nothing is called before it is iterated, then what is asked for; twice costs once."""
    stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    out = label.map(stream)
    assert type(out) is datasets.IterableDataset
    assert not calls
    assert labels(out) == labels(out) == WANTED
    assert calls == [0, 1, 2, 3, 4]
    both = label.map(datasets.IterableDatasetDict(train=stream))
    assert labels(both["train"]) == WANTED
    unknown = datasets.IterableDataset.from_generator(lambda: iter([{"label": 1, "n": 0}]))
    with pytest.raises(ValueError, match=r"a column 'label'.*saved"):
        list(named(label).map(unknown))
    with pytest.raises(ValueError, match="no column 'x'"):
        label.map(stream, columns="x")


def named(label):
    return ckpt.step(label.store, version=1, name="other")(lambda row: {"label": 2})


def test_their_own_map_takes_a_step(label, calls, store_path):
    """A lazy row has the key of its dict; a batch is a row of its own; async steps are awaited."""
    data = datasets.Dataset.from_list(ROWS)
    assert labels(data.map(label)) == labels(data.to_iterable_dataset().map(label)) == WANTED
    assert labels(label.map(data)) == WANTED
    assert calls == [0, 1, 2, 3, 4]

    @ckpt.step(store_path, version=1)
    def batch(rows):
        calls.append(len(rows["n"]))
        return {"label": [text.upper() for text in rows["text"]]}

    for _ in range(2):
        out = data.map(batch, batched=True, batch_size=2, load_from_cache_file=False)
        assert out["label"][:] == [text for _, text, _ in WANTED]
    assert calls[5:] == [2, 2, 1]

    @ckpt.step(store_path, version=1)
    async def later(row):
        return {"label": row["text"].upper()}

    with warnings.catch_warnings():  # datasets leaves its event loop open
        warnings.simplefilter("ignore", ResourceWarning)
        assert data.map(later)["label"][:] == [text for _, text, _ in WANTED]
        gc.collect()


def test_the_code_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_docs(tmp_path, lambda block: "datasets" in block) == 2


SCRIPT = """
    import os, sys
    import checkpointdb as ckpt

    @ckpt.step(sys.argv[1], version=int(sys.argv[2]))
    def label(row):
        return {"label": row["text"].upper(), "pid": os.getpid()}

    if __name__ == "__main__":
        import datasets
        from datasets.fingerprint import Hasher
        datasets.disable_progress_bars()
        label({"text": "first"})  # the store is open when the workers are forked
        data = datasets.Dataset.from_dict({"text": [str(n) for n in range(20)]})
        out = data.map(label, num_proc=2)
        assert out["label"][:] == data["text"][:]
        assert os.getpid() not in set(out["pid"])
        print(Hasher.hash(label), len(set(out["pid"])))
"""


@pytest.mark.soak  # three imports of datasets, and its workers; the fast form is in test_travel.py
def test_workers_save_what_they_compute_and_a_rerun_finds_its_cache(tmp_path, store_path):
    """num_proc: nothing is lost when datasets ends its workers. A step has the same hash in every
    process, and another one for another version."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1"}
    hashes = []
    for version in "1", "1", "2":
        done = subprocess.run(
            [sys.executable, str(script), store_path, version],
            capture_output=True, text=True, timeout=120, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        hash, pids = done.stdout.split()
        assert pids == "2"
        hashes.append(hash)
    assert hashes[0] == hashes[1] != hashes[2]
    with ckpt.Store(store_path) as store:
        assert [step.results for step in store.steps()] == [21, 21]
        assert [step.records for step in store.steps()] == [21, 21]
