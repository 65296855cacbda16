"""`ckpt inspect`: lay out what `store_view.py` finds. Knows no SQL."""

from __future__ import annotations

from typing import Any

import click

from ..frames.to_json import to_json
from ..values.keys import recipe_in_words
from .completion import files, steps
from .display import (
    Screen,
    ago,
    counted,
    duration,
    moment,
    money,
    number,
    rate,
    safe,
    safe_json,
    shown,
    size,
    tokens,
)  # fmt: skip
from .store_view import Look, failures, one_record, overview, read, record_numbered

LAST_RUNS, LAST_CALLS = 5, 10


@click.command("inspect", short_help="Show what is in a store.")
@click.argument("store", shell_complete=files)
@click.argument("key", required=False)
@click.option("--record", type=click.IntRange(1), metavar="N", help="The record with this number.")
@click.option("--step", metavar="NAME", shell_complete=steps, help="Only this step.")
@click.option("--runs", is_flag=True, help="All runs, not only the last five.")
@click.option("--failures", "failed", is_flag=True, help="Say why rows failed, with examples.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; see docs/cli.md.")
def inspect_command(
    store: str,
    key: str | None,
    record: int | None,
    step: str | None,
    runs: bool,
    failed: bool,
    as_json: bool,
) -> None:
    """Show what is in STORE: its steps, its runs and how they ended; with KEY, one whole record.

    KEY is a record's key in hex or its unique beginning; --record takes its number instead, which
    ckpt head and ckpt why say. Only reads: safe while a run is writing.

    \b
    Examples:
      ckpt inspect reviews.ckpt
      ckpt inspect reviews.ckpt --failures
      ckpt inspect reviews.ckpt 3fa9
      ckpt inspect reviews.ckpt --record 7
      ckpt inspect reviews.ckpt --json | jq '.steps[].results'
    """  # noqa: D301 - click wants a real \b before lines it must not join
    if key is not None and record is not None:
        raise click.UsageError("give KEY or --record, not both")
    is_one = key is not None or record is not None
    if is_one and (step or runs or failed):
        raise click.UsageError("one record is shown: leave out --step, --runs and --failures")
    if key is not None:
        seen = read(store, lambda reader: one_record(reader, key))
    elif record is not None:
        seen = read(store, lambda reader: record_numbered(reader, record))
    else:
        seen = read(store, lambda reader: _seen(reader, step, failed))
    if as_json:
        click.echo(safe_json(seen))
    elif is_one:
        show_record(Screen(), seen)
    elif failed:
        show_failures(Screen(), seen)
    else:
        show_overview(Screen(), seen, all_runs=runs)


def _seen(reader: Look, step: str | None, failed: bool) -> dict[str, Any]:
    seen = overview(reader, step)
    return seen | {"failures": failures(reader, step)} if failed else seen


def show_overview(screen: Screen, seen: dict[str, Any], all_runs: bool) -> None:
    """Show a store at a glance."""
    path, steps, runs = shown(seen["store"]), seen["steps"], seen["runs"]
    at = seen["last_commit"]
    screen.line(safe(path), "bold")
    screen.line(
        f"{size(seen['bytes'])} on disk · {number(seen['records'])} records · "
        + (f"last commit {moment(at)} ({ago(at)})" if at else "nothing committed yet")
    )
    if seen["missing_log"]:
        screen.line(safe(seen["missing_log"]), "yellow")
    screen.line()
    if not steps:
        screen.line("no step has run on this store yet")
        return
    _show_steps(screen, steps)
    _show_stale(screen, _present(steps, runs))
    screen.line()
    recent = runs if all_runs else runs[-LAST_RUNS:]
    if recent:
        _show_runs(screen, recent)
    if len(recent) < len(runs):
        screen.line(f"{len(runs) - len(recent):,} earlier runs: add --runs", "dim")
    _show_policies(screen, steps, runs)
    _show_money(screen, steps, recent)
    _show_usage(screen, steps, recent)
    _show_calls(screen, seen["calls"])
    if any(step["failures"] for step in steps):
        screen.line()
        screen.line(f"why rows failed: ckpt inspect {safe(path)} --failures", "dim")


def _show_steps(screen: Screen, steps: list[dict[str, Any]]) -> None:
    columns = {
        "step": [step["name"] for step in steps],
        "version": [str(step["version"]) for step in steps],
        "results": [number(step["results"]) for step in steps],
        "failed": [number(step["failures"]) for step in steps],
        "a call takes": [_mean(step["seconds"], step["records"]) for step in steps],
        "identity": [_identity(step["key_recipe"]) for step in steps],
    }
    _table(screen, columns, left=("step", "version", "identity"))


def _present(steps: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each step at the version of its newest run: what a run now would meet."""
    newest = {run["step"]: run["version"] for run in runs}
    return [step for step in steps if newest.get(step["name"]) == step["version"]]


def _show_stale(screen: Screen, steps: list[dict[str, Any]]) -> None:
    """Say how many results were computed by other code than that of the newest run."""
    for step in steps:
        if step["stale"]:
            because = _clipped(", ".join(step["stale_because"]), 200)
            screen.line(
                f"{number(step['stale'])} of {number(step['results'])} results of "
                f"{safe(step['name'])} {safe(step['version'])} were computed by other code: "
                f"{because}",
                "yellow",
            )


def _identity(recipe: str) -> str:
    words = recipe_in_words(recipe)
    return "the whole row" if words == "row" else words


def _mean(seconds: float, calls: int) -> str:
    return duration(seconds / calls) if calls else "–"


def _show_runs(screen: Screen, runs: list[dict[str, Any]]) -> None:
    columns = {
        "run": [str(run["id"]) for run in runs],
        "step": [f"{run['step']} {run['version']}" for run in runs],
        "started": [moment(run["started_at"]) for run in runs],
        "how it ended": [_how(run) for run in runs],
        "rows": [_counted(run, "rows") for run in runs],
        "hits": [_counted(run, "hits") for run in runs],
        "computed": [_counted(run, "computed") for run in runs],
        "failed": [_counted(run, "failed") for run in runs],
        "speed": [rate(run["rows"], run["seconds"]) for run in runs],
    }
    if not any(run["failed"] for run in runs):
        del columns["failed"]
    _table(screen, columns, left=("step", "started", "how it ended"))


def _counted(run: dict[str, Any], name: str) -> str:
    """Return a count; of a run that has not said how it ended, the least that it can be."""
    count: int = run[name]
    return f"≥ {count:,}" if run["ended"] is None and count else number(count)


def _table(screen: Screen, columns: dict[str, list[str]], left: tuple[str, ...]) -> None:
    heads = [(heading, "left" if heading in left else "right") for heading in columns]
    screen.table(heads, list(zip(*columns.values(), strict=True)))


def _how(run: dict[str, Any]) -> str:
    if run["state"] == "running":
        return f"running: pid {run['pid']}"
    if run["state"] == "unknown":
        return f"running or killed, on {run['host']}"
    return str(run["state"])


def _show_policies(screen: Screen, steps: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Say how the newest run of each step saved its results."""
    by_step = {(run["step"], run["version"]): run for run in runs if run["policy"] != "adopt"}
    identities = [(step["name"], step["version"]) for step in steps]
    last = [by_step[identity] for identity in identities if identity in by_step]
    columns = {
        "step": [f"{run['step']} {run['version']}" for run in last],
        "saves by": [run["policy"] for run in last],
        "durability": [run["durability"] for run in last],
        "a crash costs at most": [run["loss_window"] for run in last],
    }
    if last:
        screen.line()
        _table(screen, columns, left=tuple(columns))


def _show_money(screen: Screen, steps: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Show what steps and their runs cost; nothing if nothing did."""
    lines: list[tuple[str, dict[str, Any]]] = []
    for step in (step for step in steps if step["cost"]):
        identity = (step["name"], step["version"])
        own = [run for run in runs if (run["step"], run["version"]) == identity]
        lines.append((f"{step['name']} {step['version']}", step))
        lines += [(f"  run {run['id']}", run) for run in own if run["cost"] or run["saved"]]
    columns = {
        "money": [name for name, _ in lines],
        "spent": [money(of["cost"]) for _, of in lines],
        "saved by hits": [f"≈ {money(of['saved'])}" if of["saved"] else "–" for _, of in lines],
        "wasted on failures": [money(of["wasted"]) if of["wasted"] else "–" for _, of in lines],
    }
    if lines:
        screen.line()
        _table(screen, columns, left=("money",))
        screen.line("saved is an estimate: each hit counts as the average cost of a call", "dim")


def _show_usage(screen: Screen, steps: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Show the tokens of steps and their runs; nothing if none were counted."""
    lines: list[tuple[str, str]] = []
    for step in (step for step in steps if step["usage"]):
        identity = (step["name"], step["version"])
        own = [run for run in runs if (run["step"], run["version"]) == identity]
        lines.append((f"{step['name']} {step['version']}", tokens(step["usage"])))
        lines += [(f"  run {run['id']}", tokens(run["usage"])) for run in own if run["usage"]]
    if lines:
        screen.line()
        screen.table([("usage", "left"), ("tokens", "left")], lines)


def _show_calls(screen: Screen, calls: list[dict[str, Any]]) -> None:
    """Show the calls that were sent and have no saved answer, and how many may still get one."""
    lost = [call for call in calls if call["state"] != "open"]
    if len(lost) < len(calls):
        screen.line()
        screen.line(f"{counted(len(calls) - len(lost), 'call')} sent, not yet saved")
    if not lost:
        return
    screen.line()
    screen.line(f"{counted(len(lost), 'call')} sent, no answer saved: perhaps billed")
    last = lost[-LAST_CALLS:]
    columns = {
        "idempotency key": [call["key"] for call in last],
        "step": [f"{call['step']} {call['version']}" for call in last],
        "run": [str(call["run"]) for call in last],
        "row": [number(call["position"]) for call in last],
        "sent": [moment(call["sent_at"]) for call in last],
    }
    _table(screen, columns, left=("idempotency key", "step", "sent"))
    if len(last) < len(lost):
        screen.line(f"{len(lost) - len(last):,} earlier ones: add --json", "dim")


def show_failures(screen: Screen, seen: dict[str, Any]) -> None:
    """Show the failures, one group a kind of error."""
    if not seen["failures"]:
        screen.line("no failures")
        return
    for group in seen["failures"]:
        example = group["example"]
        error = example["error"] or {}
        screen.line(
            safe(f"{group['count']:,} × {group['type']} in {group['step']} {group['version']}"),
            "bold red",
        )
        screen.line(f"  for example: {_clipped(str(error.get('message', '')))}")
        screen.line(f"  row {example['position']}: {_clipped(_json(example['input']))}")
        screen.line(f"  key {example['key']}")
        for attempt in group["history"]:
            screen.line(f"  {_attempt(attempt)}")
        screen.line(f"  {_tried(group['attempts'])}")
        screen.line()
    screen.line(f"to see a whole record: ckpt inspect {safe(shown(seen['store']))} KEY", "dim")


def _attempt(attempt: dict[str, Any]) -> str:
    what = "answered" if attempt["type"] is None else f"{attempt['type']}: {attempt['message']}"
    where = f"attempt {attempt['attempt']}, run {attempt['run']}, {moment(attempt['saved_at'])}"
    return f"{where}: {_clipped(what, 60)}"


def _tried(attempts: dict[int, int]) -> str:
    """Say how often the rows of a group were tried."""
    return "tried: " + ", ".join(
        f"{counted(rows, 'row')} {'once' if times == 1 else f'{times} times'}"
        for times, rows in attempts.items()
    )


def show_record(screen: Screen, record: dict[str, Any]) -> None:
    """Show one whole record."""
    newer = record.get("newest", record["id"])
    for name, text in (
        ("record", str(record["id"])),
        ("replaced", f"by record {newer}, a later attempt" if newer != record["id"] else ""),
        ("key", record["key"]),
        ("step", f"{record['step']} {record['version']}"),
        ("position", f"row {record['position']} of run {record['run']}"),
        ("saved", f"{moment(record['saved_at'])} ({ago(record['saved_at'])})"),
        ("took", f"{duration(record['seconds'])}, attempt {record['attempts']}"),
        ("cost", "" if record["cost"] is None else money(record["cost"])),
        ("usage", tokens(record["usage"])),
    ):
        if text:
            screen.line(f"{name:<9} {safe(text)}")
    screen.line("input", "bold")
    screen.line(safe_json(record["input"]))
    if record["error"] is None:
        screen.line("result", "bold")
        screen.line(safe_json(record["result"]))
        return
    error = record["error"]
    screen.line(safe(f"failed: {error.get('type')}: {error.get('message')}"), "bold red")
    for line in str(error.get("traceback", "")).rstrip().split("\n"):
        screen.line(safe(line))


def _json(value: Any) -> str:
    return to_json(value).decode()


def _clipped(text: str, room: int = 90) -> str:
    text = safe(text)
    return text if len(text) <= room else text[: room - 1] + "…"
