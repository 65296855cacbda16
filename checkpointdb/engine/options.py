"""What a run can be asked for. Checks it at the call; knows nothing of how it is done."""

from __future__ import annotations

import difflib
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Literal, TypedDict, cast, get_args

import msgspec

from ..errors import EncodeError
from ..file.opened import Durability
from ..policy import SavePolicy, adaptive, check_policy
from ..store import check_remote
from ..values.keys import Kept, KeyRecipe, depends_digest, describe_recipe
from ..values.redact import Redact, Redactor

Shard = tuple[int, int]
OnChange = Literal["warn", "reuse", "recompute", "error"]
PauseOn = (
    type[Exception] | tuple[type[Exception], ...] | Callable[[Any], float | bool | None] | None
)
# a function from a result to its token counts, or the name of the field that has them
Usage = Callable[[Any], Any] | str | None
OnError = Literal["raise", "record"]
Duplicates = Literal["share", "separate"]


class _OfStepUntyped(TypedDict, total=False):
    """What `run` and `arun` take of `StepOptions`, without what changes a type."""

    name: str | None
    key: KeyRecipe
    save: SavePolicy | None
    durability: Durability
    duplicates: Duplicates
    input: Kept
    meta: Any
    on_change: OnChange
    depends: Mapping[str, Any] | None
    on_changed_input: OnChange
    redact: Redact | tuple[Redact, ...]
    ignore: tuple[str, ...]
    valid: Callable[[Any], bool] | None
    cost: Callable[[Any], float] | None
    usage: Usage
    shared: bool
    ledger: bool
    timeout: float | None
    on_event: Callable[[Any], object] | None
    pause_on: PauseOn
    remote: str | None
    ship: SavePolicy | None


class _OfStep(_OfStepUntyped, total=False):
    """What the functions `run` and `arun` take of `StepOptions` as it is."""

    on_error: OnError


class StepOptions(_OfStep, total=False):
    """The keywords of `step` and `Step`, next to `store` and `version`.

    Attributes:
        name: the step's name in the store; the function's name unless given.
        key: field names of the row, or a callable on it, that make its identity; the whole row
            unless given.
        save: when to commit: `adaptive()` unless given; `every(rows=100)` and so on.
        durability: `"power"` (a commit survives a power cut) or `"process"` (a kill).
        duplicates: `"share"`: equal rows are computed once; `"separate"`: each on its own. Runs
            that live at the same time get different results, unless they are `shared`; so do the
            direct calls of different processes. Whoever begins later first gets the saved ones.
        input: what is kept of a row: `"row"` (all that can be stored), `"key"` (what `key=` leaves
            of it), `"none"`, for personal data: the text is not in the store, but whoever has a row
            can still test whether it is there. Arguments that `key=` leaves out are never kept.
        meta: anything JSON holds, kept with every run: a model's name, a git commit.
        on_change: what to do with saved results that other code computed, its prompts and helpers
            included: `"warn"` and reuse them, `"reuse"` them in silence, `"recompute"` them, or
            `"error"`.
        depends: values that belong to the identity, by name: `{"prompt": PROMPT}`. They are in
            every key: a changed value computes again, and an earlier one finds its results again.
        on_changed_input: what to do when `key=` finds a saved result but the rest of the row has
            changed: `"warn"` once a run, `"reuse"` in silence, `"recompute"`, or `"error"`.
        redact: what is kept out of the store's inputs, errors and captured values, and of logs: a
            name of fields and variables, a compiled pattern, a function from a text to a text, or
            a tuple of them. Results are kept as they are.
        ignore: names of captured values that do not count as a change: `("STARTED", "self.log")`.
        on_error: for direct calls, and for runs that are not given their own; so are the next
            three. Under `"record"` a direct call that fails saves its failure, and still raises.
        valid: a result that it refuses is saved as a failure; a direct call raises a `ValueError`
            with the result attached.
        cost: a function from a result to its dollars, which are saved with it.
        usage: a function from a result to its token counts, or the name of the field that has
            them: a mapping, `{"input_tokens": 12, "output_tokens": 40}`, or a provider's usage
            object. They are saved with it, and summed in reports.
        shared: True for each row to be computed by one of several processes: a direct call waits
            while another process computes its row.
        ledger: note each call durably before it is made; see `RunOptions`.
        timeout: see `RunOptions`; for single calls, and for runs that are not given one.
        on_event: see `RunOptions`; for the session of direct calls, and for runs not given one.
        pause_on: see `RunOptions`; for direct calls, and for runs that are not given another.
        remote: URL of a bucket or a folder, `s3://bucket/prefix` or `file:///folder`, to which what
            is committed is shipped in the background. On a machine without the file, the file is
            made from what the remote has. No request is made before the first use.
        ship: how often: a save policy for what is committed and not yet shipped:
            `every(seconds=30)` unless given. A lost machine costs what that allows, and what was
            being uploaded.
        using: names of parameters that are only means, such as a client: neither in the key nor
            stored.
        replay: True to call nothing and write nothing: a row without a saved result is a
            `ReplayMissError` that says what differs. For tests.
    """

    using: tuple[str, ...]
    replay: bool


class _OfRunUntyped(TypedDict, total=False):
    """What `run` and `arun` take of `RunOptions`, without what changes a type."""

    concurrency: int
    executor: Executor | None
    ordered: bool
    progress: bool | None
    retry_failed: bool | Literal["last"]
    pilot: int | None
    timeout: float | None
    stop_on: type[BaseException] | tuple[type[BaseException], ...]
    valid: Callable[[Any], bool] | None
    cost: Callable[[Any], float] | None
    usage: Usage
    max_cost: float | None
    shared: bool
    ledger: bool
    on_event: Callable[[Any], object] | None
    pause_on: PauseOn
    given: Mapping[str, Any] | None
    shard: Shard | None


class RunOptionsUntyped(_OfRunUntyped, total=False):
    """`RunOptions` without the two that change the type of what a run gives out."""

    using: Mapping[str, Any] | None


class _OfRun(_OfRunUntyped, total=False):
    """What the functions `run` and `arun` take of `RunOptions` as it is."""

    batch_size: int | None
    on_error: OnError


class RunOptions(_OfRun, total=False):
    """The keywords of `Step.run` and `Step.arun`, next to the rows.

    Attributes:
        concurrency: calls in flight: threads for a plain function, tasks for an `async def`.
        batch_size: the step gets a list of up to so many rows and returns a list of that length.
        executor: any `concurrent.futures.Executor`: processes, a cluster's. The step travels, the
            store stays here.
        ordered: False to get results as they complete.
        progress: True for a progress bar on stderr; in a log file, a line every so often.
        on_error: `"raise"`: the step's exception ends the run. `"record"`: it is saved, a `Failed`
            takes the result's place and the run goes on.
        retry_failed: False to give out failures of earlier runs again instead of trying once more.
            `"last"` to try them after all other rows; it needs `ordered=False`, and keeps the
            failed rows in memory meanwhile.
        pilot: stop after this many calls: compute some rows to see what they cost. `plan(rows)`
            then says what the rest will cost; the next run without `pilot=` goes on.
        timeout: seconds that a call may take; then its row fails with a `TimeoutError`. An async
            call is cancelled. A plain function runs in a thread, which nobody can stop: it keeps
            its place among `concurrency` calls, its late result is saved, and when every place
            has such a call a `StepStuckError` ends the run.
        stop_on: exceptions that end the run even under `"record"`: a spent quota.
        valid: a predicate on results; a result it refuses is a failure, saved all the same.
        cost: a function from a result to its dollars, which are saved with it.
        usage: a function from a result to its token counts, or the name of the field that has
            them: a mapping, `{"input_tokens": 12, "output_tokens": 40}`, or a provider's usage
            object. They are saved with it, and summed in reports.
        max_cost: the step's budget in dollars over all runs; `BudgetExceeded` ends the run. Calls
            in flight when it is reached are awaited, so up to `concurrency` calls more are paid.
        shared: True when several processes run the same rows on one store at once: each row is
            computed by one of them. Costs a transaction, not synced, for each few rows.
        ledger: note each call durably before it is made, in groups; after a crash `ckpt inspect`
            lists calls that may have been billed without an answer. Costs a commit a group.
        on_event: called with each event of the run, in the thread where it happens: `Committed`
            after each commit, with the ids of its records. For an async step it is never called on
            the event loop. If it has a method `around_call(store, run)`, the context manager that
            it returns is around each call of the step. Before `RunStarted` its method
            `watch_run(step, store, run, counts)` is called; `counts` is a weak reference to a
            function that returns the report so far and the number of pending rows.
        pause_on: exceptions by which a provider says "too many calls, come later": all calls of the
            run wait, then that row is called again. They wait as long as the exception says
            (`retry-after` and rate-limit headers of its `response`), else 1 s, doubled up to 60 s,
            with jitter. Or a function from an exception to seconds, to True (as long as it says),
            or to None (no pause). A row fails like others after 10 pauses in a row, if its headers
            say more than an hour, or if its exception is one of `stop_on`. A pause does not count
            as time of a call. Each process waits on its own, even under `shared`.
        given: arguments that are the same for all rows, by name: `{"temperature": 0.9}`. They are
            in every key: a row has the key of the call `label(row, temperature=0.9)`.
        shard: `(i, n)`: only the rows of part i of n, counted from 0; a row's key says which part
            it is in. For n machines with a store each: `Store.merge` unites them.
        using: values of the parameters that `step(using=...)` names: `{"client": client}`.
    """

    using: Mapping[str, Any] | None


class AllOptions(_OfStep, _OfRun, total=False):
    """The keywords of the functions `run` and `arun`: those of the step and those of its run.

    Attributes:
        using: values of parameters that are means, which names them too; or their names alone.
        replay: as for the step.
    """

    using: tuple[str, ...] | Mapping[str, Any] | None
    replay: bool


class AllOptionsUntyped(_OfStepUntyped, _OfRunUntyped, total=False):
    """`AllOptions` without the two that change the type of what a run gives out."""

    using: tuple[str, ...] | Mapping[str, Any] | None
    replay: bool


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
    close = difflib.get_close_matches(name.lower(), (*known, *elsewhere), 1)
    if not close:
        return f"; it takes {', '.join(known)}"
    where = f", which belongs to {owner}" if close[0] not in known else ""
    return f": did you mean {close[0]}{where}?"
