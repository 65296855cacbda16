"""`ckpt inspect` for people: what `looking` found, laid out. Knows no SQL."""

from __future__ import annotations

from typing import Any

from .display import (
    Screen,
    ago,
    duration,
    moment,
    number,
    rate,
    safe,
    safe_json,
    shown,
    size,
)  # fmt: skip
from .shape import to_json

LAST_RUNS = 5


def show_overview(screen: Screen, seen: dict[str, Any], all_runs: bool) -> None:
    """Show a store at a glance."""
    path, steps, runs = shown(seen["store"]), seen["steps"], seen["runs"]
    at = seen["last_commit"]
    screen.line(safe(path), "bold")
    screen.line(
        f"{size(seen['bytes'])} on disk · {number(seen['records'])} records · "
        + (f"last commit {moment(at)} ({ago(at)})" if at else "nothing committed yet")
    )
    screen.line()
    if not steps:
        screen.line("no step has run on this store yet")
        return
    _show_steps(screen, steps)
    screen.line()
    recent = runs if all_runs else runs[-LAST_RUNS:]
    if recent:
        _show_runs(screen, recent)
    if len(recent) < len(runs):
        screen.line(f"{len(runs) - len(recent):,} earlier runs: add --runs", "dim")
    _show_policies(screen, steps, runs)
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
        "cost": [f"${number(step['cost'], 2)}" for step in steps],
        "identity": [_identity(step["key_recipe"]) for step in steps],
    }
    if not any(step["cost"] for step in steps):
        del columns["cost"]
    _table(screen, columns, left=("step", "version", "identity"))


def _identity(recipe: str) -> str:
    return "the whole row" if recipe == "row" else recipe


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
    """Return a count; a run without a last word wrote its counts a second ago, or before a kill."""
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
    """Say how each step was last saved: the newest run's policy is what counts."""
    by_step = {(run["step"], run["version"]): run for run in runs}
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
        screen.line(f"  attempts {example['attempts']}, key {example['key']}")
        screen.line()
    screen.line(f"one of them whole: ckpt inspect {safe(shown(seen['store']))} KEY", "dim")


def show_record(screen: Screen, record: dict[str, Any]) -> None:
    """Show one record whole."""
    for name, text in (
        ("key", record["key"]),
        ("step", f"{record['step']} {record['version']}"),
        ("position", f"row {record['position']} of run {record['run']}"),
        ("saved", f"{moment(record['saved_at'])} ({ago(record['saved_at'])})"),
        ("took", f"{duration(record['seconds'])}, attempt {record['attempts']}"),
        ("cost", "" if record["cost"] is None else f"${record['cost']:g}"),
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
