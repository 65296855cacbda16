"""What a run does about results that other code computed, or that a key no longer finds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import StaleResultsError, StaleResultsWarning
from ..file.records import Code, Registered, StepInfo
from ..values.keys import depends_digest, depends_of, recipe_in_words
from .captured import Captured
from .job import Job
from .stale import Stale, find_stale, refuse
from .warn import warn


def code_of(captured: Captured) -> Code | None:
    """Return what a run writes down of its code; None if that cannot be seen."""
    return None if captured.fingerprint is None else Code(captured.fingerprint, captured.json)


def settle(job: Job, known: Registered, captured: Captured) -> Stale:
    """Return which saved results other code computed, having warned or refused as asked.

    Raises:
        StaleResultsError: under `on_change="error"`; or under `"recompute"`, if the results are
            older than that setting: nobody said that they may be paid for again.
    """
    spec, log = job.spec, job.store.log
    asked = spec.settings.on_change
    stale = find_stale(log, known.id, captured)
    if stale.results:
        if asked == "error":
            remedy = f"{_keep(job)}, or give another version than {spec.version!r}"
            raise refuse(spec.name, job.store.path, stale, "on_change='error' refuses them", remedy)
        if asked == "recompute" and known.on_change != "recompute":
            why = "they were saved before on_change='recompute' was set"
            raise refuse(spec.name, job.store.path, stale, why, _keep_or_pay(job))
        if asked == "warn":
            warn(_told(job, stale), StaleResultsWarning)
    if known.on_change != asked:
        log.update_on_change(known.id, asked)
    return stale


def accept(job: Job, undo: bool) -> int:
    """Accept the saved results of other code as the present code's, or take that back.

    Returns:
        How many results that changed; 0 if the code cannot be seen.
    """
    spec, log = job.spec, job.store.log
    captured = spec.capture()
    code = code_of(captured)
    if code is None:
        return 0
    step = log.register_step(spec.name, spec.version, spec.key_recipe, spec.settings.on_change).id
    before = find_stale(log, step, captured).results
    log.accept(step, code, undo)
    return abs(find_stale(log, step, captured).results - before)


def _told(job: Job, stale: Stale) -> str:
    spec = job.spec
    hint = ""
    if stale.ignore is not None:
        line = f"ignore=({stale.ignore!r},)"
        hint = f". It differed in each of the last runs; if it does not matter, write {line}"
    return (
        f"step {spec.name!r} in {job.store.path}: {stale.named}; its version did not change, so "
        f"the {stale.results:,} results saved by other code are reused. To compute them again, "
        f"give it another version than {spec.version!r}; if they are as good, {_accept(job)}"
        f"{hint}"
    )


def _accept(job: Job) -> str:
    return f"call {_called(job)}.accept(), or run `ckpt accept` on it"


def _keep(job: Job) -> str:
    return f"To keep them, {_accept(job)}"


def _called(job: Job) -> str:
    return job.spec.name if job.spec.name.isidentifier() else "step"


def adopt_line(job: Job, to: Any, more: str = "") -> str:
    """Return the command that keeps a step's results under another version or key."""
    spec = job.spec
    return f"ckpt adopt {job.store.path} --step {spec.name} --from {spec.version} --to {to}{more}"


def next_version(version: int | str) -> int | str:
    """Return a version that comes after this one."""
    return version + 1 if isinstance(version, int) else f"{version}-2"


def _keep_or_pay(job: Job) -> str:
    following = next_version(job.spec.version)
    return (
        f"To keep them as they are, {_accept(job)}; or copy them to a version of their own with "
        f"`{adopt_line(job, following)}`. To compute them again, give the step "
        f"version={following!r}"
    )


def _other_depends(job: Job, info: StepInfo, then: tuple[str, ...]) -> StaleResultsError:
    """Return the error of a run whose keys have other names of `depends=` than the saved ones."""
    spec = job.spec
    depends = spec.settings.depends or {}
    digest = depends_digest(depends)
    given = "none" if digest is None else f"{','.join(sorted(depends))}={digest.hex()}"
    stale = Stale(info.results, info.seconds, info.cost)
    line = adopt_line(job, spec.version, f" --depends {given}")
    return StaleResultsError(
        f"step {spec.name!r} in {job.store.path}: depends= names {_listed(depends)}, and the "
        f"{info.results:,} saved results were keyed with {_listed(then)}: none of them would be "
        f"found, and computing them again would take {stale.expected}. If they were computed with "
        f"the present values, keep them with `{line}`. To compute them again, give the step "
        f"version={next_version(spec.version)!r}. No call was made",
        info.results,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def check_recipe(job: Job, known: Registered) -> None:
    """Warn if results are saved under another `key=` than the step has now.

    Raises:
        StaleResultsError: under other names of `depends=`, of which nobody may be aware.
    """
    spec, log = job.spec, job.store.log
    if known.key_recipe == spec.key_recipe:
        return
    info = job.info()
    results = 0 if info is None else info.results
    if info is not None and results:
        if depends_of(known.key_recipe) != depends_of(spec.key_recipe):
            raise _other_depends(job, info, depends_of(known.key_recipe))
        now, then = recipe_in_words(spec.key_recipe), recipe_in_words(known.key_recipe)
        warn(
            f"step {spec.name!r} in {job.store.path}: its key= changed from {then} to {now}; the "
            f"{results:,} results saved will not be found for rows whose key differs. Restore key= "
            "to reuse them"
        )
    log.update_recipe(known.id, spec.key_recipe)
