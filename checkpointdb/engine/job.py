"""What a run was asked to do. Opens nothing, does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..file.records import StepInfo
from ..policy import SavePolicy, on_exit
from ..store import Store
from ..values.codec import Codec
from ..values.keys import Keyer, Version
from .arguments import Binder
from .captured import Captured, capture
from .options import Options, StepSettings
from .partials import bound_in_key


class Spec(msgspec.Struct, frozen=True):
    """A step as a run needs it; `fn` takes what `binder` makes, and calls the user's `inside`."""

    fn: Callable[..., Any]
    name: str
    version: Version
    keyer: Keyer
    key_recipe: str
    codec: Codec
    is_async: bool
    binder: Binder
    separate: bool = False
    settings: StepSettings = StepSettings()
    inside: Callable[..., Any] | None = None

    def capture(self) -> Captured:
        """Return what the step captures now."""
        fn, settings = self.inside or self.fn, self.settings
        means = [f"{kind} {name}" for name in settings.using for kind in ("default", "argument")]
        bound = bound_in_key(fn, settings.using)
        return capture(fn, (*settings.ignore, *means), settings.depends, bound, settings.redactor)


class Job(msgspec.Struct, frozen=True):
    """A step, where its results are saved and when, and how the run goes.

    Attributes:
        store: an open store.
        spec: the step.
        save: when to commit.
        meta: what the user keeps with the run.
        options: of this run.
        replay: says why a row is a miss; given if nothing is to be called.
    """

    store: Store
    spec: Spec
    save: SavePolicy
    meta: Any = None
    options: Options = Options()
    replay: Callable[[Any], Any] | None = None

    def replaying(self, why: Callable[[Any], Any]) -> Job:
        """Return the same job for a store that is only read: nothing is called, paid or written."""
        options = msgspec.structs.replace(self.options, shared=False, ledger=False, max_cost=None)
        return msgspec.structs.replace(self, save=on_exit(), options=options, replay=why)

    def info(self) -> StepInfo | None:
        """Return what the store has of the step; None if it has never run."""
        identity = (self.spec.name, self.spec.version)
        steps = self.store.steps()
        return next((it for it in steps if (it.name, it.version) == identity), None)

    def saved(self) -> int:
        """Return how many results of the step are saved."""
        info = self.info()
        return 0 if info is None else info.results
