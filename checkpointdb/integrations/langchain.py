"""LangChain's caches on a step's `get` and `put`: the pattern for caches of other frameworks.

The framework makes the calls and asks here before and after: a result is kept as it is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.load import dumps, load
from langchain_core.outputs import Generation
from langchain_core.stores import ByteStore

from .. import MISS, SavePolicy, Step, Store, adaptive, every


class CheckpointCache(BaseCache):  # type: ignore[misc]
    """Keep what models answer: `set_llm_cache(CheckpointCache("calls.ckpt", version=1))`.

    An answer is durable when `update` returns, unless `save=` says otherwise. Its key is the prompt
    and LangChain's text of the model and its parameters, which has no secrets. Equal prompts share
    an answer: LangChain does not say which sample it wants.

    Args:
        path: of the store.
        version: of the answers; under another one all are computed again.
        save: when to commit; `every(rows=1)` unless given.
    """

    def __init__(self, path: str, *, version: int | str, save: SavePolicy | None = None) -> None:
        self.step = Step(_answers, path, version=version, save=save or every(rows=1))

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the saved answers to a prompt, or None."""
        found = self.step.get({"prompt": prompt, "llm": llm_string})
        return None if found is MISS else load(found, allowed_objects="core")

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Save the answers to a prompt; the newest ones count."""
        row = {"prompt": prompt, "llm": llm_string}
        self.step.put(row, json.loads(dumps(list(return_val))), replace=True)

    def clear(self, **kwargs: Any) -> None:  # noqa: ARG002 - theirs
        """Delete all answers of this version; no other program may have the store open."""
        _forget(self.step, "true")


class CheckpointByteStore(ByteStore):  # type: ignore[misc]
    """Keep bytes by key, for `CacheBackedEmbeddings`; durable when `mset` returns.

    Args:
        path: of the store.
        version: of the values; under another one there are none.
    """

    def __init__(self, path: str, *, version: int | str) -> None:
        self.step = Step(_embeddings, path, version=version, save=adaptive())

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, or None."""
        return [None if it is MISS else it for it in self.step.results(keys)]

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Save values, in as few commits as can be."""
        for key, value in key_value_pairs:
            self.step.put(key, value, replace=True)
        self.step.flush()

    def mdelete(self, keys: Sequence[str]) -> None:
        """Delete values; no other program may have the store open."""
        texts = ", ".join("'" + key.replace("'", "''") + "'" for key in keys)
        _forget(self.step, f"input ->> '$' in ({texts})")

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yield the keys that begin with `prefix`."""
        records = self.step.store.records(step=self.step.name)
        keys = (str(it.input) for it in records if it.version == self.step.version)
        return (key for key in keys if key.startswith(prefix or ""))


def _answers(row: Any) -> Any: ...
def _embeddings(row: Any) -> Any: ...


def _forget(step: Step[Any, Any], where: str) -> None:
    step.store.close()
    with Store(step.path) as store:
        store.forget(step.name, version=step.version, where=where)
