"""What a step and a run were asked for. Checks it at the call; knows nothing of how it is done."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Literal, cast, get_args

import msgspec

from ..errors import EncodeError
from ..file.opened import Durability
from ..policy import SavePolicy, adaptive, check_policy
from ..store import check_remote
from ..values.keys import Kept, KeyRecipe, depends_digest, describe_recipe
from ..values.redact import Redact, Redactor
from .keywords import (
    AllOptions,
    Duplicates,
    OnChange,
    OnError,
    RunOptions,
    Shard,
    StepOptions,
    Usage,
)


class StepSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`StepOptions`, checked, with what holds unless given."""

    name: str | None = None
    key: KeyRecipe = None
    save: SavePolicy | None = None
    durability: Durability = "power"
    duplicates: Duplicates = "share"
    input: Kept = "row"
    meta: Any = None
    on_change: OnChange = "warn"
    depends: Mapping[str, Any] | None = None
    on_changed_input: OnChange = "warn"
    redact: Redact | tuple[Redact, ...] = ()
    ignore: tuple[str, ...] = ()
    on_error: OnError = "raise"
    valid: Callable[[Any], bool] | None = None
    cost: Callable[[Any], float] | None = None
    usage: Usage = None
    shared: bool = False
    ledger: bool = False
    timeout: float | None = None
    on_event: Callable[[Any], object] | None = None
    pause_on: Any = ()
    remote: str | None = None
    ship: SavePolicy | None = None
    using: tuple[str, ...] = ()
    replay: bool = False

    def __post_init__(self) -> None:
        self.of_calls  # noqa: B018 - or raise
        check_choice("on_change", self.on_change, get_args(OnChange))
        check_choice("on_changed_input", self.on_changed_input, get_args(OnChange))
        _check_timeout(self.timeout)
        Redactor(self.redact)  # or raise
        _check_depends(self.depends)
        for name in ("ignore", "using"):
            msgspec.structs.force_setattr(self, name, _texts(name, getattr(self, name)))
        check_choice("durability", self.durability, ("power", "process"))
        check_choice("duplicates", self.duplicates, ("share", "separate"))
        check_choice("input", self.input, ("row", "key", "none"))
        describe_recipe(self.key)  # or raise
        check_remote(self.remote, self.ship)
        if self.save is not None:
            check_policy(self.save)

    @property
    def redactor(self) -> Redactor:
        """What to keep out of what is stored and shown."""
        return Redactor(self.redact)

    @property
    def of_calls(self) -> Options:
        """The options of direct calls."""
        return Options(**self.of_runs)

    @property
    def of_runs(self) -> dict[str, Any]:
        """The options of runs, where these are not given another."""
        return {name: getattr(self, name) for name in _OF_BOTH}

    @property
    def policy(self) -> SavePolicy:
        """When to commit."""
        return adaptive() if self.save is None else self.save


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`RunOptions`, checked, with what holds unless given."""

    concurrency: int = 1
    batch_size: int | None = None
    executor: Executor | None = None
    ordered: bool = True
    progress: bool | None = None
    on_error: OnError = "raise"
    retry_failed: bool | Literal["last"] = True
    pilot: int | None = None
    timeout: float | None = None
    stop_on: Any = ()
    valid: Callable[[Any], bool] | None = None
    cost: Callable[[Any], float] | None = None
    usage: Usage = None
    max_cost: float | None = None
    shared: bool = False
    ledger: bool = False
    on_event: Callable[[Any], object] | None = None
    pause_on: Any = ()
    given: Mapping[str, Any] | None = None
    shard: Shard | None = None
    using: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.shard is not None:
            check_shard(self.shard)
        check_count("concurrency", self.concurrency)
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)
        if self.pilot is not None:
            check_count("pilot", self.pilot)
        self._check_retry_failed()
        check_choice("on_error", self.on_error, ("raise", "record"))
        _check_timeout(self.timeout)
        if self.timeout is not None and self.executor is not None:
            raise TypeError(
                "timeout= cannot be enforced in an executor's workers: leave executor= out "
                "(threads), give timeout=None to this run, or have the step itself give up"
            )
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            raise TypeError(
                f"executor must be a concurrent.futures.Executor, got {self.executor!r}"
            )
        for name in ("valid", "cost", "on_event"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a function, got {value!r}")
        if not (self.usage is None or isinstance(self.usage, str) or callable(self.usage)):
            raise TypeError(f"usage must be a function or a field's name, got {self.usage!r}")
        self._check_stop_on()
        msgspec.structs.force_setattr(self, "pause_on", _checked_pause_on(self.pause_on))
        self._check_budget()

    def _check_retry_failed(self) -> None:
        if self.retry_failed not in (True, False, "last"):
            raise ValueError(
                f"retry_failed must be True, False or 'last', got {self.retry_failed!r}"
            )
        if self.retry_failed == "last" and self.ordered:
            raise ValueError(
                'retry_failed="last" gives failed rows out after all others: say ordered=False, '
                "and items() to have each row with its result"
            )

    def _check_stop_on(self) -> None:
        kinds = self.stop_on if isinstance(self.stop_on, tuple | list) else (self.stop_on,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise TypeError(
                f"stop_on must be an exception class or a tuple of them, got {self.stop_on!r}"
            )
        msgspec.structs.force_setattr(self, "stop_on", tuple(kinds))

    def _check_budget(self) -> None:
        if self.max_cost is None:
            return
        if self.cost is None:
            raise ValueError("max_cost= needs cost=, a function from a result to its dollars")
        if not (isinstance(self.max_cost, int | float) and 0 <= self.max_cost < math.inf):
            raise ValueError(
                f"max_cost must be a number of dollars of at least 0, got {self.max_cost!r}"
            )


def _checked_pause_on(value: Any) -> Any:
    """Return a function, or a tuple of exception classes."""
    if value is None:
        return ()
    if callable(value) and not isinstance(value, type):
        return value
    kinds = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        raise TypeError(
            "pause_on must be an exception class, a tuple of them, or a function from an exception "
            f"to seconds or None, got {value!r}"
        )
    return tuple(kinds)


def _check_depends(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"depends must be values by name, {{'model': MODEL}}, not {value!r}")
    try:
        depends_digest(value)
    except EncodeError as error:
        raise TypeError(f"depends: {error}: name a value with stable content instead") from None


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not (isinstance(texts, tuple | list) and all(isinstance(text, str) for text in texts)):
        raise TypeError(f"{name} must be a name or a tuple of names, got {value!r}")
    return tuple(texts)


def check_count(name: str, value: Any) -> None:
    """Raise unless `value` is a number that `name` may be: a whole one of at least 1."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_shard(value: Any) -> None:
    """Raise unless `value` says which part of how many.

    Raises:
        TypeError, ValueError: it is not.
    """
    if not (isinstance(value, tuple | list) and [type(it) for it in value] == [int, int]):
        raise TypeError(f"shard must be (i, n), the part i of n, counted from 0; got {value!r}")
    part, parts = value
    if not 0 <= part < parts:
        known = f"0 to {parts - 1}" if parts > 0 else "none: n must be at least 1"
        raise ValueError(f"shard={part}/{parts}: the parts of {parts} are {known}")


def _check_timeout(value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value <= threading.TIMEOUT_MAX):
        raise ValueError(f"timeout must be a number of seconds above 0, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the words that `name` may be."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


# --- which keyword belongs where

_OF_STEP = ("store", "version", *StepOptions.__annotations__)
_OF_RUN = (*RunOptions.__annotations__,)
_OF_BOTH = tuple(name for name in _OF_STEP if name in _OF_RUN and name != "using")


def step_settings(function: str, given: Mapping[str, Any]) -> StepSettings:
    """Return the keywords that `function` was given as the settings of a step, checked.

    Raises:
        TypeError: a keyword that a step does not have; the message says what was meant.
        TypeError, ValueError: a value that the option cannot have.
    """
    _check_known(function, given, _OF_STEP, _OF_RUN, "run(...)")
    return StepSettings(**given)


def run_options(
    function: str, given: Mapping[str, Any], settings: StepSettings, own: tuple[str, ...] = ()
) -> Options:
    """Return the keywords that `function` was given as a run's options; see `step_settings`.

    An option that it was not given is as the step has it. `own` are more keywords that it has.
    """
    _check_known(function, given, (*own, *_OF_RUN), _OF_STEP, "step(...)")
    return Options(**settings.of_runs | dict(given))


def split(function: str, given: AllOptions) -> tuple[StepOptions, RunOptions]:
    """Return the keywords of the step and those of the run, of a function that takes both.

    Raises:
        TypeError: a keyword that neither has.
    """
    _check_known(function, given, (*_OF_STEP, *_OF_RUN), (), "")
    of_run: dict[str, Any] = {name: value for name, value in given.items() if name in _OF_RUN}
    of_step: dict[str, Any] = {it: value for it, value in given.items() if it not in _OF_RUN}
    if using := of_run.pop("using", None):  # who gives a value names its parameter
        of_step["using"] = tuple(using) if isinstance(using, Mapping) else using
        of_run |= {"using": using} if isinstance(using, Mapping) else {}
    return cast("StepOptions", of_step), cast("RunOptions", of_run)


def _check_known(
    function: str,
    given: Mapping[str, Any],
    known: tuple[str, ...],
    elsewhere: tuple[str, ...],
    owner: str,
) -> None:
    for name in given:
        if name in elsewhere and name not in known:
            raise TypeError(f"{name}= belongs to {owner}, not to {function}(...)")
        if name not in known:
            meant = _meant(name, known, elsewhere, owner)
            raise TypeError(f"{function}() got an unknown keyword {name!r}{meant}")


def _meant(name: str, known: tuple[str, ...], elsewhere: tuple[str, ...], owner: str) -> str:
    import difflib

    close = difflib.get_close_matches(name.lower(), (*known, *elsewhere), 1)
    if not close:
        return f"; it takes {', '.join(known)}"
    where = f", which belongs to {owner}" if close[0] not in known else ""
    return f": did you mean {close[0]}{where}?"
