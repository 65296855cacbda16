"""`ckpt plan`: say what a run would do, before paying. Calls nothing, writes nothing."""

from __future__ import annotations

import itertools

import click

from ..plan import Plan
from .completion import files
from .display import Screen, counted, duration, money, number, safe, safe_json, shown, tokens
from .formats import Dialect
from .group import dialect_options, limit_option, store_option, version_option
from .loading import load
from .sources import Source

STALE = "of the saved results, computed by other code"


@click.command("plan", short_help="Say what a run would do and cost.")
@click.argument("step", shell_complete=files)
@click.argument("input", shell_complete=files)
@dialect_options
@store_option
@version_option
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def plan_command(
    step: str,
    input: str,
    store: str | None,
    version: int | str | None,
    limit: int | None,
    as_json: bool,
    **dialect: str | None,
) -> None:
    """Say what ckpt run STEP INPUT would do: hits, calls, their cost and their time.

    It does not call the step and writes nothing; the store need not exist. Cost and time come from
    the averages of the saved calls, so they are unknown in a store without results.

    \b
    Examples:
      ckpt plan label.py:label reviews.jsonl
      ckpt plan clean:strip rows.csv --store clean.ckpt --version 1
    """  # noqa: D301 - click wants a real \b before lines it must not join
    with Source(input, Dialect(**dialect)) as source:
        found = load(step, store=store, version=version)
        plan = found.plan(itertools.islice(source, limit))
    if as_json:
        told = {"store": found.path, "step": found.name, "version": found.version, "plan": plan}
        click.echo(safe_json(told))
    else:
        _show(f"{found.name} {found.version} in {shown(found.path)}", plan)


def _show(title: str, plan: Plan) -> None:
    screen = Screen()
    screen.line(safe(title), "bold")
    calls = plan.misses + plan.failed
    for count, what in (
        (plan.rows, "rows"),
        (plan.hits, "hits: saved, nothing to pay"),
        (plan.stale, STALE),
        (plan.misses, "to be computed"),
        (plan.failed, "failed before, to be tried again"),
        (plan.duplicates, "equal to another row, sharing its call"),
    ):
        if count or what is not STALE:
            screen.line(f"{number(count):>12}  {what}")
    screen.line()
    if not calls:
        screen.line("no call to pay")
        return
    cost = "unknown" if plan.cost is None else f"about {money(plan.cost)}"
    time = "unknown" if plan.seconds is None else f"about {duration(plan.seconds)}"
    screen.line(f"cost  {cost} for {counted(calls, 'call')}")
    if plan.usage:
        screen.line(f"usage about {tokens(plan.usage)}")
    screen.line(f"time  {time}, one call after the other")
