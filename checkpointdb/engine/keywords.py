"""The keywords of steps and of runs, as types: what each one means. Checks nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Literal, TypedDict

from ..file.opened import Durability
from ..policy import SavePolicy
from ..values.keys import Kept, KeyRecipe
from ..values.redact import Redact

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
