"""The server that tests of this process fork workers from, and what it has imported for them."""

from __future__ import annotations

import multiprocessing

context = multiprocessing.get_context("forkserver")
_loaded = ["pytest", "checkpointdb.step"]  # pytest: a child runs its parent's main module again


def preload(*modules: str) -> None:
    """Have the server import these too; of those who ask, none takes away what others need."""
    _loaded.extend(modules)
    context.set_forkserver_preload(_loaded)
