"""Write to a store below the runner: entries with keys that are easy to tell apart."""

from __future__ import annotations

import os

from checkpointdb import Store
from checkpointdb.file.records import Entry


def key(n: int) -> bytes:
    """Return a key whose hex form is not in the order of `n`, as a hash is not."""
    return (n * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big") + n.to_bytes(8, "big")


def identity(n: int) -> bytes:
    """Return an identity that is no other row's."""
    return n.to_bytes(16, "big")


def entry(n, result=None, error=None, attempts=1, cost=None, usage=None):
    """Return what `Log.append` takes: row `n` with a result, or with an error."""
    if error is None and result is None:
        result = f'{{"n":{n},"text":"result of {n}, naïve ☕"}}'
    return Entry(key(n), identity(n), n, attempts, 0.25, cost, error, result, f'{{"row":{n}}}',
                 usage=usage)  # fmt: skip


ERROR = '{"type":"ValueError","message":"no luck","traceback":"…"}'


class Log:
    """One step's run in a store, to append to.

    Args:
        store: an open store.
        name: the step's name.
    """

    def __init__(self, store: Store, name: str = "label") -> None:
        self.store = store
        self.step = store.log.register_step(name, 1, "null").id
        self.run = store.log.begin_run(self.step, "every(rows=1)", "no returned row", None)

    def add(self, *entries):
        """Commit entries; a number stands for the entry of that row."""
        entries = [entry(e) if isinstance(e, int) else e for e in entries]
        self.store.log.append(self.step, self.run, entries)

    def found(self, *numbers):
        """Return the stored results of rows, None where there is none."""
        return [f and f.result for f in self.store.log.find([key(n) for n in numbers])]


def files_beside(path):
    """Return name and bytes of every file in the directory of `path`."""
    directory = os.path.dirname(path)
    contents = {}
    for name in sorted(os.listdir(directory)):
        full = os.path.join(directory, name)
        if os.path.isfile(full):
            with open(full, "rb") as file:
                contents[name] = file.read()
    return contents
