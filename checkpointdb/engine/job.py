"""What a run was asked to do. Opens nothing, does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..policy import SavePolicy
from ..store import Store
from ..values.codec import Codec
from ..values.keys import Keyer, Version
from .options import Options


class Spec(msgspec.Struct, frozen=True):
    """A step as a run needs it."""

    fn: Callable[..., Any]
    name: str
    version: Version
    keyer: Keyer
    key_recipe: str
    fingerprint: str | None
    codec: Codec
    is_async: bool
    separate: bool = False


class Job(msgspec.Struct, frozen=True):
    """A step, where its results are saved and when, and how the run goes.

    Attributes:
        store: an open store.
        spec: the step.
        save: when to commit.
        meta: what the user keeps with the run.
        options: of this run.
    """

    store: Store
    spec: Spec
    save: SavePolicy
    meta: Any = None
    options: Options = Options()
